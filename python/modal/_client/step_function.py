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

from modal._client.source import locate
from modal._shared.api import environment_or_default
from modal._shared.payload import PICKLE_PROTOCOL
from modal.exception import InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType
    from typing import Any

#: Globals of these kinds are found by name on both sides; what they hold is no plain value.
_MODULE, _FUNCTION, _BUILTIN = type(sys), type(lambda: None), type(len)
#: Where Python's own modules are, which are part of the image. The prefix of the installation is none of these places:
#: programs may lie below it, as in a virtual environment that is made in the program's directory.
_INSTALLED = tuple(os.path.realpath(sysconfig.get_paths()[kind]) + os.sep for kind in ("stdlib", "platstdlib"))
#: Directories of packages, which have their counterparts in the image.
_PACKAGES = ("site-packages", "dist-packages")


def describe(function: Callable[..., Any], arguments: str | None, values: Any, include_source: bool) -> dict[str, Any]:
    """The parts of the step that depend on local files and on the state of the program."""
    try:
        module, entries = locate(function)
    except InvalidError as error:
        raise InvalidError(error.message, hint="put it into a file, from which it can be taken along") from None
    uses = _Uses(function)
    # First of all, because values may be functions.
    written = None if arguments is None else uses.arguments(values)
    code = {
        "text": _text(function) or "",
        "helpers": {name: _digest(text) for name, text in sorted(uses.texts.items())},
        "globals": {name: _digest(value) for name, value in sorted(uses.values.items())},
        "arguments": None if arguments is None else _digest(written or arguments),
    }
    source = {"entries": entries} if include_source else {"entries": []}
    return {
        "function": function.__qualname__,
        "module": module,
        "environment_name": environment_or_default(None),
        "source": source,
        "code": code,
    }


class _Uses:
    """What a function names, and what that names in turn."""

    def __init__(self, function: Callable[..., Any]) -> None:
        #: Texts of local functions and classes, by name; of several with one name, all of them.
        self.texts: dict[str, str] = {}
        #: Values of globals, defaults, variables of outer functions and attributes of classes, written down.
        self.values: dict[str, str] = {}
        self._owner = f"`Image.run_function({function.__name__})`"
        self._home = function.__module__
        self._seen = {id(function)}
        #: Values that were written down, by identity; the values are kept so that no other comes to have that.
        self._known: dict[int, tuple[Any, str]] = {}
        self._pending: list[Any] = [function]
        if hasattr(function, "__wrapped__"):
            self._note_text(function)  # The text of the function is that of what it wraps.
        self._follow_all()

    def arguments(self, values: Any) -> str | None:
        """The arguments as text; functions among them count as those that are named."""
        written = self.written(values)
        self._follow_all()
        return written

    def _follow_all(self) -> None:
        while self._pending:
            self._follow(self._pending.pop())

    def written(self, value: Any) -> str | None:
        """A value as text, equal for equal values in every process; None if it has no such form."""
        try:
            return self._write(value)
        except Exception:
            return None

    def _follow(self, function: Any) -> None:
        """Looks at what a function names, is given by default and holds of the function that it was made in."""
        if isinstance(_part(function, "__wrapped__"), (_FUNCTION, type)):
            self._use_code(function.__wrapped__)
        if not isinstance(function, _FUNCTION):
            return
        name = self._name(function)
        held = zip(function.__code__.co_freevars, function.__closure__ or ())
        inner = {free: cell.cell_contents for free, cell in held if _is_filled(cell)}
        if not _is_local_function(function):
            # A decorator of an installed package: it counts no more than the package does, what it decorates does.
            for value in inner.values():
                if isinstance(value, (_FUNCTION, type)):
                    self._use_code(value)
            return
        for number, default in enumerate(function.__defaults__ or ()):
            self._use(f"{name}({number})", default, set(), set())
        for keyword, default in (function.__kwdefaults__ or {}).items():
            self._use(f"{name}({keyword})", default, set(), set())
        for code in _codes(function.__code__):
            names = set(code.co_names)
            # Modules may name one another.
            modules: set[int] = set()
            for each in sorted(names & function.__globals__.keys()):
                self._use(self._within(function.__module__, each), function.__globals__[each], names, modules)
        for free in sorted(inner):
            self._use(f"{name}.{free}", inner[free], set(function.__code__.co_names), set())

    def _use(self, name: str, value: Any, attributes: set[str], modules: set[int]) -> None:
        """Notes a value that is named, with the names that stand beside it; `modules` are those that were looked at."""
        if _is_builtin(value):
            return
        if isinstance(value, _MODULE):
            if _is_local(value) and id(value) not in modules:
                modules.add(id(value))
                for attribute in sorted(attributes & vars(value).keys()):
                    inside = self._within(value.__name__, attribute)
                    self._use(inside, vars(value)[attribute], attributes, modules)
            return
        if _is_of_modal(value):
            self._follow_modal(value)
            return
        if isinstance(value, (_FUNCTION, type)) or isinstance(_part(value, "__wrapped__"), _FUNCTION):
            self._use_code(value)
            return
        written = self.written(value)
        if written is None:
            warnings.warn(
                f"{self._owner} uses `{name}`, whose value cannot be compared with that of an earlier build: "
                "if it changes, the step is not run again",
                stacklevel=2,
            )
        else:
            _add(self.values, name, written)

    def _follow_modal(self, value: Any) -> None:
        """Apps, images, secrets have no influence on what the function does; a function of an app may be called."""
        raw = getattr(type(value), "get_raw_f", None)
        if raw is not None:
            self._use_code(raw(value))

    def _use_code(self, value: Any, is_noted: bool = False) -> None:
        """Notes a function or class, unless it comes from an installed package, or is part of a text that is noted."""
        if id(value) in self._seen:
            return
        self._seen.add(id(value))
        if not isinstance(value, type):
            if _is_local_function(value) and not is_noted:
                self._note_text(value)
            self._pending.append(value)
        elif _is_local(sys.modules.get(value.__module__)):
            self._note_text(value)
            for base in value.__bases__:
                self._use_code(base)
            for attribute, member in list(vars(value).items()):
                self._use_member(value, attribute, member)

    def _use_member(self, owner: type, attribute: str, member: Any) -> None:
        """Notes what a class has: methods of all kinds, and values."""
        parts = [_part(member, part) for part in ("__func__", "fget", "fset", "fdel", "func", "__wrapped__")]
        for function in (member, *parts):
            if isinstance(function, (_FUNCTION, type)):
                within = (owner.__module__, f"{owner.__qualname__}.{attribute}")
                self._use_code(function, is_noted=(function.__module__, function.__qualname__) == within)
        if hasattr(type(member), "__get__") or (attribute.startswith("__") and attribute.endswith("__")):
            return
        written = self.written(member)
        if written is not None:
            _add(self.values, f"{self._name(owner)}.{attribute}", written)

    def _note_text(self, value: Any) -> None:
        # A function's own code: `inspect` would look for what it wraps.
        text = _text(getattr(value, "__code__", value))
        if text is not None:
            _add(self.texts, f"{value.__module__}.{value.__qualname__}", text)

    def _name(self, value: Any) -> str:
        return self._within(value.__module__, value.__qualname__)

    def _within(self, module: str, name: str) -> str:
        """A name of a module: as it is in that of the function, and with the module in others."""
        return name if module == self._home else f"{module}.{name}"

    def _write(self, value: Any) -> str:
        kind = type(value)
        if value is None or value is ... or kind in (bool, int, float, complex, str, bytes):
            return f"{kind.__name__}:{value!r}"
        if isinstance(value, (_FUNCTION, type, _MODULE)) or _is_builtin(value):
            if isinstance(value, (_FUNCTION, type)):
                self._use_code(value)
            return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value.__name__)}"
        if _is_of_modal(value):
            self._follow_modal(value)
            return f"{kind.__module__}.{kind.__qualname__}"
        if id(value) not in self._known:
            # What a value holds of itself is what is written already.
            self._known[id(value)] = (value, f"{kind.__qualname__} itself")
            self._known[id(value)] = (value, f"{kind.__module__}.{kind.__qualname__}:{_digest(self._parts(value))}")
        return self._known[id(value)][1]

    def _parts(self, value: Any) -> str:
        """What a value consists of."""
        kind = type(value)
        if kind in (list, tuple):
            return ",".join(map(self._write, value))
        if kind in (set, frozenset):
            # Their order differs between processes.
            return ",".join(sorted(map(self._write, value)))
        if kind is dict:
            return ",".join(f"{self._write(key)}={self._write(item)}" for key, item in value.items())
        # As `pickle` takes values apart: whatever that can keep, has a form.
        import copyreg

        reduce = copyreg.dispatch_table.get(kind)
        reduced: Any = reduce(value) if reduce is not None else value.__reduce_ex__(PICKLE_PROTOCOL)
        if isinstance(reduced, str):
            return reduced
        # A function with its arguments, a state, and the elements of what is like a list or a dict.
        parts = [list(part) if hasattr(part, "__next__") else part for part in reduced]
        return ",".join(map(self._write, parts))


