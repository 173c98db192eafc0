"""Which local files go where: the file sets of `add_local_*` and of function sources, as the engine reads them."""

from __future__ import annotations

import os

from modal._client.problems import combined
from modal._shared import SOURCE_ROOT
from modal._shared.errors import mark
from modal.exception import InvalidError, ModuleNotMountable
from modal.file_pattern_matcher import NON_PYTHON_FILES, FilePatternMatcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import Any

    from modal.image.local import AnyPath, Ignore

    Entry = dict[str, Any]

COMPILED_SUFFIXES = (".so", ".pyd", ".dylib", ".asm", ".s")


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
    if not callable(ignore):
        if not ignore:
            return None
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


def module_entries(names: Sequence[str], ignore: Ignore | None) -> list[Entry]:
    """The source of importable modules and packages, placed where containers import it from."""
    entries: list[Entry] = []
    problems: list[BaseException] = []
    for name in names:
        try:
            entries += _module_entries(name, NON_PYTHON_FILES if ignore is None else ignore)
        except ModuleNotMountable as error:
            problems.append(error)
    if problems:
        raise combined(problems)
    return entries


def _module_entries(name: str, ignore: Ignore) -> list[Entry]:
    spec = _find_module(name)
    target = "{}/{}".format(SOURCE_ROOT, name.replace(".", "/"))
    locations = list(spec.submodule_search_locations or ())
    origin = spec.origin if spec.has_location else None
    for path in locations or [origin]:
        if path is None or not os.path.exists(path):
            raise ModuleNotMountable(
                f"the module `{name}` cannot be added: it is built into Python or has no source file"
            )
        _refuse_compiled(name, path)
    if locations:
        return [directory_entry(location, target, ignore) for location in locations]
    assert origin is not None
    if not origin.endswith(".py"):
        raise ModuleNotMountable(f"the module `{name}` cannot be added: `{origin}` is not Python source")
    return [file_entry(origin, target + ".py")]


def _find_module(name: str) -> Any:
    from importlib.util import find_spec

    try:
        spec = find_spec(name)
    except (ImportError, ValueError) as error:
        raise ModuleNotMountable(f"the module `{name}` cannot be added: {error}") from None
    if spec is None:
        raise ModuleNotMountable(
            f"the module `{name}` cannot be added: it was not found on sys.path; start in its directory, or install it"
        )
    return spec


def _refuse_compiled(name: str, path: str) -> None:
    """Refuses modules of installed distributions that hold compiled code: made for this machine, not for the image."""
    compiled = None
    if os.path.basename(path).endswith(COMPILED_SUFFIXES):
        compiled = path
    site = _site_directory(path)
    if site is not None and compiled is None:
        compiled = next((file for file in _distribution_files(site, path) if file.endswith(COMPILED_SUFFIXES)), None)
    if compiled is not None:
        raise ModuleNotMountable(
            f"the module `{name}` cannot be added: its distribution contains the compiled file `{compiled}`; "
            "install it in the image with `Image.uv_pip_install` instead"
        )


def _site_directory(path: str) -> str | None:
    """The directory of installed packages that `path` lies in."""
    directory = os.path.dirname(path)
    while directory != os.path.dirname(directory):
        if os.path.basename(directory) in ("site-packages", "dist-packages"):
            return directory
        directory = os.path.dirname(directory)
    return None


def _distribution_files(site: str, path: str) -> list[str]:
    """The files of the installed distribution that `path` belongs to."""
    top = os.path.relpath(path, site).split(os.sep)[0]
    for entry in os.listdir(site):
        record = os.path.join(site, entry, "RECORD")
        if entry.endswith(".dist-info") and os.path.isfile(record):
            with open(record, encoding="utf-8", errors="replace") as lines:
                files = [line.rsplit(",", 2)[0].strip('"') for line in lines]
            if any(file == top or file.startswith(top + "/") for file in files):
                return files
    return walk(os.path.join(site, top)) if os.path.isdir(os.path.join(site, top)) else []
