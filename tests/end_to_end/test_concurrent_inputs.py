"""Several inputs in a container, at a time and together; how many containers there are."""

from __future__ import annotations

from conftest import Modal

CONCURRENT = """
import asyncio, os, threading, time
import modal

app = modal.App("concurrent", image=modal.Image.debian_slim(python_version="3.11"))

@app.function(max_containers=1)
@modal.concurrent(max_inputs=20)
async def wait(x):
    await asyncio.sleep(0.5)
    if x == 3:
        raise ValueError(x)
    return x, modal.current_input_id(), os.environ["MODAL_TASK_ID"]

@app.function(max_containers=1)
@modal.concurrent(max_inputs=20)
def block(x):
    time.sleep(0.5)
    return x, modal.current_input_id(), threading.current_thread().daemon

@app.function(max_containers=1)
@modal.concurrent(max_inputs=4)
async def forever():
    try:
        await asyncio.sleep(1000)
    except asyncio.CancelledError:
        print("cancelled", flush=True)
        raise

@app.function(max_containers=1, timeout=1)
@modal.concurrent(max_inputs=4)
async def limited(seconds):
    await asyncio.sleep(seconds)
    return os.environ["MODAL_TASK_ID"]

@app.cls(max_containers=1)
@modal.concurrent(max_inputs=8)
class Mixed:
    @modal.enter()
    def load(self):
        self.count = 0
        self.lock = threading.Lock()

    @modal.method()
    def add(self, n):
        with self.lock:
            self.count += n
        time.sleep(0.2)
        return self.count

    @modal.method()
    async def items(self, n):
        for i in range(n):
            await asyncio.sleep(0.001)
            yield i

    @modal.method()
    def numbers(self, n):
        yield from range(n)

    @modal.exit()
    async def leave(self):
        print("left", self.count, flush=True)

@app.local_entrypoint()
def main():
    wait.remote(0)
    start = time.time()
    results = list(wait.map(range(10), return_exceptions=True))
    assert time.time() - start < 3, "side by side"
    print([type(r).__name__ for r in results].count("ValueError"), len({r[1] for r in results if isinstance(r, tuple)}),
          len({r[2] for r in results if isinstance(r, tuple)}))
    results = list(block.map(range(10)))
    print([r[0] for r in results], len({r[1] for r in results}), {r[2] for r in results})
    calls = [forever.spawn() for _ in range(2)]
    time.sleep(1)
    calls[0].cancel()
    calls[1].cancel()
    task = limited.remote(0)
    late = limited.spawn(30)
    time.sleep(0.5)
    beside = limited.spawn(0.8)
    try:
        late.get()
    except modal.exception.FunctionTimeoutError:
        print("late", beside.get() == task)
    mixed = Mixed()
    beside = mixed.add.spawn(0)
    for number in mixed.numbers.remote_gen(10_000):
        if number == 40:
            break
    beside.get()
    print(max(mixed.add.map([1] * 5)), list(mixed.items.remote_gen(100))[-1], list(mixed.numbers.remote_gen(300))[-1])
"""


def test_inputs_run_side_by_side(modal: Modal) -> None:
    modal.write("app.py", CONCURRENT)
    lines = modal("run", "-q", "app.py", timeout=120).stdout.splitlines()
    assert sorted(lines) == sorted(
        [
            "1 9 1",
            "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9] 10 {True}",
            "cancelled",
            "cancelled",
            "late True",
            "5 99 299",
            "left 5",
        ]
    )


BATCHED = """
import modal

app = modal.App("batched", image=modal.Image.debian_slim(python_version="3.11"))

@app.function(max_containers=1)
@modal.batched(max_batch_size=4, wait_ms=200)
def double(xs, ys):
    return [(2 * x + y, len(xs)) for x, y in zip(xs, ys)]

@app.function()
@modal.batched(max_batch_size=2, wait_ms=10)
async def wrong(xs):
    return xs if xs[0] != 1 else tuple(xs)

@app.cls(max_containers=1)
class Model:
    @modal.enter()
    def load(self):
        self.factor = 10

    @modal.batched(max_batch_size=3, wait_ms=300)
    async def run(self, xs: list):
        return [self.factor * x for x in xs]

def caught(call):
    try:
        return call()
    except Exception as error:
        return type(error).__name__ + ": " + str(error).splitlines()[0]

@app.local_entrypoint()
def main():
    print(double.remote(1, ys=5))
    print(sorted(r for r, _ in double.map(range(8), range(8))), max(n for _, n in double.map(range(8), range(8))))
    print(wrong.remote(2), caught(lambda: wrong.remote(1)))
    print(caught(lambda: double.remote(1)), caught(lambda: double.remote(1, 2, zs=3)))
    print(list(Model().run.map(range(5))))
    print(Model.with_batching(max_batch_size=1, wait_ms=0)().run.remote(2))
"""


def test_inputs_run_together(modal: Modal) -> None:
    modal.write("app.py", BATCHED)
    assert modal("run", "-q", "app.py", timeout=120).stdout.splitlines() == [
        "(7, 1)",
        "[0, 3, 6, 9, 12, 15, 18, 21] 4",
        "2 InvalidError: the batched function `wrong` returned `tuple`, not a list",
        "InvalidError: the batched function `double` takes 2 arguments, and misses `ys` "
        "InvalidError: the batched function `double` has no parameter `zs`",
        "[0, 10, 20, 30, 40]",
        "20",
    ]


SCALING = """
import os, socket, time
import modal

app = modal.App("scaling", image=modal.Image.debian_slim(python_version="3.11"))

@app.function(min_containers=2, max_containers=3, scaledown_window=2)
def task():
    return os.environ["MODAL_TASK_ID"]

@app.function(single_use_containers=True, block_network=True)
def once():
    try:
        socket.create_connection(("127.0.0.1", 1), timeout=1)
    except OSError as error:
        pass
    return os.environ["MODAL_TASK_ID"], sorted(name for _, name in socket.if_nameindex())

@app.cls(scaledown_window=2)
class Model:
    size: int = modal.parameter(default=1)

    @modal.method()
    def run(self):
        return self.size

def until(condition):
    deadline = time.time() + 30
    while not condition():
        assert time.time() < deadline
        time.sleep(0.05)

@app.local_entrypoint()
def main():
    until(lambda: task.get_current_stats().num_total_runners == 2)
    until(lambda: task.get_current_stats().input_headroom == 2)
    print(task.get_current_stats(), task.autoscaler.settings())
    task.update_autoscaler(min_containers=3)
    until(lambda: task.get_current_stats().num_total_runners == 3)
    task.autoscaler.update(min_containers=None, max_containers=1)
    print(task.autoscaler.settings())
    until(lambda: task.get_current_stats().num_total_runners == 0)
    Model(size=2).update_autoscaler(min_containers=1)
    until(lambda: Model(size=2).run.get_current_stats().num_total_runners == 1)
    print(Model(size=3).run.get_current_stats().num_total_runners)
    print(len({once.remote()[0] for _ in range(3)}), once.remote()[1])
"""


def test_how_many_containers_there_are(modal: Modal) -> None:
    modal.write("app.py", SCALING)
    assert modal("run", "-q", "app.py", timeout=120).stdout.splitlines() == [
        "FunctionStats(backlog=0, num_total_runners=2, num_running_inputs=0, input_headroom=2) "
        "{'buffer_containers': 0, 'max_containers': 3, 'min_containers': 2, 'scaledown_window': 2}",
        "{'buffer_containers': 0, 'max_containers': 1, 'min_containers': 0, 'scaledown_window': 2}",
        "0",
        "3 ['lo']",
    ]
