"""Calls that a function makes from inside its container, over the runner's own socket.

Loaded when a function first calls another one. From then on whoever waits, for a result or for the runner's next input,
reads the socket and hands on what belongs to others.
"""

from __future__ import annotations

import sys
from _thread import allocate_lock

from modal._calls.conversation import Conversation, Receiver
from modal._runner.inputs import calling_input
from modal._shared.errors import engine_error
from modal._shared.interpreter import decode_json, encode_json
from modal._shared.wire import ConnectionClosed
from modal.exception import ExecutionError, ServiceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from modal._runner.runner import Port
    from modal._shared.payload import Payload
    from modal.functions import Function

_creating = allocate_lock()


class _Inbox(Receiver):
    """Where the runner's own messages arrive."""

    __slots__ = ()

    def wake(self) -> None:
        super().wake()
        _wake_loop()


class Client(Conversation):
    """The container's calls, beside the messages of its runner."""

    def __init__(self, port: Port) -> None:
        super().__init__(port.connection, port.read_lock, port.send_lock)
        self._port = port
        self._inbox = _Inbox()
        self.waits_until_kept = port.keeps_spawned
        #: What other apps have, by how they are named.
        self._functions: dict[str, dict[str, dict[str, Any]]] = {}
        # Woken with all who wait when the engine is lost.
        self._pending["runner"] = self._inbox

    def prepare_call(
        self, receiver: Receiver, function: bytes, spawned: bool = False, first: int | None = None, index: int = 0
    ) -> tuple[int, bytes]:
        number, control = super().prepare_call(receiver, function, spawned, first, index)
        caller = calling_input(self._port)
        # The engine ends what an input has called with the input itself.
        return number, control if caller is None else control[:-1] + b',"input":%d}' % caller

    def _take(self, control: dict[str, Any], payload: Any) -> None:
        self._inbox.arrived.append((0, control, payload))
        self._inbox.wake()
        if control["type"] in ("cancel", "stop") and self._port.is_in_user_code:
            # Whichever thread has read it: it is the input's to hear.
            interruption = sys.modules.get("modal._runner.interruption")
            if interruption is not None:
                interruption.nudge()

    def request(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        """Asks the engine for something; returns its answer."""
        receiver = self.receiver()
        number = next(self._numbers)
        self._pending[number] = receiver
        try:
            self.send_frame(encode_json({"type": kind, "call": number, **body}).encode())
            self.wait(receiver)
        except BaseException:
            self.cancel_calls_of(receiver)
            raise
        _, control, _ = receiver.arrived.popleft()
        if control["status"] != "ok":
            raise engine_error(control)
        return control

    def functions_of(self, app: str) -> dict[str, dict[str, Any]]:
        """What is known about the functions of a deployed app, which is named in JSON."""
        known = self._functions.get(app)
        if known is None:
            known = self._functions[app] = self.request("app.functions", {"app": decode_json(app)})["value"]
        return known

    def look(self) -> None:
        """Takes in what is there already, and has the port note what of it ends an input."""
        self.poll(self._inbox)
        for _, control, _ in list(self._inbox.arrived):
            self._port.note(control)

    def take_read(self, control: dict[str, Any], payload: Any) -> None:
        """Hands on what the runner read while it did not know of this yet."""
        self._dispatch(control, payload)
        self._offer_turn()

    def receive(self) -> tuple[dict[str, Any], Any]:
        """The runner's next message."""
        inbox = self._inbox
        try:
            while not inbox.arrived:
                loop = sys.modules.get("modal._runner.loop")
                if loop is None or not loop.is_usable():
                    self.wait(inbox)
                    continue
                # What an input left behind in the loop goes on meanwhile, and may call functions itself.
                self.read_in_background()
                loop.run_until(lambda: inbox.arrived or self._failure is not None)
                self.check()
        except ServiceError as error:
            raise ConnectionClosed(str(error)) from None
        _, control, payload = inbox.arrived.popleft()
        return control, payload

    def send(self, control: bytes, payload: Payload) -> None:
        """Sends a message of the runner."""
        try:
            self.send_frame(control, payload)
        except ServiceError as error:
            raise ConnectionClosed(str(error)) from None

    def send_together(self, frames: bytearray) -> None:
        """Sends whole messages of the runner."""
        try:
            self.send_frames(frames)
        except ServiceError as error:
            raise ConnectionClosed(str(error)) from None


def reach(function: Function[Any, Any, Any]) -> Client:
    """What calls a function of the same app from here, or an error that says why nothing can."""
    port = _port(function._name)
    if port.app is not None and not any(function._app is member for member in port.app._family):
        raise ExecutionError(
            f"`{function._name}` belongs to {function._app!r}, and this container to {port.app!r}",
            hint="a container can call the functions of its own app: declare them with the same `modal.App`",
        )
    origin = function._app._origin
    if port.origin is not None and origin is not None and origin != port.origin:
        raise ExecutionError(
            f"`{function._name}` belongs to another app than the function that this container runs",
            hint="a container can call the functions of its own app: declare them with the same `modal.App`",
        )
    return _client(port)


def reach_any(name: str) -> Client:
    """What calls functions from here, of whatever app."""
    return _client(_port(name))


def _port(name: str) -> Port:
    """The runner's connection, or an error that says why nothing can be called over it."""
    runner = sys.modules.get("modal._runner.runner")
    port: Port | None = runner.port if runner is not None else None
    if port is None and "modal._runner.command" in sys.modules:
        raise ExecutionError(
            f"`{name}` cannot be called from here: this image runs one call, without Lamina",
            hint="call it with `.local()`",
        )
    if port is None:
        raise ExecutionError(
            f"`{name}` was called inside a container, in a process other than that of the function",
            hint="call it in the function itself, and give the process what it returns",
        )
    if port.connection.fileno() < 0:
        raise ServiceError(
            "a forked process cannot call functions of its parent's app",
            hint="use threads, or call `.map` in the parent",
        )
    if not port.is_ready:
        raise ExecutionError(
            f"`{name}` was called inside a container while the module of its function was imported",
            hint='module-level code runs there, too: put it into a function, or below `if __name__ == "__main__":`',
        )
    return port


def _client(port: Port) -> Client:
    with _creating:
        if port.client is None:
            port.client = Client(port)
            # The runner may be waiting in the loop for its socket, which others read from now on.
            _wake_loop()
        return port.client


def _wake_loop() -> None:
    loop = sys.modules.get("modal._runner.loop")
    if loop is not None:
        loop.wake()
