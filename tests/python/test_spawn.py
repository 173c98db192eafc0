"""`spawn` and `FunctionCall`: waiting, giving up, finding again, several at once."""

from __future__ import annotations

import gc
import os
import pickle
import threading
import time

import pytest
from fake_engine import wait_until

import modal
from modal.exception import ExecutionError, InvalidError, NotFoundError, RemoteError, ServiceError, TimeoutError

app = modal.App("spawn")


@app.function()
def double(x):
    return x * 2


@app.function()
def fail(text):
    raise ValueError(text)


@app.function()
def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.005)
    return os.path.basename(path)


@app.function()
def numbers():
    yield 1


def test_results_and_exceptions(start):
    with start(app):
        call = double.spawn(4)
        assert isinstance(call, modal.FunctionCall)
        assert call.object_id.startswith("fc-")
        assert call.object_id in repr(call) and "double" in repr(call)
        assert call.get() == 8
        assert call.get(timeout=0) == 8
        failing = fail.spawn("no")
        for _ in range(2):
            with pytest.raises(ValueError, match="no"):
                failing.get()
        assert "fail" in str(failing._error.__cause__)


def test_results_outlive_the_app(start):
    with start(app):
        call = double.spawn(4)
        call.get()
    assert call.get() == 8


def test_spawning_does_not_wait_and_the_result_arrives_by_itself(start, tmp_path):
    file = tmp_path / "go"
    with start(app):
        call = wait_for.spawn(str(file))
        with pytest.raises(TimeoutError, match=r"`wait_for` has no result after 0.01 s") as caught:
            call.get(timeout=0.01)
        assert isinstance(caught.value, __builtins__["TimeoutError"])
        file.touch()
        wait_until(call._has_answer)
        assert call.get(timeout=0) == "go"


def test_calls_beside_others(start):
    """While a thread reads answers in the background, every other kind of call works as before."""
    with start(app):
        calls = [double.spawn(index) for index in range(50)]
        assert double.remote(100) == 200
        assert list(double.map(range(20))) == [2 * x for x in range(20)]
        assert [call.get() for call in reversed(calls)] == [2 * x for x in reversed(range(50))]


def test_many_results_that_nobody_asks_for(start):
    with start(app):
        calls = [double.spawn(bytes(50_000)) for _ in range(100)]
        wait_until(lambda: all(call._has_answer() for call in calls))
        assert double.remote(1) == 2


def test_cancelled_calls(start, tmp_path):
    with start(app) as fake:
        call = wait_for.spawn(str(tmp_path / "never"))
        queued = wait_for.spawn(str(tmp_path / "never"))
        wait_until(lambda: len(fake.of_type("call")) == 2)
        waiting = []

        def wait():
            with pytest.raises(RemoteError) as caught:
                call.get()
            waiting.append(caught.value)

        thread = threading.Thread(target=wait)
        thread.start()
        queued.cancel()
        call.cancel()
        call.cancel(terminate_containers=True)
        thread.join(10)
        for cancelled in (call, queued):
            with pytest.raises(RemoteError, match="the call of `wait_for` was cancelled"):
                cancelled.get()
        assert "cancelled" in str(waiting[0])
        wait_until(lambda: len(fake.of_type("cancel")) == 2)
        (tmp_path / "now").touch()
        assert wait_for.remote(str(tmp_path / "now")) == "now"


def test_cancelling_what_has_ended_changes_nothing(start):
    with start(app) as fake:
        call = double.spawn(1)
        wait_until(call._has_answer)
        call.cancel()
        assert call.get() == 2
        assert fake.of_type("cancel") == []


def test_calls_are_found_by_id(start):
    with start(app):
        call = double.spawn(5)
        assert modal.FunctionCall.from_id(call.object_id) is call
        # The id is all that programs keep in a dictionary or hand to their clients.
        only_id = double.spawn(6).object_id
        gc.collect()
        assert modal.FunctionCall.from_id(only_id).get() == 12
    # One of a deployed app may be meant: it is asked for when the result is wanted.
    assert modal.FunctionCall.from_id("fc-elsewhere").object_id == "fc-elsewhere"
    for no_call in ["", "in-1", "../../x"]:
        with pytest.raises(NotFoundError, match=f"there is no call `{no_call}`: ids of calls begin with `fc-`"):
            modal.FunctionCall.from_id(no_call).get()


def test_gather(start, tmp_path):
    with start(app):
        assert modal.FunctionCall.gather() == []
        calls = [double.spawn(index) for index in range(5)]
        assert modal.FunctionCall.gather(*calls, calls[0]) == [0, 2, 4, 6, 8, 0]
        with pytest.raises(InvalidError, match="takes calls, not `list`"):
            modal.FunctionCall.gather(calls)


