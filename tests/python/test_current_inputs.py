"""`modal.current_input_id` and `modal.current_function_call_id`: whoever asks hears of its own input."""

from __future__ import annotations

import pickle

import pytest
from fake_engine import Runner, wait_until

import modal

PROGRAM = """
import asyncio, threading
import modal

app = modal.App("a")

def ids():
    return modal.current_input_id(), modal.current_function_call_id()

def in_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]

"""


@pytest.fixture
def start(tmp_path, capfd):
    runners = []

    def start(text: str) -> Runner:
        path = tmp_path / "script.py"
        path.write_text(PROGRAM + "@app.function()\n" + text)
        runners.append(Runner({"kind": "script", "name": "script", "path": str(path)}, "f"))
        assert runners[-1].receive()[0] == {"type": "ready"}
        return runners[-1]

    yield start
    for runner in runners:
        runner.stop()


def call(runner: Runner, number: int, *args) -> object:
    """The value of input `number`, or the values of a generator."""
    ids = {"input_id": f"in-{number}", "function_call_id": f"fc-{number // 10}"}
    runner.send({"type": "call", "call": number, "function": "f", **ids}, pickle.dumps((args, {})))
    items = []
    while True:
        control, payload = runner.receive()
        if control["type"] == "item":
            items.append(pickle.loads(payload))
            continue
        assert control == {"type": "result", "call": number, "status": "ok"}, pickle.loads(payload)
        return pickle.loads(payload) if payload else items


def test_outside_of_functions_nothing_runs():
    assert modal.current_input_id() is None
    assert modal.current_function_call_id() is None


def test_functions_and_their_threads(start):
    runner = start("def f(): return ids(), in_thread(ids)\n")
    for number in (7, 8, 21):
        own = f"in-{number}", f"fc-{number // 10}"
        assert call(runner, number) == (own, own)


def test_the_module_itself_is_no_input(start):
    runner = start("def f(): return at_import, ids()\nat_import = ids()\n")
    assert call(runner, 7) == ((None, None), ("in-7", "fc-0"))


def test_generators(start):
    runner = start("def f():\n    yield ids()\n    yield in_thread(ids)\n")
    assert call(runner, 7) == [("in-7", "fc-0")] * 2
    runner = start("async def f():\n    yield ids()\n    await asyncio.sleep(0)\n    yield ids()\n")
    assert call(runner, 7) == [("in-7", "fc-0")] * 2
    assert call(runner, 18) == [("in-18", "fc-1")] * 2


def test_event_loops_and_what_is_left_in_them(start):
    """A task belongs to the input that has made it, also when that has ended."""
    runner = start(
        "async def f():\n"
        "    global left, go_on\n"
        "    async def later():\n"
        "        await go_on.wait()\n"
        "        return ids()\n"
        "    before = None\n"
        "    if 'left' in globals():\n"
        "        go_on.set()\n"
        "        before = await left\n"
        "    go_on = asyncio.Event()\n"
        "    left = asyncio.ensure_future(later())\n"
        "    in_task = await asyncio.ensure_future(asyncio.sleep(0, ids()))\n"
        "    in_thread = await asyncio.get_running_loop().run_in_executor(None, ids)\n"
        "    return before, ids(), in_task, in_thread\n"
    )
    first, second = ("in-7", "fc-0"), ("in-18", "fc-1")
    assert call(runner, 7) == (None, first, first, first)
    assert call(runner, 18) == (first, second, second, second)


def test_a_thread_between_two_inputs_belongs_to_none(start):
    runner = start(
        "def f():\n"
        "    global go_on, found\n"
        "    if 'found' in globals():\n"
        "        return found\n"
        "    import time\n"
        "    go_on, found = threading.Event(), []\n"
        "    def watch():\n"
        "        while ids() != (None, None): time.sleep(0.01)\n"
        "        print('none runs', flush=True)\n"
        "        found.append(ids())\n"
        "    threading.Thread(target=watch, daemon=True).start()\n"
    )
    assert call(runner, 7) is None
    wait_until(lambda: call(runner, 8) == [(None, None)])


def test_it_is_loaded_by_those_who_ask(start):
    runner = start("def f(): import sys; return 'modal._runner.inputs' in sys.modules\n")
    assert call(runner, 7) is False
