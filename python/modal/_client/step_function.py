"""What `Image.run_function` sends: where the function is, its arguments, and what decides about its result.

The engine runs nothing to know whether a layer is still right, so that has to be read off the function: its text, the
texts of local functions and classes that it uses, the values of globals that any of these name, and the arguments.
"""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
import warnings

from modal._client.graph import environment_name
from modal._client.source import locate
from modal._shared.payload import pack_any
from modal.exception import InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType
    from typing import Any

#: Globals of these kinds are found by name on both sides; what they hold is no plain value.
_MODULE, _FUNCTION, _BUILTIN = type(sys), type(lambda: None), type(len)
#: Where the image's packages have their counterparts, whose code is part of the image.
_INSTALLED = tuple({os.path.realpath(path) for path in sysconfig.get_paths().values()})


def describe(function: Callable[..., Any], arguments: str | None, values: Any, include_source: bool) -> dict[str, Any]:
    """The parts of the step that depend on local files and on the state of the program."""
    try:
        module, entries = locate(function)
    except InvalidError as error:
        raise InvalidError(error.message, hint="put it into a file, from which it can be taken along") from None
    uses = _Uses(function)
    code = {
        "text": _text(function) or "",
        "helpers": {name: _digest(text) for name, text in sorted(uses.texts.items())},
        "globals": {name: _digest(value) for name, value in sorted(uses.values.items())},
        "arguments": None if arguments is None else _digest(_written(values) or arguments),
    }
    source = {"entries": entries} if include_source else {"entries": []}
    return {
        "function": function.__qualname__,
        "module": module,
        "environment_name": environment_name(),
        "source": source,
        "code": code,
    }


class _Uses:
    """What a function names, and what that names in turn."""

    def __init__(self, function: Callable[..., Any]) -> None:
        #: Texts of local functions and classes, by name.
        self.texts: dict[str, str] = {}
        #: Values of globals and of attributes of classes, written down.
        self.values: dict[str, str] = {}
        self._owner = f"`Image.run_function({function.__name__})`"
        self._seen = {id(function)}
        self._pending: list[Any] = [function]
        while self._pending:
            self._follow(self._pending.pop())

    def _follow(self, function: Any) -> None:
        """Looks at what a function names."""
        namespace = getattr(function, "__globals__", {})
        for default in [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]:
            self._use(f"{function.__qualname__}()", default, set())
        for code in _codes(function.__code__):
            names = set(code.co_names)
            for name in sorted(names & namespace.keys()):
                self._use(name, namespace[name], names)

    def _use(self, name: str, value: Any, attributes: set[str]) -> None:
        """Notes a value that is named, with the names that stand beside it."""
        if isinstance(value, _BUILTIN):
            return
        if isinstance(value, _MODULE):
            if _is_local(value):
                for attribute in sorted(attributes & vars(value).keys()):
                    self._use(f"{name}.{attribute}", vars(value)[attribute], attributes)
            return
        value = getattr(value, "__wrapped__", value) if callable(value) else value
        if isinstance(value, (_FUNCTION, type)):
            self._use_code(value)
            return
        if type(value).__module__.partition(".")[0] == "modal":
            return  # Apps, images, secrets: what they are has no influence on what the function does.
        written = _written(value)
        if written is None:
            warnings.warn(
                f"{self._owner} uses `{name}`, whose value cannot be compared with that of an earlier build: "
                "if it changes, the step is not run again",
                stacklevel=2,
            )
        else:
            self.values[name] = written

    def _use_code(self, value: Any) -> None:
        """Notes a function or class, unless it comes from an installed package."""
        if id(value) in self._seen or not _is_local(sys.modules.get(value.__module__)):
            return
        self._seen.add(id(value))
        text = _text(value)
        if text is not None:
            self.texts[f"{value.__module__}.{value.__qualname__}"] = text
        if isinstance(value, type):
            for base in value.__bases__:
                self._use(base.__name__, base, set())
            members = (getattr(member, "__func__", member) for member in vars(value).values())
            self._pending += [member for member in members if isinstance(member, _FUNCTION)]
        else:
            self._pending.append(value)


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code and that of the functions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, type(code)):
            yield from _codes(constant)


def _is_local(module: Any) -> bool:
    """Whether a module is the user's own: neither installed nor part of Python."""
    file = getattr(module, "__file__", None)
    if file is None or module.__name__.partition(".")[0] == "modal":
        return False
    return not os.path.realpath(file).startswith(tuple(path + os.sep for path in _INSTALLED))


def _text(value: Any) -> str | None:
    """The source text of a function or class, with decorators and comments; None where there is none."""
    import inspect

    try:
        return inspect.getsource(value)
    except (OSError, TypeError):
        return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _written(value: Any) -> str | None:
    """A value as text, equal for equal values in every process; None if it has no such form."""
    try:
        return _write(value, ())
    except Exception:
        return None


def _write(value: Any, around: tuple[int, ...]) -> str:
    kind = type(value)
    if value is None or value is ... or kind in (bool, int, float, complex, str, bytes):
        return f"{kind.__name__}:{value!r}"
    if id(value) in around:
        raise ValueError("a value that contains itself")
    around = (*around, id(value))
    if kind in (list, tuple):
        return "{}:[{}]".format(kind.__name__, ",".join(_write(item, around) for item in value))
    if kind in (set, frozenset):
        # Their order differs between processes.
        return "{}:[{}]".format(kind.__name__, ",".join(sorted(_write(item, around) for item in value)))
    if kind is dict:
        items = (f"{_write(key, around)}={_write(item, around)}" for key, item in value.items())
        return "dict:{{{}}}".format(",".join(items))
    payload = pack_any(value)
    return "pickle:" + hashlib.sha256(_bytes(payload)).hexdigest()


def _bytes(payload: Any) -> bytes:
    return b"".join(payload.parts) if hasattr(payload, "parts") else payload
