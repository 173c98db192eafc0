"""Frames over a unix stream socket: the Python side of `docs/protocol.md`.

Both the package in the user's process and the runner in the container speak through this module.
"""

from __future__ import annotations

import os
import select

from modal._shared.interpreter import Struct, decode_json, encode_json
from modal._shared.payload import MEMORY_THRESHOLD, Large, open_memory, write_memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from socket import socket
    from typing import Any, Union

    from modal._shared.payload import Payload

    Buffer = Union[bytes, bytearray, memoryview]

__all__ = ["Connection", "ConnectionClosed", "ProtocolError", "decode_json", "encode_json", "frame"]

VERSION = 1
HEADER = Struct("<BBBBIQ")
FLAG_MEMORY = 1
READ_SIZE = 256 << 10
#: Frames up to this size are joined into one buffer before sending: cheaper than gathering.
JOIN_LIMIT = 64 << 10
#: The most descriptors that the kernel passes in one message.
MAXIMUM_FDS = 253

SHUT_RDWR = 2
SOL_SOCKET = 1
SCM_RIGHTS = 1
MSG_DONTWAIT = 0x40
MSG_NOSIGNAL = 0x4000
MSG_CMSG_CLOEXEC = 0x40000000
SEND_FLAGS = MSG_DONTWAIT | MSG_NOSIGNAL


class ConnectionClosed(Exception):
    """The peer is gone."""


class ProtocolError(Exception):
    """The peer sent something that is no frame."""


def frame(control: bytes, payload: Any = b"") -> bytes:
    """One whole frame without descriptors, for small payloads."""
    return b"".join((HEADER.pack(VERSION, 0, 0, 0, len(control), len(payload)), control, payload))