def _part(value: Any, name: str) -> Any:
    """An attribute of a value of any kind, which may refuse that in its own way."""
    try:
        return getattr(value, name, None)
    except Exception:
        return None


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _add(noted: dict[str, str], name: str, text: str) -> None:
    """Notes a text under a name, beside what is there."""
    there = noted.get(name)
    noted[name] = text if there in (None, text) else f"{there}\n{text}"


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code and that of the functions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, type(code)):
            yield from _codes(constant)


def _is_builtin(value: Any) -> bool:
    """Whether a value is a function of Python's own in C, and no method of a value."""
    return isinstance(value, _BUILTIN) and isinstance(_part(value, "__self__"), (_MODULE, type, type(None)))


def _is_of_modal(value: Any) -> bool:
    return str(type(value).__module__).partition(".")[0] == "modal"


def _is_local_function(function: Any) -> bool:
    """Whether a function's code is the user's own, whatever module it says it is of."""
    code = getattr(function, "__code__", None)
    return code is not None and _is_local_file(code.co_filename, function.__globals__.get("__name__", ""))


def _is_local(module: Any) -> bool:
    """Whether a module is the user's own: neither installed nor part of Python."""
    # Packages without an `__init__.py` are directories only.
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    file = next((place for place in places if place is not None), None)
    return file is not None and _is_local_file(file, module.__name__)


def _is_local_file(file: str, module: str) -> bool:
    if module.partition(".")[0] == "modal" or not os.path.exists(file):
        return False
    real = os.path.realpath(file)
    return not (real.startswith(_INSTALLED) or any(part in real.split(os.sep) for part in _PACKAGES))


def _text(value: Any) -> str | None:
    """The source text of a function or class, with decorators and comments; None where there is none."""
    import inspect

    try:
        return inspect.getsource(value)
    except (OSError, TypeError):
        return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
