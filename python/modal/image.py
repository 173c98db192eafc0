"""Images: immutable, lazy declarations of what a container starts from."""

from __future__ import annotations

import os
import sys

from modal._client.files import (
    absolute,
    check_ignore,
    check_remote_path,
    directory_entry,
    file_entry,
    module_entries,
)
from modal._shared.api import Explained, explain_on_instance, refuse_keywords
from modal._shared.redact import redact
from modal._shared.wire import encode_json
from modal.exception import InvalidError
from modal.file_pattern_matcher import NON_PYTHON_FILES
from modal.secret import check_environment, check_secrets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from pathlib import Path, PurePosixPath
    from types import TracebackType
    from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar, Union

    from modal.file_pattern_matcher import FilePatternMatcher
    from modal.secret import Secret

    P = ParamSpec("P")
    T = TypeVar("T")
    AnyPath = Union[str, os.PathLike[str]]
    Strings = Union[str, list[str]]
    Step = Callable[[], dict[str, Any]]

    def instance_method(function: Callable[P, T]) -> Callable[P, T]:
        """See below; for type checkers nothing changes."""

else:

    class instance_method:  # noqa: N801 - used as a decorator
        """A method that says what to do instead when it is called on the class."""

        def __init__(self, function):
            self._function = function

        def __get__(self, instance, owner):
            if instance is not None:
                return self._function.__get__(instance, owner)

            def refuse(*_args, **_kwargs):
                raise InvalidError(
                    f"`Image.{self._function.__name__}` was called on the class, which is no image to add to",
                    hint=f"start from a factory method: `modal.Image.debian_slim().{self._function.__name__}(...)`",
                )

            refuse.__name__ = self._function.__name__
            refuse.__doc__ = self._function.__doc__
            refuse.__wrapped__ = self._function
            return refuse


TITLE_LENGTH = 80


