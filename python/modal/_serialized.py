"""Functions that travel by value: for notebooks, functions inside functions, and whatever has no module to import.

cloudpickle does the work. It is mounted into the container beside this package, so that images need not have it.
"""

from __future__ import annotations

import io
import os
import sys

import cloudpickle  # type: ignore[import-untyped]

from modal._files import directory_entry
from modal._payload import PICKLE_PROTOCOL
from modal._source import PACKAGE_IGNORE, module_name
from modal.exception import SerializationError
from modal.functions import Function

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from modal._files import Entry

#: Where the container finds it: beside the package.
TARGET = "/__modal/python/cloudpickle"
#: The most bytes of a pickled function; they are kept for every container that starts.
LIMIT = 16 << 20


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Takes along the functions of apps as well, which otherwise travel as their names."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Function):
            return rebuild_function, (value._name, value.get_raw_f())
        return super().reducer_override(value)


def rebuild_function(name: str, raw: Callable[..., Any]) -> Function[Any, Any]:
    """A function of an app on the other side, where it can be called by `.local`."""
    from modal.app import App

    return App().function(name=name, serialized=True)(raw)


def pack_by_value(value: Any) -> bytes:
    """Pickles a value together with the classes and functions that only this process has."""
    file = io.BytesIO()
    _Pickler(file, PICKLE_PROTOCOL).dump(value)
    return file.getvalue()


def describe(function: Function[Any, Any]) -> tuple[dict[str, str], list[Entry]]:
    """A function as the engine hands it to containers, and the files that they need to read it."""
    from binascii import b2a_base64

    raw = function.get_raw_f()
    module = sys.modules.get(raw.__module__)
    if module is not None:
        # The module is not in the containers: what it defines travels by value, too, and comes back so.
        cloudpickle.register_pickle_by_value(module)
    try:
        pickled = pack_by_value(raw)
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
    described = {
        "kind": "serialized",
        "name": module_name(module) if module is not None else str(raw.__module__),
        "python": "{}.{}".format(*sys.version_info),
        "pickle": b2a_base64(pickled, newline=False).decode(),
    }
    package = os.path.dirname(os.path.abspath(cloudpickle.__file__))
    return described, [directory_entry(package, TARGET, PACKAGE_IGNORE)]
