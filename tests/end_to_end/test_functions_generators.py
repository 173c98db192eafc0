"""Generators in containers: values as they come, their end in every way."""

from __future__ import annotations

from conftest import Modal

APP = """
import asyncio, os, time
import modal

app = modal.App("generators", image=modal.Image.debian_slim(python_version="3.11"))

@app.function()
def numbers(count, fail_at=None):
    for index in range(count):
        if index == fail_at:
            raise LookupError(f"at {index}")
        yield index

@app.function()
async def ticks(count):
    for index in range(count):
        await asyncio.sleep(0)
        yield index

@app.function()
def chunks(count, size):
    for _ in range(count):
        yield bytes(size)

@app.function()
def pausing():
    yield time.time()
    time.sleep(1)
    yield time.time()

@app.function()
def leaving():
    yield 1
    os._exit(5)

@app.function(timeout=1)
def endless():
    while True:
        yield 1
        time.sleep(0.1)

async def collect(values):
    return [value async for value in values]

@app.local_entrypoint()
def main():
    print(sum(numbers.remote_gen(5000)), list(ticks.remote_gen(3)), [len(x) for x in chunks.remote_gen(8, 20 << 20)] == [20 << 20] * 8)
    print(asyncio.run(collect(numbers.remote_gen.aio(4))))
    values = pausing.remote_gen()
    next(values)
    between = time.time()
    print("live", next(values) > between)
    for value in numbers.remote_gen(10**12):
        if value == 1000:
            break
    print("left at", value)
    for failing in (numbers.remote_gen(9, 2), leaving.remote_gen(), endless.remote_gen()):
        seen = []
        try:
            for value in failing:
                seen.append(value)
        except Exception as error:
            print(type(error).__name__, len(seen))
    try:
        numbers.remote(3)
    except modal.exception.InvalidError as error:
        print(error)
"""


def test_generators(modal: Modal) -> None:
    modal.write("app.py", APP)
    lines = modal("run", "-q", "app.py", timeout=120).stdout.splitlines()
    assert lines[:4] == ["12497500 [0, 1, 2] True", "[0, 1, 2, 3]", "live True", "left at 1000"]
    assert lines[4:6] == ["LookupError 2", "InternalFailure 1"]
    assert lines[6].startswith("FunctionTimeoutError ")
    assert "`numbers` is a generator" in lines[7] and "remote_gen" in lines[8]


def test_a_generator_is_not_run_by_the_command(modal: Modal) -> None:
    modal.write("app.py", APP)
    result = modal("run", "app.py::numbers", check=False)
    assert result.code == 1
    assert "`numbers` is a generator, which cannot be run" in result.stderr
