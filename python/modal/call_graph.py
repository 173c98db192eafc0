"""What a call that was spawned has called: the nodes of `FunctionCall.get_call_graph`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class InputStatus(IntEnum):
    """How far an input is. The numbers are those of Modal."""

    PENDING = 0
    SUCCESS = 1
    FAILURE = 2
    TERMINATED = 3
    TIMEOUT = 4
    INIT_FAILURE = 5


@dataclass
class InputInfo:
    """An input, and the inputs that it has made."""

    input_id: str
    function_call_id: str
    #: The container that got it last; none has yet if it is empty, or another app's has.
    task_id: str
    status: InputStatus
    #: A method has its class before it: `Model.run`.
    function_name: str
    #: Empty for functions of other apps.
    module_name: str
    children: list[InputInfo]


def inputs_of(call_id: str, graph: dict[str, Any]) -> list[InputInfo]:
    """Reads what the engine says of a call: inputs of which each names the place of its parent, which comes first."""
    known: list[InputInfo] = []
    roots: list[InputInfo] = []
    for each in graph["inputs"]:
        parent = each.pop("parent")
        status = InputStatus[each.pop("status")]
        texts = {name: value or "" for name, value in each.items()}
        info = InputInfo(status=status, children=[], **texts)
        (roots if parent is None else known[parent].children).append(info)
        known.append(info)
    if graph["omitted"]:
        import warnings

        warnings.warn(
            f"the graph of the call `{call_id}` lacks `{graph['omitted']}` calls, and what those have called: "
            "a process records so many only",
            stacklevel=4,
        )
    return roots
