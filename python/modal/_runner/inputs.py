"""Which input runs: `modal.current_input_id` and `modal.current_function_call_id`.

Loaded when somebody asks, when a function calls another one, or with the event loop. From then on every input is
entered, so that each task knows its own.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from modal._runner.runner import Port

#: The input that the present thread or task belongs to, where that is known: the message that brought it.
_entered: ContextVar[dict[str, Any] | None] = ContextVar("input")
#: That input; takes what to give where it is not known.
entered = _entered.get


def current_input_id() -> str | None:
    """The id of the input that runs, `in-…`; each input of a `.map` has its own. None outside of functions."""
    control = _current()
    return None if control is None else control["input_id"]


def current_function_call_id() -> str | None:
    """The id of the function call that the input that runs is a part of, `fc-…`; None outside of functions.

    It is the `object_id` of what `.spawn` returned; all inputs of a `.map` have the same.
    """
    control = _current()
    return None if control is None else control["function_call_id"]


def calling_input(port: Port) -> int | None:
    """The number of the input that makes a call; None for what an earlier input has left behind."""
    running = port.running
    control = _entered.get(running)
    if control is None or (control is not running and control["call"] not in port.active):
        return None
    return control["call"]  # type: ignore[no-any-return]


def enter(control: dict[str, Any]) -> None:
    """Enters an input that runs beside others, in its thread or task."""
    _entered.set(control)


def enter_running() -> None:
    """Enters the input that runs already, in the context of its tasks."""
    port = _port()
    if port is not None:
        _entered.set(port.running)


def _current() -> dict[str, Any] | None:
    port = _port()
    # A thread knows nothing of the one that has started it: it belongs to the only input that there is.
    return None if port is None else _entered.get(port.running)


def _port() -> Port | None:
    runner = sys.modules.get("modal._runner.runner")
    return None if runner is None else runner.port


def _watch() -> None:
    port = _port()
    if port is not None:
        port.enter_input = _entered.set


_watch()
