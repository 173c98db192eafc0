"""Functions that call other functions of their app from inside their containers."""

from __future__ import annotations

import time

from conftest import Modal

APP = """
import asyncio, os, threading, time
import modal

app = modal.App("nested", image=modal.Image.debian_slim(python_version="3.11"))
other_app = modal.App("other")

@app.function()
def double(x):
    return 2 * x

@app.function()
def numbers(count):
    yield from range(count)

@app.function()
def fail(text):
    raise LookupError(text)

@app.function()
def sleep(seconds, path=None):
    time.sleep(seconds)
    return seconds

@other_app.function()
def foreign():
    return 1

"""


def test_every_kind_of_call(modal: Modal) -> None:
    program = """
@app.function()
def many(n):
    spawned = [double.spawn(x) for x in range(n)]
    double.for_each(range(n))
    return (
        double.remote(n),
        list(double.map(range(n))) == [2 * x for x in range(n)],
        sum(double.starmap(((x,) for x in range(n)), order_outputs=False)),
        sum(numbers.remote_gen(200)),
        modal.FunctionCall.gather(*spawned) == [2 * x for x in range(n)],
        spawned[0].object_id.startswith("fc-"),
        len(double.remote(b"x" * (3 << 20))) == 6 << 20,
    )

@app.function()
async def many_aio(n):
    first, second = await asyncio.gather(double.remote.aio(n), double.remote.aio(n + 1))
    mapped = [x async for x in double.map.aio(range(n))]
    values = [x async for x in numbers.remote_gen.aio(100)]
    call = await double.spawn.aio(5)
    return first, second, sum(mapped), sum(values), await call.get.aio()

@app.function()
def in_threads(n):
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(8) as pool:
        return sum(pool.map(double.remote, range(n)))

@app.function()
def doubled(count):
    for x in numbers.remote_gen(count):
        yield double.remote(x)

@app.function()
def factorial(n):
    return 1 if n <= 1 else n * factorial.remote(n - 1)

@app.function()
def middle(x):
    return double.remote(x) + 1

@app.function()
def top(x):
    return middle.remote(x) + 1

@app.local_entrypoint()
def main():
    print(many.remote(20))
    print(many_aio.remote(20))
    print(in_threads.remote(50))
    print(list(doubled.remote_gen(30)) == [2 * x for x in range(30)])
    print(factorial.remote(4), top.remote(20))
"""
    modal.write("app.py", APP + program)
    result = modal("run", "app.py")
    assert result.code == 0, result.stderr
    assert result.stdout.splitlines()[-5:] == [
        "(40, True, 380, 19900, True, True, True)",
        "(40, 42, 380, 4950, 10)",
        "2450",
        "True",
        "24 42",
    ]


def test_inputs_know_their_ids(modal: Modal) -> None:
    program = """
@app.function()
def ids(x=None):
    return modal.current_function_call_id(), modal.current_input_id()

@app.function()
async def nested(n):
    inner = await ids.remote.aio()
    mapped = [pair async for pair in ids.map.aio(range(n))]
    return ids.local(), inner, mapped

@app.local_entrypoint()
def main():
    assert ids.local() == (None, None)
    pairs = [ids.remote(), ids.remote()]
    for mapped in (list(ids.map(range(40))), list(ids.map(iter(range(3))))):
        assert len({call for call, _ in mapped}) == 1
        pairs += mapped
    spawned = ids.spawn()
    assert spawned.get()[0] == spawned.object_id
    own, inner, mapped = nested.remote(3)
    assert len({call for call, _ in mapped}) == 1
    pairs += [spawned.get(), own, inner, *mapped]
    assert len({call for call, _ in pairs}) == 8
    assert len({one for _, one in pairs}) == len(pairs)
    assert all(call.startswith("fc-") and one.startswith("in-") and len(call) == len(one) == 25 for call, one in pairs)
    print("each its own")
"""
    modal.write("app.py", APP + program)
    result = modal("run", "app.py")
    assert result.code == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "each its own"


def test_exceptions_are_themselves_at_every_level(modal: Modal) -> None:
    program = """
@app.function()
def middle(text):
    fail.remote(text)

@app.function()
def catching(text):
    try:
        middle.remote(text)
    except LookupError as error:
        return "caught " + error.args[0]

@app.function()
def calls_foreign():
    return foreign.remote()

@app.local_entrypoint()
def main():
    print(catching.remote("deep"))
    try:
        middle.remote("deeper")
    except LookupError as error:
        print(error, "in fail" in str(error.__cause__), "in middle" in str(error.__cause__))
    try:
        calls_foreign.remote()
    except modal.exception.ExecutionError as error:
        print(error.message)
"""
    modal.write("app.py", APP + program)
    result = modal("run", "app.py")
    assert result.code == 0, result.stderr
    assert result.stdout.splitlines()[-3:] == [
        "caught deep",
        "deeper True True",
        "`foreign` belongs to App('other'), and this container to App('nested')",
    ]


def test_cancellation_follows(modal: Modal) -> None:
    program = """
@app.function()
def sleeper(name):
    try:
        with open("/tmp/started", "w"):
            pass
        time.sleep(60)
    finally:
        print("ended", name, flush=True)

@app.function(timeout=2)
def too_slow():
    sleep.remote(60)

@app.function()
async def gives_up():
    try:
        await asyncio.wait_for(sleep.remote.aio(60), 1)
    except asyncio.TimeoutError:
        return "gave up"

@app.function()
def leaves():
    call = sleep.spawn(2)
    threading.Thread(target=sleep.remote, args=(60,), daemon=True).start()
    time.sleep(0.5)
    raise LookupError("left")

@app.local_entrypoint()
def main():
    start = time.monotonic()
    try:
        too_slow.remote()
    except modal.exception.FunctionTimeoutError:
        print("timed out")
    print(gives_up.remote())
    try:
        leaves.remote()
    except LookupError as error:
        print(error)
    # What sleeps for a minute would be in the way if it went on: there is one container for it.
    print(sleep.remote(0), time.monotonic() - start < 50)
"""
    program = APP.replace("@app.function()\ndef sleep", "@app.function(max_containers=1)\ndef sleep") + program
    modal.write("app.py", program)
    start = time.monotonic()
    result = modal("run", "app.py")
    assert result.code == 0, result.stderr
    assert result.stdout.splitlines()[-4:] == ["timed out", "gave up", "left", "0 True"]
    assert time.monotonic() - start < 55


def test_what_waits_for_itself_is_said(modal: Modal) -> None:
    program = """
@app.function(max_containers=1, timeout=5)
def ping(n):
    return n if n == 0 else pong.remote(n - 1)

@app.function(max_containers=1, timeout=5)
def pong(n):
    return n if n == 0 else ping.remote(n - 1)

@app.local_entrypoint()
def main():
    print(ping.remote(1))
    try:
        ping.remote(5)
    except modal.exception.FunctionTimeoutError:
        print("timed out")
"""
    modal.write("app.py", APP + program)
    result = modal.events("app.py")
    assert result.code == 0, result.stderr
    assert result.stdout.splitlines()[-2:] == ["0", "timed out"]
    circles = [event["path"] for event in result.of("call_stuck")]
    assert any({"ping", "pong"} <= set(circle) for circle in circles), circles
