"""Which local files go where: the file sets of `add_local_*` and of function sources, as the engine reads them."""

from __future__ import annotations

import os

from modal._errors import mark
from modal.exception import InvalidError, ModuleNotMountable
from modal.file_pattern_matcher import FilePatternMatcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import Any, Union

    AnyPath = Union[str, "os.PathLike[str]"]
    Ignore = Union[Sequence[str], Callable[[Path], bool], FilePatternMatcher]
    Entry = dict[str, Any]

#: Where importable code of the user lives in a container.
SOURCE_ROOT = "/root"
COMPILED_SUFFIXES = (".so", ".pyd", ".dylib", ".asm", ".s")


def check_remote_path(method: str, remote_path: object) -> str:
    """The path as text, or an `InvalidError` if it is not absolute."""
    try:
        text = os.fspath(remote_path)  # type: ignore[call-overload]
    except TypeError:
        text = None
    if not isinstance(text, str):
        raise InvalidError(f"`remote_path` of `Image.{method}` takes a path, not `{type(remote_path).__name__}`")
    if not text.startswith("/"):
        raise InvalidError(
            f"`remote_path` of `Image.{method}` must be absolute, not `{text}`",
            hint='write for example `remote_path="/root/{}"`'.format(text.lstrip("./")),
        )
    return text


def check_ignore(method: str, ignore: object) -> Ignore:
    """The ignore rule, or an `InvalidError` if it is none."""
    if callable(ignore):
        return ignore
    if isinstance(ignore, (list, tuple)) and all(isinstance(pattern, str) for pattern in ignore):
        return ignore
    raise InvalidError(
        f"`ignore` of `Image.{method}` takes a list of patterns, a function or a `FilePatternMatcher`, "
        f"not `{type(ignore).__name__}`"
    )


def absolute(path: AnyPath) -> str:
    """The local path, absolute and with `~` expanded."""
    return os.path.abspath(os.path.expanduser(os.fspath(path)))


def file_entry(source: AnyPath, target: str) -> Entry:
    """One file; `target` is the file itself."""
    return {"source": absolute(source), "target": target, "kind": "file", "ignore": None}


def directory_entry(source: AnyPath, target: str, ignore: Ignore) -> Entry:
    """The contents of a directory, which land at `target`."""
    root = absolute(source)
    return {"source": root, "target": target, "kind": "directory", "ignore": _wire_ignore(root, ignore)}


def _wire_ignore(root: str, ignore: Ignore) -> dict[str, Any] | None:
    if isinstance(ignore, FilePatternMatcher):
        return ignore._wire()
    if callable(ignore):
        return {"only": [path for path in walk(root) if not ignore(_as_path(path))]}
    return FilePatternMatcher(*ignore)._wire() if ignore else None


def _as_path(path: str) -> Path:
    from pathlib import Path

    return Path(path)


def walk(root: str) -> list[str]:
    """All files below a directory, relative to it and sorted; links are followed, as when nothing is ignored."""
    if not os.path.isdir(root):
        if os.path.exists(root):
            raise mark(NotADirectoryError(f"the local path `{root}` is a file, not a directory"))
        raise mark(FileNotFoundError(f"the local directory `{root}` does not exist"))
    return sorted(_walk(root, "", (os.path.realpath(root),)))


def _walk(directory: str, prefix: str, above: tuple[str, ...]) -> Iterator[str]:
    """`above` are the real directories on the way down: a link back to one of them is a loop."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir():
                real = os.path.realpath(entry.path)
                if real not in above:
                    yield from _walk(entry.path, prefix + entry.name + "/", (*above, real))
            elif entry.is_file():
                yield prefix + entry.name


def module_entries(name: str, ignore: Ignore) -> list[Entry]:
    """The source of an importable module or package, placed where containers import it from."""
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
