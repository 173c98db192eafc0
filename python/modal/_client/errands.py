"""What programs ask of the engine beside running an app: things that this machine keeps under names."""

from __future__ import annotations

from modal._client import engine as engines
from modal.exception import ExecutionError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
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
    from modal import is_local

    if not is_local():
        raise ExecutionError(
            f"a container cannot ask for what this machine keeps: a {kind} reaches it with its function",
            hint="do it where the app is started from, for example in the local entrypoint",
        )
    return (engine or engines.any_engine()).request(kind, body, fds)["value"]


def newest(listed: Iterable[dict[str, Any]], count: int | None, before: Any) -> list[dict[str, Any]]:
    """What was made before that time (a datetime, or an ISO date), the newest first, but no more than so many."""
    if isinstance(before, str):
        from datetime import datetime

        before = datetime.fromisoformat(before)
    if before is not None:
        limit = before.timestamp()
        listed = [each for each in listed if each["created"] < limit]
    return sorted(listed, key=lambda each: each["created"], reverse=True)[:count]
