"""A small engine for tests: it speaks the protocol, and runs functions in the real runner without any container.

Also a program: ``fake_engine.py engine`` is what a plain script finds as ``modal`` on PATH.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import sys
import threading
import time
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "python"
RUNNER = PACKAGE / "modal" / "_runner" / "__main__.py"

sys.path.insert(0, str(PACKAGE))

from modal._shared.wire import Connection, ConnectionClosed, encode_json  # noqa: E402


def wait_until(condition):
    """Waits for something that another thread or process does."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def whole(payload) -> bytes:
    """A received payload as bytes."""
    if not hasattr(payload, "read"):
        return bytes(payload)
    with payload:
        return payload.read()


class Runner:
    """The real runner as a process, with a socket as its descriptor 3."""

    def __init__(
        self, module: dict, function: str, python: str = sys.executable, keeps: bool = False, **environment: str
    ) -> None:
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
        self.lock = threading.Lock()
        self.connection = Connection(ours)
        service = {"kind": "function", "name": function}
        self.send({"type": "start", "module": module, "service": service, "capacity": 1, "keeps": keeps})

    def send(self, control: dict, payload: bytes = b"") -> None:
        with self.lock:
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


class Worker:
    """What runs one function: a runner at a time, one input at a time."""

    def __init__(self, engine: FakeEngine, function: dict, send=None) -> None:
        self.engine = engine
        self.send = send or engine.send
        #: Calls of the runner, by its own numbers.
        self.calls: dict[int, Worker] = {}
        self.function = function
        self.inputs: queue.Queue = queue.Queue()
        self.runner: Runner | None = None
        self.running: dict | None = None
        self.lock = threading.Lock()
        #: Calls that have their answer.
        self.answered: set[int] = set()
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self) -> None:
        for control, payload in iter(self.inputs.get, None):
            if control["call"] not in self.answered:
                self.running = control
                self.run(control, payload)
        if self.runner is not None:
            self.runner.stop()

    def claim(self, number: int) -> bool:
        """Whether the call is still to be answered, which is the claimant's to do now."""
        with self.lock:
            is_free = number not in self.answered
            self.answered.add(number)
            return is_free

    def discard(self) -> None:
        with self.lock:
            runner, self.runner = self.runner, None
            if runner is not None:
                os.kill(runner.process, signal.SIGKILL)
                runner.stop()

    def run(self, control: dict, payload: bytes) -> None:
        retries = (self.function["retries"] or {"max_retries": 0})["max_retries"]
        for attempt in range(retries + 1):
            try:
                answer, result = self.attempt(control, payload)
            except ConnectionClosed:
                self.discard()
                answer = {"type": "result", "call": control["call"], "status": "error", "error": "InternalFailure"}
                result = b""
            if answer["status"] == "ok" or attempt == retries or control["call"] in self.answered:
                break
            self.engine.retried.append(attempt + 1)
        self.running = None
        if self.claim(control["call"]):
            self.send(answer, result)
        else:
            self.discard()

    def attempt(self, control: dict, payload: bytes) -> tuple[dict, bytes]:
        if self.runner is None:
            self.runner = self.start()
            answer, result = self.runner.receive()
            if answer["type"] == "failed":
                self.runner.stop()
                self.runner = None
                return {"type": "result", "call": control["call"], "status": "exception"}, result
        if control["call"] in self.answered:
            raise ConnectionClosed("given up while it started")
        self.engine.ahead = 0
        self.runner.send(control, payload)
        while True:
            answer, result = self.runner.receive()
            if answer["type"] == "result":
                return answer, result
            if answer["type"] == "item":
                self.engine.count_ahead(1)
                self.send(answer, result)
            else:
                self.nested(answer, result)

    def nested(self, control: dict, payload: bytes) -> None:
        """A call that the function makes itself, or what it says about one."""
        number = control["call"]
        if control["type"] == "call":
            runner = self.runner
            worker = Worker(self.engine, self.engine.functions[control["function"]], send=runner.send)
            self.calls[number] = worker
            worker.inputs.put((control, payload))
            worker.inputs.put(None)
        elif control["type"] == "more":
            self.calls[number].more(control)
        elif control["type"] == "cancel":
            self.calls[number].cancel(number)

    def start(self) -> Runner:
        module = dict(self.function["module"])
        source = self.function["source"]["entries"]
        paths = {str(Path(entry["source"]).parent) for entry in [*source, *self.function["mounts"]["entries"]]}
        if module["kind"] == "script" and source:
            module["path"] = source[0]["source"]
        variables = {name: value for secret in self.function["secrets"] for name, value in secret["values"].items()}
        return Runner(module, self.function["name"], **{"PYTHONPATH": os.pathsep.join(paths), **variables})

    def more(self, control: dict) -> None:
        runner, running = self.runner, self.running  # The working thread may end either meanwhile.
        if runner is not None and running is not None and running["call"] == control["call"]:
            self.engine.count_ahead(-control["count"])
            try:
                runner.send(control)
            except ConnectionClosed:
                pass  # It has ended.

    def cancel(self, number: int, error: str = "RemoteError", message: str = "the call was cancelled") -> None:
        if not self.claim(number):
            return
        self.send({"type": "result", "call": number, "status": "error", "error": error, "message": message})
        with self.lock:
            runner, running = self.runner, self.running
            if runner is not None and running is not None and running["call"] == number:
                os.kill(runner.process, signal.SIGKILL)

    def stop(self) -> None:
        for message in self.engine.of_type("call"):
            if message["function"] == self.function["name"]:
                self.cancel(message["call"], "ExecutionError", "the app was stopped")
        self.inputs.put(None)
        self.thread.join(10)


