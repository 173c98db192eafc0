"""What every method of `Image` is made of: an image is its parent and one step, and a step is data."""

from __future__ import annotations

import os
import sys

from modal._shared.interpreter import encode_json
from modal.exception import InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from typing import Any, ParamSpec, TypeVar, Union

    from modal.image import Image
    from modal.secret import Secret

    P = ParamSpec("P")
    T = TypeVar("T")
    Strings = Union[str, list[str]]
    Environment = Union[dict[str, "str | None"], None]
    Secrets = Union[Collection[Secret], None]

    def instance_method(function: Callable[P, T]) -> Callable[P, T]:
        """See below; for type checkers nothing changes."""
        return function

    def factory_method(method: T) -> T:
        """See below; for type checkers nothing changes."""
        return method

else:

    class instance_method:  # noqa: N801 - used as a decorator
        """A method that explains keywords which it does not know, and what to do when it is called on the class."""

        def __init__(self, function):
            self._function = function

        def __get__(self, instance, owner):
            if instance is not None:
                return _explained(self._function, self._function.__get__(instance, owner))

            def refuse(*_args, **_kwargs):
                raise InvalidError(
                    f"`Image.{self._function.__name__}` was called on the class, which is no image to add to",
                    hint=f"start from a factory method: `modal.Image.debian_slim().{self._function.__name__}(...)`",
                )

            return _named_as(self._function, refuse)

    class factory_method:  # noqa: N801 - used as a decorator
        """A class method that explains keywords which it does not know."""

        def __init__(self, method):
            self._method = method

        def __get__(self, instance, owner):
            return _explained(self._method.__func__, self._method.__get__(instance, owner))


def _explained(function: Callable[..., Any], bound: Callable[..., Any]) -> Callable[..., Any]:
    """A bound method that names the keyword it does not know, instead of what Python says then."""

    def call(*args: Any, **kwargs: Any) -> Any:
        known = keywords(function)
        if known is not None and not kwargs.keys() <= set(known):
            from modal._shared.absent import refuse

            unknown = {name: kwargs.pop(name) for name in list(kwargs) if name not in known}
            refuse(f"Image.{function.__name__}", unknown, known)
        return bound(*args, **kwargs)

    return _named_as(bound, call)


def _named_as(function: Any, wrapper: Any) -> Callable[..., Any]:
    wrapper.__name__ = function.__name__
    wrapper.__doc__ = function.__doc__
    wrapper.__wrapped__ = function
    return wrapper  # type: ignore[no-any-return]


def keywords(function: Any) -> tuple[str, ...] | None:
    """What a method can be given by name; None: anything."""
    code = function.__code__
    takes_any = code.co_flags & 0x08
    count = code.co_argcount + code.co_kwonlyargcount
    return None if takes_any else code.co_varnames[1:count]


class Steps:
    """An image as a chain of steps. Methods of its subclasses add one each."""

    _parent: Image | None
    #: What the method was called with, in the form that the engine reads.
    _step: dict[str, Any]
    #: Gives the part of the step that depends on local files, when an app starts.
    _local: Callable[[], dict[str, Any]] | None
    _title: str
    _environment: dict[str, str]
    _secrets: list[Secret]
    #: The login for the registry of a Dockerfile's images.
    _registry_secret: Secret | None = None
    #: The GPUs that the step runs with, in the form that the engine reads.
    _gpu: list[str]
    _force_build: bool
    _object_id: str | None
    #: The log of the step that failed when the image was to be built.
    _failed_log: str | None
    _import_errors: list[BaseException]

    def _add(
        self,
        step: dict[str, Any],
        arguments: Iterable[str],
        env: Environment = None,
        secrets: Secrets = None,
        force_build: bool = False,
        *,
        gpu: str | list[str] | None = None,
        method: str | None = None,
        local: Callable[[], dict[str, Any]] | None = None,
    ) -> Image:
        """The image with one more step, the call of `method` (default: named as its kind) with these `arguments`."""
        named: str = method or step["kind"]
        environment: dict[str, str] = {}
        checked: list[Secret] = []
        if env is not None or secrets is not None:
            from modal.secret import check_environment, check_secrets

            owner = f"`Image.{named}`"
            environment = check_environment(env, owner)
            checked = check_secrets(secrets or (), owner)
        gpus: list[str] = []
        if gpu not in (None, ""):
            from modal._shared.gpu import check_gpu

            gpus = check_gpu(gpu, f"`Image.{named}`", takes_list=named == "run_function")
        shown = [*arguments, *(["env=" + encode_json(environment)] if environment else [])]
        shown += ["gpu=" + encode_json(gpus[0] if len(gpus) == 1 else gpus)] if gpus else []
        return make(type(self), self, step, title(named, shown), environment, checked, force_build, local, gpus)

    def _unchanged(self) -> Image:
        """The image itself: nothing was asked for."""
        return self  # type: ignore[return-value] # Only `Image` is a whole subclass.


