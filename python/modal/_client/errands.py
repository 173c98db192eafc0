"""What programs ask of the engine beside running an app: things that this machine keeps under names."""

from __future__ import annotations

from modal._client import engine as engines
from modal._shared.api import environment_or_default
from modal.exception import ExecutionError, InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime
    from typing import Any

    from modal._client.engine import Engine


class SecretInfo:
    """What is known about a secret that is kept under a name."""

    __slots__ = ("created_at", "created_by", "name")

    def __init__(self, name: str, created_at: datetime, created_by: str | None) -> None:
        self.name = name
        self.created_at = created_at
        self.created_by = created_by

    def __repr__(self) -> str:
        return f"SecretInfo(name={self.name!r}, created_at={self.created_at!r}, created_by={self.created_by!r})"


def errand(kind: str, body: dict[str, Any], fds: tuple[int, ...] = (), engine: Engine | None = None) -> Any:
    """Has an engine do something, and gives its answer; by default that of an app which runs, or one started now."""
    from modal import _in_container

    if _in_container():
        raise ExecutionError(
            f"a container cannot ask for what this machine keeps: a {kind} reaches it with its function",
            hint="do it where the app is started from, for example in the local entrypoint",
        )
    return (engine or engines.any_engine()).request(kind, body, fds)["value"]


def listed(kind: str, environment: str | None, count: int | None, before: Any) -> list[dict[str, Any]]:
    """What is kept of a kind and was made before that time (a datetime, or an ISO date), the newest first."""
    newest([], count, before)  # Complains before anything is asked.
    return newest(errand(kind, {"do": "list", "environment": environment_or_default(environment)}), count, before)


def newest(found: list[dict[str, Any]], count: int | None, before: Any) -> list[dict[str, Any]]:
    """The newest first of what was found and made before that time."""
    _check_count(count)
    limit = None if before is None else _seconds(before)
    chosen = [each for each in found if limit is None or each["created"] < limit]
    return sorted(chosen, key=lambda each: each["created"], reverse=True)[:count]


def _check_count(count: object) -> None:
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 0):
        raise InvalidError(f"`max_objects` takes a number of objects, not `{count!r}`", hint="leave it away for all")


def _seconds(time: Any) -> float:
    """A time as seconds since 1970."""
    from datetime import datetime

    try:
        moment = datetime.fromisoformat(time) if isinstance(time, str) else time
        return float(moment.timestamp())
    except (AttributeError, ValueError):
        raise InvalidError(
            f"`created_before` takes a datetime or an ISO date, not `{time!r}`", hint='write `"2026-01-31"`'
        ) from None
