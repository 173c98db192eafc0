"""New versions while calls of every kind run, and several deployments at once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from deployed_app import PATIENCE, PROGRAM, Deployed
from gates import WAIT_AT, Gate
from leftovers import clean

APP = (
    """
import modal

app = modal.App({name!r}, image=modal.Image.debian_slim(python_version="3.11"))
"""
    + WAIT_AT
    + """

@app.function()
def plain(port: int) -> int:
    wait_at(port)
    return {version}


@app.function()
def items(port: int):
    yield {version}
    wait_at(port)
    yield {version}


@app.function()
@modal.batched(max_batch_size=3, wait_ms=60_000)
def batch(ports: list) -> list:
    wait_at(ports[0])
    return [{version}] * len(ports)


@app.function(max_containers=1)
@modal.concurrent(max_inputs=4)
def beside(port: int) -> int:
    wait_at(port)
    return {version}


@app.cls()
class Model:
    @modal.enter()
    def load(self):
        self.version = {version}

    @modal.method()
    def run(self, port: int) -> int:
        wait_at(port)
        return self.version

    @modal.exit()
    def leave(self):
        print("version", self.version, "has left", flush=True)
"""
)

#: Makes all kinds of calls at once, and prints the set of what each came to.
CALLER = """
import sys
from concurrent.futures import ThreadPoolExecutor
import modal
name, port = {name!r}, int(sys.argv[1])
find = lambda function: modal.Function.from_name(name, function)
model = modal.Cls.from_name(name, "Model")()
with ThreadPoolExecutor(20) as threads:
    calls = dict(
        plain=[threads.submit(find("plain").remote, port)],
        items=[threads.submit(lambda: tuple(find("items").remote_gen(port)))],
        batch=[threads.submit(find("batch").remote, port) for _ in range(3)],
        beside=[threads.submit(find("beside").remote, port) for _ in range(4)],
        model=[threads.submit(model.run.remote, port)],
    )
    print({{kind: [call.result() for call in each] for kind, each in calls.items()}})
"""


def start(deployed: Deployed, gate: Gate) -> subprocess.Popen:
    program = CALLER.format(name=deployed.name)
    return subprocess.Popen(
        [sys.executable, "-c", program, str(gate.port)],
        env=deployed.modal.environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def came_to(version: int) -> str:
    v = version
    return f"{{'plain': [{v}], 'items': [({v}, {v})], 'batch': [{v}, {v}, {v}], 'beside': {[v] * 4}, 'model': [{v}]}}\n"


def test_calls_of_all_kinds_end_on_the_version_that_they_began_on(deployed: Deployed) -> None:
    modal = deployed.modal

    def deploy(version: int) -> None:
        modal.write("app.py", APP.format(name=deployed.name, version=version))
        modal("deploy", "app.py")

    deploy(1)
    with Gate() as first, Gate() as second:
        former = start(deployed, first)
        first.wait_for(8)
        host = deployed.host()
        deploy(2)
        latter = start(deployed, second)
        second.wait_for(8)
        assert "has left" not in modal("app", "logs", deployed.name).stdout
        first.open()
        assert former.communicate(timeout=PATIENCE)[0] == came_to(1)
        until = time.monotonic() + PATIENCE
        while "version 1 has left" not in modal("app", "logs", deployed.name).stdout:
            assert time.monotonic() < until, "the former version does not end"
            time.sleep(0.1)
        second.open()
        assert latter.communicate(timeout=PATIENCE)[0] == came_to(2)
        assert deployed.host() == host
    modal("app", "stop", "--yes", deployed.name)
    logs = modal("app", "logs", deployed.name).stdout
    assert (logs.count("version 1 has left"), logs.count("version 2 has left")) == (1, 1)
    clean(modal)


@pytest.mark.parametrize("same", [True, False])
def test_several_deploy_at_once(deployed: Deployed, same: bool) -> None:
    modal, count = deployed.modal, 6
    names = [deployed.name if same else f"{deployed.name}-{number}" for number in range(count)]
    for number, name in enumerate(names):
        modal.write(f"app{number}.py", PROGRAM.format(name=name, factor=number + 2))
    try:
        with ThreadPoolExecutor(count) as threads:
            list(threads.map(lambda number: modal("deploy", f"app{number}.py"), range(count)))
        if same:
            history = json.loads(modal("app", "history", "--json", deployed.name).stdout)
            assert [version["version"] for version in history] == list(range(count, 0, -1)), "each has a number"
            results = [deployed.call("double", "1", version=number + 1) for number in range(count)]
            assert sorted(results) == [[str(number + 2)] for number in range(count)]
            assert deployed.call("double", "1") == results[-1]
        else:
            # Detached apps, which others may have left, have no versions.
            apps = {app["name"]: app.get("version") for app in json.loads(modal("app", "list", "--json").stdout)}
            assert [apps[name] for name in names] == [1] * count
            for number, name in enumerate(names):
                deployed.name = name
                assert deployed.call("double", "1") == [str(number + 2)]
    finally:
        for name in {*names}:
            modal("app", "stop", "--yes", name, check=False)
            modal("volume", "delete", "--yes", name, check=False)
    clean(modal)
