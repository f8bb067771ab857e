"""One Instance: what it is, what it is called and where it listens. Its life is led by `fleet`."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from fastlb.auto_scaling.output import FileSink, LogSink, Output, Sink
from fastlb.auto_scaling.ports import choose_port
from fastlb.auto_scaling.process import MARK, InstanceProcess, home_of, ids_of
from fastlb.auto_scaling.records import SOCKET, InstanceRecord, LifeCycle
from fastlb.auto_scaling.targets import RegisteredTarget
from fastlb.history import Entry
from fastlb.model.address import Address
from fastlb.model.launch_template import LaunchTemplate

LOOPBACK = "127.0.0.1"
SHOWN_LINES = 10
NOT_INHERITED = (
    *("PORT", "FASTLB_SOCKET"),  # of a fastlb that itself is somebody's Instance
    *("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"),  # what systemd says to fastlb alone
    "FASTLB_ADMIN_TOKEN",  # whoever knows it may change the instance of fastlb
    *("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"),
)


class Instance:
    """One process tree made from a LaunchTemplate, and its registration as a target."""

    __slots__ = (
        "address",
        "cpu",
        "doomed",
        "entry",
        "group",
        "harmful",
        "health_changed",
        "id",
        "in_flight",
        "in_service_at",
        "launched_at",
        "life",
        "outlived",
        "output",
        "process",
        "protected",
        "requests_a_minute",
        "rss",
        "share",
        "slow_start",
        "state",
        "target",
        "template",
        "version",
    )

    def __init__(
        self,
        id: str,
        group: str,
        version: int,
        template: LaunchTemplate,
        address: Address,
        output: Output,
        launched_at: float,
    ) -> None:
        self.id = id
        self.group = group
        self.version = version
        self.template = template
        self.address = address
        self.output = output
        self.launched_at = launched_at
        """CLOCK_MONOTONIC, as all times here."""
        self.in_service_at: float | None = None
        self.state: LifeCycle = "pending"
        self.process: InstanceProcess | None = None
        self.target: RegisteredTarget | None = None
        self.life: asyncio.Task[None] | None = None
        """What leads it up or down just now."""
        self.health_changed = asyncio.Event()
        self.entry: Entry | None = None
        """The activity that is under way."""
        self.protected = False
        self.doomed = ""
        """Why it is to be replaced."""
        self.harmful = False
        self.outlived = False
        """It lived long enough in service that its template is no crash loop."""
        self.slow_start = 0.0
        """Seconds over which its share of the traffic grows; 0 where it got all of it at once."""
        self.share = 1.0
        # As of the last look; None where that is not known.
        self.cpu: float | None = None
        self.rss: int | None = None
        self.requests_a_minute: float | None = None
        self.in_flight = 0

    @property
    def pid(self) -> int:
        return self.process.pid if self.process is not None else 0

    def warmed(self, now: float, warmup: float) -> bool:
        """In service for long enough to count in the metrics."""
        return self.in_service_at is not None and now - self.in_service_at >= warmup

    def record(self) -> InstanceRecord:
        return InstanceRecord(
            id=self.id,
            group=self.group,
            version=self.version,
            state=self.state,
            address=str(self.address),
            pid=self.pid,
            started=self.process.started if self.process is not None else 0,
            launched_at=self.launched_at,
            in_service_at=self.in_service_at,
            protected=self.protected,
        )

    @property
    def stop_signal(self) -> signal.Signals:
        return signal.Signals[f"SIG{self.template.stop_signal}"]

    @property
    def log_file(self) -> str | None:
        """Where its output goes; None into the log of fastlb."""
        if self.template.log == "inherit":
            return None
        return str(Path(self.template.log).absolute() / f"{self.id}.log")

    @property
    def log_fields(self) -> dict[str, str]:
        """Who a log record with it as an argument is about."""
        return {"instance": self.id, "group": self.group}

    def __str__(self) -> str:
        return f"instance {self.id} of group {self.group}"


def new_id() -> str:
    """As AWS writes it, and short, because a unix socket's path holds 107 bytes."""
    return f"i-{secrets.token_hex(4)}"


def choose_address(template: LaunchTemplate, folder: Path, taken: Collection[int]) -> Address:
    """Where a new Instance shall listen. Raises FastlbError where no port is free."""
    if template.listens_on_socket:
        return Address(path=str(folder / SOCKET))
    return Address(host=LOOPBACK, port=choose_port(taken))


