"""What volumes are said to hold."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from modal.exception import NotFoundError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from typing import Any


class FileEntryType(IntEnum):
    """What a file is."""

    UNSPECIFIED = 0
    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    FIFO = 4
    SOCKET = 5


@dataclass(frozen=True)
class FileEntry:
    """A file of a volume: its path from the volume's root, what it is, when it was changed, its size in bytes."""

    path: str
    type: FileEntryType
    mtime: int
    size: int


@dataclass(frozen=True)
class VolumeInfo:
    """What is known about a volume."""

    name: str | None
    created_at: datetime
    created_by: str | None


class MissingFile(NotFoundError, FileNotFoundError):
    """There is no such file in a volume: to Python, too, that is an error of this kind."""


def check_path(path: Any) -> str:
    """The path of a volume as text; a pattern is an error."""
    from os import fspath

    from modal.exception import InvalidError

    text: Any = fspath(path)
    if not isinstance(text, str):
        raise InvalidError(f"a path of a volume is text, not `{path!r}`")
    if text.endswith("*"):
        raise InvalidError(
            f"`{text}` is a pattern, and a path of a volume is wanted", hint=f"list the directory `{text.rstrip('*')}`"
        )
    return text


def entries(listed: Iterable[dict[str, Any]]) -> Iterable[FileEntry]:
    """The files that the engine has listed."""
    kinds = {kind.name.lower(): kind for kind in FileEntryType}
    for each in listed:
        kind = kinds.get(each["type"], FileEntryType.UNSPECIFIED)
        yield FileEntry(each["path"], kind, each["mtime"], each["size"])
