"""Steps that bring local files into an image, or attach them to its containers."""

from __future__ import annotations

import os

from modal.exception import InvalidError
from modal.image._step import Steps, instance_method, path_text, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path, PurePath
    from typing import Any, Union

    from modal.file_pattern_matcher import FilePatternMatcher
    from modal.image import Image

    AnyPath = Union[str, os.PathLike[str]]
    Ignore = Union[Sequence[str], Callable[[Path], bool], FilePatternMatcher]
    Entry = dict[str, Any]


class LocalSteps(Steps):
    """Files, directories, importable source."""

    @instance_method
    def add_local_file(self, local_path: AnyPath, remote_path: str | PurePath, *, copy: bool = False) -> Image:
        """Adds a local file. If `remote_path` ends with ``/``, the file keeps its name there.

        Links of the image on the way are followed inside it; a directory of the image is not replaced.

        Without `copy` nothing is built: the file is attached when a container starts, and editing it rebuilds nothing.
        With ``copy=True`` it becomes a layer, which later steps can use.
        """
        source = path_text(local_path, "`local_path` of `Image.add_local_file`")
        target = _check_remote_path("add_local_file", remote_path)
        if target.endswith("/"):
            target += os.path.basename(source)
        return self._add_files(copy, "add_local_file", [source, target], lambda: _file(source, target))

    @instance_method
    def add_local_dir(
        self,
        local_path: AnyPath,
        remote_path: str | PurePath,
        *,
        copy: bool = False,
        ignore: Ignore = (),
    ) -> Image:
        """Adds the contents of a local directory.

        ```python
        image.add_local_dir("src", "/root/src", ignore=["**/*.pyc", ".venv"])
        ```

        `ignore` is a list of patterns (see `FilePatternMatcher`), or a function that gets each file's path relative
        to the directory and returns True to leave it out. `copy` is explained at `Image.add_local_file`.

        What the image has stays: directories are merged, and keep their owner and mode. Local links are followed, but
        each directory is added once: a link to one that is added already is a link in the image, too.
        """
        source = path_text(local_path, "`local_path` of `Image.add_local_dir`")
        target = _check_remote_path("add_local_dir", remote_path)
        rule = _check_ignore("add_local_dir", ignore)
        return self._add_files(copy, "add_local_dir", [source, target], lambda: _directory(source, target, rule))

    @instance_method
    def add_local_python_source(
        self,
        *modules: str,
        copy: bool = False,
        ignore: Ignore | None = None,
    ) -> Image:
        """Adds the source of local modules or packages, by the names under which they are imported here.

        ```python
        image.add_local_python_source("helpers", "mypackage")
        ```

        They are importable in the container. Only ``*.py`` files are added unless `ignore` says otherwise.
        """
        for module in modules:
            if not isinstance(module, str):
                raise InvalidError(
                    f"`Image.add_local_python_source` takes module names as strings, not `{type(module).__name__}`"
                )
        rule = None if ignore is None else _check_ignore("add_local_python_source", ignore)
        return self._add_files(copy, "add_local_python_source", modules, lambda: _modules(modules, rule))

    def _add_files(
        self, copy: bool, method: str, arguments: Iterable[str], entries: Callable[[], list[Entry]]
    ) -> Image:
        step = {"kind": "copy_files" if copy else "attach_files"}
        return self._add(step, map(quote, arguments), method=method, local=lambda: {"files": {"entries": entries()}})


# Looked for when an app starts: neither declaring an image nor importing its module in a container needs local files.


def _file(path: AnyPath, target: str) -> list[Entry]:
    from modal._client.files import file_entry

    return [file_entry(path, target)]


def _directory(path: AnyPath, target: str, ignore: Ignore) -> list[Entry]:
    from modal._client.files import directory_entry

    return [directory_entry(path, target, ignore)]


def _modules(names: tuple[str, ...], ignore: Ignore | None) -> list[Entry]:
    from modal._client.modules import module_entries

    return module_entries(names, ignore)


def _check_remote_path(method: str, remote_path: object) -> str:
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


def _check_ignore(method: str, ignore: Any) -> Ignore:
    """The ignore rule, or an `InvalidError` if it is none."""
    accepted: Ignore = ignore
    if callable(ignore):
        return accepted
    if isinstance(ignore, (list, tuple)) and all(isinstance(pattern, str) for pattern in ignore):
        return accepted
    raise InvalidError(
        f"`ignore` of `Image.{method}` takes a list of patterns, a function or a `FilePatternMatcher`, "
        f"not `{type(ignore).__name__}`"
    )
