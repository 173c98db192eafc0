"""Values as the payloads of frames: pickles, and sealed memfds for the large ones."""

from __future__ import annotations

import os

from modal._shared.interpreter import Pickler, PicklingError, Unpickler, dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Union

    Payload = Union[bytes, "Large"]

#: The highest that Python 3.9 and all later ones write and read alike.
PICKLE_PROTOCOL = 4
#: Payloads above this many bytes travel in a memfd, which the engine hands on without copying it.
MEMORY_THRESHOLD = 1 << 20

#: Types of values that are small whatever they are, and of those that may be.
SCALARS = frozenset((int, float, bool, type(None)))
TEXTS = frozenset((str, bytes))
SHORT = 4096
#: How `pickle` says that a value is not one for it.
REFUSALS = (PicklingError, AttributeError, TypeError)

F_ADD_SEALS = 1033
MFD_CLOEXEC_ALLOW_SEALING = 0x1 | 0x2
#: F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE
ALL_SEALS = 0x1 | 0x2 | 0x4 | 0x8
#: The most parts that one `writev` takes.
MAXIMUM_PARTS = 1024
READ_SIZE = 256 << 10


class Large:
    """A pickled value above `MEMORY_THRESHOLD`, in parts; the large ones are the value's own bytes, not copies."""

    __slots__ = ("_size", "parts")

    def __init__(self, parts: list[bytes], size: int) -> None:
        self.parts = parts
        self._size = size

    def __len__(self) -> int:
        return self._size


class _Collector:
    """What a pickler needs of a file; it hands over large bytes as they are."""

    __slots__ = ("write",)

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self.write = write


def is_plain(value: Any) -> bool:
    """Whether a value is a number or a short text, which names nothing and has no bytes worth sparing a copy."""
    kind = type(value)
    return kind in SCALARS or (kind in TEXTS and len(value) <= SHORT)


def pack_plain(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes | None:
    """Pickles arguments at once if all of them are plain; None for others."""
    if all(map(is_plain, args)) and (not kwargs or all(map(is_plain, kwargs.values()))):
        return dumps((args, kwargs), PICKLE_PROTOCOL)
    return None


def pack(value: Any) -> Payload:
    """Pickles a value."""
    if is_plain(value):
        return dumps(value, PICKLE_PROTOCOL)
    parts: list[bytes] = []
    collector: Any = _Collector(parts.append)
    Pickler(collector, PICKLE_PROTOCOL).dump(value)
    if len(parts) == 1:
        return parts[0]
    size = sum(map(len, parts))
    return Large(parts, size) if size > MEMORY_THRESHOLD else b"".join(parts)


def pack_any(value: Any) -> Payload:
    """Pickles a value; by value where `pickle`, which goes by names, cannot (lambdas, classes inside functions)."""
    try:
        return pack(value)
    except REFUSALS as error:
        refusal = error
    try:
        from modal._shared.serialized import pack_by_value
    except ImportError:
        raise refusal from None
    return pack_by_value(value)


def unpack(payload: Any) -> Any:
    """Reads a pickled value from what `Connection.receive` gave."""
    if isinstance(payload, (bytes, bytearray)):
        return loads(payload)
    with payload:
        return Unpickler(payload).load()


def write_memory(payload: Payload) -> int | None:
    """A sealed memfd with the payload, or None where the C library has no memfds."""
    create = getattr(os, "memfd_create", None)
    if create is None:
        return None
    import fcntl

    fd: int = create("payload", MFD_CLOEXEC_ALLOW_SEALING)
    try:
        parts: list[Any] = list(payload.parts) if isinstance(payload, Large) else [payload]
        while parts:
            _consume(parts, os.writev(fd, parts[:MAXIMUM_PARTS]))
        fcntl.fcntl(fd, F_ADD_SEALS, ALL_SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _consume(parts: list[Any], count: int) -> None:
    """Drops the first `count` bytes of `parts`."""
    done = 0
    while done < len(parts) and count >= len(parts[done]):
        count -= len(parts[done])
        done += 1
    del parts[:done]
    if count:
        parts[0] = memoryview(parts[0])[count:]


def open_memory(fd: int) -> Any:
    """A file to read a memfd with. Large bytes are read into their place, where a mapping would be copied from."""
    file = open(os.dup(fd), "rb", READ_SIZE)  # noqa: SIM115 - `unpack` closes it
    # The position is shared with whoever wrote it.
    file.seek(0)
    return file
