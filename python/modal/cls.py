"""Classes of an app: what `@app.cls()` makes."""

from __future__ import annotations

from modal._shared.api import Explained, in_thread
from modal._shared.declaration import is_generator
from modal._shared.interpreter import encode_json
from modal._shared.parameters import TYPES, as_text, check_order, parameter, parameters_of
from modal.exception import ExecutionError, InvalidError
from modal.functions import Function, method_has_no_containers
from modal.partial_function import (
    ENTER,
    SNAP_ENTER,
    PartialFunction,
    WrongUse,
    add_decorations,
    hooks_of,
    partials_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Any, NoReturn

    from modal._calls.conversation import Conversation
    from modal._shared.declaration import Amount, Settings
    from modal._shared.protocols import Volumes
    from modal.app import App
    from modal.retries import Retries
    from modal.secret import Secret

__all__ = ["Cls", "Obj", "parameter"]

#: The most bytes that the parameters of an instance take up.
MOST_PARAMETER_BYTES = 16 << 10

if TYPE_CHECKING:
    _AnyFunction = Function[Any, Any, Any]
else:
    _AnyFunction = Function


def check_class(user_class: type, settings: Settings, serialized: bool) -> None:
    """Refuses a class that cannot be one of an app."""
    name = user_class.__name__
    if user_class.__init__ is not object.__init__:  # type: ignore[misc]
        raise InvalidError(
            f"the class `{name}` has a constructor, which would run in other places than one thinks",
            hint="declare what instances differ in with `modal.parameter()`, and prepare the rest in a method with "
            "`@modal.enter()`",
        )
    if not serialized and "<locals>" in user_class.__qualname__:
        raise InvalidError(
            f"the class `{name}` is defined inside a function; "
            "containers can only find classes at the top level of a module",
            hint="move it to the top level, or send it by value: `@app.cls(serialized=True)`",
        )
    parameters_of(user_class)
    partials = partials_of(user_class)
    methods = [partial for partial in partials.values() if partial.is_method]
    batched = next((partial for partial in methods if partial.batching is not None), None)
    if batched is not None:
        if len(methods) > 1:
            other = next(partial.name for partial in methods if partial is not batched)
            raise InvalidError(
                f"`{name}.{batched.name}` runs in batches, and `{name}.{other}` is another method",
                hint="a class with a batched method has only that one: make two classes",
            )
        add_decorations(batched, settings)
    for partial in partials.values():
        if partial.concurrency is not None:
            raise InvalidError(
                f"`@modal.concurrent` stands above the method `{partial.name}`, and counts for the whole class",
                hint="put it above the class, below `@app.cls()`",
            )
        if SNAP_ENTER in partial.roles and not settings.enable_memory_snapshot:
            raise InvalidError(
                f"`{name}.{partial.name}` has `@modal.enter(snap=True)`, and its class takes no snapshots",
                hint="write `@app.cls(enable_memory_snapshot=True)`, or leave `snap=True` away",
            )
        yields = is_generator(partial.raw)
        if partial.is_generator is not None and partial.is_generator != yields:
            raise InvalidError(
                f"`{name}.{partial.name}` is {'a' if yields else 'no'} generator, unlike "
                f"`is_generator={partial.is_generator}` says",
                hint="leave `is_generator` away",
            )


class Cls(metaclass=Explained):
    """A class whose instances live in containers.

    ```python
    model = Model(name="small")
    model.predict.remote("hello")  # in a container of this class, which has run the hooks with `@modal.enter()`
    model.predict.local("hello")  # here
    ```
    """

    def __init__(self, service: Function[Any, Any, Any], user_class: type, options: dict[str, Any]) -> None:
        self._service = service
        self._app: App = service._app
        self._name: str = service._name
        self._user_class = user_class
        self._options = options
        self.__name__ = user_class.__name__
        self.__qualname__ = user_class.__qualname__
        self.__module__ = user_class.__module__
        self.__doc__ = user_class.__doc__

    @classmethod
    def from_name(
        cls,
        app_name: str,
        name: str,
        *,
        version: int | None = None,
        environment_name: str | None = None,
        client: object = None,
    ) -> Any:
        """A class of an app that was deployed, whatever program has done that.

        ```python
        Model = modal.Cls.from_name("demo", "Model")
        Model(size="small").predict.remote("hello")
        ```

        It is looked for when a method is called first.
        """
        from modal._calls.deployed import class_from_name

        return class_from_name(app_name, name, version, environment_name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """A handle of an instance with these parameters. Nothing runs until a method is called."""
        return Obj(self, args, kwargs)

    @in_thread
    def hydrate(self, client: object = None) -> Cls:
        """Makes sure that the class can be called: where its app does not run, that is an error now."""
        self._service._reached()
        return self

    def with_options(
        self,
        *,
        cpu: Amount = None,
        memory: Amount = None,
        gpu: str | None = None,
        env: dict[str, str | None] | None = None,
        secrets: Collection[Secret] | None = None,
        volumes: Volumes | None = None,
        retries: int | Retries | None = None,
        max_containers: int | None = None,
        buffer_containers: int | None = None,
        scaledown_window: int | None = None,
        timeout: int | None = None,
        **unsupported: Any,
    ) -> Any:
        """The same class with other options, which has containers of its own. What is not given stays as it is."""
        from modal._shared.variants import checked_options

        given = checked_options(
            "Cls.with_options",
            unsupported,
            cpu=cpu,
            memory=memory,
            gpu=gpu,
            env=env,
            secrets=secrets,
            volumes=volumes,
            retries=retries,
            max_containers=max_containers,
            buffer_containers=buffer_containers,
            scaledown_window=scaledown_window,
            timeout=timeout,
        )
        return self._with(given)

    def with_concurrency(self, *, max_inputs: int, target_inputs: int | None = None) -> Any:
        """The same class with containers that run other numbers of inputs at a time, as `modal.concurrent` says."""
        from modal._shared.scaling import concurrency

        return self._with({"concurrency": concurrency(max_inputs, target_inputs)})

    def with_batching(self, *, max_batch_size: int, wait_ms: int) -> Any:
        """The same class with other batches, as `modal.batched` says."""
        from modal._shared.scaling import batching

        return self._with({"batching": batching(max_batch_size, wait_ms)})

    def _with(self, options: dict[str, Any]) -> Cls:
        return Cls(self._service, self._user_class, {**self._options, **options})

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._user_class, name)
        if isinstance(value, PartialFunction):
            return _Unbound(self, value) if value.is_method else value.raw
        return value

    def __mro_entries__(self, bases: tuple[Any, ...]) -> NoReturn:
        """Refuses: what is derived from would be the handle."""
        raise InvalidError(
            f"a class cannot be derived from `{self._name}`, which `@app.cls()` has made a class of the app",
            hint="derive both from a class without `@app.cls()`, whose hooks and methods come along",
        )

    def __repr__(self) -> str:
        return f"<modal.Cls `{self._name}` of {self._app!r}>"

    def __reduce__(self) -> Any:
        # Passed as an argument, a class travels as its name.
        return (_with_options, (self._service._class, self._options)) if self._options else self.__qualname__

    def _methods(self) -> dict[str, PartialFunction[Any, Any, Any]]:
        return {name: partial for name, partial in partials_of(self._user_class).items() if partial.is_method}


def _with_options(cls: Cls, options: dict[str, Any]) -> Cls:
    return Cls(cls._service, cls._user_class, options)


def rebuild_instance(cls: Cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A handle of an instance that was passed as an argument."""
    return Obj(cls, args, kwargs)


class _Unbound:
    """A method as the class has it."""

    def __init__(self, cls: Cls, partial: PartialFunction[Any, Any, Any]) -> None:
        self._cls = cls
        self._partial = partial

    def get_raw_f(self) -> Callable[..., Any]:
        """The function as it was before it was decorated."""
        return self._partial.raw

    def local(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuses: there is no instance."""
        raise ExecutionError(
            f"`{self._cls._name}.{self._partial.name}` was called on the class", hint=self._how("local")
        )

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"`{self._cls._name}.{self._partial.name}.{name}` is of the class, and calls need an instance: "
            + self._how(name)
        )

    def _how(self, name: str) -> str:
        return f"write `{self._cls._name}().{self._partial.name}.{name}`"


class Obj:
    """A handle of an instance of a class: of its containers, which all instances with equal parameters share."""

    _modal_cls: Cls
    _modal_given: tuple[tuple[Any, ...], dict[str, Any]]
    _modal_functions: dict[str, Function[Any, Any, Any]]
    #: The instance of this process, once it was needed.
    _modal_instance: Any
    _modal_has_entered: bool

    def __init__(self, cls: Cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._modal_cls = cls
        self._modal_given = args, kwargs
        self._modal_functions = {}
        self._modal_instance = None
        self._modal_has_entered = False
        if args or kwargs:
            _check_picklable(cls, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        # What is not of this handle: a method that can be called remotely, or of the instance here.
        if name.startswith("_modal_"):
            raise AttributeError(name)
        partial = getattr(self._modal_cls._user_class, name, None)
        if isinstance(partial, PartialFunction) and partial.is_method:
            return self._function(name)
        return getattr(self._local_instance(), name)

    def __repr__(self) -> str:
        args, kwargs = self._modal_given
        shown = [*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())]
        return f"<modal.Obj `{self._modal_cls._name}({', '.join(shown)})`>"

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild_instance, (self._modal_cls, *self._modal_given)

    @in_thread
    def update_autoscaler(
        self,
        *,
        min_containers: int | None = None,
        max_containers: int | None = None,
        scaledown_window: int | None = None,
        buffer_containers: int | None = None,
    ) -> None:
        """Changes how many containers this instance has, until the app ends. What is not given stays as it is."""
        from modal._shared.autoscaler import given_changes

        changes = given_changes(
            min_containers=min_containers,
            max_containers=max_containers,
            buffer_containers=buffer_containers,
            scaledown_window=scaledown_window,
        )
        methods = self._modal_cls._methods()
        if not methods:
            raise InvalidError(f"`{self._modal_cls._name}` has no methods, so nothing runs in containers of it")
        # Containers run all methods of their instance.
        self._function(next(iter(methods)))._pool(**changes)

    def _function(self, name: str) -> Function[Any, Any, Any]:
        """A method as a function of the app."""
        known = self._modal_functions.get(name)
        if known is None:
            partial = partials_of(self._modal_cls._user_class)[name]
            known = self._modal_functions[name] = Method(self, partial)
        return known

    def _values(self, wrong: type[Exception], positional: bool) -> dict[str, Any]:
        """The values of all parameters, defaults included; of what is missing or unknown, `wrong` tells."""
        args, kwargs = self._modal_given
        name = self._modal_cls._name
        declared = parameters_of(self._modal_cls._user_class)
        check_order(name, declared)
        if args and not positional:
            raise wrong(f"`{name}(...)` takes no positional arguments: name them, as in `{name}(x=1)`")
        if len(args) > len(declared):
            raise wrong(f"`{name}(...)` takes {len(declared)} parameters, and got {len(args)}")
        given = dict(zip(declared, args))
        for known in kwargs:
            if known not in declared:
                listed = ", ".join(f"`{each}`" for each in declared) or "none"
                raise wrong(f"`{name}(...)` has no parameter `{known}`; it has {listed}")
            if known in given:
                raise wrong(f"`{name}(...)` got two values of its parameter `{known}`")
        given.update(kwargs)
        for known, (declaration, _) in declared.items():
            if known not in given:
                if declaration.is_required:
                    raise wrong(f"`{name}(...)` misses its parameter `{known}`: give it, as in `{name}({known}=...)`")
                given[known] = declaration.default
        return given

    def _local_instance(self) -> Any:
        if self._modal_instance is None:
            values = self._values(TypeError, positional=True)
            self._modal_instance = make_instance(self, values)
        return self._modal_instance

    def _enter(self) -> Any:
        """The instance of this process, on which the hooks have run that come before the first input."""
        instance = self._local_instance()
        if not self._modal_has_entered:
            if hasattr(instance, "__enter__"):
                instance.__enter__()
            for role in (SNAP_ENTER, ENTER):
                for hook in hooks_of(type(instance), role):
                    call_hook(hook, instance)
            self._modal_has_entered = True
        return instance

    async def _enter_aio(self) -> Any:
        instance = self._local_instance()
        if not self._modal_has_entered:
            if hasattr(instance, "__aenter__"):
                await instance.__aenter__()
            elif hasattr(instance, "__enter__"):
                instance.__enter__()
            self._modal_has_entered = True
        return instance

    def _wire_parameters(self) -> list[dict[str, str]]:
        """The parameters as the engine gets them."""
        values = self._values(InvalidError, positional=False)
        declared = parameters_of(self._modal_cls._user_class)
        wired = []
        for name, value in values.items():
            kind = declared[name][1]
            if not isinstance(value, TYPES[kind]):
                raise TypeError(
                    f"the parameter `{name}` of `{self._modal_cls._name}` is of type `{kind}`, "
                    f"not `{type(value).__name__}`: {value!r}"
                )
            wired.append({"name": name, "type": kind, "value": as_text(value)})
        size = sum(len(each["name"]) + len(each["value"].encode("utf-8", "surrogatepass")) for each in wired)
        if size > MOST_PARAMETER_BYTES:
            raise InvalidError(
                f"the parameters of `{self._modal_cls._name}` take up {size} bytes, "
                f"more than the {MOST_PARAMETER_BYTES} that instances may differ in",
                hint="pass large data as arguments of a method, or put it into a `modal.Volume`",
            )
        return sorted(wired, key=lambda each: each["name"])


def make_instance(handle: Obj, values: dict[str, Any]) -> Any:
    """An instance of the user's class with these parameters; its methods are functions of the app."""
    instance = handle._modal_cls._user_class()
    instance.__dict__["_modal_handle"] = handle
    for name, value in values.items():
        setattr(instance, name, value)
    return instance


def call_hook(hook: Callable[..., Any], instance: Any) -> Any:
    """Calls a hook; one that has parameters gets three times None, as it was once made for."""
    code = getattr(hook, "__code__", None)
    if code is not None and code.co_argcount > 1:
        return hook(instance, None, None, None)
    return hook(instance)


def _check_picklable(cls: Cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    from modal._shared.payload import pack_any

    try:
        pack_any((args, kwargs))
    except Exception as error:
        raise ValueError(
            f"the parameters of `{cls._name}` cannot be pickled: {error}; give plain data as declared with "
            "`modal.parameter()`"
        ) from None


class Method(_AnyFunction):
    """A method of an instance, as a function of the app."""

    def __init__(self, instance: Obj, partial: PartialFunction[Any, Any, Any]) -> None:
        cls = instance._modal_cls
        self._instance = instance
        self._method = partial.name
        self._service = cls._service
        self._raw = partial.raw
        self._app = cls._app
        self._name = f"{cls._name}.{partial.name}"
        self._settings = cls._service._settings
        self._packer = cls._service._packer
        self._options = cls._options
        self._engine: Conversation | None = None
        self._wire_name = b""
        self._is_generator = is_generator(partial.raw)
        self.__name__ = partial.raw.__name__
        self.__qualname__ = partial.raw.__qualname__
        self.__module__ = partial.raw.__module__
        self.__doc__ = partial.raw.__doc__
        self.__wrapped__ = partial.raw

    def local(self, /, *args: Any, **kwargs: Any) -> Any:
        """Calls the method here, on an instance on which the hooks with `@modal.enter()` have run."""
        flags = self._raw.__code__.co_flags
        if flags & 0x80:
            return self._local_aio(args, kwargs)
        if flags & 0x200:
            return self._local_gen_aio(args, kwargs)
        return self._raw(self._instance._enter(), *args, **kwargs)

    async def _local_aio(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return await self._raw(await self._instance._enter_aio(), *args, **kwargs)

    async def _local_gen_aio(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        async for value in self._raw(await self._instance._enter_aio(), *args, **kwargs):
            yield value

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Refuses: whether the call shall run here or in a container must be said."""
        raise WrongUse(
            f"`{self._name}(...)` does not say where to run",
            hint=f"write `{self._method}.remote(...)` to run it in a container, `.local(...)` to run it here",
        )

    def __reduce__(self) -> Any:
        return getattr, (self._instance, self._method)

    def _scale(self, **changes: Any) -> None:
        raise method_has_no_containers(self._name, self._instance._modal_cls._name)

    def _parameters(self) -> list[dict[str, str]]:
        return self._instance._wire_parameters()

    def _suffix(self) -> str:
        return f',"method":{encode_json(self._method)}'
