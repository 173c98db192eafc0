"""Event loops on both sides: asynchronous twins here, asynchronous functions there."""

from __future__ import annotations

from conftest import Modal

APP = """
import asyncio, time
import modal

app = modal.App("async", image=modal.Image.debian_slim(python_version="3.11"))

@app.function()
async def double(x, plus=0):
    await asyncio.sleep(0)
    return 2 * x + plus

@app.function()
def sleep(seconds):
    time.sleep(seconds)

@app.function()
def fail():
    raise KeyError("far away")

async def pairs():
    for x in range(3):
        await asyncio.sleep(0)
        yield x, 1

async def work():
    print(await double.remote.aio(4, plus=1))
    print([x async for x in double.map.aio(range(5))])
    print([x async for x in double.starmap.aio(pairs())])
    await double.for_each.aio(range(3))
    print(await asyncio.gather(*[double.remote.aio(x) for x in range(5)]))
    call = await double.spawn.aio(1)
    print(await call.get.aio(), await modal.FunctionCall.gather.aio(call, call))
    try:
        await asyncio.wait_for(sleep.remote.aio(60), 0.2)
    except asyncio.TimeoutError:
        print("given up")
    try:
        await fail.remote.aio()
    except KeyError as error:
        print(error, "fail" in str(error.__cause__))

@app.local_entrypoint()
async def main(times: int = 1):
    for _ in range(times):
        await work()

async def alone():
    async with app.run():
        await work()

if __name__ == "__main__":
    asyncio.run(alone())
"""

PRINTED = """9
[0, 2, 4, 6, 8]
[1, 3, 5]
[0, 2, 4, 6, 8]
2 [2, 2]
given up
'far away' True
"""


def test_an_asynchronous_entrypoint(modal: Modal) -> None:
    modal.write("app.py", APP)
    assert modal("run", "-q", "app.py", "--times", "2", timeout=60).stdout == PRINTED * 2


def test_a_program_with_a_loop_of_its_own(modal: Modal) -> None:
    modal.write("app.py", APP)
    assert modal.python("app.py", timeout=60).stdout == PRINTED
