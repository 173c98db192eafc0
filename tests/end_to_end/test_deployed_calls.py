"""Calls of deployed apps over the end of a version, or of the app's process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Modal
from leftovers import clean

PROGRAM = """
import os
import time

import modal

app = modal.App({name!r}, image=modal.Image.debian_slim(python_version="3.11"))
gates = modal.Dict.from_name({name!r}, create_if_missing=True)


def wait_for(key: str) -> None:
    gates["at-" + key] = True
    while not gates.contains("open-" + key):
        time.sleep(0.05)


@app.function(retries=1)
def wait(key: str) -> str:
    wait_for(key)
    return f"{{key}} in {version}"


@app.function()
def rows(key: str):
    yield 1
    wait_for(key)


@app.cls(retries=1)
class Model:
    size: int = modal.parameter(default=3)

    @modal.method()
    def wait(self, key: str) -> str:
        wait_for(key)
        return f"{{key}} of {{self.size}} in {version}"
"""

#: Evaluates its arguments, each after the other.
SCRIPT = """
import sys
import modal

name = {name!r}
wait = modal.Function.from_name(name, "wait")
rows = modal.Function.from_name(name, "rows")
Model = modal.Cls.from_name(name, "Model")
gates = modal.Dict.from_name(name, create_if_missing=True)
call = modal.FunctionCall.from_id
for line in sys.argv[1:]:
    try:
        print(eval(line), flush=True)
    except Exception as error:
        print(type(error).__name__, str(error).partition(chr(10))[0], flush=True)
"""

PATIENCE = 60


class Called:
    """A deployed app whose functions wait until they are told."""

    def __init__(self, modal: Modal) -> None:
        self.modal = modal
        self.name = f"called-{os.urandom(4).hex()}"

    def deploy(self, version: int, *options: str) -> str:
        self.modal.write("app.py", PROGRAM.format(name=self.name, version=version))
        return self.modal("deploy", *options, "app.py").stdout

    def __call__(self, *lines: str) -> list[str]:
        return self.modal.python("-c", SCRIPT.format(name=self.name), *lines).stdout.splitlines()

    def start(self, *lines: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT.format(name=self.name), *lines],
            env=self.modal.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def runs(self, *keys: str) -> None:
        """Waits until inputs run."""
        until = time.monotonic() + PATIENCE
        while self(*[f"gates.contains('at-{key}')" for key in keys]) != ["True"] * len(keys):
            assert time.monotonic() < until, keys
        self(*[f"gates.pop('at-{key}')" for key in keys])

    def open(self, *keys: str) -> None:
        self(*[f"gates.put('open-{key}', 1)" for key in keys])

    def kill(self) -> None:
        """Kills the app's process."""
        words = f"__deployed\0main\0{self.name}\0".encode()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if words in (process / "cmdline").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)
            except OSError:
                pass


@pytest.fixture
def called(modal: Modal) -> Iterator[Called]:
    called = Called(modal)
    yield called
    modal("app", "stop", "--yes", called.name)
    modal("dict", "delete", "--yes", "--allow-missing", called.name)
    clean(modal)


def test_inputs_run_anew_in_a_version_that_is_recreated(called: Called) -> None:
    called.deploy(1)
    callers = {
        "wait.remote('a')": "a in 2",
        "Model(size=7).wait.remote('b')": "b of 7 in 2",
        "Model().wait.spawn('c').get()": "c of 3 in 2",
        "list(rows.remote_gen('d'))": "InternalFailure the container of function `rows` was stopped, and the input cannot run"
        " again in another one because some of its values were taken already",
    }
    started = [called.start(line) for line in callers]
    cancelled = called.start("(f := wait.spawn('e')) and input() or f.cancel()")
    called.runs("a", "b", "c", "d", "e")
    called.deploy(2, "--strategy", "recreate")
    called.runs("a", "b", "c", "e")
    called.open("a", "b", "c")
    for caller, expected in zip(started, callers.values()):
        assert caller.communicate(timeout=PATIENCE)[0].strip() == expected
    # One that was moved can be cancelled.
    assert cancelled.communicate("\n", timeout=PATIENCE)[0].strip() == "None"
    until = time.monotonic() + PATIENCE
    while called("wait.get_current_stats().num_running_inputs") != ["0"]:
        assert time.monotonic() < until


def test_all_inputs_that_were_spawned_outlive_the_process_of_the_app(called: Called) -> None:
    called.deploy(1)
    lines = ("(m := wait.experimental_spawn_map(['a', 'b', 'c'])).object_id", "Model(size=5).wait.spawn('d').object_id")
    many, one = called(*lines)
    called.runs("a", "b", "c", "d")
    called.open("b")
    assert called(f"call({many!r}).get(index=1)") == ["b in 1"]
    called.kill()
    called.open("a", "c", "d")
    results = called(
        f"call({many!r}).num_inputs()",
        f"list(call({many!r}).iter())",
        f"call({many!r}).get(index=3)",
        f"call({one!r}).get()",
    )
    assert results == [
        "3",
        "['a in 1', 'b in 1', 'c in 1']",
        "InvalidError the call has no input at `index` 3: it has 3, from 0 to 2",
        "d of 5 in 1",
    ]


def test_who_has_spawned_them_gets_them_from_the_next_process(called: Called) -> None:
    called.deploy(1)
    spawner = called.start(
        "(m := wait.experimental_spawn_map(['a', 'b'])).object_id",
        "[sys.stdin.readline(), [m.get(index=each) for each in (1, 0)]]",
    )
    called.runs("a", "b")
    called.kill()
    called.open("a", "b")
    printed = spawner.communicate("go", timeout=PATIENCE)[0].splitlines()
    assert printed[1] == "['go', ['b in 1', 'a in 1']]"


