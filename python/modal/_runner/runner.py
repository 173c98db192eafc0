"""The runner: the process in a container that imports the user's module and executes inputs, one at a time.

It runs under the image's own Python (3.9 or later) with nothing installed, and starts within the time budget of a cold
container; so it imports no more than it needs.
"""

from __future__ import annotations

import os
import sys
from _thread import allocate_lock

from modal._shared import SOURCE_ROOT
from modal._shared.errors import pack_exception, type_name
from modal._shared.interpreter import AF_UNIX, SOCK_STREAM, loads, module_from_spec, script_spec, socket
from modal._shared.payload import pack_any, unpack
from modal._shared.wire import JOIN_LIMIT, Connection, ConnectionClosed, frame
from modal.exception import DeserializationError, ExecutionError, SerializationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from modal._runner.classes import Instance
    from modal._runner.client import Client
    from modal._runner.terminal import Console
    from modal._shared.payload import Payload
    from modal.app import App

ENGINE_FD = 3
RESULT = b'{"type":"result","call":%d,"status":"%s"}'
ITEM = b'{"type":"item","call":%d}'
#: A generator waits when so many of its values, or so many bytes of them, are not consumed yet.
AHEAD = 16
AHEAD_BYTES = 64 << 20


def main() -> None:
    """Serves the engine until it says stop or is gone."""
    os.set_inheritable(ENGINE_FD, False)
    global port
    port = Port(Connection(socket(AF_UNIX, SOCK_STREAM, 0, ENGINE_FD)))
    # A child that the function forks, and that comes back here, has nothing to say: the answer is its parent's to give.
    os.register_at_fork(after_in_child=port.connection.close)
    for stream in (sys.stdout, sys.stderr):
        # A pipe would hold lines back until its buffer is full; output shall be seen as it is made.
        if stream is not None:
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        service = _start(port)
        if service is not None:
            try:
                service.serve(port, service)
            except _Stopped:
                pass
            if service.instance is not None:
                service.instance.exit()
            _close_loop()
            _run_exit_handlers()
    except (ConnectionClosed, KeyboardInterrupt):
        pass
    _flush()
    # The user's threads must not keep a container alive that nobody uses any more.
    os._exit(0)


class Port:
    """The runner's end of the socket. Once its function calls others, it shares it with the client that does so."""

    __slots__ = (
        "active",
        "app",
        "cancelled",
        "client",
        "connection",
        "early",
        "enter_input",
        "is_in_user_code",
        "is_ready",
        "is_stopping",
        "keeps_spawned",
        "origin",
        "read_lock",
        "running",
        "send_lock",
        "volumes",
    )

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        #: Held by whoever reads or sends: another thread may make the client while the runner does.
        self.read_lock = allocate_lock()
        self.send_lock = allocate_lock()
        self.client: Client | None = None
        #: The input that is executed now: the message that brought it.
        self.running: dict[str, Any] | None = None
        #: The inputs that are executed beside one another, by number.
        self.active: dict[int, dict[str, Any]] = {}
        #: Messages that were read while an input ran.
        self.early: list[tuple[dict[str, Any], Any]] = []
        #: Inputs that nobody waits for any more, and whether the container is to leave.
        self.cancelled: set[int] = set()
        self.is_stopping = False
        #: Whether the user's code runs, which a nudge of the engine interrupts.
        self.is_in_user_code = False
        #: Hears of each input before it is executed, and of None after it, if anything asks which one runs.
        self.enter_input: Callable[[dict[str, Any] | None], object] | None = None
        #: Whether the service's module is imported.
        self.is_ready = False
        #: The app of the function, where it is known here.
        self.app: App | None = None
        #: Whether the engine keeps the calls that are spawned here.
        self.keeps_spawned = False
        #: The volumes that are mounted, as the engine has told of them.
        self.volumes: list[dict[str, Any]] = []
        #: What tells the app from others, if the function travelled by value.
        self.origin: str | None = None

    def send(self, control: bytes, payload: Payload = b"") -> None:
        """Sends a message of the runner."""
        if self.client is not None:
            self.client.send(control, payload)
            return
        with self.send_lock:
            self.connection.send(control, payload)

    def send_together(self, messages: list[tuple[bytes, Payload]]) -> None:
        """Sends messages of the runner, the small ones among them with one system call."""
        joined = bytearray()
        for control, payload in messages:
            is_small = len(payload) <= JOIN_LIMIT
            if joined and (not is_small or len(joined) > JOIN_LIMIT):
                self._send_bytes(joined)
                joined = bytearray()
            if is_small:
                joined += frame(control, payload)
            else:
                self.send(control, payload)
        if joined:
            self._send_bytes(joined)

    def _send_bytes(self, frames: bytearray) -> None:
        if self.client is not None:
            self.client.send_together(frames)
            return
        with self.send_lock:
            self.connection.send_bytes(frames)

    def receive(self) -> tuple[dict[str, Any], Any]:
        """The engine's next message to the runner. What an input left behind in an event loop goes on meanwhile."""
        if self.early:
            return self.early.pop(0)
        while self.client is None:
            loop = sys.modules.get("modal._runner.loop")
            if loop is not None and not self.connection.has_frame():
                loop.run_until_readable(ENGINE_FD)
            if self.client is not None or not self.read_lock.acquire(False):
                continue
            try:
                control, payload = self.connection.receive()
            finally:
                self.read_lock.release()
            if self.client is None:
                return control, payload
            self.client.take_read(control, payload)
        return self.client.receive()

    def look(self) -> None:
        """Reads what is there already, and notes which inputs are cancelled and whether the container is to leave."""
        if self.client is not None:
            self.client.look()
        elif self.read_lock.acquire(False):
            try:
                while self.client is None and (self.connection.has_frame() or self.connection.is_readable()):
                    self.early.append(self.connection.receive())
            finally:
                self.read_lock.release()
        for control, _ in self.early:
            self.note(control)

    def note(self, control: dict[str, Any]) -> None:
        """Notes whether a message ends what runs."""
        if control["type"] == "cancel":
            self.cancelled.add(control["call"])
        elif control["type"] == "stop":
            self.is_stopping = True


