"""What functions and classes of an app are declared with, and how their arguments are pickled."""

from __future__ import annotations

from modal._shared.payload import pack_any
from modal.exception import InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Union

    from modal._shared.payload import Payload
    from modal.image import Image
    from modal.retries import Retries
    from modal.secret import Secret
    from modal.volume import Volume

    Amount = Union[float, tuple[float, float], None]

#: The largest number that has a place in a message to the engine.
LARGEST = (1 << 32) - 1
#: The longest time-out, in seconds.
LONGEST = 24 * 60 * 60
#: `pickle` writes larger pieces than this only for single values.
NAMES_LIMIT = 128 << 10


class Settings:
    """What `@app.function` was given, checked."""

    __slots__ = (
        "cpu",
        "enable_memory_snapshot",
        "env",
        "gpu",
        "image",
        "include_source",
        "max_containers",
        "memory",
        "retries",
        "scaling",
        "secrets",
        "serialized",
        "timeout",
        "volumes",
    )

    def __init__(
        self,
        image: Image | None,
        env: dict[str, str],
        secrets: Iterable[Secret],
        timeout: int,
        retries: Retries | None,
        cpu: Amount,
        memory: Amount,
        max_containers: int | None,
        serialized: bool,
        include_source: bool | None,
        volumes: dict[str, Volume],
        gpu: list[str],
        enable_memory_snapshot: bool = False,
        scaling: dict[str, Any] | None = None,
    ) -> None:
        #: How many containers there are and how many inputs they run, as the engine gets it.
        self.scaling = scaling or {}
        self.enable_memory_snapshot = enable_memory_snapshot
        self.volumes = volumes
        self.gpu = gpu
        self.image = image
        self.env = env
        self.secrets = secrets
        self.timeout = timeout
        self.retries = retries
        self.cpu = cpu
        self.memory = memory
        self.max_containers = max_containers
        self.serialized = serialized
        self.include_source = include_source


def check_limits(settings: Settings) -> None:
    """Refuses limits that are none."""
    check_timeout(settings.timeout)
    for name, amount in (("cpu", settings.cpu), ("memory", settings.memory)):
        check_amount(name, amount)
    if settings.max_containers is not None:
        check_count("max_containers", settings.max_containers)


def check_timeout(timeout: object, shown: str = "`timeout`") -> None:
    """Refuses what is no time that an input, a start or a step may take."""
    if isinstance(timeout, bool) or not isinstance(timeout, int) or not 1 <= timeout <= LONGEST:
        raise InvalidError(
            f"{shown} takes a whole number of seconds from 1 to {LONGEST} (24 hours), not `{timeout!r}`",
            hint="have longer work note in a `modal.Volume` how far it is, and go on from there"
            if isinstance(timeout, int) and timeout > LONGEST
            else None,
        )


def check_count(name: str, count: object) -> None:
    """Refuses what is no number of containers."""
    if isinstance(count, bool) or not isinstance(count, int) or not 0 < count <= LARGEST:
        raise InvalidError(f"`{name}` takes a positive whole number, not `{count!r}`")


def check_amount(name: str, amount: object) -> None:
    """Refuses what is no amount of processors or memory."""
    values = amount if isinstance(amount, tuple) and len(amount) == 2 else (amount,)
    if not all(value is None or is_amount(name, value) for value in values):
        raise InvalidError(f"`{name}` takes {_AMOUNTS[name]}, or a pair of them (request, limit), not `{amount!r}`")


def check_single_amount(name: str, amount: object, owner: str) -> None:
    """Refuses what is no amount of processors or memory, or a pair of them."""
    if amount is not None and not is_amount(name, amount):
        raise InvalidError(f"`{name}` of {owner} takes {_AMOUNTS[name]}, not `{amount!r}`")


def is_amount(name: str, value: object) -> bool:
    """Whether a value is a number of cores or MiB that the engine can be told."""
    kinds = (int, float) if name == "cpu" else (int,)
    most = LARGEST // 1000 if name == "cpu" else LARGEST
    # What is no number at all is not smaller than anything either.
    return isinstance(value, kinds) and not isinstance(value, bool) and 0 < value <= most


_AMOUNTS = {"cpu": "a positive number of cores", "memory": "a positive whole number of MiB"}


def packer(module: str, serialized: bool) -> Callable[[Any], Payload]:
    """What pickles the arguments of a function: by value what is of a module that its container has not."""
    if serialized:
        return _pack_by_value
    return pack_any if module == "__main__" else _pack_without_main


def _pack_without_main(value: Any) -> Payload:
    """Pickles a value; by value if it may refer to this process's `__main__`, which is another module over there."""
    payload = pack_any(value)
    if isinstance(payload, bytes):
        names_main = b"__main__" in payload
    else:
        # The large parts of a large payload are data, and no names.
        names_main = any(b"__main__" in part for part in payload.parts if len(part) <= NAMES_LIMIT)
    return _pack_by_value(value) if names_main else payload


def _pack_by_value(value: Any) -> Payload:
    from modal._shared.serialized import pack_by_value

    return pack_by_value(value)


def is_generator(function: Callable[..., Any]) -> bool:
    """Whether calling a function gives a generator (`inspect.isgeneratorfunction` without `inspect`)."""
    code = getattr(function, "__code__", None)
    return bool(code is not None and code.co_flags & (0x20 | 0x200))
