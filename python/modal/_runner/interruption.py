"""Ending an input that runs: the engine sends `cancel` or `stop` and nudges the runner, which looks at it at once.

Loaded where inputs run one after another. The nudge is the signal that says that a terminal has
another size, because that one does nothing to processes that an input may have started.
"""

from __future__ import annotations

import sys

from modal._shared.interpreter import signals
from modal.exception import InputCancellation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from modal._runner.runner import Port


def listen(port: Port) -> None:
    """From now on, nudges are heard."""
    signal = signals()

    def look(_number: int, _frame: Any) -> None:
        if port.is_in_user_code and port.running is not None:
            port.look()
            if port.is_stopping or port.running["call"] in port.cancelled:
                _interrupt(port)

    signal.signal(signal.SIGWINCH, look)


def nudge() -> None:
    """Does what the engine's nudge does, for a thread that has read a message."""
    import threading

    signal = signals()
    main = threading.main_thread().ident
    if main is not None:
        signal.pthread_kill(main, signal.SIGWINCH)


def _interrupt(port: Port) -> None:
    port.is_in_user_code = False
    loop = sys.modules.get("modal._runner.loop")
    if loop is not None and loop.cancel_running():
        return
    raise InputCancellation("the input was cancelled")
