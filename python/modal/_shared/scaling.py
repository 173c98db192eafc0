"""How many containers a service has and how many inputs they run: what keywords say about it, checked."""

from __future__ import annotations

from modal._shared.declaration import LARGEST, LONGEST
from modal.exception import InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: What numbers keywords take, at least and at most.
NUMBERS = {
    "min_containers": (0, None),
    "max_containers": (1, None),
    "buffer_containers": (0, None),
    "scaledown_window": (2, 3600),
    "startup_timeout": (1, LONGEST),
}


def check_number(name: str, value: object) -> None:
    """Refuses a number that a keyword cannot have."""
    least, most = NUMBERS[name]
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= (most or LARGEST):
        limits = f"from {least} to {most}" if most else f"from {least} on"
        raise InvalidError(f"`{name}` takes a whole number {limits}, not `{value!r}`")


def checked_scaling(
    max_containers: int | None, max_inputs: Any, single_use_containers: bool, **given: Any
) -> dict[str, Any]:
    """What is given of it, as the engine gets it."""
    wired: dict[str, Any] = {}
    for name, value in given.items():
        if name in NUMBERS:
            if value is not None:
                check_number(name, value)
                wired[name] = value
        elif value:
            wired[name] = True
    minimum = wired.get("min_containers", 0)
    if max_containers is not None and minimum > max_containers:
        raise InvalidError(
            f"`min_containers={minimum}` is more than `max_containers={max_containers}`",
            hint="raise `max_containers`, or lower `min_containers`",
        )
    if max_inputs is not None and max_inputs != 1:
        raise InvalidError(
            f"`max_inputs={max_inputs!r}` cannot be: a container runs one input, or any number",
            hint="write `single_use_containers=True` for one, and leave it away for any number",
        )
    if single_use_containers or max_inputs == 1:
        wired["single_use_containers"] = True
    return wired


def concurrency(max_inputs: Any, target_inputs: Any) -> dict[str, Any]:
    """What `@modal.concurrent` was given. Whether a container can run so many is for the time when the app starts."""
    if isinstance(max_inputs, int) and isinstance(target_inputs, int) and target_inputs > max_inputs:
        raise InvalidError(
            f"`target_inputs={target_inputs}` is more than `max_inputs={max_inputs}`",
            hint="`target_inputs` says how many inputs a container runs before another one starts",
        )
    return {"max_inputs": max_inputs, "target_inputs": target_inputs}


def check_concurrency(wanted: dict[str, Any], owner: str) -> None:
    """Refuses what `@modal.concurrent` was given if no container of `owner` can run so many inputs."""
    for name, value in wanted.items():
        if name == "target_inputs" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST:
            raise InvalidError(
                f"`{name}` of `@modal.concurrent` at `{owner}` takes a whole number from 1 on, not `{value!r}`",
                hint="it says how many inputs a container runs at a time",
            )


def batching(max_batch_size: Any, wait_ms: Any) -> dict[str, Any]:
    """What `@modal.batched` was given."""
    for name, value, least, most in (("max_batch_size", max_batch_size, 1, 1000), ("wait_ms", wait_ms, 0, 600_000)):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise InvalidError(f"`{name}` takes a whole number from {least} to {most}, not `{value!r}`")
    return {"max_batch_size": max_batch_size, "wait_ms": wait_ms}
