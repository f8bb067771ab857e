"""A listening socket that lets nobody new in while its queue is emptied for the last time.

Between the last accept and the close a connection could still come to the queue, and be reset by the
close with its request unread. A classic BPF filter on the socket drops new SYNs: such a client tries
again by itself a second later, and finds the address refused, or its next owner. Knows no queue.
"""

from __future__ import annotations

import array
import socket
import struct

SO_ATTACH_FILTER = 26
_LOAD_BYTE, _JUMP_IF_SET, _RETURN = 0x30, 0x45, 0x06
_FLAGS_AT = 13
"""In the TCP header, where a filter's view of a segment begins."""
_SYN = 0x02
_ALL = 0xFFFFFFFF

_PROGRAM = array.array(
    "B",
    b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (
            (_LOAD_BYTE, 0, 0, _FLAGS_AT),
            (_JUMP_IF_SET, 0, 1, _SYN),
            (_RETURN, 0, 0, 0),
            (_RETURN, 0, 0, _ALL),
        )
    ),
)


def let_nobody_in(listening: socket.socket) -> None:
    """For good, and for all duplicates of the socket: nobody may go on to serve it."""
    address, size = _PROGRAM.buffer_info()
    program = struct.pack("HP", size // 8, address)
    try:
        listening.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
    except OSError:
        return  # a kernel without filters: the gap of microseconds stays
