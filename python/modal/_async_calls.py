"""Calls from event loops: `Function.remote.aio` and `Function.map.aio`."""

from __future__ import annotations

import asyncio
import sys

from modal._async import AsyncReceiver
from modal._map import Flight

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterable
    from typing import Any, Union

    from modal._engine import Engine
    from modal._payload import Payload
    from modal.functions import Function

    Inputs = Union[Iterable[Any], AsyncIterable[Any]]


async def call(function: Function[Any, Any], engine: Engine, payload: Payload) -> Any:
    """Runs one input; cancelling the task cancels the call."""
    receiver = AsyncReceiver(engine)
    number = engine.start_call(receiver, function._wire_name, payload)
    try:
        while not receiver.arrived:
            await receiver.changed()
    except BaseException:
        engine.cancel([number])
        raise
    _, control, payload = receiver.arrived.popleft()
    if control["status"] == "ok":
        return function._unpack(payload)
    raise function._failure(control, payload)


async def run_map(
    function: Function[Any, Any],
    inputs: AsyncIterator[tuple[Any, ...]],
    kwargs: dict[str, Any],
    order_outputs: bool,
    return_exceptions: bool,
) -> AsyncIterator[Any]:
    """Yields the results of `function` for `inputs`, of which a limited number is in flight."""
    engine = function._running()
    sys.stdout.flush()
    receiver = AsyncReceiver(engine)
    flight = Flight(engine, function, kwargs, receiver)
    feed = _Feed(flight, inputs, receiver)
    waiting: dict[int, Any] = {}
    next_index = 0
    try:
        while True:
            while receiver.arrived:
                index, control, payload = flight.land()
                waiting[index if order_outputs else next_index] = control, payload
                while next_index in waiting:
                    control, payload = waiting.pop(next_index)
                    next_index += 1
                    feed.make_room()
                    yield flight.result(control, payload, return_exceptions)
            if feed.has_ended() and not flight.indexes:
                return
            await receiver.changed()
    finally:
        await feed.stop()
        engine.cancel(list(flight.indexes))


class _Feed:
    """Sends inputs in a task of its own: they may come from anywhere, even from earlier results."""

    def __init__(self, flight: Flight, inputs: AsyncIterator[tuple[Any, ...]], receiver: AsyncReceiver) -> None:
        self._flight = flight
        self._receiver = receiver
        self._room = asyncio.Event()
        self._task = asyncio.ensure_future(self._run(inputs))

    async def _run(self, inputs: AsyncIterator[tuple[Any, ...]]) -> None:
        try:
            async for args in inputs:
                while not self._flight.has_room():
                    self._room.clear()
                    await self._room.wait()
                self._flight.send(args)
        finally:
            self._receiver.notify()

    def has_ended(self) -> bool:
        """Whether all inputs were sent; raises what went wrong with them."""
        if not self._task.done():
            return False
        self._task.result()
        if self._flight.failure is not None:
            raise self._flight.failure
        return True

    def make_room(self) -> None:
        """A result is about to be yielded."""
        self._flight.yielded += 1
        self._room.set()

    async def stop(self) -> None:
        """Ends the task, whatever it waits for."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def zipped(sources: tuple[Inputs, ...]) -> AsyncIterator[tuple[Any, ...]]:
    """`zip` for iterables of both kinds."""
    nexts = [source.__aiter__().__anext__ if hasattr(source, "__aiter__") else _anext_of(source) for source in sources]
    while True:
        try:
            yield tuple([await following() for following in nexts])
        except StopAsyncIteration:
            return


async def tuples(source: Inputs) -> AsyncIterator[tuple[Any, ...]]:
    """The elements of an iterable of either kind, as tuples of arguments."""
    async for (args,) in zipped((source,)):
        yield tuple(args)


def _anext_of(source: Iterable[Any]) -> Any:
    iterator = iter(source)

    async def following() -> Any:
        try:
            return next(iterator)
        except StopIteration:
            raise StopAsyncIteration from None

    return following
