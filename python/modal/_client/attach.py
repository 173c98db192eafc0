"""Calls of an app that runs already, in whatever process."""

from __future__ import annotations

import os

from modal._client.engine import Engine, connect
from modal._shared.errors import engine_error, unpack_exception
from modal._shared.interpreter import AF_UNIX, SOCK_STREAM, encode_json, socket
from modal._shared.payload import pack_any, unpack
from modal._shared.wire import Connection
from modal.exception import ServiceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any


class AttachedApp:
    """An app that belongs to somebody else: leaving it leaves it alone.

    ```python
    with attach("ap-…") as app:
        app.remote("describe", rows)
    ```
    """

    def __init__(self, engine: Engine, attached: dict[str, Any]) -> None:
        self._engine = engine
        self.app_id: str = attached["app_id"]
        #: Its functions by name, with their ids.
        self.functions: dict[str, str] = {name: about["id"] for name, about in attached["functions"].items()}

    def remote(self, function: str, *args: Any, **kwargs: Any) -> Any:
        """Runs a function of the app and returns its result."""
        receiver = self._engine.receiver()
        inputs = pack_any((args, kwargs))
        try:
            self._engine.start_call(receiver, encode_json(function).encode(), inputs)
            self._engine.wait(receiver)
        except KeyboardInterrupt:
            self._engine.cancel_calls_of(receiver)
            raise
        _, control, payload = receiver.arrived.popleft()
        if control["status"] == "ok":
            return unpack(payload)
        raise unpack_exception(payload) if control["status"] == "exception" else engine_error(control)

    def stop(self) -> None:
        """Stops the app for everybody."""
        self._engine.request("app.stop", {"app": self.app_id})

    def __enter__(self) -> AttachedApp:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._engine.request("app.leave", {})
        except ServiceError:
            pass  # The app has ended, and its host with it.
        finally:
            self._engine.close()


def attach(app: str) -> AttachedApp:
    """Attaches to the running app of this id or name."""
    engine = connect(output=False)
    try:
        attached, passed = _request(engine, app)
        if attached.get("elsewhere"):
            if len(passed) != 1:
                raise ServiceError(f"the engine gave no connection with the process that runs the app `{app}`")
            here = engine
            engine = Engine(Connection(socket(AF_UNIX, SOCK_STREAM, 0, passed.pop())))
            here.close()
            engine.greet(output=False)
            attached, passed = _request(engine, attached["app_id"])
    except BaseException:
        engine.close()
        raise
    for fd in passed:
        os.close(fd)
    return AttachedApp(engine, attached)


def _request(engine: Engine, app: str) -> tuple[dict[str, Any], list[int]]:
    """The answer, and the descriptors that came with it."""
    connection = engine._connection
    passed = connection.passed = []
    try:
        return engine.request("app.attach", {"app": app}), passed
    finally:
        connection.passed = None
