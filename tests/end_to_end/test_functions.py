"""Calls, and everything that can end a container."""

from __future__ import annotations

import os
import re
import subprocess
import time

import pytest
from conftest import Modal, command

APP = """
import os, signal, sys, time
import modal

app = modal.App("calls", image=modal.Image.debian_slim(python_version="3.11"), secrets=[modal.Secret.from_dict({"S": "app", "ONLY": "app"})])

class Odd(Exception):
    def __init__(self, code, text):
        super().__init__(code, text)
        self.code = code

@app.function()
def square(x):
    return x * x

@app.function()
def pid(_=None):
    time.sleep(0.05)
    return os.getpid(), open("/proc/self/cgroup").read() and os.uname().nodename

@app.function()
def fail():
    raise Odd(7, "on purpose")

@app.function()
def leave():
    print("last words", file=sys.stderr, flush=True)
    os._exit(3)

@app.function()
def killed():
    os.kill(os.getpid(), signal.SIGSEGV)

@app.function(memory=128)
def hungry():
    return len(bytearray(1 << 30))

@app.function(timeout=1)
def slow():
    time.sleep(60)

@app.function(secrets=[modal.Secret.from_dict({"S": "function"})], env={"E": "env"})
def secrets():
    return os.environ["S"], os.environ["ONLY"], os.environ["E"]

@app.function()
def odd_result():
    return __import__("threading").Lock()

@app.function()
def big(data):
    return data

@app.function()
def talk():
    print("out")
    print("err", file=sys.stderr)
    sys.stdout.write("no newline")

@app.local_entrypoint()
def main(what: str):
    from modal.exception import Error
    if what == "map":
        print(list(square.map(range(2000))) == [x * x for x in range(2000)], sum(square.map(range(50), order_outputs=False)))
    elif what == "errors":
        values = list(square.map([1, "x", 3], return_exceptions=True))
        print(values[0], type(values[1]).__name__, values[2])
    elif what == "exception":
        try:
            fail.remote()
        except Odd as error:
            print("odd", error.code, "fail" in str(error.__cause__))
    elif what == "big":
        data = os.urandom(50 << 20)
        print(big.remote(data) == data)
    elif what == "local":
        print(square.local(4), modal.is_local())
    elif what == "survive":
        for function in (leave, killed, slow, hungry):
            try:
                function.remote()
            except Error as error:
                print(type(error).__name__, "|", str(error).splitlines()[0])
        print(square.remote(3))
    else:
        print(globals()[what].remote())
"""


@pytest.fixture
def calls(modal: Modal) -> Modal:
    modal.write("app.py", APP)
    return modal


@pytest.mark.parametrize(
    ("what", "printed"),
    [
        ("map", "True 40425\n"),
        ("errors", "1 TypeError 9\n"),
        ("exception", "odd 7 True\n"),
        ("big", "True\n"),
        ("local", "16 True\n"),
        ("secrets", "('function', 'app', 'env')\n"),
    ],
)
def test_calls(calls: Modal, what: str, printed: str) -> None:
    assert calls("run", "app.py", "--what", what).stdout == printed


def test_a_dead_container_is_an_error_that_says_how_and_the_rest_goes_on(calls: Modal) -> None:
    result = calls("run", "app.py", "--what", "survive", timeout=120)
    left, segmentation, slow, hungry, square = result.stdout.splitlines()
    assert "exit code 3" in left or "code `3`" in left
    assert "SIGSEGV" in segmentation
    assert slow.startswith("FunctionTimeoutError") and "1" in slow
    assert "memory" in hungry and "128" in hungry
    assert square == "9"
    assert "last words" in result.stderr


def test_an_uncaught_remote_exception_shows_the_users_frames_only(calls: Modal) -> None:
    result = calls("run", "app.py::fail", check=False)
    assert result.code == 1
    assert "Odd" in result.stderr and "on purpose" in result.stderr
    assert "_runner" not in result.stderr and "_engine" not in result.stderr


def test_a_result_that_cannot_be_pickled_is_named(calls: Modal) -> None:
    result = calls("run", "app.py::odd_result", check=False)
    assert result.code == 1
    assert "odd_result" in result.stderr and "pickle" in result.stderr.lower()


def test_output_arrives_on_the_stream_it_was_written_to(calls: Modal) -> None:
    result = calls("run", "-q", "app.py::talk")
    assert result.stdout == "out\nno newline"
    assert "err\n" in result.stderr


def test_every_line_may_have_its_time(calls: Modal) -> None:
    result = calls("run", "-q", "--timestamps", "app.py::talk")
    first, second = result.stdout.splitlines()
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z "
    assert re.fullmatch(stamp + "out", first) and re.fullmatch(stamp + "no newline", second)
    assert re.search(f"^{stamp}err$", result.stderr, re.MULTILINE)


def test_containers_are_reused_and_gone_at_the_end(calls: Modal) -> None:
    calls.write(
        "again.py", "from app import app, pid\nwith app.run():\n    print(len({pid.remote() for _ in range(5)}))\n"
    )
    assert calls.python("again.py").stdout == "1\n"


UNREADABLE = """
import os, sys, threading
import modal

app = modal.App("unreadable", image=modal.Image.debian_slim(python_version="3.11"))

if not modal.is_local():
    class OnlyThere(Exception):
        pass

    @app.function()
    def only_there(): ...
else:
    @app.function()
    def only_here(): ...

class Stubborn:
    def __init__(self, process):
        self.process = process

    def __setstate__(self, state):
        raise ValueError("cannot be rebuilt")

@app.function()
def fail():
    raise OnlyThere("far away")

@app.function()
def take(value):
    return value

@app.function()
def give():
    return Stubborn(1)

@app.local_entrypoint()
def main():
    for call in (lambda: fail.remote(), lambda: take.remote(threading.Lock()), lambda: take.remote(Stubborn(1)), lambda: give.remote(), lambda: only_here.remote()):
        try:
            call()
        except modal.exception.Error as error:
            print(type(error).__name__, "|", error.message)
    print(take.remote("still works"))
"""


def test_what_cannot_cross_is_named_and_the_rest_goes_on(modal: Modal) -> None:
    modal.write("app.py", UNREADABLE)
    lines = modal("run", "-q", "app.py").stdout.splitlines()
    assert lines[0] == "ExecutionError | the function raised `app.OnlyThere`: far away"
    assert lines[1].startswith("SerializationError | the arguments of `take` cannot be pickled")
    assert lines[2].startswith("DeserializationError | the arguments of `take` cannot be read in the container")
    assert lines[3].startswith("DeserializationError | the result of `give` cannot be read here")
    assert lines[4].startswith("ExecutionError | the module `app` has no function `only_here`")
    assert lines[5] == "still works"


def test_output_is_whole_although_its_reader_is_slow_and_the_pipe_does_not_block(modal: Modal) -> None:
    modal.write(
        "app.py",
        """
        import modal
        app = modal.App("slow", image=modal.Image.debian_slim(python_version="3.11"))
        @app.function()
        def main():
            for _ in range(30):
                print("x" * 99_999)
        """,
    )
    read, write = os.pipe()
    os.set_blocking(write, False)
    process = subprocess.Popen(
        [command(), "run", "-q", "app.py"], cwd=modal.directory, env=modal.environment, stdout=write
    )
    os.close(write)
    time.sleep(1)
    with open(read, "rb") as reader:
        assert len(reader.read()) == 3_000_000
    assert process.wait(60) == 0
