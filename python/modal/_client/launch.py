"""Finding and starting the engine."""

from __future__ import annotations

import os
import sys

from modal._calls.engine import Engine
from modal._shared.interpreter import AF_UNIX, SOCK_STREAM, find_spec, socket, socketpair
from modal._shared.wire import Connection
from modal.exception import ServiceError

ENGINE_FD = "MODAL_ENGINE_FD"
#: Names the program that is started as the engine, instead of the one that came with this package.
COMMAND = "MODAL_COMMAND"


def connect(output: bool, interactive: bool = False) -> Engine:
    """The engine that started this process (`modal run`), else one that is started now.

    Containers of an `interactive` one may ask for the terminal of this process.
    """
    inherited = os.environ.pop(ENGINE_FD, None)
    engine = _adopt(inherited) if inherited is not None else _start(interactive)
    engine.greet(output)
    return engine


def _adopt(number: str) -> Engine:
    try:
        fd = int(number)
        os.set_inheritable(fd, False)
        return Engine(Connection(socket(AF_UNIX, SOCK_STREAM, 0, fd)))
    except (ValueError, OSError) as error:
        raise ServiceError(
            f"`{ENGINE_FD}={number}` names no connection with an engine: {error}",
            hint=f"unset {ENGINE_FD}; `modal run` sets it for the processes that it starts",
        ) from None


def _start(interactive: bool) -> Engine:
    program = os.environ.get(COMMAND) or find_program("modal")
    if program is None:
        raise ServiceError(
            f"the `modal` program was not found beside `{sys.executable}`, beside this package, or on PATH",
            hint="install the package again: the program is part of it",
        )
    ours, theirs = socketpair(AF_UNIX, SOCK_STREAM)
    environment = dict(os.environ)
    environment[ENGINE_FD] = str(theirs.fileno())
    os.set_inheritable(theirs.fileno(), True)
    try:
        process = os.posix_spawn(program, [program, "engine", *(["--interactive"] if interactive else [])], environment)
    except OSError as error:
        ours.close()
        raise ServiceError(
            f"`{program} engine` could not be started: {error.strerror}",
            hint=f"unset {COMMAND}, or set it to the path of the `modal` program" if COMMAND in os.environ else None,
        ) from None
    finally:
        theirs.close()
    return Engine(Connection(ours), process)


def find_uv() -> str | None:
    """The `uv` program that came with this package's dependency of that name."""
    found = find_program("uv", on_path=False)
    if found is None:
        try:
            from uv import find_uv_bin

            found = find_uv_bin()
        except (ImportError, FileNotFoundError):
            found = find_program("uv")
    return found


def find_cloudpickle() -> str | None:
    """Where the package `cloudpickle` is, which containers get for values that travel by value."""
    # Finding costs next to nothing, importing costs more than a container's start.
    spec = find_spec("cloudpickle")
    origin = None if spec is None else spec.origin
    return None if origin is None else os.path.dirname(os.path.abspath(origin))


def find_program(name: str, on_path: bool = True) -> str | None:
    """A program beside the interpreter, in the scripts directory of the package's environment, or on PATH."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    site = os.path.dirname(package)
    directories = [
        os.path.dirname(os.path.abspath(sys.executable)) if sys.executable else "",
        os.path.join(sys.prefix, "bin"),
        # <environment>/lib/pythonX.Y/site-packages, and `pip install --target`.
        os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(site))), "bin"),
        os.path.join(site, "bin"),
    ]
    if on_path:
        directories += os.environ.get("PATH", "").split(os.pathsep)
    for directory in directories:
        candidate = os.path.join(directory, name)
        if directory and os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    return None
