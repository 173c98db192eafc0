"""Queues that outlive the programs and containers which share them."""

from __future__ import annotations

from modal._calls.collections import (
    Handle,
    Request,
    asking,
    check_name,
    given,
    join,
    make,
    nothing,
    split,
    unpack,
)
from modal._calls.kept import Ephemeral, KeptInfo, KeptObjects, described
from modal._shared.api import Explained, Twins, explain_on_instance
from modal.exception import InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from typing import Any, ClassVar

__all__ = ["Queue"]

#: How many values `iterate` asks for at a time.
PORTION = 100
#: How long a partition stays after the last put, in seconds, unless it says otherwise.
DAY = 24 * 3600


class Queue(Handle, metaclass=Explained):
    """A queue that outlives the programs which share it.

    ```python
    jobs = modal.Queue.from_name("jobs", create_if_missing=True)


    @app.function()
    def worker():
        while (job := jobs.get(timeout=60)) is not None:
            run(job)
    ```

    It is kept on this machine, for its user's programs and their containers. Values may be whatever can be pickled.
    Each partition is a queue of its own, has at most 5,000 values of at most 1 MiB, and is cleared a day after the last
    put, unless that says otherwise.
    """

    _KIND = "queue"

    #: The queues that this machine keeps under names.
    objects: ClassVar[KeptObjects[Queue]]

    def __init__(self) -> None:
        raise RuntimeError("`Queue()` makes no queue: use a factory method such as `modal.Queue.from_name`")

    if not TYPE_CHECKING:
        __getattr__ = explain_on_instance

    @classmethod
    def from_name(
        cls, name: str, *, environment_name: str | None = None, create_if_missing: bool = False, client: object = None
    ) -> Queue:
        """The queue that this machine keeps under a name.

        It is looked up when it is first used. That it is missing is a `modal.exception.NotFoundError` then, unless
        `create_if_missing` says to make it.
        """
        check_name("Queue.from_name", "queue", name, environment_name)
        handle: Queue = make(cls, name, environment_name, bool(create_if_missing))
        return handle

    @classmethod
    def from_id(cls, queue_id: str, client: object = None) -> Queue:
        """The queue with an id, `qu-…`."""
        handle: Queue = make(cls, id=queue_id)
        return handle

    @classmethod
    def ephemeral(cls, environment_name: str | None = None, *, client: object = None) -> Ephemeral[Queue]:
        """A queue that ends with a block.

        ```python
        with modal.Queue.ephemeral() as jobs:
            produce.spawn(jobs)
            print(jobs.get())
        ```
        """
        return Ephemeral(cls)

    @staticmethod
    def validate_partition_key(partition: str | None) -> bytes:
        """The bytes of a partition's name; an `InvalidError` where they are none, or more than 64."""
        return _partition(partition).encode()

    @asking
    def hydrate(self, client: object = None) -> Request[Queue]:
        """Looks it up now."""
        found = self._found()

        def read(value: Any, data: bytes) -> Queue:
            found.read(value, data)
            return self

        return Request(found.body, read)

    @asking
    def info(self) -> Request[KeptInfo]:
        """Its name, and when it was made."""
        return Request(self._found().body, described)

    @asking
    def put(
        self,
        v: Any,
        block: bool = True,
        timeout: float | None = None,
        *,
        partition: str | None = None,
        partition_ttl: int = DAY,
    ) -> Request[None]:
        """Puts a value behind the others of a partition.

        Where that is full, it waits, at most `timeout` seconds, and then raises `queue.Full`; without `block` at once.
        """
        return self._push([v], block, timeout, partition, partition_ttl)

    @asking
    def put_many(
        self,
        vs: Sequence[Any],
        block: bool = True,
        timeout: float | None = None,
        *,
        partition: str | None = None,
        partition_ttl: int = DAY,
    ) -> Request[None]:
        """Puts values in their order, all at once, as `put` does one."""
        return self._push(list(vs), block, timeout, partition, partition_ttl)

    @asking
    def get(self, block: bool = True, timeout: float | None = None, *, partition: str | None = None) -> Request[Any]:
        """Takes the first value of a partition.

        Where there is none, it waits, at most `timeout` seconds, and then raises `queue.Empty`. Without `block` it
        gives None at once.
        """

        def read(values: list[Any]) -> Any:
            if values:
                return values[0]
            if block:
                raise _empty()
            return None

        request = self._take(1, block, timeout, partition)
        return Request(request.body, lambda value, data: read(request.read(value, data)))

    @asking
    def get_many(
        self, n_values: int, block: bool = True, timeout: float | None = None, *, partition: str | None = None
    ) -> Request[list[Any]]:
        """Takes up to `n_values` values of a partition, as soon as there is one; waits as `get` does.

        Without `block` it gives an empty list where there is none.
        """

        def read(values: list[Any]) -> list[Any]:
            if block and not values and n_values > 0:
                raise _empty()
            return values

        request = self._take(n_values, block, timeout, partition)
        return Request(request.body, lambda value, data: read(request.read(value, data)))

    @asking
    def len(self, *, partition: str | None = None, total: bool = False) -> Request[int]:
        """How many values a partition has; with `total` how many all have."""
        if partition is not None and total:
            raise InvalidError("`Queue.len` counts one `partition` or the `total`, not both")
        return Request({"do": "length", "partition": None if total else _partition(partition)}, given)

    @asking
    def clear(self, *, partition: str | None = None, all: bool = False) -> Request[None]:
        """Removes the values of a partition; with `all` those of all."""
        if partition is not None and all:
            raise InvalidError("`Queue.clear` clears one `partition` or `all`, not both")
        return Request({"do": "clear_queue", "partition": None if all else _partition(partition)}, nothing)

    def _iterate(self, *, partition: str | None = None, item_poll_timeout: float = 0.0) -> Iterator[Any]:
        """The values of a partition, which stay there.

        It ends when no further one has come for `item_poll_timeout` seconds.
        """
        after = 0
        while portion := self._seen(partition, after, item_poll_timeout):
            after = portion[-1][0]
            for _, data in portion:
                yield unpack(data, self)

    async def _iterate_aio(self, *, partition: str | None = None, item_poll_timeout: float = 0.0) -> AsyncIterator[Any]:
        after = 0
        while portion := await self._seen.aio(partition, after, item_poll_timeout):
            after = portion[-1][0]
            for _, data in portion:
                yield unpack(data, self)

    iterate = Twins(_iterate, _iterate_aio)

    @asking
    def _seen(self, partition: str | None, after: int, timeout: float) -> Request[list[tuple[int, bytes]]]:
        """Values behind that number."""
        body = {"do": "peek", "partition": _partition(partition), "after": after, "most": PORTION, "timeout": timeout}

        def read(value: Any, data: bytes) -> list[tuple[int, bytes]]:
            return list(zip((number for number, _ in value), split(data, [length for _, length in value])))

        return Request(body, read)

    def _take(self, count: int, block: bool, timeout: float | None, partition: str | None) -> Request[list[Any]]:
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise InvalidError(f"`n_values` of `Queue.get_many` takes a number of values, not `{count!r}`")
        body = {"do": "take", "partition": _partition(partition), "most": count}

        def read(lengths: Any, data: bytes) -> list[Any]:
            return [unpack(part, self) for part in split(data, lengths)]

        return Request({**body, "timeout": _patience(block and count > 0, timeout)}, read)

    def _push(
        self, values: list[Any], block: bool, timeout: float | None, partition: str | None, lifetime: int
    ) -> Request[None]:
        if not isinstance(lifetime, int) or isinstance(lifetime, bool) or lifetime <= 0:
            raise InvalidError(f"`partition_ttl` takes a number of seconds above 0, not `{lifetime!r}`")
        lengths, payload = join(values)
        body = {"do": "push", "partition": _partition(partition), "parts": lengths, "lifetime": lifetime}

        def read(was_put: Any, _: bytes) -> None:
            if not was_put:
                import queue

                raise queue.Full

        return Request({**body, "timeout": _patience(block, timeout)}, read, payload)


Queue.objects = KeptObjects(Queue)


def _partition(key: object) -> str:
    """The partition; that of no name is the empty one."""
    if key is None:
        return ""
    if not isinstance(key, str) or not 0 < len(key.encode()) <= 64:
        raise InvalidError(f"`partition` takes a text of 1 to 64 bytes, not `{key!r}`")
    return key


def _patience(block: bool, timeout: float | None) -> float | None:
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or timeout < 0):
        raise InvalidError(f"`timeout` takes a number of seconds, or None, not `{timeout!r}`")
    return timeout if block else 0


def _empty() -> Exception:
    import queue

    return queue.Empty()
