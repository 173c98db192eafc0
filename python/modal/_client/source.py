"""Where a function's source is, and how its module is found again in the container."""

from __future__ import annotations

import os
import sys

from modal._client.files import directory_entry, file_entry
from modal._shared import SOURCE_ROOT
from modal.exception import InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from modal._client.files import Entry
    from modal.functions import Function

#: What an automatically shipped package leaves behind.
PACKAGE_IGNORE = ("**/*.pyc", "**/__pycache__", "**/.*")


def locate(function: Callable[..., Any]) -> tuple[dict[str, str], list[Entry]]:
    """The module of a function as the engine names it, and the files that make it importable in a container.

    A script is shipped alone, as ``/root/<name>.py``; of a module in a package, the whole top-level package is.
    """
    module = sys.modules.get(function.__module__)
    name = module_name(module) if module is not None else function.__module__
    if module is not None and getattr(module, "__package__", None):
        top = name.split(".")[0]
        entries = [directory_entry(location, f"{SOURCE_ROOT}/{top}", PACKAGE_IGNORE) for location in _locations(top)]
        return {"kind": "module", "name": name}, entries
    file = getattr(module, "__file__", None)
    if file is None:
        raise InvalidError(
            f"the function `{function.__qualname__}` was defined in `{function.__module__}`, "
            "which has no source file to take to the container",
            hint="put it into a file, or send it by value: `@app.function(serialized=True)`",
        )
    target = f"{SOURCE_ROOT}/{_stem(file) if script_name(file) == name else name}.py"
    return {"kind": "script", "name": name, "path": target}, [file_entry(file, target)]


def with_qualname(module: dict[str, str], function: Function[Any, Any, Any]) -> dict[str, str]:
    """The module of a function, with what it calls the function where that is not the function's name in the app."""
    raw = function.get_raw_f()
    qualname = _attribute(sys.modules.get(raw.__module__), raw)
    return module if qualname == function._name else {**module, "qualname": qualname}


def _attribute(module: Any, raw: Callable[..., Any]) -> str:
    """The name by which a module knows a function, which another function may have in its `__qualname__`."""
    qualname = raw.__qualname__
    if getattr(module, qualname, None) is not raw:
        for name, value in vars(module).items() if module is not None else ():
            if value is raw:
                return name  # type: ignore[no-any-return]
    return qualname


def module_name(module: Any) -> str:
    """The name under which containers import a module; of `__main__`, the one it would have had."""
    name: str = module.__name__
    if name != "__main__":
        return name
    spec = getattr(module, "__spec__", None)
    if spec is not None:
        # `python -m package` runs `package.__main__`.
        return str(spec.name)
    file = getattr(module, "__file__", None)
    return script_name(file) if file else name


def script_name(file: str) -> str:
    """The name of a script as a module. One with a dot would lie in a package, and `pickle` would look for that."""
    return _stem(file).replace(".", "_")


def _stem(file: str) -> str:
    return os.path.splitext(os.path.basename(file))[0]


def alias_main() -> None:
    """Makes `__main__` importable by its other name, so that its classes can come back from containers."""
    main = sys.modules["__main__"]
    sys.modules.setdefault(module_name(main), main)


def _locations(package: str) -> list[str]:
    module = sys.modules[package]
    return list(getattr(module, "__path__", None) or [os.path.dirname(module.__file__ or "")])
