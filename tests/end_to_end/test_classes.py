"""Classes of an app: instances, hooks, parameters, methods of every kind."""

from __future__ import annotations

from conftest import Modal

APP = """
import os, sys, time
import modal

app = modal.App("classes", image=modal.Image.debian_slim(python_version="3.11"))

class Base:
    @modal.enter()
    def first(self):
        self.order = ["base"]

@app.cls(enable_memory_snapshot=True, max_containers=1)
class Model(Base):
    name: str = modal.parameter()
    size: int = modal.parameter(default=7)
    note: str = modal.parameter(default="", init=False)

    @modal.enter(snap=True)
    def snap(self):
        self.snapped = True

    @modal.enter()
    async def load(self):
        self.order.append(f"{self.name}-{self.snapped}")

    @modal.method()
    def describe(self, more=0):
        return self.name, self.size, self.order, os.environ.get("MODAL_TASK_ID"), more

    @modal.method()
    async def double(self, x):
        return 2 * x

    @modal.method()
    def count(self, n):
        for i in range(n):
            yield self.size * i

    @modal.method()
    def chain(self, n):
        if n == 0:
            return self.size
        return self.chain.local(n - 2) if n > 1 else Model(name="other", size=n).describe.remote()[1]

    def plain(self):
        return self.size + 1

    @modal.exit()
    def leave(self):
        print("left", self.name, flush=True)

@app.function()
def weights(name):
    return len(name)

@app.cls()
class Prepared:
    @modal.enter()
    def load(self):
        self.weights = weights.remote("abc")

    @modal.enter()
    async def load_more(self):
        self.more = await weights.remote.aio("abcd")

    @modal.method()
    def run(self):
        return self.weights, self.more, list(weights.map(["a", "bb"]))

@app.cls()
class Broken:
    @modal.enter()
    def load(self):
        raise KeyError("no weights")

    @modal.method()
    def run(self): ...

@app.function()
def use(model):
    return model.describe.remote(5)

@app.local_entrypoint()
def main():
    small, big = Model(name="small"), Model(name="big", size=13)
    first = small.describe.remote()
    again = Model(name="small", size=7).describe.remote(more=1)
    print(first[:3], again[3] == first[3], again[4], big.describe.remote()[:2], big.describe.remote()[3] == first[3])
    print(small.double.remote(4), list(small.double.map(range(4))), list(big.count.remote_gen(3)))
    print(small.describe.spawn(9).get()[4], list(small.describe.starmap([(1,), (2,)]))[1][4])
    print(small.chain.remote(1), small.chain.remote(3), small.plain(), Model(name="x", size=3).describe.local()[:3])
    print(use.remote(small)[3] == first[3])
    print(Prepared().run.remote())
    try:
        Broken().run.remote()
    except KeyError as error:
        print("raised", error, "load" in str(error.__cause__))
    try:
        Model(name=3).describe.remote()
    except TypeError as error:
        print("TypeError", error)
    limited = Model.with_options(env={"X": "1"}, timeout=100)(name="small").describe.remote()
    print(limited[3] == first[3])
"""

PRINTED = """('small', 7, ['base', 'small-True']) True 1 ('big', 13) False
8 [0, 2, 4, 6] [0, 13, 26]
9 2
1 1 8 ('x', 3, ['base'])
True
(3, 4, [1, 2])
raised 'no weights' True
TypeError the parameter `name` of `Model` is of type `str`, not `int`: 3
False
"""


def test_instances_hooks_and_methods(modal: Modal) -> None:
    modal.write("app.py", APP)
    lines = modal("run", "-q", "app.py", timeout=120).stdout.splitlines(keepends=True)
    left = [line for line in lines if line.startswith("left ")]
    assert "".join(line for line in lines if line not in left) == PRINTED
    assert {"left small\n", "left big\n", "left other\n"} <= set(left)


def test_the_command_line_runs_methods(modal: Modal) -> None:
    modal.write("app.py", COMMAND_LINE)
    run = ("run", "-q", "app.py")
    assert modal(*run, "--size", "3", "--text", "ab").stdout == "6\n"
    assert modal("run", "-q", "app.py::Model.say", "--size=3", "--text=abc").stdout == "9\n"
    assert modal("run", "-q", "app.py::app.Model.say", "--size=3").stdout == "3\n"
    missing = modal(*run, check=False)
    assert missing.code == 2
    assert "missing option `--size`" in missing.stderr
    unknown = modal("run", "-q", "app.py::Model.nothing", check=False)
    assert "`Model.nothing` was not found in `app.py`" in unknown.stderr
    assert "`Model.say`" in unknown.stderr
    shown = modal("shell", "app.py::Model", "-c", "echo $HOME")
    assert shown.stdout.split() == ["/root"]


COMMAND_LINE = """
import modal

app = modal.App("line", image=modal.Image.debian_slim(python_version="3.11"))

@app.cls()
class Model:
    size: int = modal.parameter()

    @modal.method()
    def say(self, text: str = "x"):
        print(len(text) * self.size)
"""

SERIALIZED = """
import modal

app = modal.App("by value", image=modal.Image.debian_slim(python_version="3.11"))

def make():
    factor = 3

    class Base:
        @modal.method()
        def again(self, x):
            return factor * x

    @app.cls(serialized=True)
    class Local(Base):
        plus: int = modal.parameter(default=1)

        @modal.enter()
        def load(self):
            self.loaded = factor

        @modal.method()
        def run(self, x):
            if x > 5:
                return Local(plus=self.plus).run.remote(x - 5), self.again.remote(x)
            return self.again.local(x) + self.plus + self.loaded

    return Local

@app.local_entrypoint()
def main():
    Local = make()
    print(Local().run.remote(2), Local(plus=4).run.remote(2), Local(plus=4).run.remote(7))
"""


def test_classes_travel_by_value(modal: Modal) -> None:
    modal.write(
        "app.py",
        SERIALIZED.replace("main():\n    Local = make()", "main():").replace(
            "\n@app.local", "\nLocal = make()\n\n@app.local"
        ),
    )
    assert modal("run", "-q", "app.py").stdout == "10 13 (13, 21)\n"


ENDS = """
import time
import modal

app = modal.App("ends", image=modal.Image.debian_slim(python_version="3.11"))

@app.cls(max_containers=1)
class Slow:
    @modal.method()
    def wait(self):
        try:
            print("waiting", flush=True)
            time.sleep(1000)
        except BaseException as error:
            print(type(error).__name__, flush=True)
            raise

    @modal.method()
    async def wait_in_the_loop(self):
        import asyncio

        try:
            print("waiting", flush=True)
            await asyncio.sleep(1000)
        except BaseException as error:
            print(type(error).__name__, flush=True)
            raise

    @modal.method()
    def hello(self):
        return "hello"

    @modal.exit()
    def leave(self):
        time.sleep(3)
        print("left", flush=True)

@app.local_entrypoint()
def main():
    slow = Slow()
    for method in (slow.wait, slow.wait_in_the_loop):
        call = method.spawn()
        time.sleep(2)
        call.cancel()
        print(slow.hello.remote())
    slow.wait.spawn()
    time.sleep(1)
"""


def test_inputs_end_alone_and_hooks_run_at_every_end(modal: Modal) -> None:
    modal.write("app.py", ENDS)
    lines = modal("run", "-q", "app.py", timeout=120).stdout.splitlines()
    assert lines == [
        "waiting", "InputCancellation", "hello",
        "waiting", "CancelledError", "hello",
        "waiting", "InputCancellation", "left",
    ]  # fmt: skip
