"""How a worker whose supervisor died hands its listening sockets to the supervisor that takes over.

Both ends are here, because both must agree on the bytes: a worker serves `worker-<pid>.sock` in the
run-time folder (`bind_handover_socket`, `answer_takeover`), a new supervisor asks it
(`ask_handover`, `ask_drain`). A frame is a u32 (big-endian) length and msgpack; file descriptors
travel with the answer's first bytes by SCM_RIGHTS, at most 253 with one message. Knows neither who
listens where nor how a worker drains.
"""

from __future__ import annotations

import array
import asyncio
import math
import mmap
import os
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import msgpack

from fastlb.model.listener import Listener
from fastlb.target_table.layout import (
    HEADER_BYTES,
    SLOT_BYTES,
    SLOT_HEADER_BYTES,
    TABLE_BYTES,
    Snapshot,
    SnapshotCodec,
)
from fastlb.target_table.pipe import WorkerStart

FDS_A_MESSAGE = 253
"""The kernel's SCM_MAX_FD."""
FRAME_BYTES = 16 << 20
HANDOVER = 1
"""What an instance may be passed on by, from one release to another: the words here and between two
supervisors, the target table, the counters, and the files of the run-time folder. It grows with each
change of one of them that the release before could not live with."""
SHORTAGE_PAUSE = 0.1
"""Seconds after an accept that failed, as it does without descriptors."""
REQUEST_SECONDS = 1.0
"""Time that a worker gives to one request; whoever asks is local and has it ready."""


class HandoverError(Exception):
    """The other side refused, or did not keep to the protocol."""


@dataclass(frozen=True, slots=True)
class Handover:
    """What an orphaned worker gave: its own duplicates, which the receiver must close.

    `listeners` maps a listener's key to its sockets, one a slot. `table` is the table's memfd.
    """

    pid: int
    index: int
    listeners: dict[str, list[socket.socket]]
    table: int
    known: bool = True
    """Whether the table means the same to us."""

    def close(self) -> None:
        for sockets in self.listeners.values():
            for one in sockets:
                one.close()
        os.close(self.table)


def listener_key(listener: Listener) -> str:
    """How a Listener's sockets are named between the processes."""
    return f"{listener.protocol}://{listener.address}"


def handover_path(run_dir: str, pid: int) -> str:
    return os.path.join(run_dir, f"worker-{pid}.sock")


# --- the worker's end ---------------------------------------------------------------------------


def bind_handover_socket(run_dir: str) -> socket.socket:
    """The non-blocking listening socket of this worker; unlink its path at the end. Raises OSError."""
    path = handover_path(run_dir, os.getpid())
    try:
        os.unlink(path)  # of a dead process that had the same pid
    except FileNotFoundError:
        pass
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        server.bind(path)
        os.chmod(path, 0o600)
        server.listen(8)
    except OSError:
        server.close()
        raise
    server.setblocking(False)
    return server


async def answer_takeover(
    server: socket.socket,
    start: WorkerStart,
    orphaned: Callable[[], bool],
    drain: Callable[[float, int | None], None],
) -> None:
    """Serve `bind_handover_socket`'s socket until cancelled.

    `orphaned` says whether the supervisor is gone (the pipe is at its end); as long as it lives,
    both requests are refused. `drain` is called with the seconds, after the answer is on its way,
    and with the memfd of the new supervisor's table where one came, which it must close.
    """
    loop = asyncio.get_running_loop()
    while True:
        try:
            connection, _ = await loop.sock_accept(server)
        except OSError:
            await asyncio.sleep(SHORTAGE_PAUSE)
            continue
        with connection:
            fds: list[int] = []
            try:
                connection.setblocking(False)
                async with asyncio.timeout(REQUEST_SECONDS):
                    request = await _read_request(connection, fds)
                _answer(connection, request, start, orphaned(), drain, fds)
            except (TimeoutError, OSError, HandoverError, ValueError, TypeError):
                continue  # closing the connection is the answer
            except msgpack.UnpackException:
                continue
            finally:
                for fd in fds:
                    os.close(fd)


async def _read_request(connection: socket.socket, fds: list[int]) -> dict[str, Any]:
    """The request; descriptors that came with it are put into `fds`."""
    data = b""
    while True:
        payload = payload_of(data)
        if payload is not None:
            return as_dict(payload)
        try:
            more, came, _, _ = socket.recv_fds(connection, 4096, 1, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            await _readable(connection)
            continue
        fds += came
        if not more:
            raise HandoverError("the connection ended before the request")
        data += more


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(connection.fileno(), readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(connection.fileno())


def _answer(
    connection: socket.socket,
    request: dict[str, Any],
    start: WorkerStart,
    orphaned: bool,
    drain: Callable[[float, int | None], None],
    fds: list[int],
) -> None:
    command = request.get("command")
    if not orphaned:
        connection.sendall(frame({"error": "the supervisor of this worker is alive"}))
    elif command == "handover":
        send_handover(connection, start)
    elif command == "drain":
        seconds = float(request.get("seconds", math.nan))
        if not 0 <= seconds < math.inf:
            raise HandoverError("a drain must say within how many seconds")
        connection.sendall(frame({"ok": True}))
        # The table of a release that means something else by it is not followed.
        known = request.get("handover") == HANDOVER
        drain(seconds, fds.pop() if fds and known else None)
    else:
        connection.sendall(frame({"error": f"unknown command {command!r}"}))


def send_handover(connection: socket.socket, start: WorkerStart) -> None:
    """Send the answer to a handover. It fits the socket's buffer, so that nothing waits here."""
    fds = [start.table.fd, *(one.fileno() for all in start.listen.values() for one in all)]
    answer = frame(
        {
            "handover": HANDOVER,
            "pid": os.getpid(),
            "index": start.index,
            "listeners": {key: len(sockets) for key, sockets in start.listen.items()},
        }
    )
    send_with_fds(connection, answer, fds)


def send_with_fds(connection: socket.socket, data: bytes, fds: Sequence[int]) -> None:
    """Descriptors go with the first bytes, as many with each as a message takes."""
    sent = 0
    for first in range(0, len(fds), FDS_A_MESSAGE):
        batch = array.array("i", fds[first : first + FDS_A_MESSAGE])
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, batch)]
        sent += connection.sendmsg([data[sent : sent + 1]], rights)
    connection.sendall(data[sent:])