class Connection:
    """One end of a stream socket. At most one thread sends and one receives at a time; the caller sees to that."""

    __slots__ = ("_broken", "_buffer", "_end", "_fds", "_socket", "_start", "_view", "passed")

    def __init__(self, socket: socket) -> None:
        self._socket = socket
        self._buffer = bytearray(READ_SIZE)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self._fds: list[int] = []
        self._broken = False
        #: Descriptors that came beside payloads, where somebody expects them; else they are closed.
        self.passed: list[int] | None = None

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def peer(self) -> int:
        """The process that has made the other end, or listens there."""
        from socket import SO_PEERCRED, SOL_SOCKET
        from sys import byteorder

        return int.from_bytes(self._socket.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)[:4], byteorder)

    def shut_down(self) -> None:
        """Ends the conversation, also for threads that wait for the peer just now."""
        try:
            self._socket.shutdown(SHUT_RDWR)
        except OSError:
            pass  # The peer has gone already.

    def close(self) -> None:
        """Closes this end; the peer sees its end of the stream."""
        self._socket.close()
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()

    def send(self, control: bytes, payload: Payload = b"", on_full: Callable[[], None] | None = None) -> None:
        """Sends a frame. While the socket is full, `on_full` is called (default: wait for space)."""
        size = len(payload)
        if size > MEMORY_THRESHOLD:
            memory = write_memory(payload)
            if memory is not None:
                try:
                    header = HEADER.pack(VERSION, FLAG_MEMORY, 1, 0, len(control), size)
                    self.send_bytes(header + control, on_full, (memory,))
                finally:
                    os.close(memory)
                return
        if size > JOIN_LIMIT:
            self.send_bytes(HEADER.pack(VERSION, 0, 0, 0, len(control), size) + control, on_full)
            for part in payload.parts if isinstance(payload, Large) else [payload]:
                self.send_bytes(part, on_full)
        else:
            self.send_bytes(frame(control, payload), on_full)

    def send_bytes(self, data: Buffer, on_full: Callable[[], None] | None = None, fds: Sequence[int] = ()) -> None:
        """Sends whole frames; `fds` ride on the first byte."""
        if self._broken:
            raise ConnectionClosed("a message was cut off by an interrupt")
        sent, total = 0, len(data)
        try:
            while sent < total:
                rest = data if sent == 0 else memoryview(data)[sent:]
                try:
                    if fds:
                        packed = b"".join(fd.to_bytes(4, "little") for fd in fds)
                        sent += self._socket.sendmsg([rest], [(SOL_SOCKET, SCM_RIGHTS, packed)], SEND_FLAGS)
                        fds = ()
                    else:
                        sent += self._socket.send(rest, SEND_FLAGS)
                except BlockingIOError:
                    (on_full or self.wait_writable)()
        except OSError as error:
            self._broken = True
            raise ConnectionClosed(str(error)) from None
        except BaseException:
            # Half a frame would shift everything after it.
            self._broken = self._broken or 0 < sent < total
            raise

    def wait_writable(self) -> None:
        """Waits until the socket takes more bytes."""
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLOUT)
        poll.poll()

    def wait_either(self) -> bool:
        """Waits until the socket takes more bytes or has some to read; tells whether there is something to read."""
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLIN | select.POLLOUT)
        return any(events & ~select.POLLOUT for _, events in poll.poll())

    def has_frame(self) -> bool:
        """Whether a whole frame was read already, so that `receive` returns at once."""
        available = self._end - self._start
        if available < HEADER.size:
            return False
        _, flags, _, _, control, payload = HEADER.unpack_from(self._buffer, self._start)
        wanted: int = HEADER.size + control + (0 if flags & FLAG_MEMORY else payload)
        return available >= wanted

    def is_readable(self) -> bool:
        """Whether there is something to read, of which there may be less than a frame."""
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def receive(self) -> tuple[dict[str, Any], Any]:
        """Waits for the next frame: its control part and its payload, which `unpack` reads."""
        while self._end - self._start < HEADER.size:
            self._fill()
        start = self._start
        version, flags, fd_count, _, control_length, payload_length = HEADER.unpack_from(self._buffer, start)
        if version != VERSION:
            raise ProtocolError(f"the peer speaks frame version `{version}`, this package speaks `{VERSION}`")
        inline = 0 if flags & FLAG_MEMORY else payload_length
        body = HEADER.size + control_length
        if body + inline <= READ_SIZE:
            while self._end - self._start < body + inline:
                self._fill()
            # `_fill` may have moved the unread bytes to the front.
            start = self._start
            self._start += body + inline
            control: Any = self._view[start + HEADER.size : start + body]
            payload: Any = bytes(self._view[start + body : start + body + inline])
        else:
            self._start += HEADER.size
            try:
                control = self._take(control_length)
                payload = self._take(inline)
            except BaseException:
                # An interrupt leaves the stream in the middle of a frame: nothing can be read from it any more.
                self._broken = True
                self.shut_down()
                raise
        if fd_count:
            payload = self._claim(fd_count, bool(flags & FLAG_MEMORY), payload_length, payload)
        return decode_json(str(control, "utf-8")), payload

    def _fill(self) -> None:
        """Reads what is there, at least one byte."""
        if self._start:
            unread = self._end - self._start
            self._view[:unread] = self._view[self._start : self._end]
            self._start, self._end = 0, unread
        self._end += self._read(self._view[self._end :])

    def _read(self, view: memoryview) -> int:
        try:
            count, ancillary, _, _ = self._socket.recvmsg_into([view], 4 * MAXIMUM_FDS + 24, MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            # A peer that died with unread data in its socket is a peer that closed.
            raise ConnectionClosed("the connection was closed") from None
        except OSError as error:
            raise ConnectionClosed(str(error)) from None
        for level, kind, data in ancillary:
            if level == SOL_SOCKET and kind == SCM_RIGHTS:
                usable = len(data) - len(data) % 4
                self._fds.extend(memoryview(data)[:usable].cast("i"))
        if not count:
            raise ConnectionClosed("the connection was closed")
        return count

    def _take(self, length: int) -> bytearray:
        """Takes `length` bytes off the stream, past the buffer where they are many."""
        taken = bytearray(length)
        view = memoryview(taken)
        filled = min(length, self._end - self._start)
        view[:filled] = self._view[self._start : self._start + filled]
        self._start += filled
        while filled < length:
            filled += self._read(view[filled:])
        return taken

    def _claim(self, count: int, memory: bool, length: int, payload: Any) -> Any:
        """Takes a frame's descriptors."""
        if len(self._fds) < count:
            raise ProtocolError(f"a frame announces `{count}` descriptors, `{len(self._fds)}` arrived")
        fds, self._fds[:] = self._fds[:count], self._fds[count:]
        try:
            return self._open_payload(fds[-1], length) if memory else payload
        finally:
            if self.passed is not None:
                self.passed += fds[:-1] if memory else fds
                fds = fds[-1:] if memory else []
            for fd in fds:
                os.close(fd)

    def _open_payload(self, fd: int, length: int) -> Any:
        if os.fstat(fd).st_size < length:
            raise ProtocolError(f"a payload is shorter than the announced `{length}` bytes")
        return open_memory(fd)
