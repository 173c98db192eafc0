"""A plain program as type checkers see it: `mypy --strict` and pyright pass on it, and the types are these."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, assert_type

import modal

image = (
    modal.Image.debian_slim(python_version="3.11")
    .apt_install("git", ["curl"])
    .pip_install("requests", pre=True)
    .uv_pip_install("pandas==2.2.3", requirements=["requirements.txt"], env={"A": None, "B": "1"})
    .run_commands("make", secrets=[modal.Secret.from_dict({"TOKEN": "…"})])
    .env({"LEVEL": "INFO"})
    .workdir("/srv")
    .add_local_file("a.txt", "/a.txt")
    .add_local_dir("src", remote_path="/root/src", ignore=["**/*.pyc"])
    .add_local_python_source("helpers", ignore=modal.FilePatternMatcher("**/*.txt"))
)
app = modal.App("demo", image=image, secrets=[modal.Secret.from_local_environ(["HOME"])])


@app.function(timeout=60, retries=modal.Retries(max_retries=3), cpu=(0.5, 2), memory=512)
def double(x: int, times: int = 1) -> float:
    return 2.0 * x * times


@app.function()
def lines(path: str) -> Iterator[str]:
    yield path


@app.function()
async def fetch(url: str) -> bytes:
    return url.encode()


@app.function()
async def follow(url: str) -> AsyncIterator[bytes]:
    yield url.encode()


@app.function()
def untyped(n: int):  # type: ignore[no-untyped-def]
    yield n


MODELS = Path("/models")
volume = modal.Volume.from_name("models", create_if_missing=True)
by_path: dict[Path, modal.Volume] = {MODELS: volume}


@app.function(volumes={MODELS: volume, PurePosixPath("/posix"): volume, "/text": volume})
def with_volumes() -> None: ...


@app.function(volumes=by_path, image=image.run_commands("true", volumes={MODELS: volume}))
def with_a_variable() -> None: ...


def with_tool(base: modal.Image, name: str) -> modal.Image:
    return base.apt_install(name)


@app.local_entrypoint()
def main(n: int = 3) -> str:
    assert_type(double.remote(n), float)
    assert_type(double.remote(n, times=2), float)
    assert_type(double.local(n), float)
    assert_type(list(double.map([1, 2, 3], kwargs={"times": 2})), list[float])
    assert_type(list(double.starmap([(1, 2), (3, 4)], order_outputs=False)), list[float])
    double.for_each(range(3), ignore_exceptions=True)
    call = double.spawn(n)
    assert_type(call, modal.FunctionCall[float])
    assert_type(call.get(timeout=3), float)
    assert_type(call.object_id, str)
    assert_type(call.get_call_graph(), list[modal.call_graph.InputInfo])
    assert_type(modal.FunctionCall.gather(call, call), list[Any])
    assert_type(list(lines.remote_gen("a")), list[str])
    assert_type(list(follow.remote_gen("a")), list[bytes])
    for _ in untyped.remote_gen(3):
        pass
    assert_type(fetch.remote("a"), bytes)
    assert_type(fetch.spawn("a").get(), bytes)
    assert_type(image.pipe(with_tool, "gcc"), modal.Image)
    return str(n)


async def asynchronous() -> None:
    assert_type(await double.remote.aio(3), float)
    assert_type(await fetch.remote.aio("a"), bytes)
    assert_type([value async for value in double.map.aio([1, 2])], list[float])
    assert_type([value async for value in double.starmap.aio([(1, 2)])], list[float])
    assert_type([value async for value in lines.remote_gen.aio("a")], list[str])
    assert_type([value async for value in follow.remote_gen.aio("a")], list[bytes])
    await double.for_each.aio([1])
    call = await double.spawn.aio(3)
    assert_type(await call.get.aio(), float)
    async with app.run() as running:
        assert_type(running, modal.App)


if __name__ == "__main__":
    with modal.enable_output(), app.run():
        assert_type(main(n=2), str)