# --- the supervisor's end -----------------------------------------------------------------------


def ask_handover(path: str, deadline: float) -> Handover:
    """Ask the worker at `path` for its sockets. Raises OSError, TimeoutError or HandoverError."""
    with connect(path, deadline) as connection:
        connection.sendall(frame({"command": "handover"}))
        return receive_handover(connection, deadline)


def ask_drain(path: str, seconds: float, deadline: float, table: int | None = None) -> None:
    """Tell the worker at `path` to end within `seconds`, and until then to act on the `table` of this
    memfd. Raises as `ask_handover` does."""
    with connect(path, deadline) as connection:
        request = frame({"command": "drain", "seconds": seconds, "handover": HANDOVER})
        socket.send_fds(connection, [request[:1]], [] if table is None else [table])
        connection.sendall(request[1:])
        payload, _ = receive_frame(connection, deadline)
        refuse_error(as_dict(payload))


def receive_handover(connection: socket.socket, deadline: float) -> Handover:
    payload, fds = receive_frame(connection, deadline)
    try:
        answer = as_dict(payload)
        refuse_error(answer)
        listeners: dict[str, int] = answer["listeners"]
        pid, index = int(answer["pid"]), int(answer["index"])
        if len(fds) != 1 + sum(listeners.values()):
            raise HandoverError(f"{len(fds)} descriptors came for {listeners}")
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    rest = iter(fds[1:])
    sockets = {
        key: [socket.socket(fileno=next(rest)) for _ in range(count)]
        for key, count in listeners.items()
    }
    return Handover(pid, index, sockets, fds[0], answer.get("handover") == HANDOVER)


def peer_pid(connection: socket.socket) -> int:
    """The process that listens at the other end of a connected unix socket."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid: int = struct.unpack("iII", raw)[0]
    return pid


def last_snapshot(table: int) -> Snapshot | None:
    """What the dead supervisor published last; None where it published nothing.

    Raises ValueError where the bytes mean nothing to this version. Nobody writes this table any
    more, so that one look at it is enough.
    """
    if os.fstat(table).st_size != TABLE_BYTES:
        raise ValueError("the target table has another size")
    with mmap.mmap(table, TABLE_BYTES, prot=mmap.PROT_READ) as memory:
        (generation,) = struct.unpack_from("=Q", memory, 0)
        if generation == 0:
            return None
        start = HEADER_BYTES + (generation & 1) * SLOT_BYTES
        _, length, checksum = struct.unpack_from("=QQQ", memory, start)
        body = start + SLOT_HEADER_BYTES
        payload = memory[body : body + min(length, SLOT_BYTES)]
    if crc32(payload) != checksum:
        raise ValueError("the target table's checksum is wrong")
    try:
        return SnapshotCodec().decode(payload)
    except (KeyError, TypeError, msgpack.UnpackException) as error:
        raise ValueError(f"the target table has another form: {error!r}") from error


def connect(path: str, deadline: float) -> socket.socket:
    """Raises OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


def receive_frame(connection: socket.socket, deadline: float) -> tuple[bytes, list[int]]:
    """One frame and the descriptors that came with it, none of them inheritable."""
    data, fds = b"", array.array("i")
    room = socket.CMSG_SPACE(FDS_A_MESSAGE * fds.itemsize)
    try:
        while True:
            payload = payload_of(data)
            if payload is not None:
                return payload, fds.tolist()
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            more, rights, flags, _ = connection.recvmsg(4096, room, socket.MSG_CMSG_CLOEXEC)
            for level, kind, raw in rights:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
            if flags & socket.MSG_CTRUNC:
                raise HandoverError("descriptors were lost: the limit of open files is too low")
            if not more:
                raise HandoverError("the connection ended before the answer")
            data += more
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise


def refuse_error(answer: dict[str, Any]) -> None:
    """Raises HandoverError where the other side said one."""
    if "error" in answer:
        raise HandoverError(str(answer["error"]))


def frame(value: dict[str, Any]) -> bytes:
    """As it is sent."""
    payload: bytes = msgpack.packb(value)
    return struct.pack(">I", len(payload)) + payload


def payload_of(data: bytes) -> bytes | None:
    """The payload of a whole frame; None while bytes are missing."""
    if len(data) < 4:
        return None
    (length,) = struct.unpack_from(">I", data)
    if length > FRAME_BYTES:
        raise HandoverError(f"a frame of {length} bytes")
    return data[4 : 4 + length] if len(data) >= 4 + length else None


def as_dict(payload: bytes) -> dict[str, Any]:
    """What a payload says."""
    value = msgpack.unpackb(payload)
    if not isinstance(value, dict):
        raise HandoverError("expected a map")
    return value
