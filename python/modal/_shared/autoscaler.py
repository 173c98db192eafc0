"""How many containers a function has while its app runs."""

from __future__ import annotations

from dataclasses import dataclass

from modal._shared.api import in_thread
from modal._shared.scaling import NUMBERS, check_number
from modal.exception import InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from modal.functions import Function

KEEP: Any = object()


@dataclass
class FunctionStats:
    """What a function does at the moment."""

    #: Inputs that wait for a container.
    backlog: int
    #: Containers, those included that start.
    num_total_runners: int
    #: Inputs that run.
    num_running_inputs: int
    #: Inputs that the present containers could take at once.
    input_headroom: int


class Autoscaler:
    """How many containers a function has."""

    def __init__(self, function: Function[Any, Any, Any]) -> None:
        self._function = function

    @in_thread
    def settings(self) -> dict[str, int]:
        """The present numbers: `min_containers`, `max_containers`, `buffer_containers`, `scaledown_window`."""
        return self._function._pool()["settings"]  # type: ignore[no-any-return]

    @in_thread
    def update(
        self,
        *,
        min_containers: int | None = KEEP,
        max_containers: int | None = KEEP,
        buffer_containers: int | None = KEEP,
        scaledown_window: int | None = KEEP,
    ) -> None:
        """Changes them, until the app ends. What is not given stays; None is no container, or no bound."""
        given = {
            "min_containers": min_containers,
            "max_containers": max_containers,
            "buffer_containers": buffer_containers,
            "scaledown_window": scaledown_window,
        }
        changes = {name: value for name, value in given.items() if value is not KEEP}
        nothing = {"scaledown_window": 60}
        unset = {name: nothing.get(name, 0) for name, value in changes.items() if value is None}
        self._function._scale(**checked_changes({**changes, **unset}, unset))


def checked_changes(changes: dict[str, Any], unset: dict[str, int] | None = None) -> dict[str, Any]:
    """Numbers of containers, checked."""
    for name, value in changes.items():
        if name not in (unset or {}):
            check_number(name, value)
    minimum, maximum = changes.get("min_containers"), changes.get("max_containers")
    if minimum and maximum and minimum > maximum:
        raise InvalidError(f"`min_containers={minimum}` is more than `max_containers={maximum}`")
    assert all(name in NUMBERS for name in changes)
    return changes


def given_changes(**changes: int | None) -> dict[str, Any]:
    """Numbers of containers of which some are to stay as they are, checked."""
    return checked_changes({name: value for name, value in changes.items() if value is not None})