class Image(metaclass=Explained):
    """A base and a chain of steps; every method returns a new image and leaves its own unchanged.

    ```python
    image = (
        modal.Image.debian_slim(python_version="3.11")
        .apt_install("git")
        .uv_pip_install("pandas==2.2.3", "pydantic>=2")
        .env({"LOG_LEVEL": "INFO"})
        .add_local_dir("src", remote_path="/root/src")
    )
    ```

    Declaring an image touches neither disk nor network. It is built when an app that uses it runs, step by step, and
    every step that was built before is reused. Put what changes often last.
    """

    _parent: Image | None
    _step: Step
    _kind: str
    _title: str
    _environment: dict[str, str]
    _secrets: list[Secret]
    _force_build: bool
    _object_id: str | None
    _import_errors: list[BaseException]

    if not TYPE_CHECKING:
        __getattr__ = explain_on_instance

    def __init__(self) -> None:
        raise InvalidError(
            "`Image()` makes no image", hint="start from a factory method such as `modal.Image.debian_slim()`"
        )

    @classmethod
    def _make(
        cls,
        parent: Image | None,
        kind: str,
        title: str,
        step: Step,
        environment: dict[str, str] | None = None,
        secrets: list[Secret] | None = None,
        force_build: bool = False,
    ) -> Image:
        image = object.__new__(cls)
        image._parent = parent
        image._kind = kind
        image._title = title
        image._step = step
        image._environment = environment or {}
        image._secrets = secrets or []
        image._force_build = bool(force_build)
        image._object_id = None
        image._import_errors = []
        return image

    def _add(
        self,
        kind: str,
        arguments: Iterable[str],
        step: Step,
        secrets: Collection[Secret] = (),
        env: dict[str, str | None] | None = None,
        force_build: bool = False,
        *,
        method: str | None = None,
    ) -> Image:
        """The image with one more step, the call of `method` (default: named as its kind) with these `arguments`."""
        owner = f"`Image.{kind}`"
        environment = check_environment(env, owner)
        shown = [*arguments, *(["env=" + encode_json(environment)] if environment else [])]
        checked = check_secrets(secrets or (), owner)
        return Image._make(self, kind, _title(method or kind, shown), step, environment, checked, force_build)

    @classmethod
    def debian_slim(cls, python_version: str | None = None, force_build: bool = False) -> Image:
        """A minimal Debian with Python and pip.

        `python_version` is a series such as ``"3.11"`` (or an exact version); None takes the series of the Python that
        runs this script, so that the image then differs between machines.
        """
        if python_version is not None and not isinstance(python_version, str):
            raise TypeError(
                f'`python_version` takes a string such as "3.11", not `{python_version!r}`: as a number, 3.10 is 3.1'
            )
        title = _title("debian_slim", [] if python_version is None else ["python_version=" + _quote(python_version)])
        return cls._make(
            None,
            "debian_slim",
            title,
            lambda: {
                "kind": "debian_slim",
                "python_version": python_version,
                "local_python": ".".join(map(str, sys.version_info[:2])),
            },
            force_build=force_build,
        )

    @instance_method
    def pip_install(
        self,
        *packages: Strings,
        find_links: str | None = None,
        index_url: str | None = None,
        extra_index_url: str | None = None,
        pre: bool = False,
        extra_options: str = "",
        env: dict[str, str | None] | None = None,
        secrets: Collection[Secret] | None = None,
        force_build: bool = False,
        **unsupported: NoReturn,
    ) -> Image:
        """Installs Python packages with pip's rules.

        ```python
        image.pip_install("requests", "pydantic>=2")
        ```

        The order of the packages does not matter. `Image.uv_pip_install` does the same faster.
        """
        refuse_keywords("Image.pip_install", unsupported)
        names = _requirements("pip_install", packages)
        if not names:
            return self
        return self._add(
            "pip_install",
            [*map(_quote, names), *(["pre=True"] if pre else [])],
            lambda: {
                "kind": "pip_install",
                "packages": sorted(names),
                "find_links": find_links,
                "index_url": index_url,
                "extra_index_url": extra_index_url,
                "pre": pre,
                "extra_options": extra_options,
            },
            secrets or (),
            env,
            force_build,
        )

    @instance_method
    def uv_pip_install(
        self,
        *packages: Strings,
        requirements: list[str] | None = None,
        find_links: str | None = None,
        index_url: str | None = None,
        extra_index_url: str | None = None,
        pre: bool = False,
        extra_options: str = "",
        uv_version: str | None = None,
        env: dict[str, str | None] | None = None,
        secrets: Collection[Secret] | None = None,
        force_build: bool = False,
        **unsupported: NoReturn,
    ) -> Image:
        """Installs Python packages with uv.

        ```python
        image.uv_pip_install("pandas==2.2.3", requirements=["requirements.txt"])
        ```

        `requirements` names local requirements files, which are read when the image is built.
        """
        refuse_keywords("Image.uv_pip_install", unsupported)
        names = _requirements("uv_pip_install", packages)
        if requirements is not None and not (
            isinstance(requirements, list) and all(isinstance(path, (str, os.PathLike)) for path in requirements)
        ):
            raise InvalidError(
                f"`requirements` of `Image.uv_pip_install` takes a list of paths, not `{type(requirements).__name__}`",
                hint='write `requirements=["requirements.txt"]`',
            )
        files = [os.fspath(path) for path in requirements or ()]
        if not names and not files:
            return self
        shown = [*map(_quote, names), *(["requirements=" + encode_json(files)] if files else [])]
        return self._add(
            "uv_pip_install",
            [*shown, *(["pre=True"] if pre else [])],
            lambda: {
                "kind": "uv_pip_install",
                "packages": sorted(names),
                "requirements": [absolute(path) for path in files],
                "find_links": find_links,
                "index_url": index_url,
                "extra_index_url": extra_index_url,
                "pre": pre,
                "extra_options": extra_options,
                "uv_version": uv_version,
            },
            secrets or (),
            env,
            force_build,
        )

    @instance_method
    def apt_install(
        self,
        *packages: Strings,
        env: dict[str, str | None] | None = None,
        secrets: Collection[Secret] | None = None,
        force_build: bool = False,
        **unsupported: NoReturn,
    ) -> Image:
        """Installs Debian packages.

        ```python
        image.apt_install("git", "curl")
        ```
        """
        refuse_keywords("Image.apt_install", unsupported)
        names = _flatten("apt_install", packages)
        if not names:
            return self
        return self._add(
            "apt_install",
            map(_quote, names),
            lambda: {"kind": "apt_install", "packages": names},
            secrets or (),
            env,
            force_build,
        )

    @instance_method
    def run_commands(
        self,
        *commands: Strings,
        env: dict[str, str | None] | None = None,
        secrets: Collection[Secret] | None = None,
        force_build: bool = False,
        **unsupported: NoReturn,
    ) -> Image:
        """Runs shell commands, one after the other, as one step.

        ```python
        image.run_commands("git clone https://example.com/project /opt/project", "make -C /opt/project install")
        ```

        `env` and `secrets` are environment variables of these commands only; use `Image.env` for lasting ones.
        A changed value in `env` rebuilds the step, one in `secrets` does not; values of secrets are neither shown nor
        stored.
        """
        refuse_keywords("Image.run_commands", unsupported)
        lines = _flatten("run_commands", commands)
        if not lines:
            return self
        return self._add(
            "run_commands",
            map(_quote, lines),
            lambda: {"kind": "run_commands", "commands": lines},
            secrets or (),
            env,
            force_build,
        )

    @instance_method
    def env(self, vars: dict[str, str]) -> Image:
        """Sets environment variables for later steps and for containers.

        Values are taken as they are; `$NAME` in them is not replaced.
        """
        if not isinstance(vars, dict):
            raise InvalidError(f"`Image.env` takes a dict, not `{type(vars).__name__}`")
        for name, value in vars.items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise InvalidError(
                    f"`Image.env` takes strings; the value of `{name}` is of type `{type(value).__name__}`"
                )
        variables = dict(vars)
        return self._add(
            "env",
            [encode_json(variables)],
            lambda: {"kind": "env", "variables": variables},
        )

    @instance_method
    def workdir(self, path: str | PurePosixPath) -> Image:
        """Sets the working directory of later steps and of containers."""
        if not isinstance(path, (str, os.PathLike)):
            raise InvalidError(f"`Image.workdir` takes a path, not `{type(path).__name__}`")
        text = os.fspath(path)
        return self._add("workdir", [_quote(text)], lambda: {"kind": "workdir", "path": text})

    @instance_method
    def add_local_file(self, local_path: AnyPath, remote_path: str | PurePosixPath, *, copy: bool = False) -> Image:
        """Adds a local file. If `remote_path` ends with ``/``, the file keeps its name there.

        Links of the image on the way are followed inside it; a directory of the image is not replaced.

        Without `copy` nothing is built: the file is attached when a container starts, and editing it rebuilds nothing.
        With ``copy=True`` it becomes a layer, which later steps can use.
        """
        _check_local_path("add_local_file", local_path)
        target = check_remote_path("add_local_file", remote_path)
        if target.endswith("/"):
            target += os.path.basename(os.fspath(local_path))
        return self._add_files(
            copy,
            "add_local_file",
            [_quote(os.fspath(local_path)), _quote(target)],
            lambda: [file_entry(local_path, target)],
        )

    @instance_method
    def add_local_dir(
        self,
        local_path: AnyPath,
        remote_path: str | PurePosixPath,
        *,
        copy: bool = False,
        ignore: Sequence[str] | Callable[[Path], bool] | FilePatternMatcher = (),
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
        _check_local_path("add_local_dir", local_path)
        target = check_remote_path("add_local_dir", remote_path)
        rule = check_ignore("add_local_dir", ignore)
        return self._add_files(
            copy,
            "add_local_dir",
            [_quote(os.fspath(local_path)), _quote(target)],
            lambda: [directory_entry(local_path, target, rule)],
        )

    @instance_method
    def add_local_python_source(
        self,
        *modules: str,
        copy: bool = False,
        ignore: Sequence[str] | Callable[[Path], bool] | FilePatternMatcher = NON_PYTHON_FILES,
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
        rule = check_ignore("add_local_python_source", ignore)
        return self._add_files(
            copy,
            "add_local_python_source",
            map(_quote, modules),
            lambda: [entry for module in modules for entry in module_entries(module, rule)],
        )

    def _add_files(
        self, copy: bool, method: str, arguments: Iterable[str], entries: Callable[[], list[dict[str, Any]]]
    ) -> Image:
        kind = "copy_files" if copy else "attach_files"
        return self._add(kind, arguments, lambda: {"kind": kind, "files": {"entries": entries()}}, method=method)

    @instance_method
    def pipe(self, func: Callable[Concatenate[Image, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Returns ``func(image, *args, **kwargs)``: keeps a chain of methods readable when a function extends it."""
        return func(self, *args, **kwargs)

    @instance_method
    def imports(self) -> _Imports:
        """A block for imports that only work in this image.

        ```python
        with image.imports():
            import pandas
        ```

        Here, where the package may be missing, an error is passed over; in a container of this image it is raised.
        """
        return _Imports(self)

    @property
    def object_id(self) -> str:
        """The image's id (`im-…`), once it was built."""
        if self._object_id is None:
            raise AttributeError("this image has no id yet: it gets one when an app that uses it runs")
        return self._object_id

    def __repr__(self) -> str:
        chain: list[str] = []
        image: Image | None = self
        while image is not None:
            chain.append(image._title)
            image = image._parent
        return "Image.{}".format(".".join(reversed(chain)))


class _Imports:
    """The context manager of `Image.imports`."""

    def __init__(self, image: Image) -> None:
        self._image = image

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self._image._import_errors.append(error)
        if not isinstance(error, ImportError):
            import warnings

            warnings.warn(f"an import for an image failed: {type(error).__name__}: {error}", stacklevel=2)
        return True


def _flatten(method: str, values: tuple[object, ...]) -> list[str]:
    """The strings among `values` and in its lists, or an `InvalidError`."""
    flat: list[Any] = []
    for value in values:
        flat += value if isinstance(value, list) else [value]
    for value in flat:
        if not isinstance(value, str):
            raise InvalidError(
                f"`Image.{method}` takes strings and flat lists of strings; "
                f"`{value!r}` is of type `{type(value).__name__}`"
            )
    return flat


def _requirements(method: str, values: tuple[object, ...]) -> list[str]:
    """As `_flatten`, and refuses options among the packages."""
    names = _flatten(method, values)
    for name in names:
        if name.startswith("-"):
            raise InvalidError(
                f"`{name}` is an option, not a package",
                hint=f"pass options of `Image.{method}` as `extra_options={_quote(name)}`",
            )
    return names


def _check_local_path(method: str, path: object) -> None:
    if not isinstance(path, (str, os.PathLike)):
        raise InvalidError(f"`local_path` of `Image.{method}` takes a path, not `{type(path).__name__}`")


def _quote(text: str) -> str:
    return encode_json(text)


def _title(method: str, arguments: Any) -> str:
    """The step as it was written, cut to one line for progress display."""
    title = redact("{}({})".format(method, ", ".join(arguments)))
    return title if len(title) <= TITLE_LENGTH else title[: TITLE_LENGTH - 2] + "…)"
