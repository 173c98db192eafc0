"""`modal dict get|items` and `modal queue peek`: values, which only Python can show."""

from __future__ import annotations

import json
from itertools import islice

import modal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def show(words: list[str]) -> int:
    """Shows what is asked for; returns the exit code."""
    kind, what, environment, name, *rest = words
    if kind == "queue":
        return _peek(modal.Queue.from_name(name, environment_name=environment), int(rest[0]), rest[1] or None)
    values = modal.Dict.from_name(name, environment_name=environment)
    if what == "get":
        return _get(values, rest[0])
    return _items(values, *rest)


def _get(values: modal.Dict, key: str) -> int:
    from modal.exception import NotFoundError

    try:
        print(values[key])
    except KeyError:
        raise NotFoundError(
            f"`{values!r}` has no key `{key}`",
            hint=f"`modal dict items {values.name}` shows its keys; they are texts here",
        ) from None
    return 0


def _items(values: modal.Dict, count: str, form: str, words: str) -> int:
    shown: Any = repr if words == "repr" else str
    limit = None if count == "all" else int(count)
    entries = [(shown(key), shown(value)) for key, value in islice(values.items(), limit)]
    if form == "json":
        print(json.dumps([{"key": key, "value": value} for key, value in entries], indent=2, ensure_ascii=False))
        return 0
    for key, value in entries:
        print(f"{key}\t{value}")
    return 0


def _peek(queue: modal.Queue, count: int, partition: str | None) -> int:
    for value in islice(queue.iterate(partition=partition), count):
        print(value)
    return 0
