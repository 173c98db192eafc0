"""REF: which module to import, and what in it to run."""

from __future__ import annotations

import os
import sys

from modal._cli import SelectionError
from modal._client.source import script_name
from modal.exception import InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import ModuleType
    from typing import Any

    from modal.app import App


#: Whether the user's module is being imported.
is_importing = False
#: The file or module that was named as the program, and whether it is a module.
program: tuple[str, bool] | None = None


class Target:
    """Something that `modal run` can run: a function, in a container, or a local entrypoint."""

    def __init__(self, found: Any, reference: str) -> None:
        #: Calls it the way `modal run` does.
        self.call: Callable[..., Any] = found.remote if _is_function(found) else found
        self.app: App = found._app
        self.name: str = found._name
        #: Whose parameters are options of the command line: the function, and before it the class of a method.
        self.raw: Callable[..., Any] = found._raw
        self.cls: Any = found._cls if isinstance(found, _Method) else None
        self.reference = reference


class _Method:
    """A method of a class, before it is known of which instance."""

    def __init__(self, cls: Any, name: str) -> None:
        self._app = cls._app
        self._cls = cls
        self._method = name
        self._name = f"{cls._name}.{name}"
        self._raw = cls._methods()[name].raw

    @property
    def _is_generator(self) -> bool:
        from modal._shared.declaration import is_generator

        return is_generator(self._raw)

    def __call__(self, parameters: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        return getattr(self._cls(**parameters), self._method).remote(*args, **kwargs)


def _methods(cls: Any) -> list[_Method]:
    return [_Method(cls, name) for name in cls._methods()]


def resolve(text: str, as_module: bool) -> Target:
    """What `modal run REF` runs."""
    path, name = _split(text)
    module = _import(path, as_module)
    return Target(_select(module, name, path), text)


def resolve_function(text: str, as_module: bool) -> tuple[App, str | None]:
    """The app and the function whose image `modal shell REF` opens; without functions, the app's own image."""
    path, name = _split(text)
    module = _import(path, as_module)
    apps = [app for _, app in _apps(module)]
    if name is None and len(apps) == 1 and not apps[0]._services():
        return apps[0], None
    found = _find_service(module, name, path)
    if isinstance(found, _Method):
        found = found._cls
    if not (_is_function(found) or _is_class(found)):
        raise SelectionError(
            f"`{name}` is no function, so it has no image", f"name one of: {_listed(module, functions=True)}"
        )
    return found._app, found._name


def resolve_app(text: str, as_module: bool) -> App:
    """The app that `modal deploy REF` deploys: the one that is named, the one called `app`, or the only one."""
    path, name = _split(text)
    module = _import(path, as_module)
    apps = dict(_apps(module))
    listed = ", ".join(f"`{path}::{each}`" for each in apps) or "no app"
    if name is not None:
        if name not in apps:
            raise SelectionError(f"`{name}` in `{path}` is no `modal.App`", f"it has {listed}")
        return apps[name]
    if "app" in apps:
        return apps["app"]
    distinct = {id(app): app for app in apps.values()}
    if len(distinct) == 1:
        return next(iter(distinct.values()))
    if not distinct:
        raise SelectionError(f"`{path}` has no app to deploy", 'make one: `app = modal.App("name")`')
    raise SelectionError(f"`{path}` has several apps, and none is called `app`", f"name one of {listed}")


def _find_service(module: ModuleType, name: str | None, path: str) -> Any:
    """The function, class or method that a shell is wanted for."""
    if name is None:
        return _only(_services_first(module), module, path)
    found = getattr(module, name, None)
    return found if _is_class(found) else _find(module, name, path)


def _split(text: str) -> tuple[str, str | None]:
    """The file or module, and the name behind `::`."""
    path, separator, name = text.partition("::")
    if ":" in path or ":" in name:
        raise InvalidError(f"`{text}` has a single `:`", hint="write `path.py::name`, with two colons")
    if not path or (separator and not name):
        raise InvalidError(f"`{text}` is incomplete", hint="write `path.py` or `path.py::name`")
    return path, name or None


def _import(path: str, as_module: bool) -> ModuleType:
    """Imports the user's module; its directory and the working directory become importable."""
    global is_importing, program
    is_importing = True
    program = None if path == "-" else (path, as_module)
    try:
        return _import_any(path, as_module)
    finally:
        is_importing = False


def _import_any(path: str, as_module: bool) -> ModuleType:
    current = os.getcwd()
    if as_module:
        if path.endswith(".py"):
            raise InvalidError(f"`{path}` is a file, not a module", hint="leave `-m` away")
        _put_on_path(current)
        return _import_module(path)
    if path == "-":
        _put_on_path(current)
        return _import_script(_file_of_standard_input(), path)
    if not path.endswith(".py"):
        is_module = all(part.isidentifier() for part in path.split("."))
        raise InvalidError(
            f"`{path}` is a directory" if os.path.isdir(path) else f"`{path}` is not a Python file",
            hint="write the path of a `.py` file" + (f", or `-m {path}` for an importable module" if is_module else ""),
        )
    file = os.path.abspath(path)
    if not os.path.isfile(file):
        raise SelectionError(f"the file `{path}` does not exist", f"the path is relative to `{current}`")
    _put_on_path(current)
    _put_on_path(os.path.dirname(file))
    return _import_script(file, path)


def _file_of_standard_input() -> str:
    """A file with the program on standard input, for containers to import; it goes with this process."""
    import atexit
    from tempfile import TemporaryDirectory

    program = sys.stdin.buffer.read()
    if not program.strip():
        raise SelectionError("there is no program on standard input", "with `--detach`, write it into a file")
    directory = TemporaryDirectory(prefix="modal-run-")
    atexit.register(directory.cleanup)
    path = os.path.join(directory.name, "stdin_program.py")
    with open(path, "wb") as file:
        file.write(program)
    return path


def _put_on_path(directory: str) -> None:
    # `python -m` puts the working directory first as an absolute path already.
    if directory in sys.path:
        sys.path.remove(directory)
    sys.path.insert(0, directory)


def _import_module(name: str) -> ModuleType:
    try:
        __import__(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise SelectionError(
                f"the module `{error.name}` was not found", f"it must be importable from `{os.getcwd()}`"
            ) from None
        raise
    return sys.modules[name]


def _import_script(file: str, path: str) -> ModuleType:
    from modal._shared.interpreter import module_from_spec, script_spec

    name = script_name(file)
    spec = script_spec(name, file)
    loader: Any = spec.loader
    try:
        code = loader.get_code(name) if _is_settled(file) else loader.source_to_code(loader.get_data(file), file)
    except (SyntaxError, ValueError) as error:
        if getattr(error, "filename", None) is not None:
            raise
        raise SelectionError(f"`{path}` is not a Python program: {error}", "write the path of a program") from None
    module = module_from_spec(spec)
    # Containers import the script under this name, and so must pickled objects find it here.
    sys.modules[name] = module
    exec(code, module.__dict__)
    return module


def _is_settled(file: str) -> bool:
    """Whether cached bytecode tells this source from the next one.

    Python compares times in whole seconds, and sizes. What was changed just now may change again within the same
    second, so its bytecode is neither believed nor kept.
    """
    from time import time

    return time() - os.stat(file).st_mtime > 2


def _select(module: ModuleType, name: str | None, path: str) -> Any:
    """What was named, or the only candidate of the highest class that has any."""
    if name is not None:
        found = _find(module, name, path)
    else:
        entrypoints = [value for _, value in _members(module) if _is_entrypoint(value)]
        functions = _runnable(value for _, value in _members(module))
        app_entrypoints = [value for _, app in _apps(module) for value in app._entrypoints.values()]
        app_functions = _runnable(value for _, app in _apps(module) for value in _declared(app))
        found = _only([entrypoints, functions, app_entrypoints, app_functions], module, path)
    if (_is_function(found) or isinstance(found, _Method)) and found._is_generator:
        raise InvalidError(
            f"`{found._name}` is a generator, which cannot be run",
            hint=f"write a local entrypoint that loops over `{found._name}.remote_gen(...)`",
        )
    return found


def _find(module: ModuleType, name: str, path: str) -> Any:
    """Looks for `name`, `app.name` or an app."""
    first, _, second = name.partition(".")
    found: Any
    if second:
        app = dict(_apps(module)).get(first)
        cls: Any = getattr(module, first, None)
        if _is_class(cls):
            found = _Method(cls, second) if second in cls._methods() else None
        else:
            found = None if app is None else _registered(app, second)
    else:
        found = getattr(module, name, None)
        if _is_app(found):
            return _only([list(found._entrypoints.values()), _runnable(_declared(found))], module, path)
        if _is_class(found):
            return _only([_methods(found)], module, path)
        if found is None:
            registered = [_registered(app, name) for _, app in _apps(module)]
            found = next((value for value in registered if value is not None), None)
    if _is_function(found) or _is_entrypoint(found) or isinstance(found, _Method):
        return found
    if second and isinstance(getattr(module, first, None), type):
        raise SelectionError(
            f"`{name}` in `{path}` is of a class that is not one of an app",
            "put `@app.cls()` above the class, and `@modal.method()` above its method, "
            f"or name one of: {_listed(module)}",
        )
    if found is not None:
        raise SelectionError(
            f"`{name}` in `{path}` is neither a function of an app nor a local entrypoint",
            f"put `@app.function()` or `@app.local_entrypoint()` above it, or name one of: {_listed(module)}",
        )
    raise SelectionError(f"`{name}` was not found in `{path}`", f"it has: {_listed(module)}")


def _registered(app: App, name: str) -> Any:
    cls, _, method = name.partition(".")
    if method and cls in app._classes and method in app._classes[cls]._methods():
        return _Method(app._classes[cls], method)
    return app._entrypoints.get(name) or app._functions.get(name)


def _declared(app: App) -> list[Any]:
    return [*app._functions.values(), *app._classes.values()]


def _runnable(values: Iterable[Any]) -> list[Any]:
    """The functions among them, and the methods of the classes."""
    found: list[Any] = []
    for value in values:
        if _is_function(value):
            found.append(value)
        elif _is_class(value):
            found += _methods(value)
    return found


def _only(classes: list[list[Any]], module: ModuleType, path: str) -> Any:
    """The only member of the first class that has members."""
    for members in classes:
        distinct = list({id(member): member for member in members}.values())
        if len(distinct) == 1:
            return distinct[0]
        if distinct:
            raise SelectionError(
                f"`{path}` has more than one candidate to run", f"name one of: {_listed(module, path)}"
            )
    raise SelectionError(
        f"`{path}` has nothing to run",
        "put `@app.function()` or `@app.local_entrypoint()` above a function of a `modal.App`",
    )


def _services_first(module: ModuleType) -> list[list[Any]]:
    return [
        [value for _, value in _members(module) if _is_function(value) or _is_class(value)],
        [value for _, app in _apps(module) for value in _declared(app)],
    ]


def _listed(module: ModuleType, path: str | None = None, functions: bool = False) -> str:
    """Names that can be run, as they are written in a REF."""
    names = []
    for name, value in _members(module):
        if _is_class(value):
            names += [name] if functions else [f"{name}.{method}" for method in value._methods()]
        elif _is_function(value) or (not functions and _is_entrypoint(value)):
            names.append(name)
    known = {id(value) for _, value in _members(module)}
    for variable, app in _apps(module):
        registered = [*_declared(app), *(() if functions else app._entrypoints.values())]
        for value in registered:
            if id(value) not in known:
                of_class = not functions and _is_class(value)
                shown = [method._name for method in _methods(value)] if of_class else [value._name]
                names += [f"{variable}.{each}" for each in shown]
    prefix = path + "::" if path else ""
    return ", ".join(f"`{prefix}{name}`" for name in names) or "nothing that can be run"


def _members(module: ModuleType) -> list[tuple[str, Any]]:
    return list(vars(module).items())


def _apps(module: ModuleType) -> list[tuple[str, App]]:
    return [(name, value) for name, value in _members(module) if _is_app(value)]


def _is_app(value: object) -> bool:
    return _is_of(value, "modal.app", "App")


def _is_function(value: object) -> bool:
    return _is_of(value, "modal.functions", "Function")


def _is_class(value: object) -> bool:
    return _is_of(value, "modal.cls", "Cls")


def _is_entrypoint(value: object) -> bool:
    return _is_of(value, "modal.app", "LocalEntrypoint")


def _is_of(value: object, module: str, name: str) -> bool:
    # A module that declares nothing has not loaded these classes, and need not do so now.
    home = sys.modules.get(module)
    return home is not None and isinstance(value, getattr(home, name))
