"""Apps: functions that run together."""

from __future__ import annotations

import sys

from modal._shared.api import Bound, Explained, explain_on_instance, in_thread, refuse_keywords, with_aio
from modal._shared.declaration import Settings, check_limits
from modal._shared.declaration import is_generator as yields_values
from modal._shared.keywords import (
    check_generator,
    check_image,
    check_name,
    check_target,
    environment_of,
    gpu_of,
    keywords_of,
    refuse_positional,
    retries_of,
    scaling_of,
    secrets_of,
    tags_of,
    volumes_of,
)
from modal.exception import InvalidError
from modal.functions import Function
from modal.image import Image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from typing import Any, Generic, Literal, NoReturn, ParamSpec, TypeAlias, TypeVar, Union

    from typing_extensions import dataclass_transform

    from modal._client.engine import Engine
    from modal._client.info import AppInfo
    from modal._client.logs import Logs
    from modal._client.running import RunningApp
    from modal._shared.declaration import Amount
    from modal._shared.protocols import Decorator, Volumes
    from modal.cls import Cls, parameter
    from modal.retries import Retries
    from modal.schedule import Schedule
    from modal.secret import Secret

    P = ParamSpec("P")
    R = TypeVar("R")
    C = TypeVar("C", bound=type)
    #: What a keyword that is not here yet may ask for.
    Nothing: TypeAlias = Union[Literal[0, False, ""], dict[NoReturn, NoReturn], tuple[()], None]
else:
    from modal._shared.api import Generic, P, R

    parameter = None

    def dataclass_transform(**_):  # noqa: D103
        return lambda method: method


DEFAULT_TIMEOUT = 300


