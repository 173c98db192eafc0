"""What dictionaries and queues ask of the engine, in the user's process and in containers, waiting or in event loops.

A method makes a `Request`; `asking` gives it the two forms, which send it and read the answer.
"""

from __future__ import annotations

from modal._calls.conversation import AsyncReceiver, Receiver
from modal._shared.api import Twins, environment_or_default
from modal._shared.errors import engine_error
from modal._shared.interpreter import loads
from modal._shared.payload import MEMORY_THRESHOLD, Large, pack_any
from modal.exception import DeserializationError, InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

    from modal._calls.conversation import Conversation
    from modal._shared.payload import Payload

    P = ParamSpec("P")
    R = TypeVar("R")
else:
    from modal._shared.api import Generic

    P = R = None

#: Characters of an app's id.
APP_ID_LENGTH = 25


class Request(Generic[R]):
    """What is asked, and what reads the answer: its value and its bytes."""

    __slots__ = ("body", "payload", "read")

    def __init__(self, body: dict[str, Any], read: Callable[[Any, bytes], R], payload: Payload = b"") -> None:
        self.body = body
        self.read = read
        self.payload = payload


def asking(plan: Callable[Concatenate[Any, P], Request[R]]) -> Twins[P, R, P, Coroutine[Any, Any, R]]:
    """Gives the method below, which makes a request, its two forms. A waiting one is given up with whoever waits."""

    def blocking(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return ask(self, plan(self, *args, **kwargs))

    async def asynchronous(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await ask_aio(self, plan(self, *args, **kwargs))

    blocking.__doc__, blocking.__name__, blocking.__wrapped__ = plan.__doc__, plan.__name__, plan  # type: ignore[attr-defined]
    return Twins(blocking, asynchronous)


class Handle:
    """What dictionaries and queues have in common: which one is meant."""

    #: `dict` or `queue`.
    _KIND: str
    _name: str | None
    _environment: str | None
    _create: bool
    _id: str | None
    #: What has an ephemeral one made ends with it.
    _conversation: Conversation | None

    @property
    def name(self) -> str | None:
        """The name that it is kept under, if it is."""
        return self._name

    @property
    def object_id(self) -> str:
        """Its id, known after its first use."""
        if self._id is None:
            raise AttributeError(f"`{self!r}` has no id before it is first used: `hydrate()` looks it up")
        return self._id

    def _reach(self) -> Conversation:
        if self._conversation is None or self._conversation._failure is not None:
            self._conversation = conversation(repr(self))
        return self._conversation

    def _found(self) -> Request[None]:
        """Looks up which one is meant."""
        if self._id is not None:
            return Request({"do": "find", "kind": self._KIND, "of": {"id": self._id}}, self._learn)
        create = {"create": True} if self._create else {}
        of = {"environment": environment_or_default(self._environment), "name": self._name, **create}
        return Request({"do": "find", "kind": self._KIND, "of": of}, self._learn)

    def _learn(self, value: Any, _: bytes) -> None:
        self._id = value["id"]

    def __repr__(self) -> str:
        kind = type(self).__name__
        return f"{kind}.from_name({self._name!r})" if self._name is not None else f"{kind}({self._id})"

    def __reduce__(self) -> Any:
        environment = self._environment
        if environment is None and self._name is not None:
            environment = environment_or_default(None)
        return _rebuild, (type(self), self._name, environment, self._create, self._id)


def make(
    kind: type[Any],
    name: str | None = None,
    environment: str | None = None,
    create: bool = False,
    id: str | None = None,
) -> Any:
    """A handle."""
    handle = object.__new__(kind)
    handle._name, handle._environment, handle._create, handle._id = name, environment, create, id
    handle._conversation = None
    return handle


_rebuild = make


def conversation(name: str) -> Conversation:
    """The connection with an engine: that of the container, or one of this process."""
    from modal import _in_container

    if not _in_container():
        from modal._client.engine import any_engine

        return any_engine()
    from modal._runner.client import reach_any

    return reach_any(name)


def ask(handle: Handle, request: Request[R]) -> R:
    """Sends a request about a handle, and waits for the answer."""
    engine = handle._reach()
    if request.body["do"] not in UNBOUND and handle._id is None:
        _exchange(engine, handle._found())
    return _exchange(engine, request, handle._id)


async def ask_aio(handle: Handle, request: Request[R]) -> R:
    """As `ask`, in event loops."""
    engine = handle._reach()
    if request.body["do"] not in UNBOUND and handle._id is None:
        await _exchange_aio(engine, handle._found())
    return await _exchange_aio(engine, request, handle._id)


#: Requests that are not about one that was found before.
UNBOUND = frozenset(("find", "create", "create_ephemeral", "list", "delete"))


def _exchange(engine: Conversation, request: Request[R], id: str | None = None) -> R:
    receiver = engine.receiver()
    number = engine.start_errand(receiver, _body(request, id), request.payload)
    try:
        engine.wait(receiver)
    except BaseException:
        engine.cancel([number])
        raise
    return _read(receiver, request)


async def _exchange_aio(engine: Conversation, request: Request[R], id: str | None = None) -> R:
    receiver = AsyncReceiver(engine)
    number = engine.start_errand(receiver, _body(request, id), request.payload)
    try:
        while not receiver.arrived:
            await receiver.changed()
    except BaseException:
        engine.cancel([number])
        raise
    return _read(receiver, request)


def _body(request: Request[Any], id: str | None) -> dict[str, Any]:
    return request.body if id is None or request.body["do"] in UNBOUND else {**request.body, "id": id}


def _read(receiver: Receiver, request: Request[R]) -> R:
    _, control, payload = receiver.arrived.popleft()
    if control["status"] != "ok":
        raise engine_error(control)
    if isinstance(payload, (bytes, bytearray)):
        return request.read(control["value"], bytes(payload))
    with payload:
        return request.read(control["value"], payload.read())


def join(values: list[Any]) -> tuple[list[int], Payload]:
    """Pickles values, one behind the other; gives their lengths, too."""
    lengths: list[int] = []
    parts: list[bytes] = []
    for value in values:
        packed = pack_any(value)
        lengths.append(len(packed))
        parts += packed.parts if isinstance(packed, Large) else [packed]
    size = sum(lengths)
    return lengths, Large(parts, size) if size > MEMORY_THRESHOLD else b"".join(parts)


def split(payload: bytes, lengths: list[int]) -> list[bytes]:
    """The parts of a payload."""
    parts, start = [], 0
    for length in lengths:
        parts.append(payload[start : start + length])
        start += length
    return parts


def unpack(data: bytes, owner: object) -> Any:
    """A value that a dictionary or queue held."""
    try:
        return loads(data)
    except Exception as error:
        raise DeserializationError(
            f"a value of {owner!r} cannot be read here: {type(error).__name__}: {error}",
            hint="install what defines its class here as well, or keep plain data",
        ) from None


def nothing(_: Any, __: bytes) -> None:
    """Reads an answer that says nothing."""


def given(value: Any, _: bytes) -> Any:
    """Reads an answer that is all there is to say."""
    return value


def check_name(method: str, kind: str, name: object, environment: object) -> None:
    """Refuses what cannot be a name."""
    if not isinstance(name, str):
        raise InvalidError(f"`{method}` takes the name of a {kind}, not `{name!r}`")
    plain = name.replace("-", "").replace("_", "").replace(".", "")
    is_word = 0 < len(name) <= 64 and (not plain or (plain.isalnum() and plain.isascii()))
    if not is_word:
        raise InvalidError(
            f"`{name}` cannot be the name of a {kind}", hint="take 1 to 64 letters, digits, `-`, `_` and `.`"
        )
    if name.startswith("ap-") and len(name) == APP_ID_LENGTH and name[3:].isalnum():
        raise InvalidError(f"`{name}` cannot be the name of a {kind}", hint="it looks like the id of an app")
    if environment is not None and not isinstance(environment, str):
        raise InvalidError(f"`environment_name` of `{method}` takes a string, not `{environment!r}`")
