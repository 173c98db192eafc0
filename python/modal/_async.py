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
    QA = ParamSpec("QA")
    A = TypeVar("A")
else:
    from modal._typing import Generic

    Q = T = QA = A = None


class Bound(Generic[Q, T, QA, A]):
    """A function with its twin at `aio`."""

    __slots__ = ("_blocking", "aio")

    def __init__(self, blocking: Callable[Q, T], asynchronous: Callable[QA, A]) -> None:
        self._blocking = blocking
        #: The same for event loops.
        self.aio = asynchronous

    def __call__(self, *args: Q.args, **kwargs: Q.kwargs) -> T:
        """Waits for the result."""
        return self._blocking(*args, **kwargs)

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        """What the function says of itself."""
        return self._blocking.__doc__


class Twins(Generic[Q, T, QA, A]):
    """The two forms of a method, as a class attribute."""

    __slots__ = ("_asynchronous", "_blocking")

    def __init__(
        self, blocking: Callable[Concatenate[Any, Q], T], asynchronous: Callable[Concatenate[Any, QA], A]
    ) -> None:
        self._blocking = blocking
        self._asynchronous = asynchronous

    def __get__(self, instance: object, owner: type | None = None) -> Bound[Q, T, QA, A]:
        """The method of an object; of the class, functions that take the object first."""
        if instance is None:
            return Bound(self._blocking, self._asynchronous)  # type: ignore[arg-type]
        return Bound(self._blocking.__get__(instance), self._asynchronous.__get__(instance))


def with_aio(
    asynchronous: Callable[Concatenate[Any, QA], A],
) -> Callable[[Callable[Concatenate[Any, Q], T]], Twins[Q, T, QA, A]]:
    """Gives the method below a twin."""

    def pair(blocking: Callable[Concatenate[Any, Q], T]) -> Twins[Q, T, QA, A]:
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

    async def sleep(self) -> None:
        """Waits until somebody wakes or notifies; returns at once if that has happened since the last time."""
        await self._event.wait()
        self._event.clear()

    async def changed(self) -> None:
        """Waits until something has arrived, or somebody notified."""
        if not self.arrived:
            await self.sleep()
            if not self.arrived:
                self._engine.check()