def test_a_source_of_another_time_is_no_other_version(called: Called) -> None:
    assert "as version 1" in called.deploy(1)
    os.utime(called.modal.directory / "app.py", (1_000_000_000, 1_000_000_000))
    assert "Nothing has changed" in called.modal("deploy", "app.py").stdout
    assert "as version 2" in called.deploy(2)


OUTER = """
import modal

app = modal.App(image=modal.Image.debian_slim(python_version="3.11"))


@app.function()
def call() -> list:
    Model = modal.Cls.from_name({name!r}, "Model")
    said = [Model(size=9).wait.remote("a"), Model().wait.remote("a")]
    said.append(Model.with_options(timeout=50)(size=8).wait.spawn("a").get())
    wait = modal.Function.from_name({name!r}, "wait").with_options(timeout=40)
    said.extend(wait.map(["a", "a"]))
    for wrong in (lambda: Model(size="x"), lambda: Model(height=1), lambda: Model(9)):
        try:
            wrong().wait.remote("a")
        except Exception as error:
            said.append(f"{{type(error).__name__}} {{error}}".partition(chr(10))[0])
    try:
        modal.Function.from_name({name!r}, "wail").with_options(timeout=40).remote("a")
    except modal.exception.NotFoundError as error:
        said.append(str(error).partition(chr(10))[0])
    return said


@app.local_entrypoint()
def main() -> None:
    for line in call.remote():
        print(line)
"""


def test_containers_call_classes_with_parameters_and_options_of_other_apps(called: Called) -> None:
    called.deploy(1)
    called.open("a")
    called.modal.write("outer.py", OUTER.format(name=called.name))
    assert called.modal("run", "outer.py").stdout.splitlines() == [
        "a of 9 in 1",
        "a of 3 in 1",
        "a of 8 in 1",
        "a in 1",
        "a in 1",
        "TypeError the parameter `size` of `Model` is of type `int`, not `str`: 'x'",
        "InvalidError `Model(...)` has no parameter `height`; it has `size`",
        "InvalidError `Model(...)` takes no positional arguments: name them, as in `Model(x=1)`",
        f"the app `{called.name}` has no function `wail`: did you mean `wait`?",
    ]


NUMBERS = """
    import modal
    app = modal.App({name!r}, image=modal.Image.debian_slim(python_version="3.11"))

    @app.function(max_containers=3)
    def double(n):
        return 2 * n

    @app.function()
    def rows(n):
        yield from range(n)

    @app.cls()
    class Model:
        size: int = modal.parameter(default=3)

        @modal.method()
        def run(self):
            return self.size
    """

#: Asks for containers of the app, in a program or a container.
ASKER = """
    import modal
    from modal.exception import InvalidError, NotFoundError

    app = modal.App("asks", image=modal.Image.debian_slim(python_version="3.11"))

    def refused(kind, ask, *arguments, **keywords):
        try:
            ask(*arguments, **keywords)
        except kind as error:
            return str(error).splitlines()[0].partition("`")[2]
        return None

    @app.function()
    def ask(place):
        double, rows, none = (modal.Function.from_name({name!r}, name) for name in ("double", "rows", "none"))
        double.remote(1)
        stats = double.get_current_stats()
        assert (stats.num_total_runners, stats.backlog, stats.num_running_inputs) == (1, 0, 0), stats
        assert rows.get_current_stats().num_total_runners == 0
        before = double.autoscaler.settings()
        double.update_autoscaler(scaledown_window=77, buffer_containers=0)
        double.autoscaler.update(max_containers=2)
        settings = {{**before, "scaledown_window": 77, "max_containers": 2}}
        assert double.autoscaler.settings() == settings, (before, settings)
        double.update_autoscaler(scaledown_window=60, max_containers=3)
        Model = modal.Cls.from_name({name!r}, "Model")
        model = Model(size=4 if place == "here" else 5)
        model.update_autoscaler(min_containers=1, scaledown_window=78)
        assert model.run.autoscaler.settings()["scaledown_window"] == 78
        assert model.run.get_current_stats().num_total_runners == 1
        assert Model().run.autoscaler.settings()["scaledown_window"] == 60
        model.update_autoscaler(min_containers=0)
        changed = double.with_options(timeout=7)
        assert changed.autoscaler.settings() == before
        assert refused(InvalidError, model.run.update_autoscaler, min_containers=1) == "Model.run` is a method, which has no containers of its own"
        assert refused(InvalidError, double.update_autoscaler, min_containers=-1) == "min_containers` takes a whole number from 0 on, not `-1`"
        assert refused(NotFoundError, none.get_current_stats).endswith("has no function `none`")
        assert refused(NotFoundError, modal.Function.from_name({name!r}, "Model").get_current_stats).endswith("is a class")
        assert refused(InvalidError, Model(other=1).update_autoscaler, min_containers=1)
        return place

    if __name__ == "__main__":
        print(ask.local("here"))
        with app.run():
            print(ask.remote("there"))
    """


def test_containers_of_other_apps_are_asked_for_and_changed(modal: Modal) -> None:
    name = f"numbers-{os.urandom(4).hex()}"
    modal.write("deployed.py", NUMBERS.format(name=name))
    modal.write("asks.py", ASKER.format(name=name))
    modal("deploy", "deployed.py")
    try:
        assert modal.python("asks.py").stdout == "here\nthere\n"
    finally:
        modal("app", "stop", "--yes", name)
        clean(modal)
