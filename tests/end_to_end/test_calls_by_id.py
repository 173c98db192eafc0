"""What is looked up of deployed apps: calls by their ids, as web endpoints poll jobs, and functions and classes."""

from __future__ import annotations

import time

from deployed_app import PATIENCE, Deployed

#: An app whose functions ask for calls that others have spawned, of itself and of another app.
POLLING = """
import asyncio
import modal

app = modal.App({name!r}, image=modal.Image.debian_slim(python_version="3.11"))


@app.function(scaledown_window=2)
def job(n: int) -> int:
    if n < 0:
        raise LookupError(n)
    return n + 1


def said(error) -> str:
    return type(error).__name__ + " " + str(error).partition(chr(10))[0]


@app.function(scaledown_window=2)
def result(call: str, timeout: float):
    try:
        return modal.FunctionCall.from_id(call).get(timeout=timeout)
    except Exception as error:
        return said(error)


@app.function(scaledown_window=2)
async def result_aio(call: str, timeout: float):
    try:
        return await modal.FunctionCall.from_id(call).get.aio(timeout=timeout)
    except Exception as error:
        return said(error)


@app.function(scaledown_window=2)
def cancel(call: str) -> None:
    modal.FunctionCall.from_id(call).cancel()
"""

CALLING = """
import sys
import modal
words = sys.argv[1:]
print(modal.Function.from_name({name!r}, words[0]).remote(*map(eval, words[1:])))
"""


def test_a_container_polls_calls_that_others_have_spawned(deployed: Deployed) -> None:
    polling = Deployed(deployed.modal)
    deployed.modal.write("polling.py", POLLING.format(name=polling.name))
    deployed.modal("deploy", "polling.py")
    deployed.deploy()

    def ask(*words: str) -> str:
        return deployed.modal.python("-c", CALLING.format(name=polling.name), *words).stdout.strip()

    try:
        own, failed = polling.spawn("job", "1"), polling.spawn("job", "-1")
        other = deployed.spawn("wait_for", "'gate'")
        assert ask("result", repr(own), "60") == "2"
        # The result is there: whoever polls gets it at once.
        assert ask("result", repr(own), "0") == ask("result_aio", repr(own), "0") == "2"
        assert deployed.fetch(own, 0) == "2"
        assert ask("result", repr(failed), "60") == "LookupError -1"
        for poll in ("result", "result_aio"):
            assert ask(poll, repr(other), "0").startswith("TimeoutError")
        deployed.open_gate("gate")
        assert ask("result_aio", repr(other), "60") == "2", "asking for it has not ended it"
        ended = deployed.spawn("wait_for", "'never'")
        ask("cancel", repr(ended))
        assert deployed.fetch(ended).startswith("RemoteError the call of function `wait_for` was cancelled")
        assert ask("result", "'fc-none'", "0").startswith("NotFoundError there is no call `fc-none`")
        # Having asked for calls of its own app, the process still ends when it has nothing to do.
        deadline = time.monotonic() + PATIENCE
        while polling.host() is not None and time.monotonic() < deadline:
            time.sleep(0.2)
        assert polling.host() is None
    finally:
        deployed.modal("app", "stop", "--yes", polling.name)


LOOKED_UP = """
import sys
import modal
name = sys.argv[1]
print(modal.Function.from_name(name, "job").hydrate().remote(1))
print(modal.Cls.from_name(name, "Sized").hydrate()(size=3).get.remote())
for handle in (
    modal.Function.from_name(name, "jobs"), modal.Cls.from_name(name, "job"), modal.Function.from_name(name + "-", "job")
):
    try:
        handle.hydrate()
    except modal.exception.NotFoundError as error:
        print(error)
"""

SIZED = """

@app.cls()
class Sized:
    size: int = modal.parameter()

    @modal.method()
    def get(self) -> int:
        return self.size
"""


def test_functions_and_classes_are_looked_up_before_they_are_called(deployed: Deployed) -> None:
    deployed.modal.write("polling.py", POLLING.format(name=deployed.name) + SIZED)
    deployed.modal("deploy", "polling.py")
    lines = deployed.modal.python("-c", LOOKED_UP, deployed.name).stdout
    said = [line for line in lines.splitlines() if not line.startswith("hint")]
    assert said[:2] == ["2", "3"]
    assert "has no function `jobs`: did you mean `job`?" in said[2]
    assert said[3] == f"`job` of the app `{deployed.name}` is a function, not a class"
    assert "there is no deployed app" in said[4]


