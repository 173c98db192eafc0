"""The asynchronous twins: the same results, an event loop that goes on, tasks that are cancelled."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import time

import pytest
from fake_engine import wait_until

import modal
from modal._calls import asynchronous
from modal._calls import map as calls_map
from modal._client.running import RunningApp
from modal.exception import (
    ExecutionError,
    InvalidError,
    RemoteError,
    SerializationError,
    ServiceError,
    TimeoutError,
)

app = modal.App("async")


@app.function()
def double(x, plus=0):
    return 2 * x + plus


@app.function()
def fail_on_two(x):
    if x == 2:
        raise ValueError("two")
    return x


@app.function()
def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.005)
    return os.path.basename(path)


@app.function()
def numbers(count, fail_at=None):
    for index in range(count):
        if index == fail_at:
            raise LookupError(f"at {index}")
        yield index


async def aiter_of(values, failure=None):
    for value in values:
        await asyncio.sleep(0)
        yield value
    if failure is not None:
        raise failure


async def collect(values):
    return [value async for value in values]


async def until(condition):
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came true")


@pytest.fixture
def fake(start):
    with start(app) as fake:
        yield fake


def test_remote(fake):
    async def main():
        assert await double.remote.aio(4, plus=1) == 9
        with pytest.raises(ValueError, match="two") as caught:
            await fail_on_two.remote.aio(2)
        assert "fail_on_two" in str(caught.value.__cause__)
        assert await asyncio.gather(*[double.remote.aio(x) for x in range(50)]) == [2 * x for x in range(50)]
        with pytest.raises(SerializationError, match="arguments of `double`"):
            await double.remote.aio(threading.Lock())
        with pytest.raises(InvalidError, match="generator"):
            await numbers.remote.aio(1)

    asyncio.run(main())
    assert modal.Function.remote.aio is not None
    assert "Runs the function in a container" in double.remote.__doc__


def test_the_loop_goes_on_meanwhile(fake, tmp_path):
    async def main():
        task = asyncio.ensure_future(wait_for.remote.aio(str(tmp_path / "go")))
        await asyncio.sleep(0.01)
        assert not task.done()
        (tmp_path / "go").touch()
        assert await task == "go"

    asyncio.run(main())


def test_one_loop_after_another(fake):
    for x in range(3):
        assert asyncio.run(double.remote.aio(x)) == 2 * x
    assert double.remote(1) == 2


def test_cancelling_a_task_cancels_its_call(fake, tmp_path):
    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(wait_for.remote.aio(str(tmp_path / "never")), 0.05)
        assert await double.remote.aio(1) == 2

    asyncio.run(main())
    wait_until(lambda: len(fake.of_type("cancel")) == 1)
    (tmp_path / "now").touch()
    assert wait_for.remote(str(tmp_path / "now")) == "now"


def test_map(fake):
    async def main():
        assert await collect(double.map.aio(range(1000), kwargs={"plus": 1})) == [2 * x + 1 for x in range(1000)]
        assert await collect(double.map.aio(aiter_of(range(600)))) == [2 * x for x in range(600)]
        assert await collect(double.map.aio(aiter_of([1, 2, 3]), [10, 20])) == [12, 24]
        assert await collect(double.map.aio([])) == []
        assert sorted(await collect(double.map.aio(range(30), order_outputs=False))) == [2 * x for x in range(30)]
        assert await collect(double.starmap.aio([(1, 2), (3, 4)])) == [4, 10]
        assert await collect(double.starmap.aio(aiter_of([(1, 2)]), kwargs={})) == [4]
        assert await double.for_each.aio(aiter_of(range(3))) is None

    asyncio.run(main())


def test_map_reports_exceptions(fake):
    async def main():
        values = []
        with pytest.raises(ValueError, match="two"):
            async for value in fail_on_two.map.aio(range(5)):
                values.append(value)
        assert values == [0, 1]
        returned = await collect(fail_on_two.map.aio(range(4), return_exceptions=True))
        assert [type(value).__name__ for value in returned] == ["int", "int", "ValueError", "int"]
        await fail_on_two.for_each.aio(range(5), ignore_exceptions=True)
        with pytest.raises(ValueError, match="two"):
            await fail_on_two.for_each.aio(range(5))
        with pytest.raises(LookupError, match="input"):
            await collect(double.map.aio(aiter_of([1], LookupError("input"))))
        with pytest.raises(SerializationError):
            await collect(double.map.aio([threading.Lock()]))
        for method, *inputs in ((double.map.aio,), (double.map.aio, 5), (double.starmap.aio, 5)):
            with pytest.raises(InvalidError, match=r"no inputs|takes iterables, not `int`"):
                method(*inputs)
        assert await double.remote.aio(1) == 2

    asyncio.run(main())


def test_plain_map_names_the_twin_that_takes_asynchronous_inputs(fake):
    with pytest.raises(InvalidError, match="not `async_generator`") as caught:
        double.map(aiter_of([1]))
    assert "double.map.aio" in caught.value.hint


def test_map_feeds_results_back(fake):
    async def main():
        waiting = asyncio.Queue()
        waiting.put_nowait(1)

        async def inputs():
            while True:
                value = await waiting.get()
                if value is None:
                    return
                yield value

        results = []
        async for result in double.map.aio(inputs()):
            results.append(result)
            waiting.put_nowait(result if result < 100 else None)
        assert results == [2, 4, 8, 16, 32, 64, 128]

    asyncio.run(main())


def test_map_takes_a_limited_number_of_inputs_ahead(fake):
    async def main():
        taken = []

        def inputs():
            for index in range(10_000):
                taken.append(index)
                yield index

        results = double.map.aio(inputs())
        assert taken == []
        assert [await results.__anext__() for _ in range(3)] == [0, 2, 4]
        await asyncio.sleep(0.05)
        assert len(taken) <= calls_map.WINDOW + asynchronous.AHEAD + 5
        await results.aclose()
        assert await double.remote.aio(1) == 2

    asyncio.run(main())


def test_a_blocking_iterator_leaves_the_loop_alone(fake):
    async def main():
        # It waits for earlier results, which come only if the loop goes on.
        results, wanted = [], [threading.Event() for _ in range(50)]

        def inputs():
            for index, event in enumerate(wanted):
                assert index == 0 or event.wait(60)
                yield index

        async for result in double.map.aio(inputs()):
            results.append(result)
            if len(results) < len(wanted):
                wanted[len(results)].set()
        assert results == [2 * x for x in range(50)]

    asyncio.run(main())


def test_blocking_iterators_of_every_kind(fake):
    setting = contextvars.ContextVar("setting", default=0)

    def numbers_up_to(count, failure=None):
        for index in range(count):
            yield index + setting.get()
        if failure is not None:
            raise failure

    class OldFashioned:
        def __getitem__(self, index):
            if index == 3:
                raise IndexError
            return index

    async def main():
        assert await collect(double.map.aio(numbers_up_to(1000))) == [2 * x for x in range(1000)]
        assert await collect(double.map.aio(OldFashioned())) == [0, 2, 4]
        assert await collect(double.map.aio(numbers_up_to(9), aiter_of([10, 20]))) == [10, 22]
        assert await collect(double.map.aio([1, 2], numbers_up_to(1))) == [2]
        assert await collect(double.starmap.aio((x, 1) for x in range(3))) == [1, 3, 5]
        assert sorted(await collect(double.map.aio(numbers_up_to(30), order_outputs=False))) == [
            2 * x for x in range(30)
        ]
        values = []
        with pytest.raises(LookupError, match="no more"):
            async for value in double.map.aio(numbers_up_to(2, failure=LookupError("no more"))):
                values.append(value)
        assert values == [0, 2][: len(values)]
        with pytest.raises(TypeError, match="not iterable"):
            await collect(double.map.aio(Broken()))
        setting.set(100)
        assert await collect(double.map.aio(numbers_up_to(2))) == [200, 202]

    class Broken:
        def __iter__(self):
            return iter(1)

    asyncio.run(main())
    wait_until(lambda: not any(thread.name == "modal-map-inputs" for thread in threading.enumerate()))


@pytest.mark.parametrize("started", [0, 1])
def test_cancelling_a_map_leaves_a_blocked_iterator_behind(fake, started):
    released, blocked = threading.Event(), threading.Event()

    def inputs():
        yield from range(started)
        blocked.set()
        released.wait(60)
        yield from iter(int, 1)

    async def main():
        task = asyncio.ensure_future(collect(double.map.aio(inputs())))
        await until(blocked.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await double.remote.aio(1) == 2

    asyncio.run(main())
    released.set()
    wait_until(lambda: not any(thread.name == "modal-map-inputs" for thread in threading.enumerate()))


def test_a_map_that_nobody_consumes_to_its_end_takes_no_more(fake):
    taken = []

    def inputs():
        for index in iter(int, 1):
            taken.append(index)
            yield index

    async def main():
        results = double.map.aio(inputs())
        assert await results.__anext__() == 0
        await results.aclose()

    asyncio.run(main())
    wait_until(lambda: not any(thread.name == "modal-map-inputs" for thread in threading.enumerate()))
    assert len(taken) <= calls_map.WINDOW + asynchronous.AHEAD + 5


def test_cancelling_a_map_gives_up_its_calls(fake, tmp_path):
    async def main():
        task = asyncio.ensure_future(collect(wait_for.map.aio([str(tmp_path / "never")] * 3)))
        await until(lambda: len(fake.of_type("call")) == 3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    wait_until(lambda: len(fake.of_type("cancel")) == 3)


def test_generators(fake):
    async def main():
        assert await collect(numbers.remote_gen.aio(1000)) == list(range(1000))
        values = []
        with pytest.raises(LookupError, match="at 20"):
            async for value in numbers.remote_gen.aio(50, fail_at=20):
                values.append(value)
        assert values == list(range(20))
        with pytest.raises(InvalidError, match="no generator"):
            double.remote_gen.aio(1)
        stream = numbers.remote_gen.aio(10**9)
        assert await stream.__anext__() == 0
        await stream.aclose()
        async for value in numbers.remote_gen.aio(10**9):
            if value == 100:
                break
        return await collect(numbers.remote_gen.aio(2))

    assert asyncio.run(main()) == [0, 1]
    wait_until(lambda: len(fake.of_type("cancel")) == 2)


def test_spawn(fake, tmp_path):
    async def main():
        call = await double.spawn.aio(3)
        assert await call.get.aio() == 6
        assert call.get() == 6
        slow = await wait_for.spawn.aio(str(tmp_path / "never"))
        with pytest.raises(TimeoutError, match=r"`wait_for` has no result after 0.02 s"):
            await slow.get.aio(timeout=0.02)
        waiting = [asyncio.ensure_future(slow.get.aio()) for _ in range(2)]
        await asyncio.sleep(0.01)
        await slow.cancel.aio()
        for task in waiting:
            with pytest.raises(RemoteError, match="cancelled"):
                await task
        assert slow._inbox.listeners == []
        failing = await fail_on_two.spawn.aio(2)
        with pytest.raises(ValueError, match="two"):
            await failing.get.aio()

    asyncio.run(main())


def test_giving_up_waiting_leaves_the_call_alone(fake, tmp_path):
    async def main():
        call = await wait_for.spawn.aio(str(tmp_path / "go"))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(call.get.aio(), 0.02)
        (tmp_path / "go").touch()
        assert await call.get.aio() == "go"

    asyncio.run(main())
    assert fake.of_type("cancel") == []


def test_gather(fake, tmp_path):
    gather = modal.FunctionCall.gather

    async def main():
        calls = [await double.spawn.aio(x) for x in range(5)]
        assert await gather.aio(*calls) == [0, 2, 4, 6, 8]
        slow = await wait_for.spawn.aio(str(tmp_path / "go"))
        with pytest.raises(ValueError, match="two"):
            await gather.aio(slow, await fail_on_two.spawn.aio(2))
        assert not slow._has_answer()
        (tmp_path / "go").touch()
        assert await gather.aio(slow) == ["go"]
        with pytest.raises(InvalidError, match="takes calls"):
            await gather.aio([slow])

    asyncio.run(main())


def test_blocking_calls_beside_asynchronous_ones(fake):
    async def main():
        loop = asyncio.get_running_loop()
        blocking = [loop.run_in_executor(None, double.remote, x) for x in range(20)]
        asynchronous = [double.remote.aio(x) for x in range(20)]
        assert await asyncio.gather(*blocking, *asynchronous) == [2 * x for x in range(20)] * 2

    asyncio.run(main())


def test_a_lost_engine_wakes_every_task(fake):
    async def main():
        fake.handler = lambda _: (None, b"")
        call = await double.spawn.aio(1)
        waiting = [
            double.remote.aio(1),
            collect(double.map.aio([1])),
            collect(numbers.remote_gen.aio(1)),
            call.get.aio(),
        ]
        tasks = [asyncio.ensure_future(each) for each in waiting]
        await until(lambda: len(fake.of_type("call")) == 4)
        fake.connection.shut_down()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, ServiceError)
            assert "ended" in str(result)

    asyncio.run(main())


def test_app_run(engine, monkeypatch):
    monkeypatch.setattr(
        "modal._client.engine.connect", lambda output, interactive=False: engine.greet(output) or engine
    )

    async def main():
        async with app.run() as running:
            assert running is app
            assert app.app_id == "ap-1"
            assert await double.remote.aio(2) == 4
        with pytest.raises(ExecutionError, match="not running"):
            await double.remote.aio(2)

    asyncio.run(main())
    assert engine.fake.messages[-1]["type"] == "app.stop"


def test_app_run_in_an_environment(engine, monkeypatch):
    monkeypatch.setattr(
        "modal._client.engine.connect", lambda output, interactive=False: engine.greet(output) or engine
    )
    with app.run(environment_name="other", client=None):
        pass
    assert engine.fake.of_type("app.start")[0]["app"] == {"name": "async", "environment": "other"}


def test_app_run_by_its_own_twin_and_with_a_failure_inside(engine, monkeypatch):
    monkeypatch.setattr(
        "modal._client.engine.connect", lambda output, interactive=False: engine.greet(output) or engine
    )

    async def main():
        async with app.run.aio():
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        asyncio.run(main())
    assert app._engine is None


def test_cancelling_the_start_of_an_app_ends_its_build(engine, monkeypatch):
    monkeypatch.setattr(
        "modal._client.engine.connect", lambda output, interactive=False: engine.greet(output) or engine
    )
    engine.fake.answers_start = False

    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(RunningApp(app).__aenter__(), 0.05)

    asyncio.run(main())
    assert app._engine is None
    assert engine._failure is not None
    wait_until(lambda: engine.fake.connection.fileno() == -1)