class LocalEntrypoint(Generic[P, R]):
    """A function that `modal run` starts in your own process, with the command line's words as its arguments."""

    def __init__(self, raw: Callable[P, R], app: App, name: str) -> None:
        self._raw = raw
        self._app = app
        self._name = name
        self.__name__ = raw.__name__
        self.__doc__ = raw.__doc__
        self.__wrapped__ = raw

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Calls the function."""
        return self._raw(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<modal.LocalEntrypoint `{self._name}` of {self._app!r}>"


async def _lookup_aio(
    name: str, *, environment_name: str | None = None, create_if_missing: bool = False, client: object = None
) -> App:
    from modal._client.deploy import in_executor, lookup

    return await in_executor(lookup, name, environment_name, create_if_missing)


def _lookup(
    name: str, *, environment_name: str | None = None, create_if_missing: bool = False, client: object = None
) -> App:
    """The app that is deployed under a name, or has an id.

    ```python
    app = modal.App.lookup("demo")
    print(app.app_id, app.get_tags())
    ```

    Where there is none, an empty one is made if `create_if_missing` says so. It has no functions here: they are
    called by `modal.Function.from_name`.
    """
    from modal._client.deploy import lookup

    return lookup(name, environment_name, create_if_missing)


class App(metaclass=Explained):
    """Functions that run together, and what they share: an image, secrets, volumes.

    ```python
    app = modal.App("demo", image=modal.Image.debian_slim().uv_pip_install("pandas"))


    @app.function(timeout=60)
    def describe(rows): ...
    ```

    `image` is for functions that name none (default: `Image.debian_slim()`); `secrets` and
    `volumes` are given to every function; what a function has at the same path comes first.
    With ``include_source=False`` the functions' own source is not taken along, because the image contains it.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        image: Image | None = None,
        secrets: Collection[Secret] | None = None,
        volumes: Volumes | None = None,
        include_source: bool = True,
        tags: Mapping[str, str] | None = None,
        **unsupported: Any,
    ) -> None:
        refuse_keywords("modal.App", unsupported, keywords_of(App.__init__))
        if name is not None and not isinstance(name, str):
            raise InvalidError(f"the name of an app is a string, not `{type(name).__name__}`")
        check_image(image, "`modal.App`")
        self._name = name
        self._image = image
        self._secrets = secrets_of(secrets, "`modal.App`")
        self._volumes = volumes_of(volumes, "`modal.App`")
        self._include_source = include_source
        self._tags = tags_of(tags, "`modal.App`")
        self._functions: dict[str, Function[Any, Any, Any]] = {}
        self._classes: dict[str, Cls] = {}
        self._entrypoints: dict[str, LocalEntrypoint[Any, Any]] = {}
        self._app_id: str | None = None
        self._engine: Engine | None = None
        #: Under which environment and name it was deployed by this process.
        self._deployed: tuple[str, str] | None = None
        #: The apps that were included in one another, this one among them.
        self._family: list[App] = [self]
        #: What tells it from all others where its functions were rebuilt; made when one travels.
        self._origin: str | None = None

    if not TYPE_CHECKING:
        __getattr__ = explain_on_instance

    @property
    def name(self) -> str | None:
        """The app's name."""
        return self._name

    @property
    def app_id(self) -> str | None:
        """The id (`ap-…`) of the app that runs, has run last or was deployed; None if there was nothing of it."""
        return self._app_id

    @property
    def description(self) -> str | None:
        """The app's name."""
        return self._name

    @property
    def registered_functions(self) -> dict[str, Function[Any, Any, Any]]:
        """The functions by their names; what serves a class stands there as ``Name.*``. Modal is to remove it."""
        _warn_of_removal("registered_functions")
        return {**self._functions, **{f"{name}.*": cls._service for name, cls in self._classes.items()}}

    @property
    def registered_classes(self) -> dict[str, Cls]:
        """The classes by their names. Modal is to remove it."""
        _warn_of_removal("registered_classes")
        return dict(self._classes)

    @property
    def registered_entrypoints(self) -> dict[str, LocalEntrypoint[Any, Any]]:
        """The local entrypoints by their names. Modal is to remove it."""
        _warn_of_removal("registered_entrypoints")
        return dict(self._entrypoints)

    @property
    def registered_web_endpoints(self) -> list[str]:
        """The names of web functions, of which there are none here. Modal is to remove it."""
        _warn_of_removal("registered_web_endpoints")
        return []

    lookup = Bound(_lookup, _lookup_aio)

    def include(self, /, other_app: App, inherit_tags: bool = True) -> App:
        """Takes in the functions that another app has by now.

        ```python
        app = modal.App("whole").include(training.app).include(serving.app)
        ```

        They keep what they have of their own app: its image, secrets and volumes. Tags of this app come before those
        of the other.
        """
        if not isinstance(other_app, App):
            raise InvalidError(f"`app.include` takes a `modal.App`, not `{type(other_app).__name__}`")
        for name, function in other_app._functions.items():
            if self._functions.get(name, function) is not function:
                import warnings

                warnings.warn(f"the app has two functions of the name `{name}`; the later one counts", stacklevel=2)
            self._functions[name] = function
        for name, cls in other_app._classes.items():
            if self._classes.get(name, cls) is not cls:
                import warnings

                warnings.warn(f"the app has two classes of the name `{name}`; the later one counts", stacklevel=2)
            self._classes[name] = cls
        if inherit_tags:
            self._tags = {**other_app._tags, **self._tags}
        if other_app._family is not self._family:
            self._family += other_app._family
            for member in self._family:
                member._family = self._family
        return self

    @in_thread
    def stop(self) -> None:
        """Stops the app, for everybody: one that was deployed for good."""
        from modal._client.deploy import stop

        self._require_id("stop")
        stop(self)

    @in_thread
    def get_tags(self) -> dict[str, str]:
        """What was noted of the app, by ``modal.App(tags=...)`` or `App.set_tags`."""
        from modal._client.deploy import get_tags

        self._require_id("get_tags")
        return get_tags(self)

    @in_thread
    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Replaces all tags of the app that runs or was deployed."""
        from modal._client.deploy import set_tags

        self._require_id("set_tags")
        set_tags(self, tags_of(tags, "`app.set_tags`"))

    @in_thread
    def info(self, refresh: bool = False) -> AppInfo:
        """What is known of the app: its id, name, environment, state, version, tags, and since when it is deployed."""
        from modal._client.info import of_app

        self._require_id("info")
        return of_app(self)

    @property
    def logs(self) -> Logs:
        """What the app has printed: ``logs.fetch(since, until)``, ``logs.tail(100)``, ``logs.stream()``.

        Logs are kept of apps that are deployed or run with ``modal run --detach``.
        """
        from modal._client.logs import Logs

        self._require_id("logs")
        return Logs(self._log)

    def _log(self) -> tuple[str, list[str]]:
        """What `modal app logs` is told of the app, after its id."""
        app_id = self._app_id
        assert app_id is not None
        if self._deployed is None or self._engine is not None:
            return app_id, [app_id]
        environment, name = self._deployed
        return app_id, [name, f"--env={environment}"]

    def _require_id(self, method: str) -> None:
        if self._app_id is None:
            raise InvalidError(
                f"`app.{method}()` was called on an app that neither runs nor was deployed",
                hint="look one up with `modal.App.lookup`, or call it in `with app.run():`",
            )

    def function(
        self,
        *positional: Any,
        image: Image | None = None,
        env: dict[str, str | None] | None = None,
        secrets: Collection[Secret] | None = None,
        volumes: Volumes | None = None,
        gpu: str | list[str] | None = None,
        timeout: int = DEFAULT_TIMEOUT,
        retries: int | Retries | None = None,
        cpu: Amount = None,
        memory: Amount = None,
        min_containers: int | None = None,
        max_containers: int | None = None,
        buffer_containers: int | None = None,
        scaledown_window: int | None = None,
        startup_timeout: int | None = None,
        serialized: bool = False,
        name: str | None = None,
        is_generator: bool | None = None,
        include_source: bool | None = None,
        enable_memory_snapshot: bool = False,
        block_network: bool = False,
        single_use_containers: bool = False,
        max_inputs: int | None = None,
        schedule: Schedule | None = None,
        **unsupported: Any,
    ) -> Decorator:
        """Makes a function of the app out of the function below.

        ```python
        @app.function(image=image, secrets=[modal.Secret.from_dict({"TOKEN": token})], timeout=60, memory=2048)
        def work(x: int) -> int: ...
        ```

        `env` and `secrets` become environment variables of its containers. `volumes` says which `modal.Volume` they
        have at which path. `gpu` names GPUs of this machine: ``"A100"``, ``"H100:2"`` for two, ``"any"``, or a list, of
        which the first is taken that there is. `timeout` is in seconds and holds for each attempt of a call; `retries`
        says how often a failed call is tried again (a number, or `modal.Retries`).
        `cpu` is a number of cores, `memory` in MiB; of a pair ``(request, limit)`` the limit counts. At most
        `max_containers` run at a time, at least `min_containers`, and as long as there are inputs `buffer_containers`
        more than these need; one without an input goes after `scaledown_window` seconds (60). `startup_timeout` is the
        time to get ready, `single_use_containers` run one input each, and with `block_network` they have no network.
        Once the app is deployed, a function with a `schedule` (`modal.Period`, `modal.Cron`) runs by itself.
        With ``serialized=True`` the function itself is sent to its containers, not
        the module that defines it: for notebooks, and functions inside functions.
        """
        if positional:
            refuse_positional("function", positional[0])
        refuse_keywords("@app.function", unsupported, keywords_of(App.function))
        check_image(image, "`@app.function`")
        check_name("@app.function", name)
        settings = Settings(
            image,
            environment_of(env, "`@app.function`"),
            secrets or (),
            timeout,
            retries_of(retries),
            cpu,
            memory,
            max_containers,
            serialized,
            include_source,
            volumes_of(volumes, "`@app.function`"),
            gpu_of(gpu, "`@app.function`"),
            bool(enable_memory_snapshot),
            scaling_of(
                max_containers,
                max_inputs=max_inputs,
                single_use_containers=single_use_containers,
                min_containers=min_containers,
                buffer_containers=buffer_containers,
                scaledown_window=scaledown_window,
                startup_timeout=startup_timeout,
                block_network=block_network,
            ),
        )
        check_limits(settings)
        if schedule is not None:
            from modal.schedule import check_kind

            check_kind(schedule)

        def decorate(raw: Callable[P, R]) -> Function[P, Any, R]:
            partial = sys.modules.get("modal.partial_function")
            if partial is not None and isinstance(raw, partial.PartialFunction):
                raw = partial.configured(raw, settings)
            check_target("function", raw, serialized)
            known = name or raw.__name__.strip("<>")
            yields = yields_values(raw)
            check_generator(known, yields, is_generator, settings)
            if known in self._functions:
                import warnings

                warnings.warn(f"the app has two functions of the name `{known}`; the later one counts", stacklevel=2)
            function: Function[P, Any, R] = Function(raw, self, known, settings)
            if schedule is not None:
                from modal.schedule import check_callable

                check_callable(raw, known)
                function._schedule = schedule
            self._functions[known] = function
            return function

        return decorate

    @dataclass_transform(field_specifiers=(parameter,), kw_only_default=True)
    def cls(
        self,
        *positional: Any,
        image: Image | None = None,
        env: dict[str, str | None] | None = None,
        secrets: Collection[Secret] | None = None,
        volumes: Volumes | None = None,
        gpu: str | list[str] | None = None,
        timeout: int = DEFAULT_TIMEOUT,
        retries: int | Retries | None = None,
        cpu: Amount = None,
        memory: Amount = None,
        min_containers: int | None = None,
        max_containers: int | None = None,
        buffer_containers: int | None = None,
        scaledown_window: int | None = None,
        startup_timeout: int | None = None,
        serialized: bool = False,
        include_source: bool | None = None,
        enable_memory_snapshot: bool = False,
        block_network: bool = False,
        single_use_containers: bool = False,
        max_inputs: int | None = None,
        **unsupported: Any,
    ) -> Callable[[C], C]:
        """Makes a class of the app out of the class below: its instances live in containers.

        ```python
        @app.cls(image=image, gpu="any")
        class Model:
            size: int = modal.parameter(default=7)

            @modal.enter()
            def load(self):
                self.weights = load_weights(self.size)

            @modal.method()
            def predict(self, text: str) -> str: ...


        Model(size=13).predict.remote("hello")
        ```

        The options are those of `App.function`. Each container has one instance, on which `@modal.enter()` runs before
        the first input and `@modal.exit()` after the last one; instances with equal parameters share containers.
        """
        from modal.cls import Cls, check_class
        from modal.partial_function import PartialFunction, WrongUse, configured

        if positional:
            refuse_positional("cls", positional[0], WrongUse)
        refuse_keywords("@app.cls", unsupported, keywords_of(App.cls))
        check_image(image, "`@app.cls`")
        settings = Settings(
            image,
            environment_of(env, "`@app.cls`"),
            secrets or (),
            timeout,
            retries_of(retries),
            cpu,
            memory,
            max_containers,
            serialized,
            include_source,
            volumes_of(volumes, "`@app.cls`"),
            gpu_of(gpu, "`@app.cls`"),
            bool(enable_memory_snapshot),
            scaling_of(
                max_containers,
                max_inputs=max_inputs,
                single_use_containers=single_use_containers,
                min_containers=min_containers,
                buffer_containers=buffer_containers,
                scaledown_window=scaledown_window,
                startup_timeout=startup_timeout,
                block_network=block_network,
            ),
        )
        check_limits(settings)

        def decorate(user_class: Any) -> Any:
            if isinstance(user_class, PartialFunction) and isinstance(user_class.raw, type):
                user_class = configured(user_class, settings)
            if not isinstance(user_class, type):
                what = (
                    f"`{user_class._name}`, which is a class of an app already" if isinstance(user_class, Cls) else None
                )
                raise WrongUse(
                    f"`@app.cls()` stands above a class, not {what or f'`{type(user_class).__name__}`'}",
                    hint="put `@app.function()` above functions",
                )
            check_class(user_class, settings, serialized)
            return self._add_class(user_class, settings)

        return decorate

    def _add_class(self, user_class: type, settings: Settings, name: str | None = None) -> Cls:
        from modal.cls import Cls

        name = name or user_class.__name__
        if name in self._classes:
            import warnings

            warnings.warn(f"the app has two classes of the name `{name}`; the later one counts", stacklevel=3)
        service: Function[Any, Any, Any] = Function(user_class, self, name, settings)
        service._class = self._classes[name] = Cls(service, user_class, {})
        return service._class

    def local_entrypoint(
        self, *positional: Any, name: str | None = None, **unsupported: Nothing
    ) -> Callable[[Callable[P, R]], LocalEntrypoint[P, R]]:
        """Makes the function below what `modal run` starts, in your own process.

        ```python
        @app.local_entrypoint()
        def main(n: int = 3, verbose: bool = False):
            print(work.remote(n))
        ```

        Its parameters become options: ``modal run app.py --n 5 --verbose``.
        """
        if positional:
            refuse_positional("local_entrypoint", positional[0])
        refuse_keywords("@app.local_entrypoint", unsupported, keywords_of(App.local_entrypoint))
        check_name("@app.local_entrypoint", name)

        def decorate(raw: Callable[P, R]) -> LocalEntrypoint[P, R]:
            if not callable(raw):
                raise InvalidError(f"`@app.local_entrypoint()` stands above a function, not `{type(raw).__name__}`")
            known = name or raw.__name__
            if known in self._entrypoints:
                raise InvalidError(f"the app has two local entrypoints of the name `{known}`")
            entrypoint: LocalEntrypoint[P, R] = LocalEntrypoint(raw, self, known)
            self._entrypoints[known] = entrypoint
            return entrypoint

        return decorate

    def _run_aio(
        self,
        /,
        *,
        name: str | None = None,
        interactive: bool = False,
        environment_name: str | None = None,
        client: object = None,
        **unsupported: Nothing,
    ) -> RunningApp:
        refuse_keywords("app.run", unsupported, ("name", "interactive", "environment_name"))
        check_name("app.run", name)
        from modal._client.running import RunningApp

        return RunningApp(self, interactive=interactive, name=name, environment=environment_name)

    @with_aio(_run_aio)
    def run(
        self,
        /,
        *,
        name: str | None = None,
        interactive: bool = False,
        environment_name: str | None = None,
        client: object = None,
        **unsupported: Nothing,
    ) -> RunningApp:
        """Builds the app's images and makes its functions callable inside a ``with`` block.

        ```python
        if __name__ == "__main__":
            with modal.enable_output(), app.run():
                print(describe.remote(rows))
        ```

        In event loops: ``async with app.run():``. An app that is ``interactive`` has functions that may ask for this
        process's terminal, with ``breakpoint()`` or ``modal.interact()``. With a `name` it runs under that one, and in
        the environment `environment_name`.
        """
        return self._run_aio(name=name, interactive=interactive, environment_name=environment_name, **unsupported)

    async def _deploy_aio(
        self,
        *,
        name: str | None = None,
        environment_name: str | None = None,
        tag: str = "",
        strategy: str = "rolling",
        client: object = None,
    ) -> App:
        import asyncio
        from functools import partial

        deploy = partial(self._deploy, name, environment_name, tag, strategy)
        return await asyncio.get_running_loop().run_in_executor(None, deploy)

    @with_aio(_deploy_aio)
    def deploy(
        self,
        *,
        name: str | None = None,
        environment_name: str | None = None,
        tag: str = "",
        strategy: str = "rolling",
        client: object = None,
    ) -> App:
        """Builds the app and keeps it: any program of yours may call its functions from then on.

        ```python
        app.deploy()
        modal.Function.from_name("demo", "describe").remote(rows)
        ```

        What it needs is kept in the store; nothing of your directory is needed afterwards. Its process starts when
        it is called, and ends when it has nothing to do. Deploying again makes a new version, unless nothing has
        changed: inputs that run end on the former one, or begin anew on this with ``"recreate"``.
        """
        return self._deploy(name, environment_name, tag, strategy)

    def _deploy(self, name: str | None, environment_name: str | None, tag: str, strategy: str) -> App:
        import sys

        from modal import _in_container
        from modal._client.deploy import check, deploy
        from modal._client.engine import any_engine

        reference = sys.modules.get("modal._cli.reference")
        if _in_container() or (reference is not None and reference.is_importing):
            raise InvalidError(
                "`app.deploy()` was called while the program is imported",
                hint='put it below `if __name__ == "__main__":`, or use `modal deploy`',
            )
        check(self, name, tag, strategy)
        deploy(any_engine(), self, name=name, environment=environment_name, tag=tag, strategy=strategy)
        return self

    def __repr__(self) -> str:
        return f"App({self._name!r})" if self._name else "App()"

    def _services(self) -> list[Function[Any, Any, Any]]:
        """What containers serve: functions and classes."""
        return [*self._functions.values(), *(cls._service for cls in self._classes.values())]

    def _default_image(self) -> Image:
        if self._image is None:
            self._image = Image.debian_slim()
        return self._image


def _warn_of_removal(name: str) -> None:
    import warnings

    from modal.exception import DeprecationError

    warnings.warn(f"`app.{name}` will go away: keep what the decorators return", DeprecationError, stacklevel=3)
