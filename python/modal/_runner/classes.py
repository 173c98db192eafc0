"""The instance of a class that a container serves, and the hooks around its inputs. Loaded for classes only."""

from __future__ import annotations

import sys

from modal._shared.parameters import from_wire
from modal.cls import Obj, call_hook, make_instance
from modal.partial_function import ENTER, EXIT, SNAP_ENTER, hooks_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from modal.cls import Cls


class Instance:
    """The one instance of a container."""

    def __init__(self, cls: Cls, parameters: list[dict[str, str]]) -> None:
        self._class = cls._user_class
        values = from_wire(parameters)
        handle = Obj(cls, (), values)
        self._instance = handle._modal_instance = make_instance(handle, values)
        # `self.method.local()` calls it on this very instance.
        handle._modal_has_entered = True
        self._exits = hooks_of(self._class, EXIT)

    def methods(self, names: list[str]) -> dict[str, Callable[..., Any]]:
        """Methods by name, as they are called with an input's arguments."""
        return {name: getattr(self._class, name).raw.__get__(self._instance) for name in names}

    def enter(self) -> None:
        """Runs the hooks that come before the first input."""
        for role in (SNAP_ENTER, ENTER):
            for hook in hooks_of(self._class, role):
                self._call(hook)

    def exit(self) -> None:
        """Runs the hooks that come after the last input. One that fails is reported, and ends the others."""
        if not self._exits:
            return
        from modal._shared.interpreter import signals

        signal = signals()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            for hook in self._exits:
                self._call(hook)
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)

    def _call(self, hook: Callable[..., Any]) -> None:
        result = call_hook(hook, self._instance)
        if hasattr(result, "__await__"):
            from modal._runner.loop import run

            run(result)
