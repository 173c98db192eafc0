"""`serialized=True`: functions that travel by value, and what they bring along."""

from __future__ import annotations

import base64
import pickle
import sys
import textwrap

import pytest
from fake_engine import Runner

import modal
from modal._client.graph import app_graph
from modal.exception import ExecutionError, InvalidError, SerializationError

OFFSET = 100


class Point:
    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return type(other) is Point and other.x == self.x

    __hash__ = None


class Odd(Exception):
    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


def helper(x):
    return x + OFFSET


def serialized(app, **settings):
    return app.function(serialized=True, **settings)


def test_nested_functions_and_what_they_close_over(start):
    app = modal.App("a")
    factor = 3

    @serialized(app)
    def nested(x, plus=1):
        return helper(x) * factor + plus

    @serialized(app)
    async def coroutine(x):
        return x + factor

    @serialized(app)
    def values(count):
        yield from range(count)

    anonymous = serialized(app, name="anonymous")(lambda x: -x)
    with start(app):
        assert nested.remote(1) == 304
        assert nested.local(1) == 304
        assert list(nested.map([1, 2], kwargs={"plus": 0})) == [303, 306]
        assert coroutine.remote(1) == 4
        assert list(values.remote_gen(3)) == [0, 1, 2]
        assert anonymous.remote(2) == -2
        assert nested.spawn(1).get() == 304


def test_classes_come_back_as_themselves(start):
    app = modal.App("a")

    @serialized(app)
    def moved(point, by):
        assert isinstance(point, Point)
        return Point(point.x + by)

    @serialized(app)
    def fail():
        raise Odd(7, "on purpose")

    with start(app):
        assert moved.remote(Point(1), by=2) == Point(3)
        with pytest.raises(Odd, match="on purpose") as caught:
            fail.remote()
        assert caught.value.code == 7
        assert "on purpose" in str(caught.value.__cause__)


def test_results_may_be_functions_and_classes(start):
    app = modal.App("a")

    @serialized(app)
    def make(n):
        class Local:
            value = n

        return Local, lambda x: x * n

    with start(app):
        local, times = make.remote(3)
        assert local.value == 3
        assert times(5) == 15


def test_other_functions_of_the_app_come_along(start):
    app = modal.App("a")

    @serialized(app)
    def square(x):
        return x * x

    @serialized(app)
    def caller(x):
        return square.local(x) + 1

    @serialized(app)
    def factorial(n):
        return 1 if n <= 1 else n * factorial.local(n - 1)

    @serialized(app)
    def remote_caller(x):
        return square.remote(x)

    with start(app):
        assert caller.remote(3) == 10
        assert factorial.remote(5) == 120
        assert remote_caller.remote(3) == 9


def test_what_cannot_travel(start):
    app = modal.App("a")
    lock = __import__("threading").Lock()
    serialized(app, name="locked")(lambda: lock)
    with pytest.raises(SerializationError, match="the function `locked` cannot be serialized") as caught, start(app):
        pass
    assert "pass what it uses as arguments" in caught.value.hint


def test_arguments_and_results_that_cannot_be_pickled(start):
    app = modal.App("a")

    @serialized(app)
    def make():
        import threading

        return threading.Lock()

    with start(app):
        with pytest.raises(SerializationError, match=r"the result of `make`, of type `_thread.lock`"):
            make.remote()
        with pytest.raises(SerializationError, match="the arguments of `make`"):
            make.remote(__import__("threading").Lock())


def test_too_much_data_is_refused(monkeypatch):
    monkeypatch.setattr("modal._shared.serialized.LIMIT", 2 << 20)
    app = modal.App("a")
    data = bytes(3 << 20)
    serialized(app, name="large")(lambda: data)
    with pytest.raises(SerializationError, match="`large` uses 3 MiB of data around it, more than the 2 MiB") as caught:
        app_graph(app)
    assert "argument" in caught.value.hint


def test_apps_are_told_apart_where_names_are_the_same(start):
    one, other = modal.App("a"), modal.App("a")

    def g(x):
        return x

    ours = serialized(one, name="g")(g)
    theirs = serialized(other, name="g")(g)

    @serialized(one)
    def call(x):
        return ours.remote(x)

    @serialized(one)
    def cross(x):
        return theirs.remote(x)

    @serialized(one)
    def apply(function, x):
        return function.remote(x)

    with start(one):
        assert call.remote(1) == 1
        assert apply.remote(ours, 2) == 2
        for wrong in (lambda: cross.remote(1), lambda: apply.remote(theirs, 1)):
            with pytest.raises(ExecutionError, match="`g` belongs to another app"):
                wrong()


def test_how_it_is_described():
    app = modal.App("a")
    serialized(app, name="f")(lambda: 1)
    _, body = app_graph(app)
    (function,) = body["functions"]
    assert function["source"] == {"entries": []}
    module = function["module"]
    assert module["kind"] == "serialized"
    assert module["name"] == "test_serialized"
    assert module["python"] == f"{sys.version_info[0]}.{sys.version_info[1]}"
    function, origin = pickle.loads(base64.b64decode(module["pickle"]))
    assert (function(), origin) == (1, app._origin)


def test_another_python_is_refused():
    module = {"kind": "serialized", "name": "m", "python": "3.1", "pickle": ""}
    runner = Runner(module, "f")
    control, payload = runner.receive()
    assert control == {"type": "failed"}
    described = pickle.loads(payload)
    assert described["type"] == "modal.exception.ExecutionError"
    assert "needs the caller's Python `3.1` in the container" in described["message"]
    assert 'debian_slim(python_version="3.1")' in described["message"]
    runner.stop()


def test_functions_without_a_file_are_told_about_it(project):
    text = "import modal; app = modal.App('a'); app.function()(lambda: 1)"
    result = project.python("-c", text)
    assert "serialized=True" in result.stderr
    result = project.python(
        "-c", "import modal\napp = modal.App()\n@app.function()\ndef f(): pass\nwith app.run(): pass"
    )
    assert "no source file" in result.stderr and "serialized=True" in result.stderr


def test_main_of_a_plain_script(project):
    """Classes of `__main__` go there and back as the same classes."""
    project.write(
        "script.py",
        """
        import modal
        app = modal.App("a")

        class Point:
            def __init__(self, x):
                self.x = x

        @app.function(serialized=True)
        def moved(point):
            return Point(point.x + 1)

        if __name__ == "__main__":
            with app.run():
                point = moved.remote(Point(1))
                print(type(point) is Point, point.x)
        """,
    )
    result = project.python("script.py")
    assert result.stdout == "True 2\n", result.stderr


def test_nested_functions_without_it_are_refused():
    with pytest.raises(InvalidError, match="inside a function") as caught:
        modal.App("a").function()(lambda: 1)
    assert "serialized=True" in caught.value.hint


def test_nothing_is_imported_for_it_otherwise(project):
    code = textwrap.dedent(
        """
        import sys, modal
        app = modal.App("a", secrets=[modal.Secret.from_dotenv()])
        @app.function(retries=3)
        def f(): pass
        print("cloudpickle" in sys.modules, "dotenv" in sys.modules, "asyncio" in sys.modules)
        """
    )
    assert project.python("-c", code).stdout == "False False False\n"
