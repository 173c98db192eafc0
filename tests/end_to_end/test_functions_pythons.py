"""The whole range of calls with every Python in the container, and with every other one on the host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Modal

SERIES = [f"3.{minor}" for minor in range(9, 15)]
#: Those that come from Debian's archive.
CONTAINERS = ["3.9", "3.11", "3.13", "3.14"]
HOST = f"{sys.version_info[0]}.{sys.version_info[1]}"

APP = """
import asyncio, os, sys
import modal

VERSION = os.environ.get("CONTAINER_PYTHON", "3.11")
app = modal.App("pythons", image=modal.Image.debian_slim(python_version=VERSION), secrets=[modal.Secret.from_dict({"CONTAINER_PYTHON": VERSION})])

class Odd(Exception):
    def __init__(self, code, text):
        super().__init__(text)
        self.code = code

@app.function()
def version():
    return "{}.{}".format(*sys.version_info)

@app.function()
def square(x):
    return x * x

@app.function()
async def coroutine(x):
    await asyncio.sleep(0)
    return x + 1

@app.function()
def numbers(n):
    yield from range(n)

@app.function()
async def ticks(n):
    for x in range(n):
        await asyncio.sleep(0)
        yield x

@app.function()
def fail():
    try:
        {}["inner"]
    except KeyError as error:
        raise Odd(7, "outer") from error

@app.function()
def echo(data):
    return data

@app.function()
def leave():
    os._exit(3)

async def collect(values):
    return [value async for value in values]

@app.local_entrypoint()
def main():
    print("{}.{}".format(*sys.version_info), version.remote())
    print(square.remote(3), list(square.map(range(300))) == [x * x for x in range(300)], square.spawn(5).get())
    print(coroutine.remote(1), sum(numbers.remote_gen(100)), list(ticks.remote_gen(3)))
    print(asyncio.run(collect(square.map.aio(range(4)))))
    data = os.urandom(8 << 20)
    print(echo.remote(data) == data, echo.remote({"nested": [1, 2.5, None, ("x", {3})]}))
    try:
        fail.remote()
    except Odd as error:
        print(error.code, error, "inner" in str(error.__cause__))
    try:
        leave.remote()
    except modal.exception.InternalFailure as error:
        print("dead")
"""

PRINTED = """{host} {container}
9 True 25
2 4950 [0, 1, 2]
[0, 1, 4, 9]
True {{'nested': [1, 2.5, None, ('x', {{3}})]}}
7 outer True
dead
"""


def interpreters() -> dict[str, str]:
    """Other Pythons of this machine by their series: the programs on PATH and of pyenv that start."""
    found: dict[str, str] = {}
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    folders += sorted(Path.home().glob(".pyenv/versions/*/bin"))
    for folder in folders:
        for series in SERIES:
            program = folder / f"python{series}"
            if series in (HOST, *found) or not os.access(program, os.X_OK):
                continue
            code = "import sys; print('{}.{}'.format(*sys.version_info))"
            answer = subprocess.run([str(program), "-c", code], capture_output=True, text=True)
            # pyenv's shims exist for versions that are not chosen just now.
            if answer.returncode == 0 and answer.stdout.strip() == series:
                found[series] = str(program)
    return found


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_python_in_the_container(modal: Modal, container: str) -> None:
    modal.write("app.py", APP)
    result = modal("run", "-q", "app.py", CONTAINER_PYTHON=container)
    assert result.stdout == PRINTED.format(host=HOST, container=container)


def test_every_other_python_on_the_host(modal: Modal) -> None:
    """The package is pure Python: another interpreter imports the one under test from where it is."""
    import modal as package

    modal.write("app.py", APP)
    # Where this machine has no other Python, this one is at least another than the container's.
    hosts = interpreters() or {HOST: sys.executable}
    for series, program in hosts.items():
        container = "3.11" if series != "3.11" else "3.13"
        parent = modal.directory / f"packages-{series}"
        parent.mkdir()
        (parent / "modal").symlink_to(Path(package.__file__).parent)
        result = modal("run", "-q", "app.py", MODAL_PYTHON=program, PYTHONPATH=str(parent), CONTAINER_PYTHON=container)
        assert result.stdout == PRINTED.format(host=series, container=container)


def test_the_search_for_interpreters_finds_what_it_says() -> None:
    for series, program in interpreters().items():
        answer = subprocess.run([program, "--version"], capture_output=True, text=True)
        assert re.search(rf"Python {re.escape(series)}\.", answer.stdout)
