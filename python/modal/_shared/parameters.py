"""Parameters of classes: how they are declared, and their values on the way to containers."""

from __future__ import annotations

import sys

from modal.exception import InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

#: The types of parameters.
TYPES = {"int": int, "str": str, "bytes": bytes, "bool": bool}
MISSING: Any = object()


class UnreadableAnnotation(InvalidError, AttributeError):
    """A parameter has an annotation that is no type: to Python, too, that is an error of this kind."""


class Parameter:
    """What `modal.parameter()` puts into a class body."""

    __slots__ = ("default", "init", "name")

    def __init__(self, default: Any, init: bool) -> None:
        self.default = default
        self.init = init
        self.name = ""

    @property
    def is_required(self) -> bool:
        """Whether it must be given."""
        return self.default is MISSING

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type) -> Any:
        if instance is None:
            return self
        if self.default is MISSING:
            raise AttributeError(f"the parameter `{self.name}` of `{owner.__name__}` has no value")
        return self.default

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_parameter, (self.name, self.init, *(() if self.default is MISSING else (self.default,)))


def _rebuild_parameter(name: str, init: bool, default: Any = MISSING) -> Parameter:
    parameter = Parameter(default, init)
    parameter.name = name
    return parameter


def parameter(*, default: Any = MISSING, init: bool = True) -> Any:
    """Declares a parameter of a class of an app: an `int`, `str`, `bytes` or `bool`, as its annotation says.

    ```python
    @app.cls()
    class Model:
        name: str = modal.parameter()
        size: int = modal.parameter(default=7)


    Model(name="small").predict.remote("hello")
    ```

    Instances with other values have containers of their own. With ``init=False`` it is no parameter of the constructor,
    but an attribute that hooks set.
    """
    return Parameter(default, init)


def _own_annotations(user_class: type) -> dict[str, Any]:
    own = vars(user_class).get("__annotations__")
    if own is None and sys.version_info >= (3, 14):
        own = user_class.__annotations__
    return dict(own or {})


def parameters_of(user_class: type) -> dict[str, tuple[Parameter, str]]:
    """The parameters of a class's constructor, and their types; those of its bases count if it has some itself."""
    if not any(isinstance(value, Parameter) for value in vars(user_class).values()):
        return {}
    found: dict[str, tuple[Parameter, str]] = {}
    for base in reversed(user_class.__mro__):
        annotations = None
        # A copy: since Python 3.14, a class keeps its annotations once they were asked for.
        for name, value in list(vars(base).items()):
            if isinstance(value, Parameter):
                annotations = _own_annotations(base) if annotations is None else annotations
                found[name] = value, _type_of(base, name, annotations)
            else:
                found.pop(name, None)
    return {name: known for name, known in found.items() if known[0].init}


def described_parameters(user_class: type) -> list[dict[str, Any]]:
    """The parameters of a class, for those who know it by its name only."""
    described: list[dict[str, Any]] = []
    for name, (declaration, kind) in parameters_of(user_class).items():
        known: dict[str, Any] = {"name": name, "type": kind}
        # One of a wrong type is an error where the class is used.
        if not declaration.is_required and isinstance(declaration.default, TYPES[kind]):
            known["default"] = as_text(declaration.default)
        described.append(known)
    return described


def _type_of(owner: type, name: str, annotations: Mapping[str, Any]) -> str:
    if name not in annotations:
        raise InvalidError(
            f"the parameter `{name}` of `{owner.__name__}` has no annotation",
            hint=f"write its type, as in `{name}: str = modal.parameter()`",
        )
    annotation = annotations[name]
    for known, kind in TYPES.items():
        # With `from __future__ import annotations`, it is a text.
        if annotation is kind or (isinstance(annotation, str) and annotation == known):
            return known
    if isinstance(annotation, str):
        raise UnreadableAnnotation(
            f"the parameter `{name}` of `{owner.__name__}` is annotated `{annotation!r}`, a text and no type",
            hint="take `int`, `str`, `bytes` or `bool`: other texts, also by `__future__`, are not read",
        )
    kind_of_error = InvalidError if _is_class(annotation) else UnreadableAnnotation
    raise kind_of_error(
        f"the parameter `{name}` of `{owner.__name__}` is annotated `{_shown(annotation)}`, which parameters cannot be",
        hint="take `int`, `str`, `bytes` or `bool`, and make what is more out of it in a method with `@modal.enter()`",
    )


def _is_class(annotation: Any) -> bool:
    """A union is none, nor is `list[int]`, which says in Pythons before 3.11 that its class is `type`."""
    return issubclass(type(annotation), type)


def _shown(annotation: Any) -> str:
    return annotation.__name__ if _is_class(annotation) else repr(annotation)


def check_order(name: str, declared: dict[str, tuple[Parameter, str]]) -> None:
    optional = None
    for known, (declaration, _) in declared.items():
        if declaration.default is not MISSING:
            optional = known
        elif optional is not None:
            raise ValueError(
                f"the parameter `{known}` of `{name}` has no default and follows `{optional}`, which has one: "
                f"declare `{known}` first"
            )


def as_text(value: Any) -> str:
    """A value of a parameter, as the engine gets it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        from binascii import b2a_base64

        return b2a_base64(value, newline=False).decode()
    if isinstance(value, int):
        return str(int(value))
    text = str.__str__(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidError(f"the parameter {value!r} is no text that has an encoding: {error}") from None
    return text


def from_wire(parameters: list[dict[str, str]]) -> dict[str, Any]:
    """The values of parameters as the engine hands them to a container."""
    values: dict[str, Any] = {}
    for parameter in parameters:
        values[parameter["name"]] = _from_text(parameter["type"], parameter["value"])
    return values


def _from_text(kind: str, text: str) -> Any:
    if kind == "str":
        return text
    if kind == "bytes":
        from binascii import a2b_base64

        return a2b_base64(text)
    # A bool passes for an int, and stays one.
    return text == "true" if text in ("true", "false") else int(text)
