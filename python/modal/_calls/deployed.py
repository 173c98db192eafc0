"""Functions and classes of deployed apps: what `Function.from_name` and `Cls.from_name` make."""

from __future__ import annotations

from modal._shared.api import environment_or_default, in_thread
from modal._shared.declaration import packer
from modal._shared.interpreter import encode_json
from modal._shared.names import check_object_name
from modal.exception import ExecutionError, InvalidError, NotFoundError
from modal.functions import Function, method_has_no_containers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NamedTuple, NoReturn

    from modal._calls.conversation import Conversation
    from modal._client.info import FunctionInfo

    class Place(NamedTuple):
        """Where a function or class is."""

        app: str
        name: str
        version: int | None
        environment: str
else:
    from collections import namedtuple

    Place = namedtuple("Place", ("app", "name", "version", "environment"))

#: In the place of a method: an instance as a whole.
ANY = ""


class DeployedFunction(Function[..., "Any", "Any"]):
    """A function of a deployed app, or a method of a class of one, which is looked for when it is called first."""

    def __init__(
        self,
        place: Place,
        method: str | None = None,
        given: tuple[tuple[Any, ...], dict[str, Any]] = ((), {}),
        options: dict[str, Any] | None = None,
    ) -> None:
        self._place = Place(*place)
        self._method = method
        #: The parameters of the class's instance.
        self._given = given
        self._options = options or {}
        self._name = f"{place[1]}.{method}" if method else place[1]
        self._packer = packer("", False)
        self._service = None
        self._class = None
        self._engine = None
        self._is_generator = False
        self._wire_name = b""
        self.__name__ = self.__qualname__ = self._name
        self.__doc__ = None

    def local(self, /, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuses: the function is not here."""
        raise ExecutionError(
            f"`{self._name}` of the app `{self._place.app}` cannot be called here: only its app has its source",
            hint="call it with `.remote`, or import it from its module",
        )

    def get_raw_f(self) -> NoReturn:
        """Refuses: the function is not here."""
        self.local()

    def __repr__(self) -> str:
        return f"<modal.Function `{self._name}` of the deployed app `{self._place.app}`>"

    def __reduce__(self) -> Any:
        return DeployedFunction, (tuple(self._place), self._method, self._given, self._options)

    def _variant(self, options: dict[str, Any]) -> DeployedFunction:
        return DeployedFunction(self._place, self._method, self._given, {**self._options, **options})

    def _info(self) -> FunctionInfo:
        from modal._client.info import of_deployed

        place = self._place
        return of_deployed(place.environment, place.app, place.version, place.name)

    def _app_log(self) -> tuple[str, list[str]]:
        from modal._client.errands import errand

        place = self._place
        found = errand("deployment", {"do": "find", "environment": place.environment, "app": place.app})
        return found["app_id"], [place.app, f"--env={place.environment}"]

    def _scale(self, **changes: Any) -> None:
        if self._method:
            raise method_has_no_containers(self._name, self._place.name)
        self._pool(**changes)

    def _running(self, generator: bool = False) -> Conversation:
        from modal import _in_container

        return self._in_container(generator) if _in_container() else self._here(generator)

    def _reached(self) -> Conversation:
        from modal import _in_container

        return self._in_container(None, look_up=True) if _in_container() else self._here(None)

    def _here(self, generator: bool | None) -> Conversation:
        from modal._client.deployed import reach

        place = self._place
        host = reach(place.environment, place.app, place.version)
        self._look_up(host, host.functions, generator, "")
        return host

    def _check_there(self) -> None:
        """Raises an error if the app has no such function or class, whatever the parameters of an instance are."""
        from modal import _in_container

        place = self._place
        if _in_container():
            from modal._runner.client import reach_any

            functions = reach_any(self._name).functions_of(self._app_name())
        else:
            from modal._client.deployed import reach

            functions = reach(place.environment, place.app, place.version).functions
        _found(functions, self)

    def _app_name(self) -> str:
        """The app, as it stands in control messages of a container."""
        place = self._place
        return encode_json({"name": place.app, "environment": place.environment, "version": place.version})

    def _in_container(self, generator: bool | None, look_up: bool = False) -> Conversation:
        from modal._runner.client import reach_any

        app = self._app_name()
        client = reach_any(self._name)
        self._is_elsewhere = True
        if look_up or self._options or any(self._given):
            self._look_up(client, client.functions_of(app), generator, f',"app":{app}')
        else:
            self._wire_name = f'{self._base_name()},"app":{app}'.encode()
        return client

    def _look_up(
        self, engine: Conversation, functions: dict[str, dict[str, Any]], generator: bool | None, rest: str
    ) -> None:
        """Finds the function among those of its app, and how it is called over a connection.

        A call says whether it is to be a `generator`.
        """
        place = self._place
        about = _found(functions, self)
        self._is_generator = about.get("generator", False)
        parameters: list[dict[str, str]] = []
        if self._method is not None:
            self._is_generator = self._method in about["class"].get("generators", ())
            parameters = _wire_parameters(place.name, about["class"].get("parameters", []), *self._given)
        if generator is not None:
            self._check_kind(generator)
        name = self._base_name()
        if parameters or self._options:
            from modal._shared.variants import wire_options

            options = wire_options(dict(self._options), self._name)
            variant = {"function": place.name, "parameters": parameters, "options": options}
            if rest:
                variant["app"] = {"name": place.app, "environment": place.environment, "version": place.version}
            name += f',"variant":{engine.name_variant(variant)}'
        self._wire_name = (name + rest).encode()

    def _base_name(self) -> str:
        """The service, and the method, as they stand in control messages."""
        method = f',"method":{encode_json(self._method)}' if self._method else ""
        return encode_json(self._place.name) + method


class DeployedCls:
    """A class of a deployed app."""

    def __init__(self, place: Place, options: dict[str, Any]) -> None:
        self._place = Place(*place)
        self._options = options
        self.__name__ = self.__qualname__ = place[1]

    def __call__(self, *args: Any, **kwargs: Any) -> DeployedObj:
        """A handle of an instance with these parameters. Nothing runs until a method is called."""
        return DeployedObj(self, args, kwargs)

    @in_thread
    def hydrate(self, client: object = None) -> DeployedCls:
        """Looks the class up, as the first call does by itself: where it is missing, that is an error now."""
        DeployedFunction(self._place, ANY)._check_there()
        return self

    def with_options(self, **options: Any) -> DeployedCls:
        """The same class with other options, which has containers of its own. What is not given stays as it is."""
        from modal._shared.variants import KNOWN, checked_options

        known = {name: options.pop(name, None) for name in KNOWN}
        return self._with(checked_options("Cls.with_options", options, **known))

    def with_concurrency(self, *, max_inputs: int, target_inputs: int | None = None) -> DeployedCls:
        """The same class with containers that run other numbers of inputs at a time, as `modal.concurrent` says."""
        from modal._shared.scaling import concurrency

        return self._with({"concurrency": concurrency(max_inputs, target_inputs)})

    def with_batching(self, *, max_batch_size: int, wait_ms: int) -> DeployedCls:
        """The same class with other batches, as `modal.batched` says."""
        from modal._shared.scaling import batching

        return self._with({"batching": batching(max_batch_size, wait_ms)})

    def _with(self, options: dict[str, Any]) -> DeployedCls:
        return DeployedCls(self._place, {**self._options, **options})

    def __repr__(self) -> str:
        return f"<modal.Cls `{self._place.name}` of the deployed app `{self._place.app}`>"

    def __reduce__(self) -> Any:
        return DeployedCls, (tuple(self._place), self._options)


class DeployedObj:
    """A handle of an instance of such a class."""

    def __init__(self, cls: DeployedCls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._cls = cls
        self._given = args, kwargs

    @in_thread
    def update_autoscaler(
        self,
        *,
        min_containers: int | None = None,
        max_containers: int | None = None,
        scaledown_window: int | None = None,
        buffer_containers: int | None = None,
    ) -> None:
        """Changes how many containers this instance has, until the app's process ends or it is deployed again."""
        from modal._shared.autoscaler import given_changes

        changes = given_changes(
            min_containers=min_containers,
            max_containers=max_containers,
            buffer_containers=buffer_containers,
            scaledown_window=scaledown_window,
        )
        DeployedFunction(self._cls._place, ANY, self._given, self._cls._options)._scale(**changes)

    def __getattr__(self, name: str) -> DeployedFunction:
        if name.startswith("_"):
            raise AttributeError(name)
        return DeployedFunction(self._cls._place, name, self._given, self._cls._options)

    def __repr__(self) -> str:
        return f"<modal.Obj of {self._cls!r}>"

    def __reduce__(self) -> Any:
        return DeployedObj, (self._cls, *self._given)


def _found(functions: dict[str, dict[str, Any]], function: DeployedFunction) -> dict[str, Any]:
    """What the app says of a function, or of the class of a method."""
    place, method = function._place, function._method
    about = functions.get(place.name)
    if about is None:
        from modal._client.deployed import missing_function

        raise missing_function(functions, place.app, place.name)
    cls = about.get("class")
    if method is None and cls is not None:
        raise NotFoundError(
            f"`{place.name}` of the app `{place.app}` is a class",
            hint=f'write `modal.Cls.from_name("{place.app}", "{place.name}")`',
        )
    if method is None:
        return about
    if cls is None:
        raise NotFoundError(
            f"`{place.name}` of the app `{place.app}` is a function, not a class",
            hint=f'write `modal.Function.from_name("{place.app}", "{place.name}")`',
        )
    if method != ANY and method not in cls["methods"]:
        listed = ", ".join(f"`{each}`" for each in cls["methods"])
        raise NotFoundError(
            f"the class `{place.name}` of the app `{place.app}` has no method `{method}`", hint=f"it has {listed}"
        )
    return about


def _wire_parameters(
    owner: str, declared: list[dict[str, Any]], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[dict[str, str]]:
    """The parameters of an instance as the engine gets them, defaults included."""
    from modal._shared.parameters import TYPES, as_text

    if args:
        raise InvalidError(f"`{owner}(...)` takes no positional arguments: name them, as in `{owner}(x=1)`")
    names = [known["name"] for known in declared]
    for name in kwargs:
        if name not in names:
            listed = ", ".join(f"`{each}`" for each in names) or "none"
            raise InvalidError(f"`{owner}(...)` has no parameter `{name}`; it has {listed}")
    wired = []
    for known in declared:
        name, kind = known["name"], known["type"]
        if name in kwargs:
            if not isinstance(kwargs[name], TYPES[kind]):
                raise TypeError(
                    f"the parameter `{name}` of `{owner}` is of type `{kind}`, "
                    f"not `{type(kwargs[name]).__name__}`: {kwargs[name]!r}"
                )
            value = as_text(kwargs[name])
        elif known.get("default") is None:
            raise InvalidError(f"`{owner}(...)` misses its parameter `{name}`: give it, as in `{owner}({name}=...)`")
        else:
            value = known["default"]
        wired.append({"name": name, "type": kind, "value": value})
    return sorted(wired, key=lambda each: each["name"])


def from_name(app_name: str, name: str, version: int | None, environment_name: str | None) -> DeployedFunction:
    """The function `name` of a deployed app."""
    if isinstance(name, str) and "." in name:
        raise InvalidError(
            f"`{name}` has a dot: `Function.from_name` takes the name of a function",
            hint="methods are reached by their class: `modal.Cls.from_name`",
        )
    return DeployedFunction(_place("a function", app_name, name, version, environment_name))


def class_from_name(app_name: str, name: str, version: int | None, environment_name: str | None) -> DeployedCls:
    """The class `name` of a deployed app."""
    return DeployedCls(_place("a class", app_name, name, version, environment_name), {})


def _place(what: str, app: str, name: object, version: object, environment: str | None) -> Place:
    check_object_name(app, "an app")
    if not isinstance(name, str) or not name:
        raise InvalidError(f"the name of {what} is a string, not `{name!r}`")
    if version is not None and (isinstance(version, bool) or not isinstance(version, int) or version < 1):
        raise InvalidError(f"`version` takes the number of a version, not `{version!r}`")
    return Place(app, name, version, environment_or_default(environment))
