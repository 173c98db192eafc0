"""Calls from event loops: `Function.remote.aio` and `Function.map.aio`."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections import deque

from modal._calls.conversation import AsyncReceiver
from modal._calls.map import Flight

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
    from typing import Any, Union

    from modal._calls.conversation import Conversation
    from modal._shared.payload import Payload
    from modal.functions import Function

    Source = Union[Iterable[Any], AsyncIterable[Any]]

#: The most elements that are taken from a blocking iterable before somebody wants them.
AHEAD = 16

_NOTHING = object()


async def call(function: Function[Any, Any, Any], engine: Conversation, payload: Payload) -> Any:
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
    function: Function[Any, Any, Any],
    inputs: Inputs,
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

    def __init__(self, flight: Flight, inputs: Inputs, receiver: AsyncReceiver) -> None:
        self._flight = flight
        self._receiver = receiver
        self._room = asyncio.Event()
        self._task = asyncio.ensure_future(self._run(inputs))

    async def _run(self, inputs: Inputs) -> None:
        try:
            async for args in inputs:
                while not self._flight.has_room():
                    self._room.clear()
                    await self._room.wait()
                self._flight.send(args)
        finally:
            inputs.stop()
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


class Inputs:
    """The tuples of arguments that iterables of both kinds give together, as `zip` would."""

    def __init__(self, sources: tuple[Source, ...], starred: bool = False) -> None:
        self._sources = sources
        #: There is one source, and its elements are the tuples.
        self._starred = starred
        self._nexts: list[Callable[[], Awaitable[Any]]] | None = None
        self._pullers: list[_Puller] = []

    def __aiter__(self) -> Inputs:
        return self

    async def __anext__(self) -> tuple[Any, ...]:
        if self._nexts is None:
            self._nexts = [self._open(source) for source in self._sources]
        args = [await following() for following in self._nexts]
        return tuple(args[0] if self._starred else args)

    def _open(self, source: Any) -> Callable[[], Awaitable[Any]]:
        if hasattr(source, "__aiter__"):
            following: Callable[[], Awaitable[Any]] = source.__aiter__().__anext__
            return following
        if hasattr(source, "__len__"):
            return _at_hand(source)
        puller = _Puller(source)
        self._pullers.append(puller)
        return puller.following

    def stop(self) -> None:
        """Takes no more."""
        for puller in self._pullers:
            puller.stop()


def _at_hand(source: Iterable[Any]) -> Callable[[], Awaitable[Any]]:
    """The elements of a collection, which never makes anybody wait."""
    iterator = iter(source)

    async def following() -> Any:
        try:
            return next(iterator)
        except StopIteration:
            raise StopAsyncIteration from None

    return following


class _Puller:
    """Takes the elements of an iterable in a thread of its own, a few ahead: it may wait for whatever it likes."""

    def __init__(self, source: Iterable[Any]) -> None:
        self._source = source
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._pulled: deque[Any] = deque()
        self._end: BaseException | None = None
        self._room = threading.Semaphore(AHEAD)
        self._stopped = False
        run = contextvars.copy_context().run
        threading.Thread(target=run, args=(self._run,), name="modal-map-inputs", daemon=True).start()

    def _run(self) -> None:
        end: BaseException = StopAsyncIteration()
        try:
            iterator = iter(self._source)
            while self._room.acquire() and not self._stopped:
                element = next(iterator, _NOTHING)
                if element is _NOTHING:
                    break
                self._pulled.append(element)
                self._wake()
        except BaseException as error:
            end = error
        self._end = end
        self._wake()

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._changed.set)
        except RuntimeError:
            pass  # The loop is closed, and with it whoever waited.

    async def following(self) -> Any:
        """The next element; raises what ended the iterable."""
        while True:
            end = self._end  # Looked at first: what was pulled before the end comes before it.
            if self._pulled:
                self._room.release()
                return self._pulled.popleft()
            if end is not None:
                raise end
            await self._changed.wait()
            self._changed.clear()

    def stop(self) -> None:
        """Lets the thread end as soon as its iterable lets it."""
        self._stopped = True
        self._room.release()
