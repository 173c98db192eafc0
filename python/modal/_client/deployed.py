"""Connections of this process with the processes of deployed apps."""

from __future__ import annotations

import os
import select
from _thread import allocate_lock

from modal._client.engine import ENGINE_FD, PROTOCOL, Engine, command
from modal._shared.errors import engine_error
from modal._shared.interpreter import AF_UNIX, SOCK_STREAM, socket, socketpair
from modal._shared.wire import Connection, ConnectionClosed, encode_json
from modal.exception import NotFoundError, ServiceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: How often a process that ends just when somebody comes is followed by another attempt.
ATTEMPTS = 10

#: Seconds after which it is said that the process of an app does not answer.
SILENCE = 5

_hosts: dict[tuple[int, str, str, int | None], Host] = {}
_connecting = allocate_lock()


class Host(Engine):
    """The process of a deployed app, to which this process is attached."""

    keeps_results = True
    waits_until_kept = True

    def __init__(self, connection: Connection, app: str) -> None:
        super().__init__(connection)
        self._app = app
        #: The app's id, once it is attached to.
        self.app_id = ""
        #: The app's functions by name, and what is known of them.
        self.functions: dict[str, dict[str, Any]] = {}

    def attach(self, app_id: str, version: int | None) -> None:
        """Introduces this process, and attaches to the app."""
        import modal

        hello = {"type": "hello", "protocol": PROTOCOL, "package": modal.__version__, "package_directory": ""}
        self.send_frame(encode_json(hello).encode())
        body = {"app": app_id} if version is None else {"app": app_id, "version": version}
        receiver = self.ask("app.attach", body)
        self._tell_of_silence()
        self.functions = self.answer(receiver)["functions"]
        self.app_id = app_id

    def _tell_of_silence(self) -> None:
        """Waits until the process says something; after a while tells the user that it does not."""
        poll = select.poll()
        poll.register(self._connection.fileno(), select.POLLIN)
        if poll.poll(SILENCE * 1000):
            return
        from modal._shared.warned import warn

        pid = self._connection.peer()
        why = "it is stopped" if is_stopped(pid) else "it is very busy"
        warn(
            f"the process `{pid}` of the deployed app `{self._app}` has not answered for {SILENCE} s, and is awaited: "
            f"{why}. `kill -CONT {pid}` has it go on if it was stopped, `kill -KILL {pid}` ends it"
        )

    def is_lost(self) -> bool:
        """Whether the process has ended, as far as can be seen without asking it."""
        if self._failure is not None:
            return True
        poll = select.poll()
        poll.register(self._connection.fileno(), select.POLLHUP)
        return bool(poll.poll(0))

    def _take(self, control: dict[str, Any], payload: Any) -> None:
        if control["type"] == "app.ended" and self._failure is None:
            self._failure = ServiceError(f"the app `{self._app}` was stopped")
            self._wake_all()
            return
        super()._take(control, payload)

    def _fail(self, message: str | None = None) -> Exception:
        if self._failure is None and message is None:
            self._failure = ServiceError(
                f"the process of the deployed app `{self._app}` ended while it was needed",
                hint="calls that it ran are lost; the next call starts it again. `modal app logs` may say more",
            )
        return super()._fail(message)


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped a process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except OSError:
        return False


def reach(environment: str, app: str, version: int | None) -> Host:
    """A connection with the process of a deployed app, which is started if need be."""
    key = (os.getpid(), environment, app, version)
    with _connecting:
        host = _hosts.get(key)
        if host is None or host.is_lost():
            host = _hosts[key] = _connect(environment, app, version)
        return host


def reach_call(call_id: str) -> Host:
    """A connection with the process of the deployed app that keeps a call."""
    if not call_id.startswith("fc-"):
        raise NotFoundError(f"there is no call `{call_id}`: ids of calls begin with `fc-`")
    return reach("", call_id, None)


def _connect(environment: str, app: str, version: int | None) -> Host:
    for attempt in range(ATTEMPTS):
        app_id, connection = _introduce(environment, app)
        host = Host(connection, app)
        try:
            host.attach(app_id, version)
            return host
        except BaseException as error:
            connection.close()
            # It was about to end when this process came.
            if type(error) is not ServiceError or attempt == ATTEMPTS - 1:
                raise
    raise AssertionError


def _introduce(environment: str, app: str) -> tuple[str, Connection]:
    """Has the `modal` command find the app's process, or start it; the app's id and the connection."""
    program = command()
    ours, theirs = socketpair(AF_UNIX, SOCK_STREAM)
    variables = {**os.environ, ENGINE_FD: str(theirs.fileno())}
    os.set_inheritable(theirs.fileno(), True)
    connection = Connection(ours)
    passed = connection.passed = []
    try:
        try:
            process = os.posix_spawn(program, [program, "engine", "--introduce", environment, app], variables)
        finally:
            theirs.close()
        try:
            answer, _ = connection.receive()
        finally:
            os.waitpid(process, 0)
    except (OSError, ConnectionClosed) as error:
        raise ServiceError(f"`{program}` could not find the app `{app}`: {error}") from None
    finally:
        connection.close()
    if answer["type"] == "error":
        raise engine_error(answer)
    return answer["app_id"], Connection(socket(AF_UNIX, SOCK_STREAM, 0, passed.pop()))


def missing_function(functions: dict[str, dict[str, Any]], app: str, name: str) -> NotFoundError:
    """The error for a function that an app has not."""
    import difflib

    known = sorted(functions)
    close = difflib.get_close_matches(name, known, n=1)
    listed = ", ".join(f"`{each}`" for each in known)
    return NotFoundError(
        f"the app `{app}` has no function `{name}`" + (f": did you mean `{close[0]}`?" if close else ""),
        hint=f"it has {listed}; `modal app list` shows all apps" if known else "it has no functions",
    )
