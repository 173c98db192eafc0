"""Dictionaries that outlive the programs and containers which share them."""

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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from typing import Any, ClassVar

__all__ = ["Dict"]

_MISSING = object()


class Dict(Handle, metaclass=Explained):
    """A dictionary that outlives the programs which share it.

    ```python
    results = modal.Dict.from_name("results", create_if_missing=True)


    @app.function()
    def work(key):
        results[key] = compute(key)
    ```

    Keys and values may be whatever can be pickled; two keys are one if their pickles are. It is kept on this machine,
    for its user's programs and their containers. An entry that nobody reads or writes for seven days is removed.
    """

    _KIND = "dict"

    #: The dictionaries that this machine keeps under names.
    objects: ClassVar[KeptObjects[Dict]]

    def __init__(self) -> None:
        raise RuntimeError("`Dict()` makes no dictionary: use a factory method such as `modal.Dict.from_name`")

    if not TYPE_CHECKING:
        __getattr__ = explain_on_instance

    @classmethod
    def from_name(
        cls, name: str, *, environment_name: str | None = None, create_if_missing: bool = False, client: object = None
    ) -> Dict:
        """The dictionary that this machine keeps under a name.

        It is looked up when it is first used. That it is missing is a `modal.exception.NotFoundError` then, unless
        `create_if_missing` says to make it.
        """
        check_name("Dict.from_name", "dict", name, environment_name)
        handle: Dict = make(cls, name, environment_name, bool(create_if_missing))
        return handle

    @classmethod
    def from_id(cls, dict_id: str, client: object = None) -> Dict:
        """The dictionary with an id, `di-…`."""
        handle: Dict = make(cls, id=dict_id)
        return handle

    @classmethod
    def ephemeral(cls, environment_name: str | None = None, *, client: object = None) -> Ephemeral[Dict]:
        """A dictionary that ends with a block.

        ```python
        with modal.Dict.ephemeral() as shared:
            work.remote(shared)
        ```
        """
        return Ephemeral(cls)

    @asking
    def hydrate(self, client: object = None) -> Request[Dict]:
        """Looks it up now."""
        found = self._found()

        def read(value: Any, data: bytes) -> Dict:
            found.read(value, data)
            return self

        return Request(found.body, read)

    @asking
    def info(self) -> Request[KeptInfo]:
        """Its name, and when it was made."""
        return Request(self._found().body, described)

    @asking
    def get(self, key: Any, default: Any = None) -> Request[Any]:
        """The value of a key, or `default` where there is none."""
        return self._value("get", key, default)

    @asking
    def contains(self, key: Any) -> Request[bool]:
        """Whether there is a value for a key."""
        return Request({"do": "contains"}, given, join([key])[1])

    @asking
    def len(self) -> Request[int]:
        """How many entries there are."""
        return Request({"do": "count"}, given)

    @asking
    def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> Request[bool]:
        """Puts a value; with `skip_if_exists` only where the key has none. Says whether it was put.

        Of many that put a key with `skip_if_exists` at once, one hears True: so a key can be a lock.
        """
        return self._put([(key, value)], bool(skip_if_exists))

    @asking
    def update(self, other: Mapping[Any, Any] | None = None, /, **kwargs: Any) -> Request[None]:
        """Puts all entries of a mapping, and those that are given by name: all or none."""
        request = self._put(list({**(other or {}), **kwargs}.items()), False)
        return Request(request.body, nothing, request.payload)

    @asking
    def pop(self, key: Any, default: Any = _MISSING) -> Request[Any]:
        """Takes an entry out; gives its value, or `default` where there is none, else raises a KeyError."""
        return self._value("pop", key, default)

    @asking
    def clear(self) -> Request[None]:
        """Removes all entries."""
        return Request({"do": "clear_dict"}, nothing)

    def __getitem__(self, key: Any) -> Any:
        """The value of a key; a KeyError where there is none."""
        return self._item(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        """Puts a value."""
        self.put(key, value)

    def __delitem__(self, key: Any) -> None:
        """Takes an entry out; a KeyError where there is none."""
        self.pop(key)

    def __contains__(self, key: Any) -> bool:
        """Whether there is a value for a key."""
        return self.contains(key)

    @asking
    def _item(self, key: Any) -> Request[Any]:
        return self._value("get", key, _MISSING)

    @asking
    def _portion(self, after: int) -> Request[list[tuple[int, bytes, bytes]]]:
        """Entries behind that number."""

        def read(value: Any, data: bytes) -> list[tuple[int, bytes, bytes]]:
            parts = iter(split(data, [length for _, *lengths in value for length in lengths]))
            return [(number, next(parts), next(parts)) for number, _, _ in value]

        return Request({"do": "entries", "after": after}, read)

    def _pickled(self) -> Iterator[tuple[bytes, bytes]]:
        after = 0
        while portion := self._portion(after):
            after = portion[-1][0]
            for _, key, value in portion:
                yield key, value

    async def _pickled_aio(self) -> AsyncIterator[tuple[bytes, bytes]]:
        after = 0
        while portion := await self._portion.aio(after):
            after = portion[-1][0]
            for _, key, value in portion:
                yield key, value

    def _keys(self) -> Iterator[Any]:
        """The keys, in no particular order; what is put meanwhile may be among them."""
        for key, _ in self._pickled():
            yield unpack(key, self)

    async def _keys_aio(self) -> AsyncIterator[Any]:
        async for key, _ in self._pickled_aio():
            yield unpack(key, self)

    keys = Twins(_keys, _keys_aio)

    def _values(self) -> Iterator[Any]:
        """The values, in no particular order; what is put meanwhile may be among them."""
        for _, value in self._pickled():
            yield unpack(value, self)

    async def _values_aio(self) -> AsyncIterator[Any]:
        async for _, value in self._pickled_aio():
            yield unpack(value, self)

    values = Twins(_values, _values_aio)

    def _items(self) -> Iterator[tuple[Any, Any]]:
        """The keys with their values, in no particular order; what is put meanwhile may be among them."""
        for key, value in self._pickled():
            yield unpack(key, self), unpack(value, self)

    async def _items_aio(self) -> AsyncIterator[tuple[Any, Any]]:
        async for key, value in self._pickled_aio():
            yield unpack(key, self), unpack(value, self)

    items = Twins(_items, _items_aio)

    def _value(self, do: str, key: Any, default: Any) -> Request[Any]:
        def read(is_there: Any, data: bytes) -> Any:
            if is_there:
                return unpack(data, self)
            if default is _MISSING:
                raise KeyError(key)
            return default

        return Request({"do": do}, read, join([key])[1])

    def _put(self, entries: list[tuple[Any, Any]], if_missing: bool) -> Request[bool]:
        lengths, payload = join([part for entry in entries for part in entry])
        return Request({"do": "put", "parts": lengths, "if_missing": if_missing}, given, payload)


Dict.objects = KeptObjects(Dict)
