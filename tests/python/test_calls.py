"""Calls through the fake engine and the real runner: values, exceptions, large payloads, lost engines, `map`."""

from __future__ import annotations

import builtins
import pickle
import signal
import socket
import sys
import threading
import time
import types
from pathlib import Path

import pytest
from fake_engine import wait_until

import modal
from modal._calls import map as calls_map
from modal._client.engine import Engine
from modal._shared.errors import RemoteTraceback, pack_exception, unpack_exception
from modal._shared.wire import Connection, encode_json
from modal.exception import (
    DeserializationError,
    ExecutionError,
    FunctionTimeoutError,
    ImageBuildError,
    InvalidError,
    SerializationError,
    ServiceError,
    VersionError,
)

app = modal.App("calls")

#: Pythons before 3.11 have none.
Group = getattr(builtins, "ExceptionGroup", None)


class Point:
    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return type(other) is Point and other.x == self.x

    __hash__ = None


class Awkward(Exception):
    """Its `__init__` takes something other than its `args`."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")
        self.first = first


@app.function()
def echo(*args, **kwargs):
    return args, kwargs


@app.function()
def double(x, plus=0):
    return x * 2 + plus


@app.function(name="renamed")
def named():
    return "renamed"


@app.function()
def where():
    return modal.is_local(), __name__


@app.function()
def fail(kind):
    if kind == "value":
        raise ValueError("no")
    if kind == "chained":
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise RuntimeError("outer") from error
    if kind == "awkward":
        raise Awkward("a", "b")
    if kind == "local":

        class Local(Exception):
            pass

        raise Local("nobody knows")
    if kind == "locked":
        raise ValueError(threading.Lock())
    if kind == "holding":
        error = Awkward("a", "b")
        error.handle = threading.Lock()
        raise error
    if kind == "group":

        class Member(Exception):
            pass

        members = [KeyError("a"), Awkward("a", "b"), Member("c"), ValueError(threading.Lock())]
        raise Group("several", [*members, Group("inner", [Member("d")])])
    if kind == "exit":
        sys.exit(3)
    if kind == "interrupt":
        raise KeyboardInterrupt
    if kind == "recursion":
        return fail.local(kind)
    if kind == "unpicklable":
        return threading.Lock()
    if kind == "os":
        return Path("/does/not/exist").read_text()
    return None


@app.function()
async def coroutine(x):
    return x + 1


@app.function()
def large(size):
    return b"x" * size


@app.function()
def fail_on_two(x):
    if x == 2:
        raise ValueError("two")
    return x


def test_values_travel(start):
    with start(app) as fake:
        assert echo.remote(1, b="2") == ((1,), {"b": "2"})
        assert echo.remote(Point(3)) == ((Point(3),), {})
        assert named.remote() == "renamed"
        assert where.remote() == (False, "test_calls")
        assert coroutine.remote(1) == 2
        assert app.app_id == "ap-1"
        assert app._image.object_id == "im-0"
        assert fake.of_type("hello")[0]["protocol"] == 3
        # A function as an argument travels by its name.
        assert echo.remote(double)[0][0] is double
    assert app.app_id == "ap-1", "it is what `modal app logs` takes"
    assert [message["type"] for message in fake.messages][-1] == "app.stop"


@pytest.mark.parametrize("size", [0, 60_000, 1 << 20, (1 << 20) + 1, 20 << 20])
def test_payloads_of_all_sizes(start, size):
    data = bytes(size)
    with start(app):
        (answer,), _ = echo.remote(data)
        assert answer == data
        assert len(large.remote(size)) == size


def test_exceptions_come_back_as_themselves(start):
    with start(app):
        with pytest.raises(ValueError, match="no") as caught:
            fail.remote("value")
        text = str(caught.value.__cause__)
        assert isinstance(caught.value.__cause__, RemoteTraceback)
        assert 'raise ValueError("no")' in text
        assert "modal/_" not in text
        with pytest.raises(RuntimeError, match="outer") as caught:
            fail.remote("chained")
        assert "KeyError: 'inner'" in str(caught.value.__cause__)
        with pytest.raises(Awkward, match="a and b") as caught:
            fail.remote("awkward")
        assert caught.value.first == "a"
        with pytest.raises(FileNotFoundError) as caught:
            fail.remote("os")
        assert caught.value.filename == "/does/not/exist"
        with pytest.raises(RecursionError):
            fail.remote("recursion")


def test_exceptions_that_cannot_travel_are_described(start):
    with start(app):
        with pytest.raises(SerializationError, match=r"ValueError`, which cannot be pickled: <unlocked _thread.lock"):
            fail.remote("locked")
        with pytest.raises(SerializationError, match=r"Awkward`, which cannot be pickled: a and b"):
            fail.remote("holding")
        with pytest.raises(ExecutionError, match=r"`sys.exit\(3\)` instead of a result"):
            fail.remote("exit")
        with pytest.raises(ExecutionError, match=r"`builtins.KeyboardInterrupt` instead of a result"):
            fail.remote("interrupt")
        with pytest.raises(SerializationError, match=r"the result of `fail`, of type `_thread.lock`"):
            fail.remote("unpicklable")
        with pytest.raises(SerializationError, match="arguments of `echo`"):
            echo.remote(threading.Lock())
        assert echo.remote(1) == ((1,), {})


def test_exceptions_of_classes_inside_functions_travel_by_value(start):
    with start(app), pytest.raises(Exception, match="nobody knows") as caught:
        fail.remote("local")
    assert type(caught.value).__name__ == "Local"


@pytest.mark.skipif(Group is None, reason="this Python has no exception groups")
def test_groups_arrive_as_themselves_whatever_their_members_are(start):
    with start(app), pytest.raises(Group, match="several") as caught:
        fail.remote("group")
    key, awkward, member, locked, inner = caught.value.exceptions
    assert (type(key), key.args) == (KeyError, ("a",))
    assert (type(awkward), awkward.first) == (Awkward, "a")
    assert (type(member).__name__, str(member)) == ("Member", "c")
    assert type(locked) is SerializationError
    assert "`builtins.ValueError`, which cannot be pickled" in str(locked)
    assert str(inner.exceptions[0]) == "d"


def test_what_pickle_cannot_name_travels_by_value(start):
    class Local:
        def __init__(self, x):
            self.x = x

    with start(app):
        (function, value), _ = echo.remote(lambda x: x + 1, Local(3))
        assert function(1) == 2
        assert (type(value), value.x) == (Local, 3)
        with pytest.raises(SerializationError, match=r"cannot pickle '_thread\.lock'"):
            echo.remote(lambda: 1, threading.Lock())


@pytest.mark.skipif(Group is None, reason="this Python has no exception groups")
def test_a_member_whose_class_is_missing_here_leaves_the_group_what_it_is(monkeypatch):
    module = types.ModuleType("only_there")
    exec("class Gone(Exception): pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_there", module)
    payload = pack_exception(Group("some", [module.Gone("away"), KeyError("k")]))
    monkeypatch.delitem(sys.modules, "only_there")
    gone, key = unpack_exception(payload).exceptions
    assert type(gone) is ExecutionError
    assert str(gone).startswith("the function raised `only_there.Gone`: away")
    assert type(key) is KeyError


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "EOFError"),
        (b"rubbish", "UnpicklingError"),
        (pickle.dumps(7), "TypeError"),
        (pickle.dumps({"type": "x"}), "KeyError"),
        (pickle.dumps({"exception": None, "type": 1, "message": "m", "traceback": "t"}), "no texts"),
    ],
)
def test_rubbish_for_an_exception_is_said_to_be_that(payload, reason):
    error = unpack_exception(payload)
    assert type(error) is DeserializationError
    assert reason in str(error)


def test_exceptions_whose_class_is_missing_here(start, engine):
    described = {
        "exception": b"\x80\x04cno_such_module\nGone\n)R.",
        "type": "no_such_module.Gone",
        "message": "away",
        "traceback": "Traceback: far away\n",
    }
    with start(app) as fake:
        fake.handler = lambda _: ({"status": "exception"}, pickle.dumps(described))
        with pytest.raises(ExecutionError, match=r"raised `no_such_module.Gone`: away") as caught:
            echo.remote()
        assert "make its class importable here" in caught.value.hint
        assert "far away" in str(caught.value.__cause__)
        fake.handler = lambda _: ({"status": "ok"}, b"\x80\x04cno_such_module\nGone\n.")
        with pytest.raises(DeserializationError, match="no_such_module"):
            echo.remote()


def test_errors_of_the_engine(start):
    with start(app) as fake:
        for name, kind in {
            "FunctionTimeoutError": FunctionTimeoutError,
            "FileNotFoundError": FileNotFoundError,
            "KeyboardInterrupt": KeyboardInterrupt,
            "Nonsense": ExecutionError,
            "SystemExit": ExecutionError,
        }.items():
            fake.handler = lambda _, name=name: (
                {"status": "error", "error": name, "message": "what happened", "hint": "what to do"},
                b"",
            )
            with pytest.raises(kind) as caught:
                echo.remote()
            if kind is not KeyboardInterrupt:
                assert str(caught.value) == "what happened\nhint: what to do"


def test_failed_start_is_an_error_and_leaves_the_app_stopped(start, engine):
    engine.fake.start_error = {"error": "ImageBuildError", "message": "step failed", "image_id": "im-7"}
    with pytest.raises(ImageBuildError, match="step failed") as caught, start(app):
        pass
    assert caught.value.image_id == "im-7"
    with pytest.raises(ExecutionError, match="not running"):
        echo.remote()


def test_another_protocol_is_refused(start, engine):
    engine.fake.send({"type": "welcome", "protocol": 4, "engine": "test"})
    with pytest.raises(VersionError, match="speaks protocol `4`"), start(app):
        pass


def test_why_an_engine_takes_nothing_is_heard_although_sending_fails():
    ours, theirs = socket.socketpair()
    with theirs:
        refusal = {"type": "error", "error": "VersionError", "message": "of another release"}
        Connection(theirs).send(encode_json(refusal).encode())
    engine = Engine(Connection(ours))
    try:
        for _ in range(2):
            with pytest.raises(VersionError, match="of another release"):
                engine.request("app.start", {})
    finally:
        engine.close()


def test_a_lost_engine_is_an_error_for_everybody(start):
    with pytest.raises(ServiceError, match="ended"), start(app) as fake:
        fake.handler = lambda _: (None, b"")
        errors = []

        def call():
            try:
                echo.remote()
            except ServiceError as error:
                errors.append(error)

        threads = [threading.Thread(target=call) for _ in range(5)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(fake.of_type("call")) == 5)
        fake.die_on_call = True
        try:
            echo.remote()
        finally:
            for thread in threads:
                thread.join(10)
            assert len(errors) == 5


def test_a_call_that_comes_too_late_says_what_the_app_does_not_wait_for(start):
    with start(app):
        pass
    with pytest.raises(ExecutionError, match="not running") as caught:
        double.remote(1)
    assert "does not wait for threads" in str(caught.value.hint)


def test_an_app_runs_once_at_a_time(start):
    with start(app), pytest.raises(InvalidError, match="already running"), app.run():
        pass


def test_many_threads(start):
    with start(app):
        results = {}

        def call(base):
            results[base] = [double.remote(base + index) for index in range(50)]

        threads = [threading.Thread(target=call, args=(base,)) for base in range(0, 800, 100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert results == {base: [2 * (base + index) for index in range(50)] for base in range(0, 800, 100)}


def test_map_keeps_order_and_takes_kwargs(start):
    with start(app):
        assert list(double.map(range(1000), kwargs={"plus": 1})) == [2 * x + 1 for x in range(1000)]
        assert list(double.map([1, 2, 3], (10, 20))) == [12, 24]
        assert list(double.starmap([(1, 2), (3, 4)])) == [4, 10]
        assert sorted(double.map(range(20), order_outputs=False)) == [2 * x for x in range(20)]
        assert list(double.map(iter(range(300)))) == [2 * x for x in range(300)]
        assert list(double.map([])) == []
        assert list(double.map(iter([]))) == []
        assert double.for_each(range(3)) is None


def test_map_is_lazy(start):
    taken = []

    def inputs():
        for index in range(10_000):
            taken.append(index)
            yield index

    with start(app):
        results = double.map(inputs())
        time.sleep(0.05)
        assert taken == []
        assert [next(results) for _ in range(3)] == [0, 2, 4]
        time.sleep(0.1)
        assert len(taken) <= calls_map.WINDOW + 4
        results.close()
        count = len(taken)
        assert next(iter(double.map([1]))) == 2
        assert len(taken) <= count + 1


def test_map_feeds_results_back(start):
    """An iterator may wait for earlier results without a deadlock."""
    import queue

    waiting = queue.Queue()
    waiting.put(1)
    with start(app):
        results = []
        for result in double.map(iter(waiting.get, None)):
            results.append(result)
            waiting.put(result if result < 100 else None)
    assert results == [2, 4, 8, 16, 32, 64, 128]


def test_map_raises_or_returns_exceptions(start):
    with start(app):
        results = fail_on_two.map(range(5))
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(ValueError, match="two"):
            next(results)
        returned = list(fail_on_two.map(range(5), return_exceptions=True))
        assert [type(value).__name__ for value in returned] == ["int", "int", "ValueError", "int", "int"]
        fail_on_two.for_each(range(5), ignore_exceptions=True)
        with pytest.raises(ValueError, match="two"):
            fail_on_two.for_each(range(5))


@pytest.mark.parametrize("inputs", [[1, 2, 3], iter([1, 2, 3])])
def test_map_gives_up_what_nobody_waits_for(start, inputs):
    answers = iter([({"status": "ok"}, pickle.dumps("first"))])
    with start(app) as fake:
        fake.handler = lambda _: next(answers, (None, b""))
        results = double.map(inputs)
        assert next(results) == "first"
        wait_until(lambda: len(fake.of_type("call")) == 3)
        results.close()
        wait_until(lambda: len(fake.of_type("cancel")) == 2)
        given_up = {message["call"] for message in fake.of_type("cancel")}
        assert given_up == {message["call"] for message in fake.of_type("call")[1:]}


def test_interrupted_calls_are_given_up(start):
    with start(app) as fake:
        fake.handler = lambda _: (None, b"")
        threading.Timer(0.1, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            echo.remote()
        wait_until(lambda: fake.of_type("cancel"))


def test_map_reports_broken_inputs(start):
    def broken():
        yield 1
        raise LookupError("input")

    class Sized(list):
        def __iter__(self):
            return broken()

    with start(app):
        for inputs in (broken(), Sized([1])):
            with pytest.raises(LookupError, match="input"):
                list(double.map(inputs))
            with pytest.raises(SerializationError):
                list(double.map([threading.Lock()] if isinstance(inputs, Sized) else iter([threading.Lock()])))
        assert double.remote(1) == 2


def test_map_reports_an_input_that_cannot_be_sent(start, monkeypatch):
    with start(app):
        engine = echo._running()
        send = engine.send_frame

        def scarce(control, payload=b""):
            if b"poison" in bytes(payload):
                raise OSError(24, "Too many open files")
            send(control, payload)

        monkeypatch.setattr(type(engine), "send_frame", lambda _, control, payload=b"": scarce(control, payload))
        with pytest.raises(OSError, match="Too many open files"):
            list(echo.map(text for text in ("fine", "poison", "fine")))


def test_map_of_large_inputs_is_bounded_by_bytes(start, monkeypatch):
    monkeypatch.setattr(calls_map, "WINDOW_BYTES", 10_000)
    with start(app) as fake:
        held = []

        def hold(payload):
            held.append(payload)
            return None, b""

        fake.handler = hold
        results = double.map([bytes(4_000)] * 50)

        def consume():
            with pytest.raises(ServiceError):
                next(results)

        thread = threading.Thread(target=consume)
        thread.start()
        wait_until(lambda: len(held) >= 3)
        time.sleep(0.05)
        assert len(held) == 3
        fake.connection.shut_down()
        thread.join(10)


def test_functions_have_no_url(start):
    @app.function(name="visited", serialized=True)
    def visited():
        pass

    with pytest.raises(ExecutionError, match="its app is not running"):
        visited.get_web_url()
    with pytest.raises(ExecutionError):
        visited.hydrate()
    with start(app):
        assert visited.get_web_url() is None
        assert visited.hydrate() is visited