class FakeEngine:
    """Answers one client. Functions run in the runner, or by `handler(payload) -> (control, payload)` where one is set."""

    def __init__(self, sock: socket.socket) -> None:
        self.connection = Connection(sock)
        self.lock = threading.Lock()
        self.messages: list[dict] = []
        self.workers: dict[str, Worker] = {}
        self.functions: dict[str, dict] = {}
        self.handler = None
        self.start_error: dict | None = None
        self.answers_start = True
        self.die_on_call = False
        #: The attempts that failed and were repeated.
        self.retried: list[int] = []
        #: Items of generators that nobody has acknowledged.
        self.ahead = 0
        self.most_ahead = 0
        self.identified = 0

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
            self.stop_workers()
            self.connection.close()

    def of_type(self, kind: str) -> list[dict]:
        return [message for message in self.messages if message["type"] == kind]

    def count_ahead(self, change: int) -> None:
        with self.lock:
            self.ahead += change
            self.most_ahead = max(self.most_ahead, self.ahead)

    def send(self, control: dict, payload: bytes = b"") -> None:
        try:
            with self.lock:
                self.connection.send(encode_json(control).encode(), payload)
        except ConnectionClosed:
            pass  # The serving thread notices as well.

    def answer(self, control: dict, payload) -> None:
        kind = control["type"]
        if kind == "hello":
            self.send({"type": "welcome", "protocol": 3, "engine": "test"})
        elif kind in ("app.start", "app.describe"):
            if self.answers_start:
                self.start(kind, control)
        elif kind == "app.stop":
            self.stop_workers()
            self.send({"type": "app.stopped", "request": control["request"]})
        elif kind == "call" and control["function"] not in self.functions:
            answer = {"status": "error", "error": "NotFoundError", "message": "the app has no such function"}
            self.send({"type": "result", "call": control["call"], **answer})
        elif kind == "call":
            if control.get("identify"):
                self.identified += 1
                self.send({"type": "call.accepted", "call": control["call"], "id": f"fc-{self.identified}"})
            self.call(control, payload)
        elif kind == "more":
            for worker in self.workers.values():
                worker.more(control)
        elif kind == "cancel":
            self.cancel(control["call"])

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
        name = control["function"]
        if name not in self.workers:
            self.workers[name] = Worker(self, self.functions[name])
        self.workers[name].inputs.put((control, whole(payload)))

    def cancel(self, number: int) -> None:
        for call in self.of_type("call"):
            if call["call"] == number and call["function"] in self.workers:
                self.workers[call["function"]].cancel(number)

    def stop_workers(self) -> None:
        for worker in self.workers.values():
            worker.stop()
        self.workers.clear()


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