def make(
    kind: Any,
    parent: Any,
    step: dict[str, Any],
    title: str,
    environment: dict[str, str] | None = None,
    secrets: list[Secret] | None = None,
    force_build: bool = False,
    local: Callable[[], dict[str, Any]] | None = None,
    gpu: list[str] | None = None,
) -> Image:
    """An image of the class `kind`."""
    image: Image = object.__new__(kind)
    image._parent = parent
    image._step = step
    image._local = local
    image._title = title
    image._environment = environment or {}
    image._secrets = secrets or []
    image._gpu = gpu or []
    image._force_build = bool(force_build)
    image._object_id = None
    image._failed_log = None
    image._import_errors = []
    return image


def warn_if_ended(version: object) -> None:
    """Warns of a Python whose time is over; None is the local series."""
    wanted = ".".join(map(str, sys.version_info[:2])) if version is None else str(version)
    if wanted.partition("-")[0].split(".")[:2] != ["3", "10"]:
        return
    from modal import _in_container
    from modal._shared.warned import warn_of_former

    if not _in_container():
        warn_of_former("Python 3.10 gets no more fixes, and will go away: take 3.11 or later")


def with_python(kind: Any, image: Image, version: object, owner: str, force_build: bool) -> Image:
    """The image with a Python of this series; which there are is checked when it is built, as with Modal."""
    if not isinstance(version, str):
        raise InvalidError(f'`add_python` of `{owner}` takes a series such as "3.12", not `{version!r}`')
    warn_if_ended(version)
    step = {"kind": "add_python", "version": version}
    return make(kind, image, step, title("add_python", [quote(version)]), force_build=force_build)


#: The most characters of a title.
TITLE_LENGTH = 80


def title(method: str, arguments: Iterable[str]) -> str:
    """The step as it was written, cut to one line for progress display."""
    text = "{}({})".format(method, ", ".join(arguments))
    if "://" in text:
        from modal._shared.redact import redact

        text = redact(text)
    return text if len(text) <= TITLE_LENGTH else text[: TITLE_LENGTH - 2] + "…)"


def quote(text: str) -> str:
    """A string as it is written in a program."""
    return encode_json(text)


def path_text(value: object, what: str) -> str:
    """A path as text; `what` is the argument that has to be one."""
    if not isinstance(value, (str, os.PathLike)):
        raise InvalidError(f"{what} takes a path, not `{type(value).__name__}`")
    return os.fspath(value)


def string_list(values: object, what: str, hint: str) -> list[str]:
    """A list of strings; `what` is the argument that has to be one."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InvalidError(f"{what} takes a list of strings, not `{values!r}`", hint=hint)
    for value in values:
        check_text(value, f"a string in {what}")
    return list(values)


def flatten(method: str, values: tuple[object, ...]) -> list[str]:
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
        check_text(value, f"a string that `Image.{method}` is given")
    return flat


def check_text(text: str, what: str) -> None:
    """Refuses what neither a command nor a path can hold."""
    if "\0" in text:
        raise InvalidError(f"{what} has a zero byte, which no command and no path can hold: `{text!r}`")
