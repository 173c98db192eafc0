"""What stands in the body of a class of an app: methods, and hooks around its inputs."""

from __future__ import annotations

from modal.exception import InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any, Generic, NoReturn, ParamSpec, Protocol, TypeVar, overload

    from typing_extensions import Concatenate

    from modal._shared.declaration import Settings
    from modal.functions import Function

    P = ParamSpec("P")
    R = TypeVar("R", covariant=True)  # noqa: PLC0105
    L = TypeVar("L")
    F = TypeVar("F", bound=Callable[..., Any])

    class MethodDecorator(Protocol):
        """Makes a method that can be called remotely out of the function below."""

        @overload
        def __call__(
            self, raw: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /
        ) -> PartialFunction[P, R, Coroutine[Any, Any, R]]: ...
        @overload
        def __call__(self, raw: Callable[Concatenate[Any, P], R], /) -> PartialFunction[P, R, R]: ...
else:
    from modal._shared.api import Generic, L, P, R

METHOD = "method"
ENTER = "enter"
SNAP_ENTER = "enter(snap=True)"
EXIT = "exit"


class WrongUse(InvalidError, TypeError):
    """A decorator or a method was given something else than it takes: to Python, too, that is an error of this kind."""


class PartialFunction(Generic[P, R, L]):
    """A function of a class body, and what its decorators make of it."""

    __slots__ = ("batching", "concurrency", "is_generator", "name", "raw", "roles")

    def __init__(self, raw: Callable[..., Any]) -> None:
        self.raw = raw
        self.name: str = raw.__name__
        #: What it is: a method, or hooks.
        self.roles: tuple[str, ...] = ()
        #: How many inputs run at a time, or together, as the engine gets it.
        self.concurrency: dict[str, Any] | None = None
        self.batching: dict[str, Any] | None = None
        #: What `is_generator` of the decorator says.
        self.is_generator: bool | None = None

    @property
    def is_method(self) -> bool:
        """Whether it can be called remotely."""
        return METHOD in self.roles or self.batching is not None

    if TYPE_CHECKING:

        @overload
        def __get__(self, instance: None, owner: type) -> PartialFunction[P, R, L]: ...
        @overload
        def __get__(self, instance: object, owner: type) -> Function[P, R, L]: ...

    def __get__(self, instance: Any, owner: type) -> Any:
        """On an instance, a method is a `Function`, here and in the container; a hook is a plain method."""
        if instance is None:
            return self
        if self.is_method:
            handle = instance.__dict__.get("_modal_handle")
            if handle is not None:
                return handle._function(self.name)
        return self.raw.__get__(instance, owner)

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuses: there is no instance."""
        raise WrongUse(f"`{self.name}` was called without an instance of its class", hint="make one, as in `Model()`")


def with_role(decorator: str, role: str, raw: Any) -> PartialFunction[Any, Any, Any]:
    """A function that is this as well; what it is cannot be a method and something else."""
    partial = raw if isinstance(raw, PartialFunction) else None
    if partial is None:
        if isinstance(raw, (type, staticmethod, classmethod)) or not hasattr(raw, "__code__"):
            raise WrongUse(
                f"`@modal.{decorator}()` stands above a function of a class, not `{type(raw).__name__}`",
                hint="put it directly above a `def`",
            )
        partial = PartialFunction(raw)
    if partial.concurrency is not None:
        raise _concurrent_method(partial.name)
    if partial.is_method and partial.roles == () and role == METHOD:
        partial.roles = (METHOD,)
        return partial
    if (partial.roles or partial.is_method) and (partial.is_method or role == METHOD):
        raise InvalidError(
            f"`{partial.name}` is decorated with `@modal.{_shown(partial)}` "
            f"and `@modal.{decorator}`, which do not go together",
            hint="leave one of them away, or call one method in the other",
        )
    partial.roles = (*partial.roles, role)
    return partial


def _shown(partial: PartialFunction[Any, Any, Any]) -> str:
    return partial.roles[-1].partition("(")[0] if partial.roles else "batched"


def _concurrent_method(name: str) -> InvalidError:
    return InvalidError(
        f"`@modal.concurrent` stands above the method `{name}`, and counts for the whole class",
        hint="put it above the class, below `@app.cls()`",
    )


def concurrent(*positional: Any, max_inputs: int | None = None, target_inputs: int | None = None) -> Callable[[F], F]:
    """Has containers of the function or class below run up to `max_inputs` inputs at a time.

    ```python
    @app.function()
    @modal.concurrent(max_inputs=100, target_inputs=80)
    async def fetch(url: str) -> bytes: ...
    ```

    Asynchronous inputs are tasks of one event loop, synchronous ones run in threads. With more than `target_inputs` in
    each, further containers start.
    """
    check_parentheses("concurrent", positional)
    from modal._shared.scaling import concurrency

    wanted = concurrency(max_inputs, target_inputs)

    def decorate(raw: Any) -> Any:
        _refuse_above_app("concurrent", raw)
        partial = raw if isinstance(raw, PartialFunction) else PartialFunction(raw)
        if partial.concurrency is not None:
            raise InvalidError(f"`{partial.name}` is decorated with `@modal.concurrent` twice", hint="leave one away")
        if partial.roles:
            raise _concurrent_method(partial.name)
        partial.concurrency = wanted
        return partial

    return decorate


def batched(*positional: Any, max_batch_size: int, wait_ms: int) -> Callable[[F], F]:
    """Has inputs run together: the function below gets a list for each parameter, and returns a list of results.

    ```python
    @app.function()
    @modal.batched(max_batch_size=8, wait_ms=50)
    def embed(texts: list[str]) -> list[list[float]]: ...


    embed.remote("one text")
    ```

    A batch runs when it is full, or its first input has waited for `wait_ms` milliseconds. In a class, it stands in the
    place of `@modal.method()`.
    """
    check_parentheses("batched", positional)
    from modal._shared.scaling import batching

    wanted = batching(max_batch_size, wait_ms)

    def decorate(raw: Any) -> Any:
        from modal._shared.declaration import is_generator

        _refuse_above_app("batched", raw)
        partial = raw if isinstance(raw, PartialFunction) else PartialFunction(raw)
        if is_generator(partial.raw):
            raise InvalidError(
                f"`{partial.name}` is a generator, which cannot run in batches", hint="return a list of results"
            )
        if set(partial.roles) - {METHOD} or partial.batching is not None:
            shown = _shown(partial)
            raise InvalidError(f"`{partial.name}` is decorated with `@modal.{shown}` and `@modal.batched`")
        partial.batching = wanted
        return partial

    return decorate


def _refuse_above_app(decorator: str, raw: Any) -> None:
    from modal.functions import Function

    if isinstance(raw, Function) or type(raw).__name__ == "Cls":
        raise InvalidError(
            f"`@modal.{decorator}` stands above the app's decorator of `{raw._name}`",
            hint="put it below `@app.function()` or `@app.cls()`: the lower one counts first",
        )
    if not callable(raw) and not isinstance(raw, PartialFunction):
        raise WrongUse(f"`@modal.{decorator}` stands above a function or class, not `{type(raw).__name__}`")


def configured(partial: PartialFunction[Any, Any, Any], settings: Settings) -> Any:
    """The function or class below, with what its decorators say noted in the settings of the service."""
    if partial.roles:
        raise InvalidError(
            f"`{partial.name}` is decorated with `@modal.{_shown(partial)}`, and belongs into a class",
            hint="put `@app.cls()` above the class, or leave the decorator away",
        )
    add_decorations(partial, settings)
    if partial.batching is not None and (partial.raw.__defaults__ or partial.raw.__kwdefaults__):
        raise InvalidError(
            f"the batched function `{partial.name}` has arguments with defaults, which batches have not",
            hint="leave the defaults away: each input gives all arguments",
        )
    return partial.raw


def add_decorations(partial: PartialFunction[Any, Any, Any], settings: Settings) -> None:
    """Notes what the decorators say in the settings of the service."""
    if partial.concurrency is not None:
        if partial.concurrency["max_inputs"] is None:
            raise TypeError(
                "`@modal.concurrent` misses `max_inputs`: how many inputs a container of "
                f"`{partial.name}` runs at a time"
            )
        settings.scaling = {**settings.scaling, "concurrency": partial.concurrency}
    if partial.batching is not None:
        settings.scaling = {**settings.scaling, "batching": partial.batching}


def check_parentheses(decorator: str, positional: tuple[Any, ...]) -> None:
    """Refuses positional arguments."""
    if positional:
        if callable(positional[0]) or isinstance(positional[0], PartialFunction):
            raise WrongUse(f"`@modal.{decorator}` was used without parentheses", hint=f"write `@modal.{decorator}()`")
        raise WrongUse(f"`@modal.{decorator}` takes no positional arguments", hint="name the argument")


def method(*positional: Any, is_generator: bool | None = None) -> MethodDecorator:
    """Makes the function below a method that can be called remotely.

    ```python
    @app.cls()
    class Model:
        @modal.method()
        def predict(self, text: str) -> str: ...


    Model().predict.remote("hello")
    ```
    """
    check_parentheses("method", positional)

    def decorate(raw: Any) -> PartialFunction[Any, Any, Any]:
        partial = with_role("method", METHOD, raw)
        partial.is_generator = is_generator
        return partial

    return decorate


def enter(*positional: Any, snap: bool = False) -> Callable[[F], F]:
    """Has the function below run in each container before its first input: to load a model, to open a connection.

    An exception in it is raised where the class was called. Those with `snap=True` run first.
    """
    check_parentheses("enter", positional)

    def decorate(raw: Any) -> Any:
        return with_role("enter", SNAP_ENTER if snap else ENTER, raw)

    return decorate


def exit(*positional: Any) -> Callable[[F], F]:
    """Has the function below run in each container after its last input, within 30 seconds."""
    check_parentheses("exit", positional)

    def decorate(raw: Any) -> Any:
        return with_role("exit", EXIT, raw)

    return decorate


def partials_of(user_class: type) -> dict[str, PartialFunction[Any, Any, Any]]:
    """The methods and hooks of a class by name: those of its bases first, overridden by name."""
    found: dict[str, PartialFunction[Any, Any, Any]] = {}
    for base in reversed(user_class.__mro__):
        for name, value in vars(base).items():
            if isinstance(value, PartialFunction):
                found[name] = value
            else:
                found.pop(name, None)
    return found


def hooks_of(user_class: type, role: str) -> list[Callable[..., Any]]:
    """The hooks of a class, those of its bases first, then in the order in which they are defined."""
    return [partial.raw for partial in partials_of(user_class).values() if role in partial.roles]
