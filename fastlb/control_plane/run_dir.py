"""The run-time folder of an instance: who may be in it, and who holds it.

    lock               flock'ed by the live supervisor for its whole life; holds its pid
    control.sock       `fastlb status` asks here
    takeover.sock      a new supervisor asks the living one here to hand over
    admin.sock         the admin server over HTTP
    worker-<pid>.sock  one a worker: a supervisor that takes over asks here
    overrides.json     what operators said of targets, for a supervisor that takes over
    log.jsonl, .1      the newest log lines of all processes, for `fastlb logs`

Knows nothing of what is said over the sockets.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

from fastlb.errors import FastlbError
from fastlb.logs import older

LOCK = "lock"
CONTROL = "control.sock"
TAKEOVER = "takeover.sock"
LOG = "log.jsonl"
ADMIN = "admin.sock"
WORKER_SOCKETS = "worker-*.sock"
LONGEST_SOCKET = "/worker-4194304.sock"
UNIX_PATH_BYTES = 107


def run_dir_path(name: str) -> Path:
    """Where the instance `name` keeps its run-time files."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise FastlbError(f"an instance's name cannot be {name!r}: it names a folder")
    base, _ = _base()
    path = base / name
    if len(os.fsencode(path)) + len(LONGEST_SOCKET) > UNIX_PATH_BYTES:
        raise FastlbError(
            f"{path} is too long for a unix socket in it ({UNIX_PATH_BYTES} bytes in all): "
            "choose a shorter --name, or set FASTLB_RUN_DIR to a shorter folder"
        )
    return path


def control_socket_path(name: str) -> Path:
    return run_dir_path(name) / CONTROL


def _base() -> tuple[Path, bool]:
    """The folder of all instances, and whether it is ours alone."""
    chosen = os.environ.get("FASTLB_RUN_DIR")
    if chosen:
        return Path(chosen).absolute(), False
    user = os.environ.get("XDG_RUNTIME_DIR")
    if user:
        return Path(user).absolute() / "fastlb", True
    if os.geteuid() == 0:
        return Path("/run/fastlb"), True
    return Path(f"/tmp/fastlb-{os.geteuid()}"), True


class RunDir:
    """The folder of a live instance. Made by `take`, which also takes the lock."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock
        self.abandoned = False
        """Whether the supervisor before us died, which a clean end leaves no lock of."""

    @classmethod
    def take(cls, name: str) -> RunDir:
        """Create the folder and lock it. Raises FastlbError where a live instance has it."""
        run_dir = cls(run_dir_path(name), _make_and_lock(name))
        run_dir.abandoned = os.fstat(run_dir._lock).st_size > 0
        run_dir.sign()
        run_dir.control_socket.unlink(missing_ok=True)
        (run_dir.path / TAKEOVER).unlink(missing_ok=True)
        return run_dir

    @property
    def intact(self) -> bool:
        """Whether the folder still is the one that we locked."""
        return _is_same_file(self._lock, self.path / LOCK)

    def renew(self) -> None:
        """Make the folder, which somebody removed, and take the lock anew.

        Raises FastlbError where another instance has it by now.
        """
        lock = _make_and_lock(self.path.name)
        os.close(self._lock)
        self._lock = lock
        self.sign()

    def let_pass(self, user: str, uid: int) -> None:
        """Let other users pass through to the folder that one of them has in this one; they can list
        and open nothing else. Raises FastlbError where a folder above bars the way."""
        base, ours = _base()
        for path in (self.path, base) if ours else (self.path,):
            if path.stat().st_uid == os.geteuid():
                path.chmod(0o711)
        for path in (self.path, *self.path.parents):
            status = path.stat()
            if not status.st_mode & 0o001 and status.st_uid != uid:
                raise FastlbError(
                    f'user "{user}" cannot pass through {path} to the socket of its instance: '
                    f"run `chmod o+x {path}`, or set FASTLB_RUN_DIR to a folder that all may pass"
                )

    @property
    def control_socket(self) -> Path:
        return self.path / CONTROL

    @property
    def log(self) -> Path:
        return self.path / LOG

    @property
    def admin_socket(self) -> Path:
        return self.path / ADMIN

    def worker_sockets(self) -> list[Path]:
        """Of all workers, dead ones included."""
        return sorted(self.path.glob(WORKER_SOCKETS))

    def remove_worker_socket(self, pid: int) -> None:
        """Of a worker that is dead."""
        (self.path / f"worker-{pid}.sock").unlink(missing_ok=True)

    def sign(self) -> None:
        """The lock is ours: just taken, or by another supervisor, which passed it on."""
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def duplicate_lock(self) -> int:
        """For a supervisor that takes over: the lock is held as long as one of the two has it."""
        return os.dup(self._lock)

    def leave(self) -> None:
        """Let go of the lock and remove nothing: the folder is another supervisor's."""
        os.close(self._lock)

    def release(self) -> None:
        """Remove what is ours and let go of the lock; what living orphans still use stays."""
        if self.intact:
            (self.path / CONTROL).unlink(missing_ok=True)
            (self.path / TAKEOVER).unlink(missing_ok=True)
            for log in (self.log, older(self.log)):
                log.unlink(missing_ok=True)
            (self.path / ADMIN).unlink(missing_ok=True)
            (self.path / LOCK).unlink(missing_ok=True)
            try:
                self.path.rmdir()
            except OSError:
                pass  # an orphan that still drains has its socket here; the next start clears it
        os.close(self._lock)


def _own_folder(path: Path) -> None:
    """Make `path`, or refuse one in which others could put their files."""
    try:
        path.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        pass
    except OSError as error:
        raise FastlbError(
            f"cannot make the run-time folder {path}: {error.strerror}; "
            "set FASTLB_RUN_DIR to a folder that you may write"
        ) from error
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode):
        raise FastlbError(f"{path} should be the run-time folder and is no folder: remove it")
    if status.st_uid != os.geteuid():
        raise FastlbError(
            f"the run-time folder {path} belongs to user {status.st_uid}, not to "
            f"{os.geteuid()}: it is not used; set FASTLB_RUN_DIR to a folder of your own"
        )
    if status.st_mode & 0o066:  # others may pass through to what is theirs, and no more
        raise FastlbError(
            f"the run-time folder {path} is open to others (mode {status.st_mode & 0o777:o}): "
            f"run `chmod 700 {path}` if you trust what is in it, else remove it"
        )


def pid_of_socket(path: Path) -> int:
    """The worker whose socket this is, by its name; 0 where the name says nothing."""
    text = path.stem.partition("-")[2]
    return int(text) if text.isdecimal() else 0


def _make_and_lock(name: str) -> int:
    path = run_dir_path(name)
    base, ours = _base()
    while True:
        _own_folder(base) if ours else base.mkdir(parents=True, exist_ok=True, mode=0o700)
        _own_folder(path)
        lock = _take_lock(path, name)
        if lock is not None:
            return lock


def _is_same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError:
        return False


def _take_lock(path: Path, name: str) -> int | None:
    """The locked descriptor; None where the folder was removed meanwhile by an instance's end."""
    try:
        lock = os.open(
            path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode=0o600
        )
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        raise FastlbError(
            f"an instance named {name!r} is running (pid {pid}): "
            f"stop it with `kill {pid}`, or choose another --name"
        ) from None
    if not _is_same_file(lock, path / LOCK):
        os.close(lock)
        return None
    return lock
