"""Functions that travel by value: for notebooks, functions inside functions, and whatever has no module to import.

cloudpickle does the work. It is mounted into the container beside this package, so that images need not have it.
"""

from __future__ import annotations

import os
import sys

from modal._files import directory_entry
from modal._payload import PICKLE_PROTOCOL
from modal._source import PACKAGE_IGNORE, module_name
from modal.exception import SerializationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from modal._files import Entry
    from modal.functions import Function

#: Where the container finds it: beside the package.
TARGET = "/__modal/python/cloudpickle"
#: The most bytes of a pickled function; they are kept for every container that starts.
LIMIT = 16 << 20


def pack_by_value(value: Any) -> bytes:
    """Pickles a value together with the classes and functions that only this process has."""
    import cloudpickle

    # Modules of serialized functions are not in the containers: what they define travels by value.
    modules = [module for module in map(sys.modules.get, _modules) if module is not None]
    known = cloudpickle.list_registry_pickle_by_value()
    registered = [module for module in modules if module.__name__ not in known]
    for module in registered:
        cloudpickle.register_pickle_by_value(module)
    try:
        return cloudpickle.dumps(value, PICKLE_PROTOCOL)  # type: ignore[no-any-return]
    finally:
        for module in registered:
            cloudpickle.unregister_pickle_by_value(module)


#: Names of the modules that define serialized functions.
_modules: set[str] = set()


def describe(function: Function[Any, Any]) -> tuple[dict[str, str], list[Entry]]:
    """A function as the engine hands it to containers, and the files that they need to read it."""
    import base64

    import cloudpickle

    raw = function.get_raw_f()
    if raw.__module__ != "__main__":
        _modules.add(raw.__module__)
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
    module = sys.modules.get(raw.__module__)
    described = {
        "kind": "serialized",
        "name": module_name(module) if module is not None else raw.__module__,
        "python": "{}.{}".format(*sys.version_info),
        "pickle": base64.b64encode(pickled).decode(),
    }
    package = os.path.dirname(os.path.abspath(cloudpickle.__file__))
    return described, [directory_entry(package, TARGET, PACKAGE_IGNORE)]
