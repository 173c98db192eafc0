"""Asynchronous twins: `f.remote(...)` waits, `await f.remote.aio(...)` lets an event loop go on meanwhile."""

from __future__ import annotations

from modal._engine import Receiver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable
    from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

    from modal._engine import Engine

    Q = ParamSpec("Q")
    T = TypeVar("T")
    A = TypeVar("A")
else:
    from modal._typing import Generic

    Q = T = A = None


class Bound(Generic[Q, T, A]):
    """A method of an object, with its twin at `aio`."""

    __slots__ = ("_instance", "_twins")

    def __init__(self, instance: Any, twins: Twins[Q, T, A]) -> None:
        self._instance = instance
        self._twins = twins

    def __call__(self, *args: Q.args, **kwargs: Q.kwargs) -> T:
        """Waits for the result."""
        return self._twins.blocking(self._instance, *args, **kwargs)

    def aio(self, *args: Q.args, **kwargs: Q.kwargs) -> A:
        """The same for event loops."""
        return self._twins.asynchronous(self._instance, *args, **kwargs)

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        """What the method says of itself."""
        return self._twins.blocking.__doc__


class Twins(Generic[Q, T, A]):
    """The two forms of a method, as a class attribute."""

    __slots__ = ("asynchronous", "blocking")

    def __init__(
        self, blocking: Callable[Concatenate[Any, Q], T], asynchronous: Callable[Concatenate[Any, Q], A]
    ) -> None:
        self.blocking = blocking
        self.asynchronous = asynchronous

    def __get__(self, instance: object, owner: type | None = None) -> Bound[Q, T, A]:
        """The method of an object; of the class, a function that takes the object first."""
        return Bound(instance, self) if instance is not None else self.blocking  # type: ignore[return-value]


def with_aio(
    asynchronous: Callable[Concatenate[Any, Q], A],
) -> Callable[[Callable[Concatenate[Any, Q], T]], Twins[Q, T, A]]:
    """Gives the method below a twin."""

    def pair(blocking: Callable[Concatenate[Any, Q], T]) -> Twins[Q, T, A]:
        return Twins(blocking, asynchronous)

    return pair


class AsyncReceiver(Receiver):
    """Where answers arrive for a coroutine. The engine's background thread reads them and wakes the event loop."""

    __slots__ = ("_engine", "_event", "_loop")

    def __init__(self, engine: Engine) -> None:
        import asyncio

        super().__init__()
        self._engine = engine
        self._loop: AbstractEventLoop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        engine.read_in_background()

    def wake(self) -> None:
        """Wakes the coroutine; called by whichever thread reads."""
        if self._event.is_set():
            return  # It looks for what has arrived after it has cleared the event.
        try:
            self._loop.call_soon_threadsafe(self._event.set)
        except RuntimeError:
            pass  # The loop is closed, and with it whoever waited.

    def notify(self) -> None:
        """Wakes the coroutine from within its own loop."""
        self._event.set()

    async def changed(self) -> None:
        """Waits until something has arrived, or somebody notified."""
        if not self.arrived:
            await self._event.wait()
            self._event.clear()
            if not self.arrived:
                self._engine.check()
