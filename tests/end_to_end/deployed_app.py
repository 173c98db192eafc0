"""An app that is deployed by the real command, for tests of what becomes of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Modal

PROGRAM = """
import os
import time

import modal

gates = modal.Volume.from_name({name!r}, create_if_missing=True)
app = modal.App({name!r}, image=modal.Image.debian_slim(python_version="3.11"))


@app.function()
def double(n: int) -> int:
    print(f"doubling {{n}}")
    return {factor} * n


@app.function()
def count(n: int):
    yield from range(n)


@app.function()
def fail() -> None:
    raise ValueError("no")


@app.function(volumes={{"/gates": gates}})
def wait_for(gate: str) -> int:
    print("waiting", flush=True)
    while not os.path.exists("/gates/" + gate):
        time.sleep(0.05)
    return {factor}


@app.function(volumes={{"/gates": gates}}, retries=1)
def wait_again(gate: str) -> int:
    return wait_for.local(gate)
"""

#: Calls a function, with a number: every line of input is one.
CALLER = """
import sys
import modal
function = modal.Function.from_name({name!r}, {function!r}, **{keywords!r})
for line in sys.argv[1:]:
    try:
        print(function.remote(eval(line)))
    except Exception as error:
        print(type(error).__name__, str(error).partition(chr(10))[0])
"""

#: Spawns a call and says its id.
SPAWNER = """
import sys
import modal
function = modal.Function.from_name({name!r}, {function!r})
print(function.spawn(eval(sys.argv[1])).object_id)
"""

#: Fetches the result of a call.
FETCHER = """
import sys
import modal
call = modal.FunctionCall.from_id(sys.argv[1])
try:
    print(call.get(timeout=float(sys.argv[2])))
except Exception as error:
    print(type(error).__name__, str(error).partition(chr(10))[0])
"""

PATIENCE = 60


class Deployed:
    """A deployed app of one test."""

    def __init__(self, modal: Modal) -> None:
        self.modal = modal
        self.name = f"deployed-{os.urandom(4).hex()}"

    def deploy(self, *options: str, factor: int = 2, check: bool = True):
        self.modal.write("project/app.py", PROGRAM.format(name=self.name, factor=factor))
        done = self.modal("deploy", *options, "project/app.py", check=check)
        # Nothing of the user's directory is needed afterwards.
        shutil.rmtree(self.modal.directory / "project")
        return done

    def program(self, function: str, **keywords) -> str:
        return CALLER.format(name=self.name, function=function, keywords=keywords)

    def call(self, function: str, *arguments: str, **keywords) -> list[str]:
        """Calls from a process of its own; what it printed."""
        done = self.modal.python("-c", self.program(function, **keywords), *arguments)
        return done.stdout.splitlines()

    def start(self, function: str, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-c", self.program(function), *arguments],
            env=self.modal.environment,
            stdout=subprocess.PIPE,
            text=True,
        )

    def spawn(self, function: str, argument: str) -> str:
        """Spawns a call from a process that ends at once; the call's id."""
        program = SPAWNER.format(name=self.name, function=function)
        return self.modal.python("-c", program, argument).stdout.strip()

    def fetch(self, call: str, timeout: float = PATIENCE) -> str:
        return self.modal.python("-c", FETCHER, call, str(timeout)).stdout.strip()

    def kill_host(self) -> None:
        host = self.host()
        assert host is not None
        os.kill(host, signal.SIGKILL)

    def open_gate(self, gate: str) -> None:
        self.modal.write("gate", "open")
        self.modal("volume", "put", self.name, "gate", gate)

    def host(self) -> int | None:
        """The app's process."""
        for directory in Path("/proc").iterdir():
            try:
                words = (directory / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[1:4] == [b"__deployed", b"main", self.name.encode()]:
                return int(directory.name)
        return None

    def listed(self) -> dict:
        (app,) = [app for app in json.loads(self.modal("app", "list", "--json").stdout) if app["name"] == self.name]
        return app

    def wait_for_containers(self, count: int) -> None:
        """Until so many calls run."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if self.modal("app", "logs", self.name).stdout.count("waiting") >= count:
                return
            time.sleep(0.1)
        raise AssertionError("the calls do not run")
