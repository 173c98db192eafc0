"""Functions of an app: what `@app.function()` makes."""

from __future__ import annotations

import sys

from modal._shared.api import Explained, explain_on_instance, in_thread, with_aio
from modal._shared.declaration import Settings, is_generator, packer
from modal._shared.errors import engine_error, unpack_exception
from modal._shared.interpreter import decode_json, encode_json
from modal._shared.payload import pack_plain, unpack
from modal.exception import DeserializationError, InvalidError, SerializationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterable,
        AsyncIterator,
        Callable,
        Collection,
        Iterable,
        Iterator,
        Mapping,
    )
    from typing import Any, Generic, ParamSpec, TypeVar, Union

    from modal._calls.conversation import Conversation
    from modal._client.info import FunctionInfo
    from modal._client.logs import Logs
    from modal._shared.autoscaler import Autoscaler, FunctionStats
    from modal._shared.declaration import Amount
    from modal._shared.payload import Payload
    from modal._shared.protocols import Volumes, Yielding
    from modal.app import App
    from modal.cls import Cls
    from modal.function_call import FunctionCall
    from modal.retries import Retries
    from modal.schedule import Schedule
    from modal.secret import Secret

    Source = Union[Iterable[Any], AsyncIterable[Any]]

    P = ParamSpec("P")
    #: What a call gives: of a coroutine function, what is awaited.
    R = TypeVar("R", covariant=True)  # noqa: PLC0105
    #: What the undecorated function gives.
    L = TypeVar("L")
else:
    from modal._shared.api import Generic, L, P, R

#: Every function of this process by module and name; the runner looks its function up here.
_declared: dict[tuple[str, str], Function[Any, Any, Any]] = {}


def _yielding(method: Any) -> Yielding:
    """Tells type checkers what kind of method this is."""
    return method  # type: ignore[no-any-return]