#: That of this process, once it is a container.
port: Port | None = None


class _Stopped(BaseException):
    """The engine wants the container to leave, in the middle of a generator."""


class _Service:
    """What this container serves: one function, or the methods of a class."""

    __slots__ = ("function", "instance", "methods", "serve")

    def __init__(
        self, function: _Function | None, methods: dict[str, _Function] | None = None, instance: Instance | None = None
    ) -> None:
        self.function = function
        self.methods = methods or {}
        #: That of the class.
        self.instance = instance
        #: Runs inputs until the container is to leave.
        self.serve: Callable[[Port, _Service], None] = _serve

    def find(self, name: str) -> _Function:
        """What an input is for."""
        return self.function or self.methods[name]


class _Function:
    """A function that this container executes."""

    __slots__ = ("call", "flags", "is_generator", "pack")

    def __init__(self, call: Callable[..., Any], pack: Callable[[Any], Payload] = pack_any) -> None:
        from modal._shared.declaration import is_generator

        self.call = call
        self.is_generator = is_generator(call)
        code = getattr(call, "__code__", None)
        #: Those of its code, which say whether it is asynchronous.
        self.flags: int = 0 if code is None else code.co_flags
        #: Pickles its results.
        self.pack = pack

    def parameters(self) -> list[str]:
        """The names of its parameters, without that of the instance."""
        code = self.call.__code__
        names = list(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
        return names[1:] if hasattr(self.call, "__self__") else names


def _start(port: Port) -> _Service | None:
    """Loads the service that the engine asks for; None if that fails, which the engine is told."""
    control, _ = port.receive()
    module, name = control["module"], control["service"]["name"]
    port.volumes = control.get("volumes") or []
    port.keeps_spawned = bool(control.get("keeps"))
    sys.breakpointhook = _break
    _put_working_directory_first()
    if control.get("mark"):
        from modal._runner.marks import install

        install(control["mark"])
    try:
        if control.get("terminal"):
            from modal._runner.terminal import offer

            offer(port, _flush)
            _enter_user_code()
        found = _load_pickled(port, module, name) if module["kind"] == "serialized" else _load(port, module, name)
        service = _class_service(port, control, found) if "methods" in control["service"] else _Service(found)
    except BaseException as error:
        _leave_user_code()
        doing = "importing `{}`".format(module["name"])
        failure = pack_exception(error) if _is_of_the_user(error) else _pack(error, doing)
        _end_output()
        port.send(b'{"type":"failed"}', failure)
        return None
    _leave_user_code()
    _end_output()
    _choose_how_to_serve(port, service, control)
    port.is_ready = True
    port.send(b'{"type":"ready"}')
    return service


def _choose_how_to_serve(port: Port, service: _Service, control: dict[str, Any]) -> None:
    """One input after another, or several at a time."""
    if control.get("batches"):
        from modal._runner.batches import serve

        service.serve = serve
    elif control["capacity"] > 1:
        from modal._runner.concurrent import Inputs

        service.serve = lambda port, service: Inputs(port, service).serve()
    else:
        from modal._runner.interruption import listen

        listen(port)


def _class_service(port: Port, control: dict[str, Any], found: _Function) -> _Service:
    """The instance of a class, on which the hooks have run that come before the first input."""
    from modal._runner.classes import Instance

    cls: Any = found.call
    instance = Instance(cls, control.get("parameters") or [])
    # Hooks may call functions, unlike what is imported: that is over.
    port.is_ready = True
    _enter_user_code()
    instance.enter()
    methods = instance.methods(control["service"]["methods"])
    return _Service(None, {name: _Function(call, found.pack) for name, call in methods.items()}, instance)


def _load_pickled(port: Port, module: dict[str, str], name: str) -> _Function:
    """A function or class that travelled by value."""
    version = "{}.{}".format(*sys.version_info)
    if version != module["python"]:
        raise ExecutionError(
            "`{}` is serialized, which needs the caller's Python `{}` in the container; it has `{}`".format(
                name, module["python"], version
            ),
            hint='use `Image.debian_slim(python_version="{}")`, or leave `serialized=True` away'.format(
                module["python"]
            ),
        )
    from binascii import a2b_base64

    from modal._shared.serialized import pack_by_value

    raw, port.origin = loads(a2b_base64(module["pickle"]))
    return _Function(raw, pack_by_value)


def _load(port: Port, module: dict[str, str], name: str) -> _Function:
    """The user's plain function, or a class of an app."""
    from modal.functions import Function, declared

    found = find(module, module.get("qualname", name), lambda: declared(module["name"], name))
    if not isinstance(found, Function):
        return _Function(found)
    port.app = found._app
    image = found._settings.image or found._app._image
    if image is not None and image._import_errors:
        raise image._import_errors[0]
    return _Function(found.get_raw_f() if found._class is None else found._class)


def find(module: dict[str, str], qualname: str, elsewhere: Callable[[], Any] = lambda: None) -> Any:
    """What the user's module has under a name, once it is imported, if it is not `elsewhere`."""
    imported = _import(module)
    # Classes of the caller's `__main__` are found in the module that it was there.
    sys.modules["__main__"] = imported
    found = elsewhere() or _find(imported, qualname)
    if found is None:
        raise ExecutionError(
            "the module `{}` has no function `{}` in the container".format(module["name"], qualname),
            hint="the module is imported again there: define the function without conditions, and if "
            "`include_source=False` is set, see that the image holds the present source",
        )
    return found


def _keep_nothing(*_args: object, **_kwargs: object) -> None:
    """In place of a loader's way to write bytecode."""


def _find(module: Any, qualname: str) -> Any:
    """What a module calls by a name, with dots for what lies in its classes; None if there is nothing."""
    found = module
    for name in qualname.split("."):
        found = getattr(found, name, None)
    return found if found is not module else None


def _import(module: dict[str, str]) -> Any:
    if SOURCE_ROOT not in sys.path:
        sys.path.insert(1, SOURCE_ROOT)
    name, path = module["name"], module.get("path")
    if module["kind"] == "script" and path is not None and os.path.exists(path):
        # By its path: a script may have the name of a module that Python has loaded or finds earlier.
        spec = script_spec(name, path)
        # Its bytecode would end with the container.
        spec.loader.set_data = _keep_nothing  # type: ignore[union-attr]
        loaded = module_from_spec(spec)
        sys.modules[name] = loaded
        spec.loader.exec_module(loaded)  # type: ignore[union-attr]
        return loaded
    __import__(name)
    return sys.modules[name]


def _put_working_directory_first() -> None:
    """Makes the working directory importable, before all else, as `python -m` does."""
    if getattr(sys.flags, "safe_path", False):
        return
    try:
        current = os.getcwd()
    except OSError:
        return  # It has been removed.
    if current in sys.path[1:]:
        sys.path.remove(current)
    sys.path.insert(1, current)


def _serve(port: Port, service: _Service) -> None:
    while True:
        control, payload = port.receive()
        if control["type"] == "stop":
            return
        if control["type"] != "call":
            continue
        port.running = control
        if port.enter_input is not None:
            port.enter_input(control)
        status, result = _execute(port, service.find(control["function"]), control, payload)
        port.running = None
        if port.enter_input is not None:
            port.enter_input(None)
        _end_output()
        port.send(RESULT % (control["call"], status), result)


def _execute(port: Port, function: _Function, control: dict[str, Any], payload: Any) -> tuple[bytes, Payload]:
    """Runs one input; gives the status and the pickled result or exception."""
    name = control["function"]
    try:
        args, kwargs = _unpack(payload, name)
        _enter_user_code()
        try:
            result = function.call(*args, **kwargs)
            if function.is_generator:
                _Items(port, function, control).send_all(result)
                return b"ok", b""
            if hasattr(result, "cr_frame"):
                from modal._runner.loop import run

                result = run(result)
        finally:
            _leave_user_code()
        return b"ok", _pack_result(function, result, name)
    except (_Stopped, ConnectionClosed):
        raise
    except BaseException as error:
        if port.connection.fileno() < 0:
            _end_child(error)
        if port.is_stopping:
            raise _Stopped from None
        if _is_of_the_user(error):
            return b"interrupted", pack_exception(error)
        return b"exception", _pack(error, f"the function `{name}`")


def _end_child(error: BaseException) -> NoReturn:
    """Ends a forked child as Python itself does after an uncaught exception."""
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    else:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    _flush()
    os._exit(code)


class _Items:
    """The values of one call of a generator, sent as they come and never far ahead of who consumes them."""

    def __init__(self, port: Port, function: _Function, control: dict[str, Any]) -> None:
        self._port = port
        self._function = function
        self._call = control["call"]
        self._name = control["function"]
        #: Sizes of those that are not consumed yet, oldest first.
        self._ahead: list[int] = []

    def send_all(self, generator: Any) -> None:
        """Runs a generator to its end."""
        if not hasattr(generator, "__next__"):
            from modal._runner.loop import iterate

            generator = iterate(generator)
        for value in generator:
            _leave_user_code(is_for_good=False)
            payload = _pack_result(self._function, value, self._name)
            _flush()
            self._port.send(ITEM % self._call, payload)
            self._ahead.append(len(payload))
            while len(self._ahead) >= AHEAD or sum(self._ahead) >= AHEAD_BYTES:
                self._wait()
            _enter_user_code()

    def _wait(self) -> None:
        control, _ = self._port.receive()
        if control["type"] == "stop":
            raise _Stopped
        if control["type"] == "cancel" and control["call"] == self._call:
            from modal.exception import InputCancellation

            raise InputCancellation("the input was cancelled")
        if control["type"] == "more" and control["call"] == self._call:
            del self._ahead[: control["count"]]


def _unpack(payload: Any, name: str) -> Any:
    try:
        return unpack(payload)
    except DeserializationError:
        raise
    except Exception as error:
        raise DeserializationError(
            f"the arguments of `{name}` cannot be read in the container: {type(error).__name__}: {error}",
            hint="install what defines their classes in the image, or pass plain data",
        ) from error


def _pack_result(function: _Function, result: Any, name: str) -> Payload:
    try:
        return function.pack(result)
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


def _close_loop() -> None:
    loop = sys.modules.get("modal._runner.loop")
    if loop is not None:
        loop.close()


def _run_exit_handlers() -> None:
    import atexit

    atexit._run_exitfuncs()


def _break(*args: Any, **kwargs: Any) -> Any:
    from modal._runner.terminal import debug

    return debug(sys._getframe(1), *args, **kwargs)


def _console() -> Console | None:
    # Not imported: most containers have none, and a debugger that the user left while it stepped would show the import.
    terminal = sys.modules.get("modal._runner.terminal")
    return terminal.console if terminal is not None else None


def _is_of_the_user(error: BaseException) -> bool:
    """Whether the user, whose terminal is here, has pressed Ctrl-C: to them, that is as if there were no container."""
    console = _console()
    return isinstance(error, KeyboardInterrupt) and console is not None and console.is_open


def _enter_user_code() -> None:
    """From here on, what ends an input interrupts what runs, and with the user's terminal, Ctrl-C does."""
    if port is not None:
        port.is_in_user_code = True
    console = _console()
    if console is not None:
        console.enter()
        if console.opens_always:
            console.open()


def _leave_user_code(is_for_good: bool = True) -> None:
    """What would end an input, and with the user's terminal Ctrl-C, waits until the user's code runs again."""
    if port is not None:
        port.is_in_user_code = False
    console = _console()
    if console is not None:
        console.leave()
        if is_for_good and console.is_open and sys.gettrace() is not None:
            # A debugger that was left while it stepped.
            sys.settrace(None)


def _end_output() -> None:
    """Before a result: what was written is on its way, and the user's terminal, if it was here, is given back."""
    _flush()
    console = _console()
    if console is not None:
        console.close()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # Closed or replaced by the user's code.
