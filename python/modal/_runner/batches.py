"""Inputs that run together: one call of the function with lists of arguments, one result for each of them."""

from __future__ import annotations

from modal._runner.runner import (
    RESULT,
    _end_output,
    _enter_user_code,
    _leave_user_code,
    _pack,
    _pack_result,
    _unpack,
)
from modal.exception import InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from modal._runner.runner import Port, _Function, _Service
    from modal._shared.payload import Payload


def serve(port: Port, service: _Service) -> None:
    """Runs batches until the container is to leave."""
    while True:
        control, payload = port.receive()
        if control["type"] == "stop":
            return
        if control["type"] != "call":
            continue
        batch = [(control, payload)]
        while len(batch) < control["batch"]:
            further, payload = port.receive()
            if further["type"] == "call":
                batch.append((further, payload))
            elif further["type"] == "stop":
                return
        port.running = control
        if port.enter_input is not None:
            port.enter_input(control)
        answers = _run(service.find(control["function"]), control["function"], [payload for _, payload in batch])
        port.running = None
        if port.enter_input is not None:
            port.enter_input(None)
        _end_output()
        results = [(RESULT % (member["call"], status), result) for (member, _), (status, result) in zip(batch, answers)]
        port.send_together(results)


def _run(function: _Function, name: str, payloads: list[Any]) -> list[tuple[bytes, Payload]]:
    """The status and the pickled result or exception of each input."""
    try:
        arguments = _gather(function, name, [_unpack(payload, name) for payload in payloads])
        _enter_user_code()
        try:
            results = function.call(**arguments)
            if hasattr(results, "cr_frame"):
                from modal._runner.loop import run

                results = run(results)
        finally:
            _leave_user_code()
        if not isinstance(results, list):
            raise InvalidError(
                f"the batched function `{name}` returned `{type(results).__name__}`, not a list",
                hint="return a list with one result for each input, in their order",
            )
        if len(results) != len(payloads):
            raise InvalidError(
                f"the batched function `{name}` returned {len(results)} results for {len(payloads)} inputs",
                hint="return a list with one result for each input, in their order",
            )
        return [(b"ok", _pack_result(function, result, name)) for result in results]
    except BaseException as error:
        packed = _pack(error, f"the function `{name}`")
        return [(b"exception", packed)] * len(payloads)


def _gather(function: _Function, name: str, inputs: list[tuple[Any, Any]]) -> dict[str, list[Any]]:
    """A list for each parameter."""
    names = function.parameters()
    gathered: dict[str, list[Any]] = {parameter: [] for parameter in names}
    for args, kwargs in inputs:
        if len(args) > len(names):
            raise InvalidError(f"the batched function `{name}` takes {len(names)} arguments, and got {len(args)}")
        given = dict(zip(names, args))
        for keyword, value in kwargs.items():
            if keyword not in gathered:
                raise InvalidError(f"the batched function `{name}` has no parameter `{keyword}`")
            if keyword in given:
                raise InvalidError(f"the batched function `{name}` got two values of its parameter `{keyword}`")
            given[keyword] = value
        if len(given) != len(names):
            missing = ", ".join(f"`{parameter}`" for parameter in names if parameter not in given)
            raise InvalidError(f"the batched function `{name}` takes {len(names)} arguments, and misses {missing}")
        for parameter, value in given.items():
            gathered[parameter].append(value)
    return gathered
