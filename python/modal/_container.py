"""The runner: the process in a container that imports the user's module and executes inputs, one at a time.

It runs under the image's own Python (3.9 or later) with nothing installed, and starts within the time budget of a cold
container; so it imports no more than it needs.
"""

from __future__ import annotations

import os
import sys
from _socket import AF_UNIX, SOCK_STREAM, socket

from modal._errors import pack_exception, type_name
from modal._files import SOURCE_ROOT
from modal._payload import pack, unpack
from modal._wire import Connection, ConnectionClosed
from modal.exception import DeserializationError, ExecutionError, SerializationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from modal._payload import Payload

ENGINE_FD = 3
RESULT = b'{"type":"result","call":%d,"status":"%s"}'


def main() -> None:
    """Serves the engine until it says stop or is gone."""
    os.set_inheritable(ENGINE_FD, False)
    connection = Connection(socket(AF_UNIX, SOCK_STREAM, 0, ENGINE_FD))
    for stream in (sys.stdout, sys.stderr):
        # A pipe would hold lines back until its buffer is full; output shall be seen as it is made.
        if stream is not None:
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        function = _start(connection)
        if function is not None:
            _serve(connection, function)
            _run_exit_handlers()
    except (ConnectionClosed, KeyboardInterrupt):
        pass
    _flush()
    # The user's threads must not keep a container alive that nobody uses any more.
    os._exit(0)


def _start(connection: Connection) -> Callable[..., Any] | None:
    """Loads the function that the engine asks for; None if that fails, which the engine is told."""
    control, _ = connection.receive()
    try:
        function = _load(control["module"], control["function"])
    except BaseException as error:
        _flush()
        connection.send(b'{"type":"failed"}', _pack(error, "importing `{}`".format(control["module"]["name"])))
        return None
    _flush()
    connection.send(b'{"type":"ready"}')
    return function


def _load(module: dict[str, str], name: str) -> Callable[..., Any]:
    """The user's plain function."""
    imported = _import(module)
    # Classes of the caller's `__main__` are found in the module that it was there.
    sys.modules["__main__"] = imported
    from modal.functions import Function, declared

    found = declared(module["name"], name) or getattr(imported, name, None)
    if found is None:
        raise ExecutionError(
            "the module `{}` has no function `{}` in the container".format(module["name"], name),
            hint="the module is imported again there: define the function without conditions, and if "
            "`include_source=False` is set, see that the image holds the present source",
        )
    if not isinstance(found, Function):
        return found  # type: ignore[no-any-return]
    image = found._settings.image or found._app._image
    if image is not None and image._import_errors:
        raise image._import_errors[0]
    return found.get_raw_f()


def _import(module: dict[str, str]) -> Any:
    if SOURCE_ROOT not in sys.path:
        sys.path.insert(1, SOURCE_ROOT)
    name, path = module["name"], module.get("path")
    if module["kind"] == "script" and path is not None and os.path.exists(path):
        # By its path: a script may have the name of a module that Python has loaded or finds earlier.
        from importlib.util import module_from_spec, spec_from_file_location

        spec = spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        loaded = module_from_spec(spec)
        sys.modules[name] = loaded
        spec.loader.exec_module(loaded)
        return loaded
    __import__(name)
    return sys.modules[name]


def _serve(connection: Connection, function: Callable[..., Any]) -> None:
    while True:
        control, payload = connection.receive()
        if control["type"] == "stop":
            return
        if control["type"] != "call":
            continue
        status, result = _execute(function, control["function"], payload)
        _flush()
        connection.send(RESULT % (control["call"], status), result)


def _execute(function: Callable[..., Any], name: str, payload: Any) -> tuple[bytes, Payload]:
    """Runs one input; gives the status and the pickled result or exception."""
    try:
        args, kwargs = _unpack(payload, name)
        result = function(*args, **kwargs)
        if hasattr(result, "cr_frame"):
            import asyncio

            result = asyncio.run(result)
        return b"ok", _pack_result(result, name)
    except BaseException as error:
        return b"exception", _pack(error, f"the function `{name}`")


def _unpack(payload: Any, name: str) -> Any:
    try:
        return unpack(payload)
    except Exception as error:
        raise DeserializationError(
            f"the arguments of `{name}` cannot be read in the container: {type(error).__name__}: {error}",
            hint="install what defines their classes in the image, or pass plain data",
        ) from error


def _pack_result(result: Any, name: str) -> Payload:
    try:
        return pack(result)
    except Exception as error:
        kind = f"{type(result).__module__}.{type(result).__qualname__}"
        raise SerializationError(
            f"the result of `{name}`, of type `{kind}`, cannot be pickled: {error}",
            hint="return plain data, or objects whose classes are defined at the top level of a module",
        ) from None


def _pack(error: BaseException, doing: str) -> Payload:
    """The exception as it travels. What would end the caller's process arrives as an error instead."""
    if not isinstance(error, Exception):
        what = f"sys.exit({error.code!r})" if isinstance(error, SystemExit) else type_name(error)
        stopped = ExecutionError(f"{doing} ended with `{what}` instead of a result")
        stopped.__traceback__ = error.__traceback__
        error = stopped
    return pack_exception(error)


def _run_exit_handlers() -> None:
    import atexit

    atexit._run_exitfuncs()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # Closed or replaced by the user's code.