def test_gather_does_not_wait_for_the_others_of_a_failure(start, tmp_path):
    with start(app):
        slow = wait_for.spawn(str(tmp_path / "go"))
        with pytest.raises(ValueError, match="early"):
            modal.FunctionCall.gather(slow, fail.spawn("early"))
        assert not slow._has_answer()
        assert slow._inbox.listeners == []
        (tmp_path / "go").touch()
        assert modal.FunctionCall.gather(slow) == ["go"]


def test_calls_end_with_their_app(start, tmp_path):
    with start(app):
        call = wait_for.spawn(str(tmp_path / "never"))
    with pytest.raises(ExecutionError, match=r"the app was stopped"):
        call.get()


def test_a_lost_engine_is_heard_of(start):
    with start(app) as fake:
        fake.handler = lambda _: (None, b"")
        call = double.spawn(1)
        fake.connection.shut_down()
        with pytest.raises(ServiceError, match="ended"):
            call.get()


def test_what_cannot_be_spawned(start):
    with start(app):
        with pytest.raises(InvalidError, match="remote_gen"):
            numbers.spawn()
        with pytest.raises(modal.exception.SerializationError, match="arguments of `double`"):
            double.spawn(threading.Lock())
    with pytest.raises(ExecutionError, match="not running"):
        double.spawn(1)


def test_calls_are_made_by_spawn_and_stay_in_their_process(start):
    with pytest.raises(InvalidError, match="spawn"):
        modal.FunctionCall()
    with start(app):
        call = double.spawn(1)
        with pytest.raises(InvalidError, match="cannot leave its process"):
            pickle.dumps(call)
        with pytest.raises(AttributeError, match="did you mean `cancel`"):
            call.cancle()
        with pytest.raises(AttributeError, match=r"FunctionCall.from_name"):
            modal.FunctionCall.from_name("x")


def test_one_call_of_several_inputs(start):
    with start(app) as fake:
        call = double.experimental_spawn_map([1, 2, 3])
        assert call.num_inputs() == 3
        assert list(call.iter()) == [2, 4, 6]
        assert list(call.iter(start=1, end=2)) == [4]
        assert (call.get(), call.get(index=2)) == (2, 6)
        for start_, end in ((2, 1), (0, 4), (-1, None)):
            with pytest.raises(ValueError, match="the call has 3 inputs"):
                call.iter(start=start_, end=end)
        with pytest.raises(InvalidError, match="no input at `index` 3"):
            call.get(index=3)
        calls = fake.of_type("call")
        assert [message.get("map") for message in calls] == [None, *[calls[0]["call"]] * 2]
        assert double.spawn_map([1], kwargs={}) is None
        assert double.spawn_map([]) is None
        with pytest.raises(InvalidError, match="got no inputs"):
            double.experimental_spawn_map([])
        failing = fail.experimental_spawn_map(["no", "never"])
        with pytest.raises(ValueError, match="no"):
            list(failing.iter())


def test_several_inputs_from_an_event_loop(start):
    import asyncio

    async def later():
        for x in (1, 2):
            yield x

    async def work():
        call = await double.experimental_spawn_map.aio(later())
        assert [result async for result in call.iter.aio()] == [2, 4]
        assert await call.num_inputs.aio() == 2
        await double.spawn_map.aio([1])
        with pytest.raises(InvalidError, match="would keep the event loop waiting"):
            double.spawn_map([1])

    with start(app):
        asyncio.run(work())


def test_cancelling_ends_all_inputs(start, tmp_path):
    with start(app):
        call = wait_for.experimental_spawn_map([str(tmp_path / "a"), str(tmp_path / "b")])
        call.cancel()
        for index in (0, 1):
            with pytest.raises(RemoteError, match="was cancelled"):
                call.get(index=index)


def test_a_graph_is_read_and_says_what_it_lacks():
    def row(parent, function, status, task="ta-1", module="app"):
        texts = {"input_id": f"in-{function}", "function_call_id": "fc-1", "task_id": task, "function_name": function}
        return {"parent": parent, "status": status, "module_name": module, **texts}

    rows = [row(None, "f", "PENDING"), row(0, "g", "TIMEOUT"), row(1, "h", "INIT_FAILURE", None, None)]
    with pytest.warns(UserWarning, match="the graph of the call `fc-1` lacks `7` calls"):
        (root,) = modal.call_graph.inputs_of("fc-1", {"inputs": rows, "omitted": 7})
    assert (root.function_name, root.status, root.module_name) == ("f", modal.call_graph.InputStatus.PENDING, "app")
    ((child,), (last,)) = root.children, root.children[0].children
    assert (child.status, last.task_id, last.module_name, last.children) == (4, "", "", [])
    assert [status.value for status in modal.call_graph.InputStatus] == list(range(6))
