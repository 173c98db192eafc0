"""`Function.spawn_map`: many inputs of one call, which nobody waits for."""

from __future__ import annotations

import sys

from modal.exception import InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from modal.function_call import FunctionCall
    from modal.functions import Function, Source


def spawn_all(
    function: Function[Any, Any, Any], method: str, sources: tuple[Iterable[Any], ...], kwargs: dict[str, Any]
) -> FunctionCall[Any] | None:
    """Starts the function for every input; gives the one call of them all, if there are inputs."""
    function._check_inputs(method, sources, ("__iter__", "__getitem__"))
    _refuse_in_loop(function, method)
    spawned: FunctionCall[Any] | None = None
    for args in zip(*sources):
        spawned = _spawn_one_more(function, spawned, args, kwargs)
    if spawned is not None:
        spawned._check_all_kept()
    return spawned


async def spawn_all_aio(
    function: Function[Any, Any, Any], method: str, sources: tuple[Source, ...], kwargs: dict[str, Any]
) -> FunctionCall[Any] | None:
    """The same in an event loop, also for inputs that come asynchronously."""
    from modal._calls.asynchronous import Inputs

    function._check_inputs(f"{method}.aio", sources, ("__iter__", "__aiter__", "__getitem__"))
    inputs, spawned = Inputs(sources), None
    try:
        async for args in inputs:
            spawned = _spawn_one_more(function, spawned, args, kwargs)
            if len(spawned._others) == 0:
                # Those that follow need its id, where another app has it.
                await _all_kept(spawned)
    finally:
        inputs.stop()
    if spawned is not None:
        await _all_kept(spawned)
    return spawned


async def _all_kept(spawned: FunctionCall[Any]) -> None:
    if spawned._function._is_elsewhere:
        from asyncio import get_running_loop

        await get_running_loop().run_in_executor(None, spawned._check_all_kept)


def one_at_least(function: Function[Any, Any, Any], spawned: FunctionCall[Any] | None) -> FunctionCall[Any]:
    """The call, or an error where there were no inputs."""
    if spawned is None:
        raise InvalidError(f"`{function._name}.spawn_map` got no inputs", hint="give iterables that are not empty")
    return spawned


def _spawn_one_more(
    function: Function[Any, Any, Any], spawned: FunctionCall[Any] | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> FunctionCall[Any]:
    if spawned is None:
        return function._spawn(args, kwargs)
    spawned._add(function._pack(args, kwargs))
    return spawned


def _refuse_in_loop(function: Function[Any, Any, Any], method: str) -> None:
    loops = sys.modules.get("asyncio")
    if loops is not None and loops._get_running_loop() is not None:
        raise InvalidError(
            f"`{function._name}.{method}` would keep the event loop waiting",
            hint=f"write `await {function._name}.{method}.aio(...)`",
        )
