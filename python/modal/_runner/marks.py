"""Marks in what a container prints that runs several inputs at a time: they tell the engine which of them prints.

Loaded where that is so. Only what goes through `sys.stdout` and `sys.stderr` is marked: other programs, and code that
writes to the descriptors, belong to the container.
"""

from __future__ import annotations

import io
import os
import sys
from threading import RLock

from modal._runner.inputs import entered

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class _Marked(io.RawIOBase):
    """A descriptor to which everything is written with the mark of the input that it is from."""

    def __init__(self, descriptor: int, token: str) -> None:
        self._descriptor = descriptor
        self._mark = f"\0{token}:%d\0".encode()
        self._end = self._mark % 0
        #: The mark of the input whose bytes come; empty if none is known.
        self._begin = b""
        #: That input, as the message that brought it.
        self.input: dict[str, Any] | None = None
        #: Whether text may wait for the end of its line.
        self.has_text = False

    def turn_to(self, control: dict[str, Any] | None) -> None:
        """What is written from now on is from this input."""
        self.input = control
        self._begin = self._mark % control["call"] if control else b""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        length = len(data)
        # In one piece: what others write to the descriptor does not come between.
        joined = b"".join((self._begin, data, self._end)) if self._begin else data
        written = os.write(self._descriptor, joined)
        if written < len(joined):
            rest = memoryview(joined)[written:]
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        return length


class _Text(io.TextIOWrapper):
    """A stream that keeps what one input writes apart from what others do.

    The base class puts lines together, which is fast; what another input has begun is written first.
    """

    def __init__(self, raw: _Marked, stream: Any) -> None:
        below = io.BufferedWriter(raw)
        super().__init__(below, encoding=stream.encoding, errors=stream.errors, newline="\n", line_buffering=True)
        lock = RLock()
        self.write, write_bytes = _writers(raw, lock, super().write, super().flush, below.write)  # type: ignore[method-assign]
        self._buffer = _Bytes(self, write_bytes)

    @property
    def buffer(self) -> Any:
        """The stream for bytes, which are marked as well."""
        return self._buffer


def _writers(
    raw: _Marked,
    lock: RLock,
    write_plain: Callable[[str], int],
    flush: Callable[[], None],
    write_below: Callable[[Any], int],
) -> tuple[Callable[[str], int], Callable[[Any], int]]:
    """What writes text and bytes. Functions with all at hand: `print` calls one for each of its arguments."""

    def write(text: str) -> int:
        with lock:
            if raw.input is not entered(None):
                flush()
                raw.turn_to(entered(None))
            raw.has_text = True
            return write_plain(text)

    def write_bytes(data: Any) -> int:
        with lock:
            if raw.has_text or raw.input is not entered(None):
                flush()
                raw.turn_to(entered(None))
                raw.has_text = False
            return write_below(data)

    return write, write_bytes


class _Bytes(io.BufferedIOBase):
    """The stream for bytes below one for text."""

    def __init__(self, text: _Text, write: Callable[[Any], int]) -> None:
        self._text = text
        self._write = write

    def write(self, data: Any) -> int:
        return self._write(data)

    def flush(self) -> None:
        # It is also called when this object is cleared away, perhaps after the other one.
        if not self._text.closed:
            self._text.flush()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._text.fileno()

    def isatty(self) -> bool:
        return self._text.isatty()


def install(token: str) -> None:
    """Has standard output and error say which input prints."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None:
            # The former one stays in `sys.__stdout__` or `sys.__stderr__`, which keeps the descriptor open.
            setattr(sys, name, _Text(_Marked(stream.fileno(), token), stream))
