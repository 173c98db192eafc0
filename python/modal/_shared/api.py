"""What public classes are made with: generics without `typing`, asynchronous twins, words for what does not exist."""

from __future__ import annotations

from modal._shared.settings import setting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")
    L = TypeVar("L")
    Q = ParamSpec("Q")
    T = TypeVar("T")
    QA = ParamSpec("QA")
    A = TypeVar("A")
else:

    class Generic:
        """A base class that accepts subscription and ignores it. Importing `typing` takes longer than this package."""

        __slots__ = ()

        def __class_getitem__(cls, _parameters: object) -> type:
            return cls

    P = R = L = Q = T = QA = A = None


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
            return Bound(_on_class(self._blocking, owner), _on_class(self._asynchronous, owner))
        return Bound(self._blocking.__get__(instance), self._asynchronous.__get__(instance))


def _on_class(method: Callable[..., Any], owner: type | None) -> Callable[..., Any]:
    """A method as the class has it: it takes the object first, and says so where there is none."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if owner is not None and not (args and isinstance(args[0], owner)):
            from modal.exception import InvalidError

            name, kind = method.__name__, owner.__name__
            raise InvalidError(
                f"`{kind}.{name}` was called on the class, which is no {kind.lower()}",
                hint=f"call it on one that a factory method of `modal.{kind}` has made",
            )
        return method(*args, **kwargs)

    call.__doc__, call.__name__, call.__wrapped__ = method.__doc__, method.__name__, method  # type: ignore[attr-defined]
    return call


def with_aio(
    asynchronous: Callable[Concatenate[Any, QA], A],
) -> Callable[[Callable[Concatenate[Any, Q], T]], Twins[Q, T, QA, A]]:
    """Gives the method below a twin."""

    def pair(blocking: Callable[Concatenate[Any, Q], T]) -> Twins[Q, T, QA, A]:
        return Twins(blocking, asynchronous)

    return pair


def in_thread(blocking: Callable[Concatenate[Any, P], R]) -> Twins[P, R, P, Coroutine[Any, Any, R]]:
    """Gives the method below a twin that waits for it in a thread."""

    async def asynchronous(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        import asyncio
        from functools import partial

        return await asyncio.get_running_loop().run_in_executor(None, partial(blocking, self, *args, **kwargs))

    return Twins(blocking, asynchronous)


def explain(owner: type, name: str) -> AttributeError:
    """The error for an attribute that `owner` does not have."""
    from modal._shared.absent import SUBSTITUTES

    text = f"`{owner.__name__}.{name}` is not part of this version"
    substitute = SUBSTITUTES.get(f"{owner.__name__}.{name}") or SUBSTITUTES.get(name)
    if substitute is not None:
        return AttributeError(f"{text}: {substitute}")
    import difflib

    known = [attribute for attribute in dir(owner) if not attribute.startswith("_")]
    close = difflib.get_close_matches(name, known, n=1)
    return AttributeError(f"{text}: did you mean `{close[0]}`?" if close else f"{text}; it has {', '.join(known)}")


def refuse_keywords(owner: str, given: dict[str, Any], known: Iterable[str]) -> None:
    """Raises an error that names the first keyword which `owner` does not take."""
    if given:
        from modal._shared.absent import refuse

        refuse(owner, given, known)


class Explained(type):
    """A class that explains attributes which neither it nor its instances have; for type checkers there are none."""

    if not TYPE_CHECKING:

        def __getattr__(cls, name: str) -> Any:
            if name.startswith("_"):
                raise AttributeError(f"type object `{cls.__name__}` has no attribute `{name}`")
            raise explain(cls, name)


def explain_on_instance(self: object, name: str) -> Any:
    """`__getattr__` of such classes."""
    for base in type(self).__mro__:
        if name in base.__dict__:
            # A property that raised AttributeError itself: its own words are the better ones.
            return base.__dict__[name].__get__(self, type(self))
    if name.startswith("_"):
        raise AttributeError(f"`{type(self).__name__}` has no attribute `{name}`")
    raise explain(type(self), name)


def environment_or_default(name: str | None) -> str:
    """The environment that is meant: the named one, or that of the process."""
    return name or setting("MODAL_ENVIRONMENT") or "main"
