"""The user's terminal inside a container: `modal.interact()` and `breakpoint()` under `modal run --interactive`."""

from __future__ import annotations

import os
import sys

from modal.exception import ExecutionError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

    from modal._wire import Connection

CONSOLE = "/dev/console"
#: Names the debugger that `breakpoint()` calls, as in plain Python.
DEBUGGER = "PYTHONBREAKPOINT"


class Console:
    """The container's terminal, which the engine connects with the user's while an input has it."""

    def __init__(self, connection: Connection, flush: Callable[[], None]) -> None:
        from _thread import get_ident

        self._connection = connection
        self._flush = flush
        self._thread = get_ident()
        self._process = os.getpid()
        #: Copies of the standard streams as they were.
        self._streams: list[int] = []

    @property
    def is_open(self) -> bool:
        """Whether the standard streams are the terminal now."""
        return bool(self._streams)

    def open(self) -> None:
        """Makes it the standard streams, until `close`."""
        from _thread import get_ident

        if os.getpid() != self._process or get_ident() != self._thread:
            raise ExecutionError(
                "the terminal can only be asked for by the function itself, not by a thread or process that it started",
                hint="call `modal.interact()` in the function before it starts others",
            )
        if self._streams:
            return
        terminal = os.open(CONSOLE, os.O_RDWR)
        self._flush()
        self._streams = [os.dup(number) for number in range(3)]
        for number in range(3):
            os.dup2(terminal, number)
        os.close(terminal)
        self._connection.send(b'{"type":"interact"}')

    def close(self) -> None:
        """Makes the standard streams what they were."""
        if not self._streams or os.getpid() != self._process:
            return
        self._flush()
        if sys.gettrace() is not None:
            # A debugger that was left while it stepped.
            sys.settrace(None)
        for number, stream in enumerate(self._streams):
            os.dup2(stream, number)
            os.close(stream)
        self._streams.clear()


#: The console of this process, if it is a container that the user's terminal can come into.
console: Console | None = None


def interact() -> None:
    """Brings the terminal of whoever runs the app into the function that calls this, until it returns.

    Then ``input()``, debuggers and REPLs work in it as they do on one's own machine::

        @app.function()
        def guess(hidden):
            modal.interact()
            return input("Enter a number: ") == hidden

    The app must be run with ``modal run --interactive`` or ``app.run(interactive=True)``. One function at a time has
    the terminal; others wait for it. Outside of containers, where the terminal is there already, nothing happens.
    """
    from modal import is_local

    if is_local():
        return
    if console is None:
        raise ExecutionError(
            "`modal.interact()` was called, but the terminal is not to be had",
            hint="run the app with `modal run --interactive`",
        )
    console.open()


def debug(frame: FrameType, *args: Any, **kwargs: Any) -> Any:
    """What `breakpoint()` does in a container whose code is at `frame`."""
    debugger = os.environ.get(DEBUGGER)
    if debugger == "0":
        return None
    if console is None and not debugger:
        raise ExecutionError(
            "`breakpoint()` was reached, but the terminal is not to be had",
            hint="run the app with `modal run --interactive`, or switch breakpoints off: "
            f'`image.env({{"{DEBUGGER}": "0"}})`',
        )
    if console is not None:
        console.open()
    if debugger and debugger != "pdb.set_trace":
        return sys.__breakpointhook__(*args, **kwargs)
    from pdb import Pdb

    header = kwargs.get("header")
    # Our own frames around the function are of no interest to anybody who steps out of it.
    pdb = Pdb(skip=["modal.*"])
    if header is not None:
        pdb.message(header)
    pdb.set_trace(frame)
    return None
