"""Calls that go on by themselves: what `Function.spawn` returns."""

from __future__ import annotations

from threading import Event, Lock
from weakref import ReferenceType, WeakValueDictionary, ref

from modal._calls.conversation import AsyncReceiver, Receiver
from modal._shared.api import Bound, Explained, explain_on_instance, in_thread, with_aio
from modal.exception import ExecutionError, InvalidError, RemoteError, TimeoutError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from typing import Any, Generic, TypeVar

    from modal._calls.conversation import Conversation
    from modal._client.logs import Logs
    from modal._shared.payload import Payload
    from modal.call_graph import InputInfo
    from modal.functions import Function

    R = TypeVar("R", covariant=True)  # noqa: PLC0105
else:
    from modal._shared.api import Generic, R

#: Calls of this process by id, as long as somebody holds them or has asked for their id.
_calls: WeakValueDictionary[str, FunctionCall[Any]] = WeakValueDictionary()


class _Inbox(Receiver):
    """Where a spawned call's answer arrives, and whom it wakes."""

    __slots__ = ("_identified", "answered", "call", "call_id", "listeners")

    def __init__(self) -> None:
        super().__init__()
        self.answered = Event()
        self.listeners: list[Callable[[], None]] = []
        #: The call, as long as somebody holds it, and its id once the engine has said it.
        self.call: ReferenceType[FunctionCall[Any]] | None = None
        self.call_id: str | None = None
        #: Made when somebody waits for the id.
        self._identified: Event | None = None

    def identify(self, call_id: str) -> None:
        self.call_id = call_id
        call = self.call() if self.call is not None else None
        if call is not None:
            _calls[call_id] = call
        if self._identified is not None:
            self._identified.set()

    def wait_for_id(self) -> str | None:
        """The id; None if there is an answer without one."""
        identified = self._identified = self._identified or Event()
        while self.call_id is None and not self.answered.is_set():
            identified.wait()
        return self.call_id

    def ask(self, engine: Conversation, call_id: str) -> int:
        """Asks for the result; returns when it is there, or it is known that it is not."""
        known = self._identified = Event()
        engine.read_in_background()
        number = engine.start_waiting(self, call_id)
        known.wait()
        return number

    def pending(self) -> None:
        if self._identified is not None:
            self._identified.set()

    def wake(self) -> None:
        self.answered.set()
        if self._identified is not None:
            self._identified.set()
        for listener in list(self.listeners):
            listener()


def _gather(*calls: FunctionCall[Any]) -> list[Any]:
    """The results of several calls, in their order; raises the first exception as soon as it is there."""
    _check_calls(calls)
    answered = Event()
    waiting = list(calls)
    for call in calls:
        call._inbox.listeners.append(answered.set)
    try:
        while waiting:
            answered.clear()
            ended = [call for call in waiting if call._has_answer()]
            for call in ended:
                call._outcome()
                waiting.remove(call)
            if not ended:
                answered.wait()
    finally:
        for call in calls:
            call._inbox.listeners.remove(answered.set)
    return [call._outcome() for call in calls]


