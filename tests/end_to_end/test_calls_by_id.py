"""What is looked up of deployed apps: calls by their ids, as web endpoints poll jobs, and functions and classes."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

from deployed_app import PATIENCE, Deployed

if TYPE_CHECKING:
    from collections.abc import Callable

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
def begin_all_there(app: str, function: str, arguments) -> str:
    function = modal.Function.from_name(app, function)
    function.spawn_map(arguments)
    return function.experimental_spawn_map(arguments).object_id


@app.function()
async def begin_all_there_aio(app: str, function: str, arguments) -> str:
    call = await modal.Function.from_name(app, function).experimental_spawn_map.aio(arguments)
    return call.object_id


@app.function()
def inputs(call: str):
    call = modal.FunctionCall.from_id(call)
    try:
        call.num_inputs()
    except modal.exception.NotFoundError as error:
        return str(error)
    return call.num_inputs(), call.get(index=call.num_inputs() - 1), list(call.iter())


@app.function()
async def inputs_aio(call: str):
    call = modal.FunctionCall.from_id(call)
    last = await call.get.aio(index=1)
    return await call.num_inputs.aio(), last, [each async for each in call.iter.aio()]


@app.function()
def functions(call: str):
    return [each.function_name for each in modal.FunctionCall.from_id(call).get_call_graph()]


@app.function()
def wait_there(app: str, gate: str):
    # One is run again, the other one is lost.
    function = modal.Function.from_name(app, "wait_again")
    again, lost = function.spawn(gate), modal.Function.from_name(app, "wait_for").spawn("never")
    print("waiting for", again.object_id, flush=True)
    try:
        return again.get(), lost.get()
    except Exception as error:
        return again.get(), str(error)


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


def test_a_container_spawns_all_inputs_of_a_call_on_another_app(deployed: Deployed) -> None:
    spawning, ask = deploy_spawning(deployed)
    deployed.deploy()
    try:
        for begin in ("begin_all_there", "begin_all_there_aio"):
            many = ask(begin, repr(deployed.name), "'double'", "[3, 4, 5]")
            assert ask("inputs", repr(many)) == "(3, 10, [6, 8, 10])"
            assert ask("inputs_aio", repr(many)) == "(3, 8, [6, 8, 10])"
            assert ask("functions", repr(many)) == "['double', 'double', 'double']"
            assert deployed.modal.python("-c", INPUTS, many).stdout.strip() == "3 [6, 8, 10]"
        kept = deployed.modal.store / "deployments/main" / deployed.name / "calls"
        assert len(list(kept.glob("*-2.result"))) == 3, "also those of `spawn_map`"
        (failed,) = (line for line in ask("inputs", "'fc-none'").splitlines() if "fc-none" in line)
        assert "there is no call `fc-none`" in failed

        waiting = subprocess.Popen(
            [sys.executable, "-c", CALLING.format(name=spawning.name), "wait_there", repr(deployed.name), "'gate'"],
            env=deployed.modal.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        deployed.wait_for_containers(2)
        deployed.kill_host()
        deployed.open_gate("gate")
        result = waiting.communicate(timeout=PATIENCE)[0]
        assert result.startswith("(2, ") and "and is lost" in result
    finally:
        deployed.modal("app", "stop", "--yes", spawning.name)


def deploy_spawning(deployed: Deployed) -> tuple[Deployed, Callable[..., str]]:
    """An app whose containers spawn calls, and what calls its functions."""
    spawning = Deployed(deployed.modal)
    deployed.modal.write("spawning.py", SPAWNING.format(name=spawning.name, gates=deployed.name))
    deployed.modal("deploy", "spawning.py")

    def ask(*words: str) -> str:
        return deployed.modal.python("-c", CALLING.format(name=spawning.name), *words).stdout.strip()

    return spawning, ask


def test_what_a_container_has_spawned_outlives_it_and_its_host(deployed: Deployed) -> None:
    spawning, ask = deploy_spawning(deployed)
    deployed.deploy()

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
