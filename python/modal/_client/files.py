"""Which local files go where: the file sets of `add_local_*` and of function sources, as the engine reads them."""

from __future__ import annotations

import os

from modal._shared.errors import mark
from modal.exception import InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from modal.image.local import AnyPath, Ignore

    Entry = dict[str, Any]


def absolute(path: AnyPath) -> str:
    """The local path, absolute and with `~` expanded."""
    text = os.path.abspath(os.path.expanduser(os.fspath(path)))
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidError(
            f"the local path {text!a} cannot be added: its name is no UTF-8 text",
            hint="rename it, or add a directory that it is in",
        ) from None
    return text


def file_entry(source: AnyPath, target: str) -> Entry:
    """One file; `target` is the file itself."""
    return {"source": absolute(source), "target": target, "kind": "file", "ignore": None}


def directory_entry(source: AnyPath, target: str, ignore: Ignore) -> Entry:
    """The contents of a directory, which land at `target`."""
    root = absolute(source)
    return {"source": root, "target": target, "kind": "directory", "ignore": _wire_ignore(root, ignore)}


def _wire_ignore(root: str, ignore: Ignore) -> dict[str, Any] | None:
    if not callable(ignore) and not ignore:
        return None
    from modal.file_pattern_matcher import FilePatternMatcher

    if not callable(ignore):
        ignore = FilePatternMatcher(*ignore)
    wire = ignore._wire() if isinstance(ignore, FilePatternMatcher) else None
    if wire is None:
        return {"only": [_wire_name(path) for path in walk(root) if not ignore(_as_path(path))]}
    return wire


def _wire_name(path: str) -> str | list[int]:
    """A path as the engine reads it: the bytes of one that is no text."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return list(os.fsencode(path))
    return path


def _as_path(path: str) -> Path:
    from pathlib import Path

    return Path(path)


def walk(root: str) -> list[str]:
    """All files below a directory, relative to it and sorted, as the engine finds them when nothing is ignored.

    Links are followed, but every real directory is visited once: what leads there again is listed as the link it is.
    """
    if not os.path.isdir(root):
        if os.path.exists(root):
            raise mark(NotADirectoryError(f"the local path `{root}` is a file, not a directory"))
        raise mark(FileNotFoundError(f"the local directory `{root}` does not exist"))
    visited: set[tuple[int, int]] = set()
    files: list[str] = []
    pending = [""]
    while pending:
        links: list[str] = []
        # The directories without links on the way come first, then what links lead to, in the order of their paths.
        for prefix in sorted(pending, key=os.fsencode):
            files.extend(_walk(os.path.join(root, prefix), prefix, visited, links))
        pending = links
    return sorted(files)


def _walk(directory: str, prefix: str, visited: set[tuple[int, int]], links: list[str]) -> Iterator[str]:
    """`visited` holds the real directories by device and inode; `links` gets those that links lead to."""
    before = frozenset(visited)
    directories = [(directory, prefix)]
    while directories:
        directory, prefix = directories.pop()
        status = os.stat(directory)
        if (status.st_dev, status.st_ino) in before:
            yield prefix.rstrip("/")
            continue
        visited.add((status.st_dev, status.st_ino))
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    directories.append((entry.path, prefix + entry.name + "/"))
                elif entry.is_dir():
                    links.append(prefix + entry.name + "/")
                elif entry.is_file():
                    yield prefix + entry.name
