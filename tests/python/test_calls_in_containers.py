"""Functions that call other functions of their app from inside a container: the runner's side of the conversation."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time

import pytest
from fake_engine import Runner, wait_until

from modal.exception import Error, ExecutionError

PROGRAM = """
import asyncio, os, sys, time
import modal

app = modal.App("a")
other_app = modal.App("b")

@app.function()
def double(x):
    return 2 * x

@app.function()
def numbers(n):
    yield from range(n)

@other_app.function()
def foreign(x):
    return x

"""


class Engine:
    """Answers the calls of one runner, by what `functions` say: of each call, the pickled value or an exception."""

    def __init__(self, runner: Runner, functions: dict) -> None:
        self.runner = runner
        self.functions = functions
        self.messages: list[dict] = []
        self.results: dict[int, tuple[str, object]] = {}
        #: Calls that nobody answers yet.
        self.held: list[dict] = []
        assert runner.receive()[0] == {"type": "ready"}
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        while True:
            try:
                control, payload = self.runner.receive()
            except Exception:
                return
            self.messages.append(control)
            if control["type"] == "result":
                self.results[control["call"]] = control["status"], pickle.loads(payload) if payload else None
            elif control["type"] == "call":
                self.answer(control, payload)

    def answer(self, control: dict, payload: bytes) -> None:
        function = self.functions[control["function"]]
        if function is None:
            self.held.append(control)
            return
        args, kwargs = pickle.loads(payload)
        if control.get("identify"):
            self.runner.send({"type": "call.accepted", "call": control["call"], "id": f"fc-{control['call']}"})
        try:
            value = function(*args, **kwargs)
        except Exception as error:
            described = {"exception": pickle.dumps(error), "type": "T", "message": str(error), "traceback": "far away"}
            self.send(control, pickle.dumps(described), status="exception")
            return
        if hasattr(value, "__next__"):
            for item in value:
                self.runner.send({"type": "item", "call": control["call"]}, pickle.dumps(item))
            self.send(control, b"")
        else:
            self.send(control, pickle.dumps(value))

    def send(self, control: dict, payload: bytes, **changes) -> None:
        self.runner.send({"type": "result", "call": control["call"], "status": "ok", **changes}, payload)

    def start(self, *args, number: int = 7) -> None:
        self.runner.send({"type": "call", "call": number, "function": "f"}, pickle.dumps((args, {})))

    def wait(self, number: int = 7) -> tuple[str, object]:
        wait_until(lambda: number in self.results)
        return self.results.pop(number)

    def call(self, *args) -> object:
        self.start(*args)
        status, value = self.wait()
        if status != "ok":
            raise pickle.loads(value["exception"])
        return value

    def of_type(self, kind: str) -> list[dict]:
        return [message for message in self.messages if message["type"] == kind]


@pytest.fixture
def engine(tmp_path, capfd):
    engines = []

    def start(text: str, keeps: bool = False, **functions) -> Engine:
        path = tmp_path / "script.py"
        path.write_text(PROGRAM + text)
        runner = Runner({"kind": "script", "name": "script", "path": str(path)}, "f", keeps=keeps)
        functions = {"double": lambda x: 2 * x, "numbers": lambda n: iter(range(n)), **functions}
        engines.append(Engine(runner, functions))
        return engines[-1]

    yield start
    for started in engines:
        started.runner.stop()


def test_remote(engine):
    container = engine("@app.function()\ndef f(x): return double.remote(x) + double.remote(x=1)\n")
    assert container.call(5) == 12
    assert container.call(6) == 14
    assert container.runner.stop() == 0


def test_map_and_its_relatives(engine):
    text = """
@app.function()
def f(n):
    done = []
    double.for_each(range(n))
    return list(double.map(range(n))), list(double.starmap((x,) for x in range(n))), sum(
        double.map((x for x in range(n)), order_outputs=False))
