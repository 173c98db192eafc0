"""The user's terminal inside a container: `modal.interact()` and `breakpoint()` under `modal run --interactive`."""

from __future__ import annotations

import os
import sys

from modal._shared.interpreter import signals
from modal.exception import ExecutionError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

    from modal._runner.runner import Port

CONSOLE = "/dev/console"
#: Names the debugger that `breakpoint()` calls, as in plain Python.
DEBUGGER = "PYTHONBREAKPOINT"
#: Values for which that is Python's own.
PLAIN_DEBUGGERS = (None, "", "pdb.set_trace")
SIGINT = 2
SIGTTOU = 22


class Console:
    """The container's terminal, which the engine connects with the user's while an input has it.

    Ctrl-C interrupts the user's code alone: between `enter` and `leave`.
    """

    def __init__(self, port: Port, flush: Callable[[], None]) -> None:
        from _thread import get_ident

        self._port = port
        self._flush = flush
        self._thread = get_ident()
        self._process = os.getpid()
        #: Copies of the standard streams as they were.
        self._streams: list[int] = []
        #: How the terminal is when an input gets it.
        self._attributes: Any = None
        #: What Ctrl-C does in the user's code.
        self._handler: Any = None
        #: Whether every input has it from its start.
        self.opens_always = False
        #: Whether Ctrl-C was pressed outside of the user's code.
        self._was_interrupted = False

    @property
    def is_open(self) -> bool:
        """Whether the standard streams are the terminal now."""
        return bool(self._streams)

    def open(self) -> None:
        """Makes it the standard streams, until `close`."""
        if self._streams:
            # Also for threads and children: what they write and read is the terminal already.
            self._notify()
            return
        if not self._is_of_the_function():
            raise ExecutionError(
                "the terminal can only be asked for by the function itself, not by a thread or process that it started",
                hint="call `modal.interact()` in the function before it starts others",
            )
        try:
            terminal = os.open(CONSOLE, os.O_RDWR)
        except OSError as error:
            raise ExecutionError(
                f"the terminal cannot be opened: {error.strerror}",
                hint="call `modal.interact()` before the function gives up its rights",
            ) from None
        self._put_in_order(terminal)
        self._flush()
        self._streams = [_copy(number) for number in range(3)]
        for number in range(3):
            os.dup2(terminal, number)
        if terminal > 2:
            os.close(terminal)
        if sys.stdin is None or sys.stdin.closed:
            # `exit()` in a REPL closes it.
            sys.stdin = open(0, closefd=False)  # noqa: SIM115 - it stays open
        self._notify()

    def close(self) -> None:
        """Makes the standard streams what they were."""
        if not self._streams or os.getpid() != self._process:
            return
        self._flush()
        for number, stream in enumerate(self._streams):
            try:
                os.dup2(stream, number)
                os.close(stream)
            except OSError:
                pass  # The function has closed what it does not know.
        self._streams.clear()
        self._was_interrupted = False

    def enter(self) -> None:
        """The user's code runs from here on."""
        if os.getpid() == self._process:
            if self._handler is not None:
                signals().signal(SIGINT, self._handler)
            was_interrupted, self._was_interrupted = self._was_interrupted, False
            if was_interrupted and self.is_open:
                raise KeyboardInterrupt

    def leave(self) -> None:
        """It does not any more: a Ctrl-C now must not tear what is said to the engine."""
        if os.getpid() == self._process:
            signal = signals()
            handler = signal.getsignal(SIGINT)
            if handler != self._note_interrupt:
                self._handler = handler
            signal.signal(SIGINT, self._note_interrupt)

    def _note_interrupt(self, number: int, frame: object) -> None:
        self._was_interrupted = True

    def _is_of_the_function(self) -> bool:
        """Whether this is the process and the thread that speak with the engine."""
        from _thread import get_ident

        return os.getpid() == self._process and get_ident() == self._thread

    def _notify(self) -> None:
        if self._is_of_the_function():
            self._port.send(b'{"type":"interact"}')

    def _put_in_order(self, terminal: int) -> None:
        """Whatever an earlier input has left: a raw terminal, or one that belongs to a job which is gone."""
        import termios

        signal = signals()
        if self._attributes is None:
            self._attributes = termios.tcgetattr(terminal)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (SIGTTOU,))
        try:
            os.tcsetpgrp(terminal, os.getpgrp())
            termios.tcsetattr(terminal, termios.TCSANOW, self._attributes)
        except OSError:
            pass  # The function runs in a session of its own.
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _copy(number: int) -> int:
    try:
        return os.dup(number)
    except OSError:
        # The function has closed it.
        return os.open(os.devnull, os.O_RDWR)


#: The console of this process, if it is a container that the user's terminal can come into.
console: Console | None = None


def offer(port: Port, flush: Callable[[], None]) -> None:
    """Makes the terminal one that functions of this process can ask for."""
    global console
    console = Console(port, flush)
    if os.environ.get(DEBUGGER) not in (*PLAIN_DEBUGGERS, "0"):
        # Such a debugger stops where it is called from, which must be the user's code and not ours.
        sys.breakpointhook = sys.__breakpointhook__
        console.opens_always = True


def interact() -> None:
    """Brings the terminal of whoever runs the app into the function that calls this, until it returns.

    Then ``input()``, debuggers and REPLs work in it as they do on one's own machine::

        @app.function()
        def guess(hidden):
            modal.interact()
            return input("Enter a number: ") == hidden

    The app must be run with ``modal run --interactive`` or ``app.run(interactive=True)``. One function at a time has
    the terminal, a generator until its last value; others wait for it. Outside of containers, where the terminal is
    there already, nothing happens.
    """
    from modal import _in_container

    if not _in_container():
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
    if console is None and debugger in PLAIN_DEBUGGERS:
        raise ExecutionError(
            "`breakpoint()` was reached, but the terminal is not to be had",
            hint="run the app with `modal run --interactive`, or switch breakpoints off: "
            f'`image.env({{"{DEBUGGER}": "0"}})`',
        )
    if console is not None:
        console.open()
    if debugger not in PLAIN_DEBUGGERS:
        return sys.__breakpointhook__(*args, **kwargs)
    return _debug(frame, *args, **kwargs)


def _debug(frame: FrameType, *, header: str | None = None, commands: list[str] | None = None) -> None:
    """As `pdb.set_trace`, at another frame."""
    from pdb import Pdb

    # Our own frames around the function are of no interest to anybody who steps out of it.
    pdb = Pdb(skip=["modal.*"])
    if header is not None:
        pdb.message(header)
    pdb.set_trace(frame, **({} if commands is None else {"commands": commands}))
