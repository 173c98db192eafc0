"""Which dictionaries and queues there are: making, listing and removing them, and blocks that they end with."""

from __future__ import annotations

from modal._calls.collections import Request, ask, ask_aio, asking, check_name, make, nothing
from modal._shared.api import environment_or_default

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime
    from types import TracebackType
    from typing import Any, Generic, TypeVar

    from modal._calls.conversation import Conversation

    H = TypeVar("H")
else:
    from modal._shared.api import Generic

    H = None


class KeptInfo:
    """What is known about a dictionary or queue."""

    __slots__ = ("created_at", "created_by", "name")

    def __init__(self, name: str | None, created_at: datetime, created_by: str | None = None) -> None:
        self.name = name
        self.created_at = created_at
        self.created_by = created_by

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, created_at={self.created_at!r})"


def described(value: Any, _: bytes) -> KeptInfo:
    """Reads what an answer says about one."""
    from datetime import datetime, timezone

    return KeptInfo(value["name"], datetime.fromtimestamp(value["created"], timezone.utc))


class Ephemeral(Generic[H]):
    """A block that a dictionary or queue ends with."""

    def __init__(self, kind: type[H]) -> None:
        self._kind: Any = kind
        self._handle: Any = None

    def _begin(self) -> tuple[Any, Request[None]]:
        handle = make(self._kind)
        return handle, Request({"do": "create_ephemeral", "kind": self._kind._KIND}, handle._learn)

    def _end(self) -> tuple[Any, Request[None]]:
        handle, self._handle = self._handle, None
        return handle, Request({"do": "delete_ephemeral"}, nothing)

    def __enter__(self) -> H:
        self._handle, request = self._begin()
        ask(self._handle, request)
        handle: H = self._handle
        return handle

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ask(*self._end())

    async def __aenter__(self) -> H:
        self._handle, request = self._begin()
        await ask_aio(self._handle, request)
        handle: H = self._handle
        return handle

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await ask_aio(*self._end())


class KeptObjects(Generic[H]):
    """The dictionaries or queues that this machine keeps under names: `Dict.objects`, `Queue.objects`."""

    def __init__(self, kind: type[H]) -> None:
        self._kind: Any = kind
        self._id = None

    def _reach(self) -> Conversation:
        from modal._calls.collections import conversation

        return conversation(f"{self._kind.__name__}.objects")

    @asking
    def create(
        self,
        name: str,
        *,
        allow_existing: bool = False,
        environment_name: str | None = None,
        client: object = None,
    ) -> Request[None]:
        """Makes one; a name that is taken is a `modal.exception.AlreadyExistsError`, unless `allow_existing`."""
        of = self._of("create", name, environment_name)
        return Request(
            {"do": "create", "kind": self._kind._KIND, "of": of, "allow_existing": bool(allow_existing)}, nothing
        )

    @asking
    def list(
        self,
        *,
        max_objects: int | None = None,
        created_before: Any = None,
        environment_name: str | None = None,
        client: object = None,
    ) -> Request[list[H]]:
        """All of them, the newest first."""
        from modal._client.errands import newest

        def read(found: Any, _: bytes) -> list[H]:
            chosen = newest(found, max_objects, created_before)
            return [make(self._kind, each["name"], each["environment"], id=each["id"]) for each in chosen]

        newest([], max_objects, created_before)  # Complains before anything is asked.
        environment = environment_or_default(environment_name)
        return Request({"do": "list", "kind": self._kind._KIND, "environment": environment}, read)

    @asking
    def delete(
        self,
        name: str,
        *,
        allow_missing: bool = False,
        environment_name: str | None = None,
        client: object = None,
    ) -> Request[None]:
        """Removes one with all that it holds; none of that name is an error, unless `allow_missing` says otherwise.

        The error is a `modal.exception.NotFoundError`.
        """
        of = self._of("delete", name, environment_name)
        return Request(
            {"do": "delete", "kind": self._kind._KIND, "of": of, "allow_missing": bool(allow_missing)}, nothing
        )

    def _of(self, method: str, name: str, environment: str | None) -> dict[str, str]:
        check_name(f"{self._kind.__name__}.objects.{method}", self._kind._KIND, name, environment)
        return {"environment": environment_or_default(environment), "name": name}