async def _gather_aio(*calls: FunctionCall[Any]) -> list[Any]:
    import asyncio

    _check_calls(calls)
    tasks = [asyncio.ensure_future(call.get.aio()) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _check_calls(calls: tuple[Any, ...]) -> None:
    for call in calls:
        if not isinstance(call, FunctionCall):
            raise InvalidError(
                f"`FunctionCall.gather` takes calls, not `{type(call).__name__}`",
                hint="give it what `.spawn(...)` returned, one by one: `FunctionCall.gather(*calls)`",
            )


class FunctionCall(Generic[R], metaclass=Explained):
    """A call that runs in a container while the caller does something else.

    ```python
    call = train.spawn(rows)
    ...
    model = call.get()  # waits if it has to
    ```

    It ends with its app: get the result before `modal run` or the ``with app.run()`` block ends. Those of deployed apps
    go on, and any process gets their results: ``modal.FunctionCall.from_id(call.object_id)``.
    """

    def __init__(self) -> None:
        raise InvalidError("`FunctionCall()` makes no call", hint="use the `.spawn(...)` method of a function")

    @classmethod
    def _start(
        cls,
        function: Function[Any, R, Any],
        engine: Conversation,
        payload: Payload,
        first: int | None = None,
        index: int = 0,
        part_of: str | None = None,
    ) -> FunctionCall[R]:
        call: FunctionCall[R] = object.__new__(cls)
        call._function = function
        call._engine = engine
        call._inbox = _Inbox()
        call._value = call._error = None
        call._is_done = False
        call._lock = Lock()
        call._inbox.call = ref(call)
        # Nobody may be reading while results come in, and a full socket would keep the containers waiting.
        engine.read_in_background()
        wire_name = function._wire_name
        if part_of is not None:
            wire_name += b',"part_of":"%s"' % part_of.encode()
        call._number = engine.start_call(call._inbox, wire_name, payload, spawned=True, first=first, index=index)
        return call

    def _add(self, payload: Payload) -> None:
        """Adds an input to the call."""
        if not isinstance(self._others, list):
            self._others = []
        index = len(self._others) + 1
        # The process of another app knows the call by its id alone.
        part_of = self.object_id if self._function._is_elsewhere else None
        self._others.append(self._start(self._function, self._engine, payload, self._number, index, part_of))

    def _waits_until_kept(self) -> bool:
        """Whether whoever spawns it waits until it is on the disk."""
        return self._engine.waits_until_kept or self._function._is_elsewhere

    def _check_kept(self) -> None:
        """Returns when the call is on the disk, or raises why it is not: whoever has spawned it may end then."""
        self.object_id  # noqa: B018

    def _check_all_kept(self) -> None:
        """Returns when its last input is kept, where this process may end before that by itself."""
        if self._function._is_elsewhere:
            (self._others[-1] if self._others else self)._check_kept()

    _function: Function[Any, R, Any]
    _engine: Conversation
    _inbox: _Inbox
    _number: int
    _is_done: bool
    _lock: Lock
    _value: Any
    _error: BaseException | None
    #: Its inputs but for the first one, each as a call of its own.
    _others: Sequence[FunctionCall[R]] = ()

    @property
    def object_id(self) -> str:
        """The call's id, `fc-…`."""
        known = self._inbox.call_id or self._inbox.wait_for_id()
        if known is None:
            self._outcome()  # Raises why the call was refused.
            raise ExecutionError(f"the call of `{self._function._name}` got no id")
        # One that was made of an id has no engine before its first use, and is kept elsewhere. Of what a container has
        # spawned and is kept, only calls of several inputs are held, for the number of these.
        engine = self._engine
        is_kept = engine is None or engine.keeps_results or self._function._is_elsewhere
        if not is_kept and (self._others or not engine.waits_until_kept):
            engine.known_calls[known] = self
        return known

    async def _get_aio(self, timeout: float | None = None, *, index: int = 0) -> R:
        import asyncio

        if index != 0:
            await self._count_aio()
            return await self._input(index)._get_aio(timeout)
        await self._prepare_aio()
        if not self._has_answer():
            receiver = AsyncReceiver(self._engine)
            self._inbox.listeners.append(receiver.wake)
            try:
                if not self._has_answer():
                    await asyncio.wait_for(receiver.sleep(), timeout)
            except asyncio.TimeoutError:
                raise self._not_yet(timeout) from None
            finally:
                self._inbox.listeners.remove(receiver.wake)
        return self._outcome()

    @with_aio(_get_aio)
    def get(self, timeout: float | None = None, *, index: int = 0) -> R:
        """The result; waits for it, at most `timeout` seconds, after which `TimeoutError` is raised.

        An exception of the function is raised as by `Function.remote`. `index` is that of the input, where a call has
        several.
        """
        if index != 0:
            return self._input(index)._get(timeout)
        return self._get(timeout)

    def _get(self, timeout: float | None) -> R:
        self._prepare()
        if not self._has_answer() and not self._inbox.answered.wait(timeout):
            raise self._not_yet(timeout)
        return self._outcome()

    def _input(self, index: int) -> FunctionCall[R]:
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < self._count():
            count = self._count()
            raise InvalidError(
                f"the call has no input at `index` {index!r}: it has {count}, from 0 to {count - 1}",
                hint="leave `index` away where there is one input",
            )
        return self if index == 0 else self._other(index)

    def _other(self, index: int) -> FunctionCall[R]:
        other = self._others[index - 1]
        if self._inbox.call_id is not None and self._engine.keeps_results:
            # Another process of the app may be asked for it.
            other._inbox.call_id = f"{self._inbox.call_id}-{index}"
        return other

    async def _num_inputs_aio(self) -> int:
        return await self._count_aio()

    @with_aio(_num_inputs_aio)
    def num_inputs(self) -> int:
        """How many inputs the call has."""
        return self._count()

    def _count(self) -> int:
        return len(self._others) + 1

    async def _count_aio(self) -> int:
        return self._count()

    def _range(self, start: int, end: int | None) -> range:
        count = self._count()
        end = count if end is None else end
        if not 0 <= start <= end <= count:
            raise ValueError(f"the call has {count} inputs: the range from `{start}` to `{end}` is none of them")
        return range(start, end)

    def _iter_aio(self, *, start: int = 0, end: int | None = None) -> AsyncIterator[R]:
        return self._results_aio(self._range(start, end))

    async def _results_aio(self, indexes: range) -> AsyncIterator[R]:
        for index in indexes:
            yield await self._input(index)._get_aio()

    @with_aio(_iter_aio)
    def iter(self, *, start: int = 0, end: int | None = None) -> Iterator[R]:
        """The results of its inputs, in their order, those from `start` to before `end`."""
        return (self._input(index)._get(None) for index in self._range(start, end))

    async def _cancel_aio(self, terminate_containers: bool = False) -> None:
        self._cancel(terminate_containers)

    @with_aio(_cancel_aio)
    def cancel(self, terminate_containers: bool = False) -> None:
        """Gives the call up, if it has not ended.

        An input that runs gets `modal.exception.InputCancellation`, an asynchronous one `asyncio.CancelledError`. A
        container in which it has not ended after ten seconds is killed; with `terminate_containers` that is done at
        once, and what else the container runs begins anew in another one.
        """
        self._cancel(terminate_containers)

    @classmethod
    def from_id(cls, function_call_id: str, client: object = None) -> FunctionCall[Any]:
        """The call of this id: one that this process has spawned, or one of a deployed app, whoever has spawned it.

        It is looked for when its result is asked for.

        Results of deployed apps are kept for seven days, and at most a gibibyte of them for each app. A call that ran
        when the app's process or the machine stopped is run again if its function has `retries`, and lost otherwise.
        """
        call = _calls.get(function_call_id)
        if call is not None:
            return call
        return _KeptCall._of(str(function_call_id))

    @in_thread
    def get_call_graph(self) -> list[InputInfo]:
        """The inputs of the call, and in the `children` of each the inputs that it has made, with how far they are.

        It is what the process that runs the containers has recorded of its last 20,000 calls that were spawned or
        belong to one that was; deployed apps keep it as long as the call's result. A `UserWarning` says how many are
        missing, a `modal.exception.NotFoundError` that nothing is known. Calls that functions of other apps have made
        are not in it.
        """
        from modal.call_graph import inputs_of

        call_id = self.object_id
        engine: Any = self._engine
        if engine is None or (getattr(engine, "keeps_results", False) and engine.is_lost()):
            engine = _keeper_of(call_id, "FunctionCall.get_call_graph")
        return inputs_of(call_id, engine.request("call.graph", {"id": call_id})["value"])

    @property
    def logs(self) -> Logs:
        """What was printed for the call: as `App.logs` has what the app has printed."""
        from modal._client.logs import Logs

        return Logs(self._log)

    def _log(self) -> tuple[str, list[str]]:
        app_id, words = self._app_log()
        return app_id, [*words, f"--function-call={self.object_id}"]

    def _app_log(self) -> tuple[str, list[str]]:
        return self._function._app_log()

    @in_thread
    def hydrate(self, client: object = None) -> FunctionCall[R]:
        """Makes sure that there is such a call: where it is missing, that is an error now."""
        self._look_up()
        return self

    def _look_up(self) -> None:
        self._check_kept()

    gather = Bound(_gather, _gather_aio)

    def __repr__(self) -> str:
        return f"<modal.FunctionCall `{self._inbox.call_id or 'fc-…'}` of `{self._function._name}`>"

    if not TYPE_CHECKING:
        __getattr__ = explain_on_instance

    def __reduce__(self) -> str:
        raise InvalidError(
            f"the call of `{self._function._name}` cannot leave its process", hint="pass its result, `.get()`, instead"
        )

    def _prepare(self) -> None:
        """Makes sure that the result will come: after its process has ended, another one is asked."""
        inbox = self._inbox
        if self._is_done or inbox.arrived or not inbox.answered.is_set():
            return
        call_id = inbox.call_id
        if call_id is None or not hasattr(self._engine, "is_lost"):
            return
        self._ask_again(call_id)

    async def _prepare_aio(self) -> None:
        self._prepare()

    def _ask_again(self, call_id: str) -> None:
        """Asks the process of the app that keeps the call."""
        self._engine = _keeper_of(call_id, "FunctionCall.get")
        inbox = _Inbox()
        inbox.call, inbox.call_id, inbox.listeners = self._inbox.call, call_id, self._inbox.listeners
        self._inbox = inbox
        self._number = inbox.ask(self._engine, call_id)

    def _cancel(self, terminate_containers: bool) -> None:
        self._prepare()
        for other in self._others:
            other._cancel(terminate_containers)
        with self._lock:
            if self._is_done or self._inbox.arrived:
                return
            self._finish(error=RemoteError(f"the call of `{self._function._name}` was cancelled"))
        if terminate_containers:
            self._engine.terminate(self._number)
        else:
            self._engine.cancel([self._number])
        self._inbox.wake()

    @classmethod
    def _of(cls, call_id: str) -> FunctionCall[Any]:
        from modal._calls.deployed import DeployedFunction, Place

        call: FunctionCall[Any] = object.__new__(cls)
        call._function = DeployedFunction(Place("", call_id, None, ""))
        call._inbox = _Inbox()
        call._value = call._error = None
        call._is_done = False
        call._lock = Lock()
        call._inbox.call, call._inbox.call_id = ref(call), call_id
        return call

    def _has_answer(self) -> bool:
        return self._is_done or self._inbox.answered.is_set()

    def _not_yet(self, timeout: float | None) -> TimeoutError:
        return TimeoutError(f"the call of `{self._function._name}` has no result after {timeout} s; it goes on")

    def _finish(self, value: Any = None, error: BaseException | None = None) -> None:
        self._value, self._error, self._is_done = value, error, True

    def _outcome(self) -> R:
        with self._lock:
            if not self._is_done:
                self._take_answer()
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[no-any-return]

    def _take_answer(self) -> None:
        if not self._inbox.arrived:
            # Woken without an answer: the engine is lost.
            self._engine.check()
        _, control, payload = self._inbox.arrived.popleft()
        if control["status"] == "ok":
            self._finish(value=self._function._unpack(payload))
        else:
            self._finish(error=self._function._failure(control, payload))


def _keeper_of(call_id: str, method: str) -> Any:
    """What knows of a call that is kept: the process of its app, or in a container the way there."""
    from modal import _in_container

    if _in_container():
        from modal._runner.client import reach_any

        return reach_any(method)
    from modal._client.deployed import reach_call

    return reach_call(call_id)


class _KeptCall(FunctionCall["Any"]):
    """A call that another process has spawned, known by its id."""

    _engine: Any = None

    def __repr__(self) -> str:
        return f"<modal.FunctionCall `{self._inbox.call_id}`>"

    #: How many inputs it has, once that is known.
    _inputs: int | None = None

    def _count(self) -> int:
        if self._inputs is not None:
            return self._inputs
        call_id = self._inbox.call_id or ""
        engine = _keeper_of(call_id, "FunctionCall.num_inputs")
        count: int = engine.request("call.inputs", {"id": call_id})["value"]
        self._inputs = count
        return count

    async def _count_aio(self) -> int:
        import asyncio

        return await asyncio.get_running_loop().run_in_executor(None, self._count)

    def _look_up(self) -> None:
        self._count()

    def _app_log(self) -> tuple[str, list[str]]:
        from modal._client.deployed import reach_call

        app_id = reach_call(self.object_id).app_id
        return app_id, [app_id]

    def _other(self, index: int) -> FunctionCall[Any]:
        return self._of(f"{self._inbox.call_id}-{index}")

    async def _prepare_aio(self) -> None:
        import asyncio

        await asyncio.get_running_loop().run_in_executor(None, self._prepare)

    def _prepare(self) -> None:
        if self._engine is None and self._inbox.call_id is not None:
            self._ask_again(self._inbox.call_id)
        else:
            super()._prepare()