def make_socket_folder(folder: Path, user: str | None) -> None:
    """The Instance's own folder: nobody but its user gets in. Raises OSError and FastlbError."""
    folder.mkdir(mode=0o700)
    if user is not None:
        ids = ids_of(user)
        if ids.uid != os.geteuid():
            os.chown(folder, ids.uid, ids.gid)


def open_output(spool: Path, id: str, group: str, template: LaunchTemplate) -> Output:
    sink: Sink = LogSink(id, group)
    if template.log != "inherit":
        sink = FileSink(Path(template.log), id, template.log_max_bytes, template.log_keep)
    return Output(spool, sink)


def command_of(template: LaunchTemplate, id: str, address: Address) -> list[str]:
    """The program and its arguments, the placeholders filled in."""
    filled = [fill(text, id, address) for text in template.command]
    return ["/bin/sh", "-c", *filled] if template.shell else filled


def environment_of(
    template: LaunchTemplate, id: str, address: Address, inherited: Mapping[str, str]
) -> dict[str, str]:
    """What fastlb has, what the user sets, and where to listen."""
    env = dict(inherited)
    # It would write to a file, which Python buffers by blocks: a crash would take its last words.
    env.setdefault("PYTHONUNBUFFERED", "1")
    for name in NOT_INHERITED:
        env.pop(name, None)
    if template.user is not None:
        env.update(home_of(template.user))
    if address.is_unix:
        env["FASTLB_SOCKET"] = address.path
    else:
        env["PORT"] = str(address.port)
    for name, value in template.env:
        env[name] = fill(value, id, address)
    env[MARK] = id  # by which its descendants are found, so that nobody may set another
    return env


def fill(text: str, id: str, address: Address) -> str:
    """`text` with its placeholders filled in; any other brace stays as it is."""
    if address.is_unix:
        text = text.replace("{socket}", address.path)
    else:
        text = text.replace("{port}", str(address.port))
    return text.replace("{instance}", id)


def start_process(instance: Instance) -> None:
    """Raises OSError where the program cannot be run, FastlbError for a wrong user."""
    template, id, address = instance.template, instance.id, instance.address
    output = instance.output.open_for_child()
    try:
        if template.user is not None:
            # Or it could not open /dev/stderr, which some apps log to by its name.
            ids = ids_of(template.user)
            os.fchown(output, ids.uid, ids.gid)
        instance.process = InstanceProcess.start(
            template,
            command_of(template, id, address),
            environment_of(template, id, address, os.environ),
            output,
            id,
        )
    finally:
        os.close(output)


def not_found_hint(error: OSError, template: LaunchTemplate) -> str:
    """Why a program could not be started, and what to do."""
    program = template.command[0] if template.command else ""
    if template.cwd is not None and error.filename == template.cwd:
        if isinstance(error, FileNotFoundError):
            return f"there is no folder {template.cwd} (cwd)"
        return f"the folder {template.cwd} (cwd) cannot be used: {error.strerror}"
    if isinstance(error, FileNotFoundError):
        if "/" not in program:
            near = Path(sys.executable).parent / program
            where = f"; write {near}" if program and near.exists() else ""
            return f'there is no program "{program}" in the PATH{where}'
        if Path(template.cwd or "", program).exists():
            return f'"{program}" is there, but the interpreter that its first line names is not'
        return f'there is no program "{program}"'
    return f'"{program}" cannot be run: {error.strerror or error}'


def why_not_startable(template: LaunchTemplate) -> str:
    """What a look at the files says before anything is started; "" where nothing is wrong."""
    if template.cwd is not None and not Path(template.cwd).is_dir():
        return f"there is no folder {template.cwd} (cwd)"
    program = template.command[0] if template.command else ""
    if template.shell or "{" in program:
        return ""
    if "/" in program:
        found = os.access(Path(template.cwd or "", program), os.X_OK)
    else:
        path = dict(template.env).get("PATH", os.environ.get("PATH", os.defpath))
        found = shutil.which(program, path=path) is not None
    if found:
        return ""
    return not_found_hint(FileNotFoundError(2, "No such file", program), template)


def last_words(lines: Sequence[str]) -> str:
    """What it printed last, to be put behind a report."""
    if not lines:
        return "; it printed nothing"
    shown = "".join(f"\n    {line}" for line in lines[-SHOWN_LINES:])
    return f"; it printed last:{shown}"
