"""Values that travel by value: functions without a module to import, and what `pickle` finds by no name.

cloudpickle does the work. The engine mounts it into containers as part of this package, so that images need none and
one that they have is not in the way; `_Unpickler` lets each side find its own.
"""

from __future__ import annotations

import io
import os
import sys

from modal._shared.interpreter import Unpickler
from modal._shared.payload import PICKLE_PROTOCOL, pack
from modal.exception import DeserializationError, SerializationError
from modal.functions import Function

try:
    import modal._cloudpickle as cloudpickle  # type: ignore[import-not-found]
except ImportError:
    import cloudpickle  # type: ignore[import-untyped]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from modal._shared.payload import Payload
    from modal.app import App
    from modal.cls import Cls

#: The names that cloudpickle has here and there.
HOMES = ("modal._cloudpickle", "cloudpickle")
#: Bytecode travels, which only its own series of Python reads.
SERIES = "{}.{}".format(*sys.version_info)
#: The most bytes of a pickled function; they are kept for every container that starts.
LIMIT = 16 << 20


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Takes along the functions of apps as well, which otherwise travel as their names."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Function) and value._service is None and value._class is None:
            return rebuild_function, (value._name, value.get_raw_f(), origin(value._app))
        return self._reduce_class(value) or super().reducer_override(value)

    @staticmethod
    def _reduce_class(value: Any) -> Any:
        classes = sys.modules.get("modal.cls")
        if classes is not None and type(value) is classes.Cls and not value._options:
            return rebuild_class, (value._name, value._user_class, origin(value._app))
        return None


class _Unpickler(Unpickler):
    """Finds cloudpickle by the name that it has on this side."""

    def find_class(self, module: str, name: str) -> Any:
        for home in HOMES:
            if module == home or module.startswith(home + "."):
                module = cloudpickle.__name__ + module[len(home) :]
                break
        return super().find_class(module, name)


class ByValue:
    """Pickles a value such that `pickle` alone reads it, if this package is there."""

    __slots__ = ("_pickled",)

    def __init__(self, value: Any) -> None:
        file = io.BytesIO()
        _Pickler(file, PICKLE_PROTOCOL).dump(value)
        self._pickled = file.getvalue()

    def __len__(self) -> int:
        return len(self._pickled)

    def __reduce__(self) -> tuple[Any, ...]:
        return read_by_value, (SERIES, self._pickled)


def read_by_value(series: str, pickled: bytes) -> Any:
    """The inverse of `ByValue`."""
    if series != SERIES:
        raise DeserializationError(
            f"a value with code in it was made by Python `{series}`, and Python `{SERIES}` cannot read it",
            hint="give the image your own series of Python, as in "
            "`Image.debian_slim(python_version=...)`, or move the code to the top level of a module",
        )
    return _Unpickler(io.BytesIO(pickled)).load()


def rebuild_function(name: str, raw: Callable[..., Any], origin: str) -> Function[Any, Any, Any]:
    """A function of an app on the other side."""
    return _app_of(origin).function(name=name, serialized=True)(raw)


def rebuild_class(name: str, user_class: type, origin: str) -> Cls:
    """A class of an app on the other side. Its body may not be there yet, if it is a part of what is read."""
    from modal._shared.declaration import Settings
    from modal.app import DEFAULT_TIMEOUT

    settings = Settings(None, {}, (), DEFAULT_TIMEOUT, None, None, None, None, True, None, {}, [])
    return _app_of(origin)._add_class(user_class, settings, name)


def _app_of(origin: str) -> App:
    from modal.app import App

    app = App()
    app._origin = origin
    return app


def origin(app: App) -> str:
    """What tells an app from all others, wherever its functions are rebuilt: names may be the same."""
    if app._origin is None:
        app._origin = os.urandom(8).hex()
    return app._origin


def pack_by_value(value: Any) -> Payload:
    """Pickles a value together with the classes and functions that only this process has."""
    return pack(ByValue(value))


def describe(function: Function[Any, Any, Any]) -> dict[str, str]:
    """A function as the engine hands it to containers."""
    from binascii import b2a_base64

    from modal._client.source import module_name

    raw = function.get_raw_f()
    module = sys.modules.get(raw.__module__)
    if module is not None:
        # The module is not in the containers: what it defines travels by value, too, and comes back so.
        cloudpickle.register_pickle_by_value(module)
    try:
        pickled = pack_by_value((function._class or raw, origin(function._app)))
    except Exception as error:
        raise SerializationError(
            f"the function `{function._name}` cannot be serialized: {type(error).__name__}: {error}",
            hint="pass what it uses as arguments, or make it inside the function",
        ) from None
    if len(pickled) > LIMIT:
        raise SerializationError(
            f"the function `{function._name}` uses {len(pickled) >> 20} MiB of data around it, "
            f"more than the {LIMIT >> 20} MiB that travel with a function",
            hint="pass large data as an argument",
        )
    parts = [pickled] if isinstance(pickled, bytes) else pickled.parts
    return {
        "kind": "serialized",
        "name": module_name(module) if module is not None else str(raw.__module__),
        "python": SERIES,
        "pickle": b2a_base64(b"".join(parts), newline=False).decode(),
    }