#: An app whose functions spawn calls, of itself and of another app, and return at once.
SPAWNING = """
import os
import time
import modal

gates = modal.Volume.from_name({gates!r}, create_if_missing=True)
app = modal.App({name!r}, image=modal.Image.debian_slim(python_version="3.11"))


@app.function()
def own_id(n: int) -> str:
    return modal.current_function_call_id()


@app.function()
def double(n: int) -> int:
    return 2 * n


@app.function(volumes={{"/gates": gates}})
def wait_for(gate: str) -> str:
    print("waiting", flush=True)
    while not os.path.exists("/gates/" + gate):
        time.sleep(0.05)
    return gate


@app.function(volumes={{"/gates": gates}}, retries=1)
def wait_again(gate: str) -> str:
    return wait_for.local(gate)


@app.function()
def begin(function: str, argument) -> str:
    return globals()[function].spawn(argument).object_id


@app.function()
async def begin_aio(function: str, argument) -> str:
    call = await globals()[function].spawn.aio(argument)
    return call.object_id


@app.function()
def begin_there(app: str, function: str, argument) -> str:
    return modal.Function.from_name(app, function).spawn(argument).object_id


@app.function()
def begin_all(count: int) -> str:
    return double.experimental_spawn_map(range(count)).object_id


@app.function()
def result(call: str):
    return modal.FunctionCall.from_id(call).get(timeout=60)


@app.function()
def come_back(n: int) -> int:
    call = double.spawn(n).object_id
    return result.local(call)
"""

INPUTS = """
import sys
import modal
call = modal.FunctionCall.from_id(sys.argv[1])
print(call.num_inputs(), list(call.iter()))
"""


def test_what_a_container_has_spawned_outlives_it_and_its_host(deployed: Deployed) -> None:
    spawning = Deployed(deployed.modal)
    deployed.modal.write("spawning.py", SPAWNING.format(name=spawning.name, gates=deployed.name))
    deployed.modal("deploy", "spawning.py")
    deployed.deploy()

    def ask(*words: str) -> str:
        return deployed.modal.python("-c", CALLING.format(name=spawning.name), *words).stdout.strip()

    def begin_there(name: str, function: str, argument: str) -> str:
        return ask("begin_there", repr(name), repr(function), argument)

    try:
        ended = [ask("begin", "'own_id'", "0"), ask("begin_aio", "'own_id'", "0")]
        # Of a container of the app that it belongs to: it is the very same id there.
        ended.append(begin_there(spawning.name, "own_id", "0"))
        for call in ended:
            assert deployed.fetch(call) == ask("result", repr(call)) == call
        there = begin_there(deployed.name, "double", "4")
        assert deployed.fetch(there) == ask("result", repr(there)) == "8"
        assert ask("come_back", "5") == "10"
        many = ask("begin_all", "4")
        assert deployed.modal.python("-c", INPUTS, many).stdout.strip() == "4 [0, 2, 4, 6]"

        lost, again = ask("begin", "'wait_for'", "'never'"), ask("begin", "'wait_again'", "'gate'")
        lost_there = begin_there(deployed.name, "wait_for", "'never'")
        again_there = begin_there(deployed.name, "wait_again", "'gate'")
        spawning.wait_for_containers(2)
        deployed.wait_for_containers(2)
        spawning.kill_host()
        deployed.kill_host()
        for call in ended:
            assert deployed.fetch(call) == call
        assert deployed.fetch(there) == ask("result", repr(there)) == "8"
        assert deployed.modal.python("-c", INPUTS, many).stdout.strip() == "4 [0, 2, 4, 6]"
        for call in (lost, lost_there):
            assert deployed.fetch(call).endswith("and is lost")
        deployed.open_gate("gate")
        assert deployed.fetch(again) == "gate"
        assert deployed.fetch(again_there) == "2"
    finally:
        deployed.modal("app", "stop", "--yes", spawning.name)
