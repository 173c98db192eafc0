"""The conversations in `tests/data/protocol`, which the engine's tests read as well: one side is the package here."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import socket
import sys
import threading
from pathlib import Path

import pytest
from fake_engine import Runner, whole

import modal
from modal._client import attach as attaching
from modal._client.engine import Engine
from modal._client.running import RunningApp
from modal._shared.wire import HEADER, VERSION, Connection, ConnectionClosed, encode_json
from modal.exception import FunctionTimeoutError, SerializationError

DATA = Path(__file__).parents[1] / "data" / "protocol"
#: What is of the machine: the test looks at their kind.
LOCAL = ("package", "python", "python_program", "uv", "cwd", "package_directory", "cloudpickle_directory")


def conversation(name: str) -> list[dict]:
    return json.loads((DATA / f"{name}.json").read_text())


def socket_of(descriptor: int) -> str:
    """What names the socket behind a descriptor, whatever number it has."""
    return os.readlink(f"/proc/self/fd/{descriptor}")


def open_descriptors() -> list[str]:
    """What every descriptor of this process leads to; those of other tests may close meanwhile."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return found


class Script:
    """The engine's part of a conversation: expects what is not from the engine, word for word, and says what is."""

    def __init__(self, messages: list[dict]) -> None:
        self.messages = messages
        self.failure: BaseException | None = None
        ours, theirs = socket.socketpair()
        self.connection = Connection(ours)
        self.engine = Engine(Connection(theirs))
        self.thread = threading.Thread(target=self.play, daemon=True)
        self.thread.start()

    def play(self) -> None:
        try:
            for message in self.messages:
                if message["from"] == "engine":
                    payload = pickle.dumps(message["value"], 4) if "value" in message else b""
                    self.connection.send(encode_json(message["control"]).encode(), payload)
                else:
                    control, payload = self.connection.receive()
                    compare(control, message["control"])
                    if "value" in message:
                        assert plain(pickle.loads(whole(payload))) == message["value"]
        except BaseException as error:
            self.failure = error
            self.connection.shut_down()

    def finish(self) -> None:
        self.thread.join(20)
        if self.failure is not None:
            raise self.failure
        assert not self.thread.is_alive()


def compare(control: dict, expected: dict) -> None:
    if control["type"] == "hello":
        assert control.keys() == expected.keys()
        for key in LOCAL:
            assert control[key] is None or isinstance(control[key], type(expected[key]))
        control = {**control, **{key: expected[key] for key in LOCAL}}
    if control["type"] == "app.start":
        control["images"][0]["step"]["local_python"] = expected["images"][0]["step"]["local_python"]
        for function in control["functions"]:
            function["source"]["entries"][0]["source"] = "/home/me/golden.py"
    assert control == expected


def plain(value: object) -> object:
    """A value as JSON has it: without tuples."""
    return json.loads(json.dumps(value))


def declare(tmp_path, monkeypatch) -> modal.App:
    """The app that the conversation is about."""
    (tmp_path / "golden.py").write_text("def double(x): return 2 * x\ndef numbers(n): yield from range(n)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "golden", raising=False)
    import golden

    secret = modal.Secret.from_dict({"TOKEN": "t", "REGION": "r"}).allow("REGION")
    image = modal.Image.debian_slim("3.11").run_commands("make", env={"V": "1"}, secrets=[secret], force_build=True)
    app = modal.App("demo", image=image)
    secrets = [modal.Secret.from_dict({"S": "s"})]
    limits = {"cpu": 0.5, "memory": (128, 256), "max_containers": 2, "timeout": 60}
    app.function(env={"A": "1"}, secrets=secrets, retries=3, **limits)(golden.double)
    app.function(name="count")(golden.numbers)
    return app


def test_the_package_and_the_engine(tmp_path, monkeypatch):
    app = declare(tmp_path, monkeypatch)
    script = Script(conversation("package"))
    monkeypatch.setattr(
        "modal._client.engine.connect", lambda output, interactive=False: script.engine.greet(output) or script.engine
    )
    double, count = app._functions["double"], app._functions["count"]
    with RunningApp(app, output=True):
        assert (app.app_id, app._image.object_id) == ("ap-1", "im-1")
        assert double.remote(21) == 42
        with pytest.raises(SerializationError, match="LookupError"):
            double.remote(0)
        with pytest.raises(FunctionTimeoutError) as caught:
            double.remote(1)
        assert caught.value.hint == "raise `timeout`"
        call = double.spawn(1)
        assert call.object_id == "fc-1"
        call.cancel()
        assert list(count.remote_gen(1)) == [0]
    script.finish()


def test_an_attached_app(monkeypatch):
    script = Script(conversation("attached"))
    monkeypatch.setattr(attaching, "connect", lambda output: script.engine)
    with attaching.attach("demo") as app:
        assert (app.app_id, app.functions) == ("ap-1", {"double": "fu-1"})
        assert app.remote("double", 21) == 42
    script.finish()


GOLDEN = """
import modal

app = modal.App("demo")

@app.function()
def add(x, y):
    return x + y

@app.function()
def numbers(n):
    yield from range(n)

@app.function()
def double(x):
    total = add.remote(x, x)
    call = add.spawn(1, 2)
    known = call.object_id
    call.cancel()
    ids = modal.current_input_id(), modal.current_function_call_id()
    return (total, known, list(numbers.remote_gen(1)), *ids)
"""


def test_the_runner_and_the_engine(tmp_path, capfd):
    (tmp_path / "golden.py").write_text(GOLDEN)
    start, *messages = conversation("runner")
    module = {**start["control"]["module"], "path": str(tmp_path / "golden.py")}
    runner = Runner(module, start["control"]["service"]["name"])
    for message in messages[:-1]:
        if message["from"] == "engine":
            payload = pickle.dumps(message["value"], 4) if "value" in message else b""
            runner.send(message["control"], payload)
        else:
            control, payload = runner.receive()
            assert control == message["control"]
            if "value" in message:
                assert plain(pickle.loads(payload)) == message["value"]
    assert messages[-1]["control"] == {"type": "stop"}
    assert runner.stop() == 0


def test_an_app_of_another_process(monkeypatch):
    """The engine that was asked hands over a connection with the app's host, which speaks from there on."""
    host = Script([{"from": "package", "control": conversation("package")[0]["control"]}, *conversation("attached")])
    ours, theirs = socket.socketpair()
    here = Engine(Connection(theirs))
    asked, handed = socket_of(theirs.fileno()), socket_of(host.engine._connection.fileno())
    monkeypatch.setattr(attaching, "connect", lambda output: here)

    def answer() -> None:
        connection = Connection(ours)
        assert connection.receive()[0] == {"type": "app.attach", "request": 1, "app": "demo"}
        attached = {"type": "app.attached", "request": 1, "app_id": "demo", "functions": {}, "elsewhere": True}
        control = encode_json(attached).encode()
        passed = (host.engine._connection.fileno(),)
        connection.send_bytes(HEADER.pack(VERSION, 0, 1, 0, len(control), 0) + control, None, passed)
        with pytest.raises(ConnectionClosed):
            connection.receive()

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    host.messages[0]["control"]["output"] = False
    with attaching.attach("demo") as app:
        assert app.remote("double", 21) == 42
    thread.join(10)
    host.finish()
    # The connection that answered is closed, and of what it passed only the test's own descriptor is left.
    assert open_descriptors().count(asked) == 0
    assert open_descriptors().count(handed) == 1
