"""Which files an importable module consists of: `Image.add_local_python_source`."""

from __future__ import annotations

import os

from modal._client.files import directory_entry, file_entry, walk
from modal._client.problems import combined
from modal._shared import SOURCE_ROOT
from modal.exception import ModuleNotMountable
from modal.file_pattern_matcher import NON_PYTHON_FILES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from modal.image.local import Entry, Ignore

COMPILED_SUFFIXES = (".so", ".pyd", ".dylib", ".asm", ".s")


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