"""
    container = engine(text)
    expected = [2 * x for x in range(1000)]
    assert container.call(1000) == (expected, expected, sum(expected))


def test_generators(engine):
    container = engine("@app.function()\ndef f(n): return list(numbers.remote_gen(n))\n")
    assert container.call(50) == list(range(50))
    assert sum(message["count"] for message in container.of_type("more")) >= 40


def test_a_generator_that_calls(engine):
    text = "@app.function()\ndef f(n):\n    for x in numbers.remote_gen(n):\n        yield double.remote(x)\n"
    container = engine(text)
    container.start(40)
    acknowledged = 0
    while 7 not in container.results:
        items = len(container.of_type("item"))
        if items > acknowledged:
            container.runner.send({"type": "more", "call": 7, "count": items - acknowledged})
            acknowledged = items
        time.sleep(0.001)
    assert len(container.of_type("item")) == 40
    assert container.wait() == ("ok", None)


def test_exceptions_are_themselves(engine):
    text = """
@app.function()
def f():
    try:
        double.remote(1)
    except ZeroDivisionError as error:
        return type(error.__cause__).__name__, str(error.__cause__)
"""
    container = engine(text, double=lambda x: 1 / 0)
    name, cause = container.call()
    assert name == "RemoteTraceback"
    assert "far away" in cause
    container = engine("@app.function()\ndef f(): return double.remote(1)\n", double=lambda x: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        container.call()


def test_spawned_calls(engine):
    text = """
@app.function()
def f(n):
    calls = [double.spawn(x) for x in range(n)]
    one = calls[0]
    assert modal.FunctionCall.from_id(one.object_id) is one
    return modal.FunctionCall.gather(*calls)
"""
    assert engine(text).call(20) == [2 * x for x in range(20)]


def test_spawn_returns_when_the_call_is_kept(engine):
    text = """
@app.function()
def f():
    try:
        double.spawn(1)
    except modal.exception.ExecutionError as error:
        return str(error)
"""
    container = engine(text, keeps=True, double=None)
    container.start()
    wait_until(lambda: container.held)
    container.send(container.held[0], b"", status="error", error="ExecutionError", message="the disk is full")
    status, value = container.wait()
    assert (status, value) == ("ok", "the disk is full")


@pytest.mark.parametrize("keeps", [False, True])
def test_a_spawned_call_is_held_where_nobody_else_keeps_it(engine, keeps):
    text = """
import gc, weakref

@app.function()
def f():
    call = double.spawn(1)
    call.get()
    held, known = weakref.ref(call), call.object_id
    del call
    gc.collect()
    return held() is not None
"""
    assert engine(text, keeps=keeps).call() is not keeps


def test_cancelling_a_spawned_call(engine):
    text = """
@app.function()
def f():
    call = double.spawn(1)
    call.cancel()
    try:
        call.get()
    except modal.exception.RemoteError as error:
        return str(error)
"""
    container = engine(text, double=None)
    assert "was cancelled" in container.call()
    assert [message["call"] for message in container.of_type("cancel")] == [container.held[0]["call"]]


def test_threads_call_beside_each_other_and_after_their_input(engine):
    text = """
import threading
from concurrent.futures import ThreadPoolExecutor
late = []

@app.function()
def f(n):
    if n == 0:
        return late
    def slowly():
        time.sleep(0.2)
        late.append(double.remote(100))
    threading.Thread(target=slowly).start()
    with ThreadPoolExecutor(8) as pool:
        return sum(pool.map(double.remote, range(n)))
"""
    container = engine(text)
    assert container.call(200) == sum(2 * x for x in range(200))
    wait_until(lambda: len(container.of_type("call")) == 201)
    wait_until(lambda: container.call(0) == [200])


def test_a_thread_makes_the_first_call_while_the_runner_waits(engine):
    text = """
import threading
late = []

@app.function()
def f(n):
    if n:
        def slowly():
            time.sleep(0.1)
            late.append(double.remote(n))
        threading.Thread(target=slowly).start()
    return late
"""
    container = engine(text)
    assert container.call(1) == []
    wait_until(lambda: container.of_type("call"))
    for _ in range(10):
        wait_until(lambda: container.call(0) == [2])


def test_event_loops(engine):
    text = """
@app.function()
async def f(n):
    both = await asyncio.gather(*(double.remote.aio(x) for x in range(n)))
    mapped = [value async for value in double.map.aio(range(n))]
    values = [value async for value in numbers.remote_gen.aio(n)]
    call = await double.spawn.aio(n)
    return both, mapped, values, await call.get.aio(), double.remote(n)
"""
    container = engine(text)
    doubled = [2 * x for x in range(30)]
    for _ in range(3):
        assert container.call(30) == (doubled, doubled, list(range(30)), 60, 60)


def test_tasks_that_outlive_their_input_call(engine):
    text = """
