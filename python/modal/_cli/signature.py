"""Reads a function's parameters and what the command line can give for them, without importing `inspect`."""

from __future__ import annotations

import sys

from modal.exception import InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

VARIADIC_POSITIONAL = 0x04
VARIADIC_KEYWORD = 0x08
MISSING = object()
PLAIN_KINDS = {str: "str", int: "int", float: "float", bool: "bool"}


class Parameter:
    """A parameter and how its option is read."""

    def __init__(self, name: str, kind: str, default: Any, choices: tuple[Any, ...] = ()) -> None:
        self.name = name
        #: `str`, `int`, `float`, `bool`, `datetime`, `choice`, `list` or `dict` as JSON, or `words` for `*args`.
        self.kind = kind
        self.default = default
        self.choices = choices
        self.positional_only = False

    @property
    def option(self) -> str:
        """The option's name without dashes in front."""
        return self.name.replace("_", "-")

    @property
    def is_required(self) -> bool:
        """Whether the command line must give it."""
        return self.default is MISSING and self.kind != "words"


def class_parameters(cls: Any) -> list[Parameter]:
    """The parameters of a class of an app."""
    from modal._shared.parameters import parameters_of

    found = []
    for name, (declared, kind) in parameters_of(cls._user_class).items():
        if kind == "bytes":
            raise InvalidError(
                f"the parameter `{name}` of `{cls._name}` is of type `bytes`, which the command line cannot give",
                hint="call the method from a local entrypoint",
            )
        default = MISSING if declared.is_required else declared.default
        found.append(Parameter(name, kind, default))
    return found


def read_signature(function: Callable[..., Any], is_method: bool = False) -> list[Parameter]:
    """The parameters of a function, or of a method without those of its instance."""
    function = _unwrap(function)
    code = function.__code__
    defaults = function.__defaults__ or ()
    keyword_defaults = function.__kwdefaults__ or {}
    positional = code.co_varnames[: code.co_argcount]
    keyword_only = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    annotations = _annotations(function)
    parameters = []
    for index, name in enumerate(positional):
        if index == 0 and is_method:
            continue
        from_end = index - len(positional)
        default = defaults[from_end] if -from_end <= len(defaults) else MISSING
        parameter = _parameter(function, name, annotations, default)
        parameter.positional_only = index < code.co_posonlyargcount
        parameters.append(parameter)
    parameters += [
        _parameter(function, name, annotations, keyword_defaults.get(name, MISSING)) for name in keyword_only
    ]
    if code.co_flags & VARIADIC_KEYWORD:
        raise InvalidError(
            f"`{function.__name__}` takes `**kwargs`, which the command line cannot give",
            hint="name its parameters, or take `*args` alone, which gets the command line's words as they are",
        )
    if code.co_flags & VARIADIC_POSITIONAL:
        if parameters:
            raise InvalidError(
                f"`{function.__name__}` takes `*args` beside other parameters",
                hint="take either `*args` alone, which gets the command line's words as they are, or named parameters",
            )
        return [Parameter(code.co_varnames[0], "words", ())]
    return parameters


def _unwrap(function: Any) -> Any:
    """The plain function below decorators that name what they wrap."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    if not hasattr(function, "__code__"):
        raise InvalidError(
            "`{}` is no plain function, so its parameters are unknown".format(getattr(function, "__name__", function))
        )
    return function


def _annotations(function: Any) -> dict[str, Any]:
    try:
        return dict(function.__annotations__)
    except NameError as error:  # Python 3.14 evaluates annotations when they are read.
        raise InvalidError(f"an annotation of `{function.__name__}` cannot be evaluated: {error}") from None


def _parameter(function: Any, name: str, annotations: dict[str, Any], default: Any) -> Parameter:
    if name in annotations:
        kind, choices = _kind_of(function, name, annotations[name])
    else:
        # A default without annotation says what is meant.
        kind, choices = PLAIN_KINDS.get(type(default)) or _datetime_kind(type(default)) or "str", ()
    return Parameter(name, kind, default, choices)


def _kind_of(function: Any, name: str, annotation: Any) -> tuple[str, tuple[Any, ...]]:
    """The kind of option for an annotation, and the choices of a `Literal`."""
    for member in _without_none(function, name, annotation):
        kind = PLAIN_KINDS.get(member) if isinstance(member, type) else None
        kind = kind or _datetime_kind(member) or _container_kind(member)
        if kind is not None:
            return kind, ()
        choices = _literal_choices(member)
        if choices:
            return "choice", choices
    shown = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", None) or repr(annotation)
    raise InvalidError(
        f"the parameter `{name}` of `{function.__name__}` is annotated `{shown}`, which the command line cannot give",
        hint="it can give str, int, float, bool, datetime.datetime, a Literal of all strings or all integers, list and "
        "dict as JSON, and Optional of these; call the function from a local entrypoint to pass anything else",
    )


def _without_none(function: Any, name: str, annotation: Any) -> list[Any]:
    """The one type that remains of `Optional[T]` or `T | None`; empty if there is not exactly one."""
    if isinstance(annotation, str):
        # Taken apart here, because `int | None` means nothing to Python 3.9.
        members = [_evaluate(function, name, part.strip()) for part in annotation.split("|")]
        members = [inner for member in members for inner in _union_members(member)]
    else:
        members = _union_members(annotation)
    members = [member for member in members if member is not None and member is not type(None)]
    return members if len(members) == 1 else []


def _union_members(annotation: Any) -> list[Any]:
    typing = sys.modules.get("typing")
    is_union = typing is not None and getattr(annotation, "__origin__", None) is typing.Union
    if is_union or type(annotation).__name__ in ("UnionType", "Union"):
        return list(annotation.__args__)
    return [annotation]


def _evaluate(function: Any, name: str, text: str) -> Any:
    try:
        return eval(text, function.__globals__)
    except Exception as error:
        raise InvalidError(
            f"the annotation `{text}` of the parameter `{name}` of `{function.__name__}` cannot be evaluated: {error}"
        ) from None


def _datetime_kind(annotation: Any) -> str | None:
    datetime = sys.modules.get("datetime")
    return "datetime" if datetime is not None and annotation is datetime.datetime else None


def _container_kind(annotation: Any) -> str | None:
    """Lists and dictionaries are given as JSON: what Modal refuses, so no program means anything else by it."""
    origin = getattr(annotation, "__origin__", annotation)
    return "list" if origin is list else "dict" if origin is dict else None


def _literal_choices(annotation: Any) -> tuple[Any, ...]:
    """The values of a `Literal` of all strings or all integers."""
    typing = sys.modules.get("typing")
    extensions = sys.modules.get("typing_extensions")
    literals = [getattr(home, "Literal", None) for home in (typing, extensions) if home is not None]
    origin = getattr(annotation, "__origin__", None)
    if origin is None or origin not in literals:
        return ()
    values: tuple[Any, ...] = annotation.__args__
    return values if {type(value) for value in values} in ({str}, {int}) else ()