class Function(Generic[P, R, L], metaclass=Explained):
    """A function that runs in a container of its image.

    ```python
    describe.remote(rows)  # in a container; waits for the result
    describe.local(rows)  # here, as an ordinary call
    list(describe.map(batches))  # many inputs, several containers
    call = describe.spawn(rows)  # in a container, without waiting: call.get() has the result
    ```

    In event loops: ``await describe.remote.aio(rows)``, ``async for result in describe.map.aio(batches)``.
    """

    #: When it runs by itself, where its app is deployed.
    _schedule: Schedule | None = None
    #: What this is a variant or a method of; None for what was declared as it is.
    _service: Function[Any, Any, Any] | None = None
    #: The options that it has otherwise than what was declared.
    _options: Mapping[str, Any] = {}
    #: The class that it serves, if it does.
    _class: Cls | None = None
    #: Whether a container calls it that belongs to another app.
    _is_elsewhere = False

    def __init__(self, raw: Callable[P, L], app: App, name: str, settings: Settings) -> None:
        self._raw = raw
        self._app = app
        self._name = name
        self._settings = settings
        self._packer = packer(raw.__module__, settings.serialized)
        self._engine: Conversation | None = None
        #: The name as it stands in control messages, once the app runs.
        self._wire_name = b""
        self._is_generator = is_generator(raw)
        self.__name__ = raw.__name__
        self.__qualname__ = raw.__qualname__
        self.__module__ = raw.__module__
        self.__doc__ = raw.__doc__
        self.__wrapped__ = raw
        _declared[raw.__module__, name] = self

    @classmethod
    def from_name(
        cls,
        app_name: str,
        name: str,
        *,
        version: int | None = None,
        environment_name: str | None = None,
        client: object = None,
    ) -> Function[..., Any, Any]:
        """A function of an app that was deployed, whatever program has done that.

        ```python
        describe = modal.Function.from_name("demo", "describe")
        describe.remote(rows)
        ```

        It is looked for when it is called first. Calls get the version that was deployed last, or that of a number.
        """
        from modal._calls.deployed import from_name

        return from_name(app_name, name, version, environment_name)

    async def _remote_aio(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        from modal._calls.asynchronous import call

        engine, payload = self._running(), self._pack(args, kwargs)
        sys.stdout.flush()
        return await call(self, engine, payload)  # type: ignore[no-any-return]

    @with_aio(_remote_aio)
    def remote(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs the function in a container and returns its result.

        An exception that it raises is raised here as itself; its `__cause__` shows the traceback from the container.
        """
        engine = self._running()
        sys.stdout.flush()  # What was printed before the call shall stand before what the function prints.
        receiver = engine.receiver()
        payload = self._pack(args, kwargs)
        try:
            engine.start_call(receiver, self._wire_name, payload)
            engine.wait(receiver)
        except KeyboardInterrupt:
            engine.cancel_calls_of(receiver)
            raise
        _, control, payload = receiver.arrived.popleft()
        if control["status"] == "ok":
            return self._unpack(payload)  # type: ignore[no-any-return]
        raise self._failure(control, payload)

    def _remote_gen_aio(self, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[Any]:
        from modal._calls.generators import stream_async

        engine, payload = self._running(generator=True), self._pack(args, kwargs)
        sys.stdout.flush()
        return stream_async(self, engine, payload)

    @_yielding
    @with_aio(_remote_gen_aio)
    def remote_gen(self, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[Any]:
        """Runs a generator in a container and yields its values as they come.

        ```python
        for line in read_lines.remote_gen("data.csv"):
            ...
        ```

        The generator is at most a few values ahead of the loop; leaving the loop ends it.
        """
        from modal._calls.generators import stream

        engine, payload = self._running(generator=True), self._pack(args, kwargs)
        sys.stdout.flush()
        return stream(self, engine, payload)

    async def _spawn_aio(self, /, *args: P.args, **kwargs: P.kwargs) -> FunctionCall[R]:
        call = self._spawn(args, kwargs)
        if call._waits_until_kept():
            import asyncio

            await asyncio.get_running_loop().run_in_executor(None, call._check_kept)
        return call

    @with_aio(_spawn_aio)
    def spawn(self, /, *args: P.args, **kwargs: P.kwargs) -> FunctionCall[R]:
        """Starts the function in a container and returns at once; `.get()` of what it returns has the result."""
        call = self._spawn(args, kwargs)
        if call._waits_until_kept():
            call._check_kept()
        return call

    async def _experimental_spawn_map_aio(
        self, /, *input_iterators: Source, kwargs: Mapping[str, Any] = {}
    ) -> FunctionCall[R]:
        from modal._calls.spawned import one_at_least, spawn_all_aio

        spawned = await spawn_all_aio(self, "experimental_spawn_map", input_iterators, dict(kwargs))
        return one_at_least(self, spawned)

    @with_aio(_experimental_spawn_map_aio)
    def experimental_spawn_map(
        self, /, *input_iterators: Iterable[Any], kwargs: Mapping[str, Any] = {}
    ) -> FunctionCall[R]:
        """Starts the function for every input and returns one call of them all: `.iter()` of it has the results."""
        from modal._calls.spawned import one_at_least, spawn_all

        return one_at_least(self, spawn_all(self, "experimental_spawn_map", input_iterators, dict(kwargs)))

    async def _spawn_map_aio(self, /, *input_iterators: Source, kwargs: Mapping[str, Any] = {}) -> None:
        from modal._calls.spawned import spawn_all_aio

        await spawn_all_aio(self, "spawn_map", input_iterators, dict(kwargs))

    @with_aio(_spawn_map_aio)
    def spawn_map(self, /, *input_iterators: Iterable[Any], kwargs: Mapping[str, Any] = {}) -> None:
        """Starts the function for every input and returns when all were handed over; nobody gets the results."""
        from modal._calls.spawned import spawn_all

        spawn_all(self, "spawn_map", input_iterators, dict(kwargs))

    def local(self, /, *args: P.args, **kwargs: P.kwargs) -> L:
        """Calls the function here, as if it were not decorated."""
        return self._raw(*args, **kwargs)

    def _map_aio(
        self,
        /,
        *input_iterators: Source,
        kwargs: Mapping[str, Any] = {},
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool | None = None,
    ) -> AsyncIterator[R]:
        from modal._calls.asynchronous import Inputs, run_map

        if wrap_returned_exceptions is not None:
            _warn_of_wrapping()
        self._check_inputs("map.aio", input_iterators, ("__iter__", "__aiter__", "__getitem__"))
        return run_map(self, Inputs(input_iterators), dict(kwargs), order_outputs, return_exceptions)

    @with_aio(_map_aio)
    def map(
        self,
        /,
        *input_iterators: Iterable[Any],
        kwargs: Mapping[str, Any] = {},
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool | None = None,
    ) -> Iterator[R]:
        """Runs the function for every input, on several containers, and yields the results.

        ```python
        for result in resize.map(images, widths, kwargs={"quality": 80}):
            ...
        ```

        There is one iterator per positional parameter; `kwargs` goes to every call. Nothing runs until the results
        are consumed, and only a limited number of inputs is taken ahead of that. `order_outputs=False` yields results
        as they come; `return_exceptions=True` yields exceptions in place of results instead of raising the first. They
        are never wrapped, whatever `wrap_returned_exceptions` says.
        """
        if wrap_returned_exceptions is not None:
            _warn_of_wrapping()
        self._check_inputs("map", input_iterators, ("__iter__", "__getitem__"))
        return self._map(zip(*input_iterators), input_iterators, kwargs, order_outputs, return_exceptions)

    def _starmap_aio(
        self,
        input_iterator: Source,
        *,
        kwargs: Mapping[str, Any] = {},
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool | None = None,
    ) -> AsyncIterator[R]:
        from modal._calls.asynchronous import Inputs, run_map

        if wrap_returned_exceptions is not None:
            _warn_of_wrapping()
        self._check_inputs("starmap.aio", (input_iterator,), ("__iter__", "__aiter__", "__getitem__"))
        return run_map(self, Inputs((input_iterator,), starred=True), dict(kwargs), order_outputs, return_exceptions)

    @with_aio(_starmap_aio)
    def starmap(
        self,
        input_iterator: Iterable[Iterable[Any]],
        *,
        kwargs: Mapping[str, Any] = {},
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool | None = None,
    ) -> Iterator[R]:
        """As `Function.map`, with one iterator of argument tuples: ``add.starmap([(1, 2), (3, 4)])``."""
        if wrap_returned_exceptions is not None:
            _warn_of_wrapping()
        self._check_inputs("starmap", (input_iterator,), ("__iter__", "__getitem__"))
        return self._map(map(tuple, input_iterator), (input_iterator,), kwargs, order_outputs, return_exceptions)

    async def _for_each_aio(
        self, /, *input_iterators: Source, kwargs: Mapping[str, Any] = {}, ignore_exceptions: bool = False
    ) -> None:
        results = self._map_aio(
            *input_iterators, kwargs=kwargs, order_outputs=False, return_exceptions=ignore_exceptions
        )
        async for _ in results:
            pass

    @with_aio(_for_each_aio)
    def for_each(
        self, /, *input_iterators: Iterable[Any], kwargs: Mapping[str, Any] = {}, ignore_exceptions: bool = False
    ) -> None:
        """Runs the function for every input and drops the results."""
        for _ in self.map(*input_iterators, kwargs=kwargs, order_outputs=False, return_exceptions=ignore_exceptions):
            pass

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
    ) -> Function[P, R, L]:
        """The same function with other options, which has containers of its own. What is not given stays as it is."""
        from modal._shared.variants import checked_options

        return self._variant(
            checked_options(
                "Function.with_options",
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
        )

    def with_concurrency(self, *, max_inputs: int, target_inputs: int | None = None) -> Function[P, R, L]:
        """The same function with containers that run other numbers of inputs at a time, as `modal.concurrent` says."""
        from modal._shared.scaling import concurrency

        return self._variant({"concurrency": concurrency(max_inputs, target_inputs)})

    def with_batching(self, *, max_batch_size: int, wait_ms: int) -> Function[P, R, L]:
        """The same function with other batches, as `modal.batched` says."""
        from modal._shared.scaling import batching

        return self._variant({"batching": batching(max_batch_size, wait_ms)})

    def _pool(self, **changes: Any) -> dict[str, Any]:
        """What the engine tells of the containers, once it keeps as many as are wanted."""
        engine = self._reached()
        named = decode_json("{" + f'"function":{self._wire_name.decode()}' + "}")
        ask: Any = engine.request  # type: ignore[attr-defined]
        return ask("pool", {**named, **changes})["value"]  # type: ignore[no-any-return]

    def _scale(self, **changes: Any) -> None:
        """Has the engine keep so many containers."""
        self._pool(**changes)

    @in_thread
    def hydrate(self, client: object = None) -> Function[P, R, L]:
        """Looks the function up, as the first call does by itself: where it is missing, that is an error now."""
        self._reached()
        return self

    @in_thread
    def get_web_url(self) -> str | None:
        """None, as for all functions that are called and not visited: web functions are not part of this version."""
        self._reached()
        return None

    @in_thread
    def get_current_stats(self) -> FunctionStats:
        """How many inputs wait and run, and in how many containers."""
        from modal._shared.autoscaler import FunctionStats

        return FunctionStats(**self._pool()["stats"])

    @in_thread
    def info(self, *, refresh: bool = False) -> FunctionInfo:
        """What the function was declared with: processors, memory, time-out, volumes and more."""
        self._reached()
        return self._info()

    @property
    def logs(self) -> Logs:
        """What the function has printed, or the method of the class: as `App.logs` has what the app has printed."""
        from modal._client.logs import Logs

        return Logs(self._log)

    def _app_log(self) -> tuple[str, list[str]]:
        """What `modal app logs` is told of the function's app, after the id of that."""
        self._app._require_id("logs")
        return self._app._log()

    def _log(self) -> tuple[str, list[str]]:
        app_id, words = self._app_log()
        return app_id, [*words, f"--function={self._name}"]

    def _info(self) -> FunctionInfo:
        from modal._client.info import of_declared

        return of_declared(self._service or self)

    @property
    def autoscaler(self) -> Autoscaler:
        """How many containers there are: `autoscaler.settings()`, `autoscaler.update(...)`."""
        from modal._shared.autoscaler import Autoscaler

        return Autoscaler(self)

    @in_thread
    def update_autoscaler(
        self,
        *,
        min_containers: int | None = None,
        max_containers: int | None = None,
        buffer_containers: int | None = None,
        scaledown_window: int | None = None,
    ) -> None:
        """Changes how many containers there are, until the app ends: the former name of `autoscaler.update`.

        What is not given, or is None, stays as it is.
        """
        from modal._shared.autoscaler import given_changes
        from modal._shared.warned import warn_of_former

        changes = given_changes(
            min_containers=min_containers,
            max_containers=max_containers,
            buffer_containers=buffer_containers,
            scaledown_window=scaledown_window,
        )
        self._scale(**changes)
        warn_of_former(f"`{self._name}.update_autoscaler` is called `{self._name}.autoscaler.update`")

    def _variant(self, options: dict[str, Any]) -> Function[P, R, L]:
        if not options:
            return self
        changed: Function[P, R, L] = object.__new__(type(self))
        vars(changed).update(vars(self))
        changed._service = self._service or self
        changed._options = {**self._options, **options}
        changed._engine = None
        return changed

    def get_raw_f(self) -> Callable[P, L]:
        """The function as it was before it was decorated."""
        return self._raw

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Refuses: whether the call shall run here or in a container must be said."""
        from modal.partial_function import WrongUse

        raise WrongUse(
            f"`{self._name}(...)` does not say where to run",
            hint=f"write `{self._name}.remote(...)` to run it in a container, `{self._name}.local(...)` to run it here",
        )

    def __repr__(self) -> str:
        return f"<modal.Function `{self._name}` of {self._app!r}>"

    if not TYPE_CHECKING:
        __getattr__ = explain_on_instance

    def __reduce__(self) -> Any:
        # Passed as an argument, a function travels as its name, as undecorated ones do.
        if self._service is not None:
            return Function._variant, (self._service, dict(self._options))
        return self._raw.__qualname__

    def _map(
        self,
        inputs: Iterator[tuple[Any, ...]],
        sources: tuple[Iterable[Any], ...],
        kwargs: Mapping[str, Any],
        order_outputs: bool,
        return_exceptions: bool,
    ) -> Iterator[R]:
        from modal._calls.map import run_map

        # Inputs that are at hand need no thread of their own to wait for them.
        at_hand = all(hasattr(source, "__len__") for source in sources)
        return run_map(self, inputs, dict(kwargs), at_hand, order_outputs, return_exceptions)

    def _spawn(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> FunctionCall[R]:
        from modal.function_call import FunctionCall

        sys.stdout.flush()
        return FunctionCall._start(self, self._running(), self._pack(args, kwargs))

    def _check_inputs(self, method: str, inputs: tuple[object, ...], accepted: tuple[str, ...]) -> None:
        if not inputs:
            raise InvalidError(f"`{self._name}.{method}()` got no inputs", hint="give one iterable per parameter")
        for given in inputs:
            if not any(hasattr(given, name) for name in accepted):
                raise InvalidError(
                    f"`{self._name}.{method}` takes iterables, not `{type(given).__name__}`",
                    hint=f"`async for result in {self._name}.{method}.aio(...)` takes asynchronous ones"
                    if hasattr(given, "__aiter__")
                    else "put a single input into a list",
                )

    def _running(self, generator: bool = False) -> Conversation:
        """The engine to call, or an error that says why the function cannot be called like this."""
        self._check_kind(generator)
        engine, service = self._engine, self._service
        if engine is None or (service is not None and service._engine is not engine):
            from modal._calls.conversation import find_engine

            return find_engine(self)
        return engine

    def _reached(self) -> Conversation:
        """The engine to ask about the function, of whichever kind that is."""
        return self._running(generator=self._is_generator)

    def _connect(self, engine: Conversation) -> None:
        """From now on, it is called over this connection."""
        self._wire_name = self._named(engine)
        self._engine = engine

    def _named(self, engine: Conversation) -> bytes:
        """What calls over this connection name it by."""
        service = self._service or self
        name = encode_json(service._name) + self._suffix()
        parameters = self._parameters()
        if parameters or self._options:
            from modal._shared.variants import wire_options

            options = wire_options(dict(self._options), self._name)
            label = engine.name_variant({"function": service._name, "parameters": parameters, "options": options})
            name += f',"variant":{label}'
        return name.encode()

    def _check_kind(self, generator: bool) -> None:
        """Refuses a call that does not fit the kind of function."""
        if self._is_generator and not generator:
            raise InvalidError(
                f"`{self._name}` is a generator, whose values only `.remote_gen` can take",
                hint=f"write `for value in {self._name}.remote_gen(...)`, or return a list",
            )
        if generator and not self._is_generator:
            raise InvalidError(
                f"`{self._name}` is no generator, so `.remote_gen` cannot run it",
                hint=f"write `{self._name}.remote(...)`, or `yield` values in it",
            )

    def _suffix(self) -> str:
        """What follows the service's name in control messages."""
        return ""

    def _parameters(self) -> list[dict[str, str]]:
        """The parameters of the instance of a class."""
        return []

    def _pack(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Payload:
        plain = pack_plain(args, kwargs)
        if plain is not None:
            return plain
        try:
            return self._packer((args, kwargs))
        except Exception as error:
            raise SerializationError(
                f"the arguments of `{self._name}` cannot be pickled: {error}",
                hint="pass plain data and objects whose classes are defined at the top level of a module",
            ) from None

    def _unpack(self, payload: Any) -> Any:
        try:
            return unpack(payload)
        except DeserializationError:
            raise
        except Exception as error:
            raise DeserializationError(
                f"the result of `{self._name}` cannot be read here: {type(error).__name__}: {error}",
                hint="install what defines its class here as well, or return plain data",
            ) from None

    def _failure(self, control: dict[str, Any], payload: Any) -> BaseException:
        return unpack_exception(payload) if control["status"] == "exception" else engine_error(control)


def _warn_of_wrapping() -> None:
    from modal._shared.warned import warn_of_former

    warn_of_former("`wrap_returned_exceptions` changes nothing: exceptions are never wrapped")


def __getattr__(name: str) -> object:
    if name == "FunctionCall":  # Modal's client has it in this module.
        from modal.function_call import FunctionCall

        return FunctionCall
    raise AttributeError(f"module `{__name__}` has no attribute `{name}`")


def declared(module: str, name: str) -> Function[Any, Any, Any] | None:
    """The function that a module of this process declared under a name."""
    return _declared.get((module, name))


def method_has_no_containers(name: str, owner: str) -> InvalidError:
    """The error for changing the containers of a method: methods share those of their instance."""
    return InvalidError(
        f"`{name}` is a method, which has no containers of its own",
        hint=f"change those of the instance: `{owner}(...).update_autoscaler(...)`",
    )