seen = []

async def slowly(n):
    await asyncio.sleep(0.1)
    seen.append(await double.remote.aio(n))

@app.function()
async def f(n):
    if n:
        f.task = asyncio.ensure_future(slowly(n))
    return seen
"""
    container = engine(text)
    assert container.call(4) == []
    wait_until(lambda: container.of_type("call"))
    wait_until(lambda: container.call(0) == [8])
    assert container.call(5) == [8]
    wait_until(lambda: container.call(0) == [8, 10])


def test_a_cancelled_task_cancels_its_call(engine):
    text = """
@app.function()
async def f():
    try:
        await asyncio.wait_for(double.remote.aio(1), 0.1)
    except asyncio.TimeoutError:
        return "late"
"""
    container = engine(text, double=None)
    assert container.call() == "late"
    wait_until(lambda: container.of_type("cancel"))
    assert container.of_type("cancel")[0]["call"] == container.held[0]["call"]


def test_an_interrupt_cancels_the_call(engine):
    container = engine("@app.function()\ndef f(): return double.remote(1)\n", double=None)
    container.start()
    wait_until(lambda: container.held)
    os.kill(container.runner.process, signal.SIGINT)
    status, described = container.wait()
    assert status == "exception"
    assert "KeyboardInterrupt" in described["message"]
    assert container.of_type("cancel")[0]["call"] == container.held[0]["call"]


def test_large_values_in_both_directions(engine):
    text = "@app.function()\ndef f(n): return [len(x) for x in double.map([b'x' * n] * 30)]\n"
    assert engine(text).call(300_000) == [600_000] * 30
    assert engine(text).call(3_000_000) == [6_000_000] * 30


def test_forked_children_cannot_call(engine):
    text = """
@app.function()
def f(first):
    if first:
        double.remote(1)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            double.remote(2)
        except modal.exception.ServiceError as error:
            os.write(writing, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    return os.read(reading, 1000).decode(), double.remote(3)
"""
    for first in (False, True):
        message, value = engine(text).call(first)
        assert "a forked process cannot call functions of its parent's app" in message
        assert value == 6


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("foreign.remote(1)", ("`foreign` belongs to App('b')", "to App('a')")),
        ("list(foreign.map([1]))", ("`foreign` belongs to",)),
        ("numbers.remote(1)", ("`numbers` is a generator",)),
    ],
)
def test_what_cannot_be_called(engine, body, words):
    container = engine(f"@app.function()\ndef f(): return {body}\n")
    with pytest.raises(Error) as caught:
        container.call()
    assert all(word in str(caught.value) for word in words)
    assert container.of_type("call") == []


def test_calls_while_the_module_is_imported(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(PROGRAM + "double.remote(1)\n@app.function()\ndef f(): pass\n")
    runner = Runner({"kind": "script", "name": "script", "path": str(path)}, "f")
    control, payload = runner.receive()
    assert control == {"type": "failed"}
    error = pickle.loads(pickle.loads(payload)["exception"])
    assert isinstance(error, ExecutionError)
    assert "while the module of its function was imported" in str(error)
    runner.stop()


def test_errors_of_the_engine(engine):
    container = engine("@app.function()\ndef f(): return double.remote(1)\n", double=None)
    container.start()
    wait_until(lambda: container.held)
    error = {"status": "error", "error": "FunctionTimeoutError", "message": "too slow", "hint": "wait"}
    container.send(container.held[0], b"", **error)
    status, described = container.wait()
    assert status == "exception"
    assert described["type"] == "modal.exception.FunctionTimeoutError"


def test_a_container_ends_with_its_engine_while_it_waits(engine):
    container = engine("@app.function()\ndef f(): return double.remote(1)\n", double=None)
    container.start()
    wait_until(lambda: container.held)
    container.runner.connection.shut_down()
    assert container.runner.stop() == 0


def test_the_client_is_loaded_with_the_first_call(engine):
    text = """
@app.function()
def f(first):
    if first:
        double.remote(1)
    return sorted(name for name in sys.modules if name.startswith(("modal._calls", "modal._client")))
"""
    container = engine(text)
    assert container.call(False) == []
    assert container.call(True) == ["modal._calls", "modal._calls.conversation"]
