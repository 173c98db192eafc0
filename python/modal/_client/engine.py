"""The engine as the user's process knows it: finding it, starting it, asking it for what is no call."""

from __future__ import annotations

import os
import sys

from modal._calls.conversation import Conversation, Receiver
from modal._shared.errors import engine_error, mark
from modal._shared.interpreter import AF_UNIX, SOCK_STREAM, find_spec, socket, socketpair
from modal._shared.wire import HEADER, VERSION, Connection, encode_json
from modal.exception import InvalidError, ServiceError, VersionError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROTOCOL = 3

ENGINE_FD = "MODAL_ENGINE_FD"
#: Names the program that is started as the engine, instead of the one that came with this package.
COMMAND = "MODAL_COMMAND"


class Engine(Conversation):
    """A running engine and the conversation with it."""

    def __init__(self, connection: Connection, process: int | None = None) -> None:
        super().__init__(connection)
        #: The engine's process id where this process started it.
        self._process = process

    def greet(self, output: bool) -> None:
        """Introduces this process. The answer is read with the first request's, which saves a round trip."""
        import modal

        hello = {
            "type": "hello",
            "protocol": PROTOCOL,
            "package": modal.__version__,
            "python": ".".join(map(str, sys.version_info[:3])),
            "python_program": (sys.executable or None) if sys.implementation.name == "cpython" else None,
            "uv": find_uv(),
            "cwd": _working_directory(),
            "output": output,
            "package_directory": os.path.dirname(os.path.abspath(modal.__file__)),
            "cloudpickle_directory": find_cloudpickle(),
        }
        self.send_frame(_encoded(hello))

    def request(self, kind: str, body: dict[str, Any], fds: tuple[int, ...] = ()) -> dict[str, Any]:
        """Asks the engine for something other than a call and waits for the answer."""
        return self.answer(self.ask(kind, body, fds))

    def answer(self, receiver: Receiver) -> dict[str, Any]:
        """Waits for the answer to something that was asked for."""
        self.wait(receiver)
        _, control, _ = receiver.arrived.popleft()
        if control["type"] == "error":
            raise engine_error(control)
        return control

    def ask(self, kind: str, body: dict[str, Any], fds: tuple[int, ...] = ()) -> Receiver:
        """Asks the engine for something, with descriptors that it shall have; the answer is waited for later."""
        number = next(self._numbers)
        control = _encoded({"type": kind, "request": number, **body})
        receiver = self._pending["request", number] = Receiver()
        if fds:
            self.send_frames(HEADER.pack(VERSION, 0, len(fds), 0, len(control), 0) + control, fds)
        else:
            self.send_frame(control)
        return receiver

    def stop(self, wait: bool = True) -> None:
        """Stops the app and its containers. With the engine lost there is nothing left to stop."""
        if self._failure is None:
            try:
                if wait:
                    self.request("app.stop", {})
                else:
                    self.ask("app.stop", {})
                    # The kernel expects whoever sends to sleep next, and would have the engine wait for this processor.
                    os.sched_yield()
            except ServiceError:
                pass

    def close(self) -> None:
        """Ends the conversation; waits for an engine that this process started."""
        self.give_up()
        self._connection.close()
        self._reap()

    def _take(self, control: dict[str, Any], payload: Any) -> None:
        number = control.get("request")
        if number is None:
            self._read_greeting(control)
            return
        receiver = self._pending.pop(("request", number), None)
        if receiver is not None:
            receiver.arrived.append((number, control, payload))
            receiver.wake()

    def _read_greeting(self, control: dict[str, Any]) -> None:
        if control["type"] == "error":
            self._failure = engine_error(control)  # type: ignore[assignment]
            raise self._fail()
        if control["type"] == "welcome" and control.get("protocol") != PROTOCOL:
            self._failure = VersionError(
                f"the engine speaks protocol `{control.get('protocol')}`, this package speaks `{PROTOCOL}`",
                hint="install the `modal` command and the `modal` package from the same release",
            )
            raise self._fail()

    def _how_it_ended(self) -> str:
        status = self._reap()
        if status is None:
            return ""
        if os.WIFSIGNALED(status):
            return f" (killed by signal {os.WTERMSIG(status)})"
        return f" (exit code {os.WEXITSTATUS(status)})"

    def _reap(self) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        try:
            return os.waitpid(process, 0)[1]
        except ChildProcessError:
            return None

    def _forget(self) -> None:
        self._process = None
        super()._forget()


def _encoded(message: dict[str, Any]) -> bytes:
    """A message as it is sent; what the system decoded from other bytes than UTF-8 has no such form."""
    try:
        return encode_json(message).encode()
    except UnicodeEncodeError as error:
        # The one string, because its neighbours may be values of secrets.
        text = error.object[: error.start].rpartition('"')[2] + error.object[error.start :].partition('"')[0]
        raise InvalidError(
            f"`{text!a}` is no text in UTF-8, which paths, commands and names have to be here",
            hint="give the file or directory another name, or decode what was read as what it is",
        ) from None


def _working_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        text = "the working directory cannot be found: it may have been deleted; change to one that exists"
        raise mark(FileNotFoundError(text)) from None


#: The engine that this process has last connected with.
_latest: Engine | None = None


def any_engine() -> Engine:
    """An engine that this process is connected with, or one that is started now and ends with this process."""
    from modal.output import is_output_enabled

    global _latest
    if _latest is None or _latest._failure is not None:
        _latest = _start(interactive=False)
        _latest.greet(output=is_output_enabled())
    return _latest


def connect(output: bool, interactive: bool = False) -> Engine:
    """The engine that started this process (`modal run`), else one that is started now.

    Containers of an `interactive` one may ask for the terminal of this process.
    """
    global _latest
    inherited = os.environ.pop(ENGINE_FD, None)
    engine = _latest = _adopt(inherited) if inherited is not None else _start(interactive)
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


def command() -> str:
    """The `modal` program."""
    program = os.environ.get(COMMAND) or find_program("modal")
    if program is None:
        raise ServiceError(
            f"the `modal` program was not found beside `{sys.executable}`, beside this package, or on PATH",
            hint="install the package again: the program is part of it",
        )
    return program


def _start(interactive: bool) -> Engine:
    program = command()
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
