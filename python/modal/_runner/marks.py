"""Marks in what a container prints that runs several inputs at a time: they tell the engine which of them prints.

Loaded where that is so. Only what goes through `sys.stdout` and `sys.stderr` is marked: other programs, and code that
writes to the descriptors, belong to the container.
"""

from __future__ import annotations

import io
import os
import sys
import threading

from modal._runner.inputs import printing_input

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Marked(io.RawIOBase):
    """A descriptor to which everything is written with the mark of the input that it is from."""

    def __init__(self, descriptor: int, token: str) -> None:
        self._descriptor = descriptor
        self._mark = f"\0{token}:%d\0".encode()
        self._end = self._mark % 0
        #: The number of the input whose bytes come; 0 for none.
        self.call = 0

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        length = len(data)
        # In one piece: what others write to the descriptor does not come between.
        rest = memoryview(b"".join((self._mark % self.call, data, self._end)) if self.call else data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        return length


class _ByInput(io.BufferedWriter):
    """Keeps what one input writes apart from what others do."""

    def __init__(self, raw: _Marked) -> None:
        super().__init__(raw)
        self._marked = raw
        self._lock = threading.RLock()

    def write(self, data: Any) -> int:
        call = printing_input()
        with self._lock:
            if call != self._marked.call:
                self.flush()
                self._marked.call = call
            return super().write(data)


def install(token: str) -> None:
    """Has standard output and error say which input prints."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            continue
        buffer = _ByInput(_Marked(stream.fileno(), token))
        marked = io.TextIOWrapper(
            buffer,
            encoding=stream.encoding,
            errors=stream.errors,
            newline="\n",
            line_buffering=True,
            write_through=True,
        )
        # The former one stays in `sys.__stdout__` or `sys.__stderr__`, which keeps the descriptor open.
        setattr(sys, name, marked)
