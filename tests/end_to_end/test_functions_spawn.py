"""Calls that go on by themselves."""

from __future__ import annotations

from conftest import Modal

APP = """
import os, time
import modal

app = modal.App("spawn", image=modal.Image.debian_slim(python_version="3.11"))

@app.function()
def square(x):
    return x * x

@app.function()
def sleep(seconds):
    time.sleep(seconds)
    return seconds

@app.function()
def fail(text):
    raise ValueError(text)

@app.function()
def leave():
    os._exit(4)

def attempt(what):
    try:
        print(what())
    except Exception as error:
        print(type(error).__name__, str(error).splitlines()[0])

@app.local_entrypoint()
def main():
    calls = [square.spawn(x) for x in range(20)]
    print(modal.FunctionCall.gather(*calls) == [x * x for x in range(20)])
    print(modal.FunctionCall.from_id(calls[3].object_id).get())
    slow = sleep.spawn(60)
    attempt(lambda: slow.get(timeout=0.2))
    slow.cancel()
    attempt(slow.get)
    attempt(lambda: fail.spawn("no").get())
    attempt(lambda: modal.FunctionCall.gather(sleep.spawn(60), fail.spawn("early")))
    attempt(lambda: leave.spawn().get())
    print(sleep.remote(0.01))
    main.left = sleep.spawn(60)

@app.local_entrypoint()
def forgotten():
    sleep.spawn(600)
"""


def test_spawn(modal: Modal) -> None:
    modal.write("app.py", APP)
    lines = modal("run", "-q", "app.py::main", timeout=50).stdout.splitlines()
    assert lines[:2] == ["True", "9"]
    assert lines[2] == "TimeoutError the call of `sleep` has no result after 0.2 s; it goes on"
    assert lines[3] == "RemoteError the call of `sleep` was cancelled"
    assert lines[4:6] == ["ValueError no", "ValueError early"]
    assert lines[6].startswith("InternalFailure ") and "4" in lines[6]
    assert lines[7] == "0.01"


def test_a_call_that_nobody_waits_for_does_not_hold_up_the_end(modal: Modal) -> None:
    modal.write("app.py", APP)
    assert modal("run", "app.py::forgotten", timeout=60).code == 0


ENDED = """
import asyncio, os, time
import modal

app = modal.App("ended", image=modal.Image.debian_slim(python_version="3.11"))

@app.function(max_containers=1, timeout=2)
def sync(seconds):
    try:
        time.sleep(seconds)
    except BaseException as error:
        print("sync got", type(error).__name__)
        raise
    return os.environ["MODAL_TASK_ID"]

@app.function(max_containers=1, timeout=2)
async def coroutine(seconds):
    try:
        await asyncio.sleep(seconds)
    except BaseException as error:
        print("coroutine got", type(error).__name__)
        raise
    return os.environ["MODAL_TASK_ID"]

@app.function(max_containers=1)
def values(seconds=60):
    try:
        yield 1
        time.sleep(seconds)
    except modal.exception.InputCancellation:
        print("values got InputCancellation")
        raise

@app.local_entrypoint()
def main():
    for function in (sync, coroutine):
        task = function.remote(0)
        call = function.spawn(60)
        time.sleep(1)
        call.cancel()
        print(function.remote(0) == task)
        try:
            function.remote(60)
        except modal.exception.FunctionTimeoutError:
            print("late")
        print(function.remote(0) == task)
    for value in values.remote_gen():
        break
    print(list(zip([None], values.remote_gen())))
    # It gets there when the one before has said all that it says.
    print(list(values.remote_gen(0)))
"""


def test_an_input_that_is_ended_hears_of_it_and_its_container_goes_on(modal: Modal) -> None:
    modal.write("app.py", ENDED)
    lines = modal("run", "-q", "app.py", timeout=100).stdout.splitlines()
    for name, error in (("sync", "InputCancellation"), ("coroutine", "CancelledError")):
        assert [line for line in lines if line.startswith(name)] == [f"{name} got {error}"] * 2
    assert lines.count("True") == 4, "each time in the same container"
    assert lines.count("late") == 2
    assert lines.count("values got InputCancellation") == 2
    assert "[(None, 1)]" in lines and "[1]" in lines
