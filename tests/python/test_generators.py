"""`remote_gen`: values as they come, limits on how far the generator is ahead, its end in every way."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time

import pytest
from fake_engine import wait_until

import modal
from modal._runner import runner
from modal.exception import ExecutionError, InvalidError, SerializationError, ServiceError

app = modal.App("generators")


@app.function()
def numbers(count, fail_at=None, log=None):
    try:
        for index in range(count):
            if index == fail_at:
                raise ValueError(f"at {index}")
            if log is not None:
                with open(log, "a") as file:
                    print(index, file=file)
            yield index
    finally:
        if log is not None:
            with open(log, "a") as file:
                print("end", file=file)


@app.function()
async def ticks(count, fail_at=None):
    for index in range(count):
        await asyncio.sleep(0)
        if index == fail_at:
            raise LookupError(f"at {index}")
        yield index


@app.function()
def odd():
    yield 1
    yield threading.Lock()


@app.function()
def chunks(count, size):
    for _ in range(count):
        yield bytes(size)


@app.function()
def leave():
    yield 1
    os._exit(3)


@app.function()
def pausing(path):
    yield "first"
    while not os.path.exists(path):
        time.sleep(0.005)
    yield "second"


@app.function()
def forking():
    yield 1
    if os.fork() == 0:
        yield "of the child"
    else:
        _, status = os.wait()
        yield os.WEXITSTATUS(status)


@app.function()
def single(x):
    return x


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 1000])
def test_values_arrive_in_order(start, count):
    with start(app) as fake:
        assert list(numbers.remote_gen(count)) == list(range(count))
        assert list(ticks.remote_gen(count)) == list(range(count))
        assert fake.most_ahead <= runner.AHEAD
        assert sum(message["count"] for message in fake.of_type("more")) <= 2 * count
        assert fake.of_type("cancel") == []


def test_large_values(start):
    with start(app):
        sizes = [len(chunk) for chunk in chunks.remote_gen(6, 3 << 20)]
    assert sizes == [3 << 20] * 6


def test_values_arrive_while_the_generator_goes_on(start, tmp_path):
    with start(app):
        values = pausing.remote_gen(str(tmp_path / "go"))
        assert next(values) == "first"
        (tmp_path / "go").touch()
        assert next(values) == "second"
        with pytest.raises(StopIteration):
            next(values)


def test_nothing_runs_before_the_first_value_is_asked_for(start):
    with start(app) as fake:
        values = numbers.remote_gen(3)
        assert calls_of_numbers(fake) == []
        assert next(values) == 0
        assert len(calls_of_numbers(fake)) == 1


def calls_of_numbers(fake):
    single.remote(1)  # The engine has read everything that was sent before this.
    return [message for message in fake.of_type("call") if message["function"] == "numbers"]


def test_a_generator_is_never_far_ahead(start, tmp_path):
    log = tmp_path / "log"
    with start(app):
        values = numbers.remote_gen(10_000, log=str(log))
        for _ in range(3):
            next(values)
        wait_until(lambda: len(log.read_text().split()) >= runner.AHEAD)
        time.sleep(0.1)
        assert len(log.read_text().split()) <= runner.AHEAD + 3
        values.close()


def test_leaving_the_loop_ends_the_generator(start):
    with start(app) as fake:
        for value in numbers.remote_gen(10**9):
            if value == 100:
                break
        del value
        wait_until(lambda: len(fake.of_type("cancel")) == 1)
        assert list(numbers.remote_gen(3)) == [0, 1, 2]


def test_an_abandoned_generator_in_a_cycle_is_collected_while_sending(start, monkeypatch):
    """The collector may run in the middle of sending, in the thread that holds the lock for it."""
    with start(app) as fake:
        engine = single._running()
        values = numbers.remote_gen(10**9)
        next(values)
        cycle = [values]
        cycle.append(cycle)
        del cycle, values
        send = type(engine._connection).send

        def collecting(connection, *arguments):
            gc.collect()
            send(connection, *arguments)

        monkeypatch.setattr(type(engine._connection), "send", collecting)
        done = threading.Event()
        threading.Thread(target=lambda: single.remote(1) == 1 and done.set(), daemon=True).start()
        assert done.wait(10)
        monkeypatch.undo()
        wait_until(lambda: len(fake.of_type("cancel")) == 1)


@pytest.mark.parametrize(("function", "kind"), [(numbers, ValueError), (ticks, LookupError)])
@pytest.mark.parametrize("position", [0, 5, 40])
def test_an_exception_comes_after_the_values_before_it(start, function, kind, position):
    values = []
    with start(app):
        with pytest.raises(kind, match=f"at {position}") as caught:
            values.extend(function.remote_gen(100, fail_at=position))
        with pytest.raises(kind):
            for value in function.remote_gen(100, fail_at=position):
                values.append(value)
    assert values == list(range(position)) or values == [*range(position)] * 2
    assert "raise" in str(caught.value.__cause__)


def test_a_value_that_cannot_be_pickled(start):
    with start(app):
        values = odd.remote_gen()
        assert next(values) == 1
        with pytest.raises(SerializationError, match=r"the result of `odd`, of type `_thread.lock`"):
            next(values)


def test_a_container_that_dies_ends_the_loop(start):
    with start(app):
        values = leave.remote_gen()
        assert next(values) == 1
        with pytest.raises(modal.exception.InternalFailure):
            next(values)


def test_a_forked_child_sends_no_values(start):
    with start(app):
        assert list(forking.remote_gen()) == [1, 0]


def test_a_lost_engine_ends_the_loop(start):
    with start(app) as fake:
        values = numbers.remote_gen(10**9)
        next(values)
        fake.connection.shut_down()
        with pytest.raises(ServiceError, match="ended"):
            list(values)


def test_generators_and_plain_functions_are_not_mixed_up(start):
    with start(app):
        for method in (numbers.remote, numbers.spawn):
            with pytest.raises(InvalidError, match=r"only `.remote_gen` can take"):
                method(1)
        with pytest.raises(InvalidError, match=r"is a generator"):
            list(numbers.map([1]))
        with pytest.raises(InvalidError, match="is no generator") as caught:
            single.remote_gen(1)
        assert "single.remote(...)" in caught.value.hint
        assert list(numbers.local(2)) == [0, 1]
    with pytest.raises(ExecutionError, match="not running"):
        numbers.remote_gen(1)


def test_generators_have_no_retries():
    def values():
        yield 1

    with pytest.raises(InvalidError, match="cannot be retried"):
        modal.App("a").function(serialized=True, retries=1)(values)
