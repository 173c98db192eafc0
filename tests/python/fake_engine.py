"""A small engine for tests: it speaks the protocol, and runs functions in the real runner without any container.

Also a program: ``fake_engine.py engine`` is what a plain script finds as ``modal`` on PATH.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "python"
RUNNER = PACKAGE / "modal" / "_runner.py"

sys.path.insert(0, str(PACKAGE))

from modal._wire import Connection, ConnectionClosed, encode_json  # noqa: E402


def whole(payload) -> bytes:
    """A received payload as bytes."""
    if not hasattr(payload, "read"):
        return bytes(payload)
    with payload:
        return payload.read()


class Runner:
    """The real runner as a process, with a socket as its descriptor 3."""

    def __init__(self, module: dict, function: str, python: str = sys.executable, **environment: str) -> None:
        self.code: int | None = None
        ours, theirs = socket.socketpair()
        os.set_inheritable(theirs.fileno(), True)  # For the case that it is 3 already.
        self.process = os.posix_spawn(
            python,
            [python, str(RUNNER)],
            {**os.environ, "MODAL_IS_REMOTE": "1", **environment},
            file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 3)],
        )
        theirs.close()
        self.connection = Connection(ours)
        self.send({"type": "start", "module": module, "function": function})

    def send(self, control: dict, payload: bytes = b"") -> None:
        self.connection.send(encode_json(control).encode(), payload)

    def receive(self) -> tuple[dict, bytes]:
        control, payload = self.connection.receive()
        return control, whole(payload)

    def stop(self) -> int:
        """Says stop and returns the exit code; may be called again."""
        if self.code is not None:
            return self.code
        try:
            self.send({"type": "stop"})
        except ConnectionClosed:
            pass
        _, status = os.waitpid(self.process, 0)
        self.connection.close()
        self.code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
        return self.code


class FakeEngine:
    """Answers one client. Functions run in the runner, or by `handler(payload) -> (control, payload)` where one is set."""

    def __init__(self, sock: socket.socket) -> None:
        self.connection = Connection(sock)
        self.messages: list[dict] = []
        self.runners: dict[str, Runner] = {}
        self.functions: dict[str, dict] = {}
        self.handler = None
        self.start_error: dict | None = None
        self.die_on_call = False
        self.most_in_flight = 0

    def serve_in_thread(self) -> threading.Thread:
        thread = threading.Thread(target=self.serve, daemon=True)
        thread.start()
        return thread

    def serve(self) -> None:
        try:
            while True:
                control, payload = self.connection.receive()
                self.messages.append(control)
                self.answer(control, payload)
        except ConnectionClosed:
            pass
        finally:
            for runner in self.runners.values():
                runner.stop()
            self.connection.close()

    def of_type(self, kind: str) -> list[dict]:
        return [message for message in self.messages if message["type"] == kind]

    def send(self, control: dict, payload: bytes = b"") -> None:
        self.connection.send(encode_json(control).encode(), payload)

    def answer(self, control: dict, payload) -> None:
        kind = control["type"]
        if kind == "hello":
            self.send({"type": "welcome", "protocol": 2, "engine": "test"})
        elif kind in ("app.start", "app.describe"):
            self.start(kind, control)
        elif kind == "app.stop":
            self.send({"type": "app.stopped", "request": control["request"]})
        elif kind == "call" and control["function"] not in self.functions:
            answer = {"status": "error", "error": "NotFoundError", "message": "the app has no such function"}
            self.send({"type": "result", "call": control["call"], **answer})
        elif kind == "call":
            self.call(control, payload)

    def start(self, kind: str, control: dict) -> None:
        number = control["request"]
        if self.start_error is not None:
            self.send({"type": "error", "request": number, **self.start_error})
        elif kind == "app.describe":
            self.send({"type": "app.described", "request": number, "function": "f", "image_id": "im-1"})
        else:
            self.functions = {function["name"]: function for function in control["functions"]}
            self.send(
                {
                    "type": "app.started",
                    "request": number,
                    "app_id": "ap-1",
                    "images": {image["id"]: f"im-{image['id']}" for image in control["images"]},
                    "functions": {name: f"fu-{name}" for name in self.functions},
                }
            )

    def call(self, control: dict, payload) -> None:
        if self.die_on_call:
            self.connection.shut_down()
            return
        if self.handler is not None:
            answer, result = self.handler(payload)
            if answer is not None:
                self.send({"type": "result", "call": control["call"], **answer}, result)
            return
        runner = self.runner(control["function"])
        if isinstance(runner, bytes):
            self.send({"type": "result", "call": control["call"], "status": "exception"}, runner)
            return
        runner.send(control, whole(payload))
        self.send(*runner.receive())

    def runner(self, name: str) -> Runner | bytes:
        if name in self.runners:
            return self.runners[name]
        function = self.functions[name]
        module = dict(function["module"])
        environment = {
            "PYTHONPATH": os.pathsep.join({str(Path(e["source"]).parent) for e in function["source"]["entries"]})
        }
        if module["kind"] == "script" and function["source"]["entries"]:
            module["path"] = function["source"]["entries"][0]["source"]
        runner = Runner(module, name, **environment)
        control, payload = runner.receive()
        if control["type"] == "failed":
            runner.stop()
            return payload
        self.runners[name] = runner
        return runner


def main() -> None:
    """The `modal engine` of a plain script; logs its messages where the test wants them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    engine = FakeEngine(socket.socket(fileno=int(os.environ["MODAL_ENGINE_FD"])))
    engine.serve()
    log = os.environ.get("FAKE_ENGINE_LOG")
    if log:
        Path(log).write_text(json.dumps(engine.messages))


if __name__ == "__main__":
    main()
