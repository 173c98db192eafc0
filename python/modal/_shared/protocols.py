"""What type checkers are told of decorators, generators and volumes; nothing of it is there when a program runs."""

from __future__ import annotations

from typing import Any, Callable, Protocol, TypeVar, overload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Coroutine, Iterable, Iterator

    from typing_extensions import ParamSpec

    from modal._shared.api import Bound
    from modal.functions import Function
    from modal.volume import Place, Volume

    P = ParamSpec("P")
    R = TypeVar("R", covariant=True)  # noqa: PLC0105
    Y = TypeVar("Y")

    class Volumes(Protocol):
        """A dictionary of volumes, whatever of the kinds of paths its keys are."""

        def items(self) -> Iterable[tuple[Place, Volume]]: ...

    class Decorator(Protocol):
        """Makes a function of the app out of the function below."""

        @overload
        def __call__(self, raw: Callable[P, Coroutine[Any, Any, R]], /) -> Function[P, R, Coroutine[Any, Any, R]]: ...
        @overload
        def __call__(self, raw: Callable[P, R], /) -> Function[P, R, R]: ...

    class Unknown:
        """What no function returns: only a type that is not known passes for it."""

    class Yielding(Protocol):
        """`Function.remote_gen`, whose values are those of the generator."""

        @overload
        def __get__(
            self, instance: Function[Any, Unknown, Any], owner: object
        ) -> Bound[..., Iterator[Any], ..., AsyncIterator[Any]]: ...
        @overload
        def __get__(
            self, instance: Function[P, AsyncIterable[Y], Any], owner: object
        ) -> Bound[P, Iterator[Y], P, AsyncIterator[Y]]: ...
        @overload
        def __get__(
            self, instance: Function[P, Iterable[Y], Any], owner: object
        ) -> Bound[P, Iterator[Y], P, AsyncIterator[Y]]: ...
        @overload
        def __get__(self, instance: Any, owner: object) -> Bound[..., Iterator[Any], ..., AsyncIterator[Any]]: ...
