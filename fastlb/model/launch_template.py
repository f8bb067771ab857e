"""LaunchTemplate: how an Instance is started, and within which limits it lives. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from fastlb.model.settings import setting

STOP_SIGNALS = ("TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "WINCH")


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchTemplate:
    """How one Instance is started: the local counterpart of a machine image.

    In `command` and in the values of `env`, `{socket}`, `{port}` and `{instance}` stand for the unix
    socket or the port that the Instance must listen on, and for its id; other braces are left alone.
    """

    command: tuple[str, ...] = setting(
        (),
        "texts",
        "program and arguments; `{socket}` or `{port}` is where it must listen",
        why="there is no app that everybody runs",
    )
    shell: bool = setting(
        False,
        "switch",
        "run the command, then one text, through /bin/sh",
        why="a shell between fastlb and the app swallows signals",
    )
    cwd: str | None = setting(
        None,
        "path",
        "folder in which it runs",
        why="that of fastlb itself is what a shell would do",
        optional=True,
    )
    env: tuple[tuple[str, str], ...] = setting(
        (),
        "environment",
        "variables beside those that fastlb itself has; the values are never logged",
        why="the environment of fastlb is inherited",
    )
    user: str | None = setting(
        None,
        "text",
        "user as whom it runs, with that user's groups and no others; needs root",
        why="that of fastlb itself",
        flag="--user",
        optional=True,
    )
    stop_signal: str = setting(
        "TERM",
        "choice",
        "signal that asks it to end",
        why="what every server takes for a clean stop",
        choices=STOP_SIGNALS,
    )
    stop_timeout: float = setting(
        10.0,
        "duration",
        "time to end after that signal, before the whole process group is killed",
        why="Docker's; requests have been drained before",
        flag="--stop-timeout",
        least=0,
    )
    max_rss: int | None = setting(
        None,
        "bytes",
        "resident memory of its process tree above which it is replaced, the new one first",
        why="how much is too much only the app's author knows",
        flag="--max-rss",
        least=1048576,
        optional=True,
    )
    max_lifetime: float | None = setting(
        None,
        "duration",
        "age at which it is replaced, the new one first",
        why="a healthy process need not be ended",
        flag="--max-lifetime",
        least=1,
        optional=True,
    )
    nice: int = setting(
        0,
        "count",
        "niceness; below 0 needs root",
        why="that of fastlb itself",
        least=-20,
        most=19,
    )
    cpus: tuple[tuple[int, int], ...] | None = setting(
        None,
        "ranges",
        "cores that it may run on, such as `0-3,6`",
        why="the kernel's scheduler mostly knows better",
        least=0,
        most=4095,
        optional=True,
    )
    limit_nofile: int | None = setting(
        None,
        "count",
        "most open files (RLIMIT_NOFILE)",
        why="that of fastlb itself, which raises its own to what is allowed",
        least=16,
        optional=True,
    )
    limit_nproc: int | None = setting(
        None,
        "count",
        "most processes of its user (RLIMIT_NPROC)",
        why="that of fastlb itself",
        least=1,
        optional=True,
    )
    limit_as: int | None = setting(
        None,
        "bytes",
        "most address space of each process (RLIMIT_AS)",
        why="that of fastlb itself",
        least=1048576,
        optional=True,
    )
    limit_core: int | None = setting(
        None,
        "bytes",
        "largest core dump (RLIMIT_CORE)",
        why="that of fastlb itself",
        least=0,
        optional=True,
    )
    log: str = setting(
        "inherit",
        "path",
        "where its output goes: into the log of fastlb (`inherit`), or to a file for each instance in "
        "this folder",
        why="one stream is what a terminal, a container and the journal take",
    )
    log_max_bytes: int = setting(
        10 * 1024 * 1024,
        "bytes",
        "size at which such a file is rotated",
        why="a file that an editor still opens",
        least=4096,
    )
    log_keep: int = setting(
        3,
        "count",
        "rotated files that are kept of each instance",
        why="enough to look back, and bounded",
        least=0,
        most=1000,
    )

    @property
    def listens_on_socket(self) -> bool:
        """Whether the Instance gets a unix socket; else it gets a port."""
        texts = (*self.command, *(value for _, value in self.env))
        return any("{socket}" in text or "$FASTLB_SOCKET" in text for text in texts)
