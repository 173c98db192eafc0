"""One call from the command line, as images serve it that were written with their functions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import modal

START = "import sys; from modal._runner import command; command.DESCRIPTION = sys.argv[1]; sys.exit(command.main(sys.argv[2:]))"
PROGRAM = """
import modal

print("imported")
app = modal.App("demo")

@app.function()
def add(one: int, two: int = 2):
    '''Adds.'''
    return {"sum": one + two}

@app.function()
def raw():
    return b"\\x00\\xff"

@app.function()
def nothing():
    import sys
    sys.exit(7)

@app.function()
async def each(n: int):
    for i in range(n):
        yield [i]

@app.cls()
class Model:
    size: int = modal.parameter(default=3)

    @modal.enter()
    async def load(self):
        self.loaded = self.size

    @modal.method()
    async def grow(self, by: int):
        return str(self.loaded + by)

    @modal.exit()
    def leave(self):
        print("left")

@app.function()
def loud():
    import subprocess
    print("printed")
    subprocess.run(["echo", "by another program"])
    return {"a": [1]}

@app.function()
def numbers(infinite: bool = False):
    return {"a": float("inf")} if infinite else float("nan")
"""


@pytest.fixture
def call(tmp_path: Path):
    (tmp_path / "demo.py").write_text(PROGRAM)
    module = {"kind": "script", "name": "demo", "path": str(tmp_path / "demo.py")}
    names = ("add", "raw", "nothing", "each", "loud", "numbers")
    functions = [{"name": name, "module": module, "environment": {"A": "b"}} for name in names]
    functions.append(
        {"name": "Model", "module": module, "environment": {}, "methods": ["grow"], "variables": ["TOKEN"]}
    )
    description = tmp_path / "functions.json"

    def call(*words: str, only: str | None = None) -> tuple[int, bytes, str]:
        chosen = [each for each in functions if only in (None, each["name"])]
        description.write_text(json.dumps({"version": 1, "functions": chosen}))
        package = os.path.dirname(os.path.dirname(modal.__file__))
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": package, "MODAL_IS_REMOTE": "1"}
        ran = subprocess.run(
            [sys.executable, "-c", START, str(description), *words], cwd=tmp_path, env=environment, capture_output=True
        )
        return ran.returncode, ran.stdout, ran.stderr.decode()

    return call


def test_results_are_printed(call) -> None:
    assert call("add", "--one=1")[:2] == (0, b'{"sum": 3}\n')
    assert call("--one=1", only="add")[:2] == (0, b'{"sum": 3}\n')
    assert call("raw")[:2] == (0, b"\x00\xff")
    assert call("each", "--n=2")[:2] == (0, b"[0]\n[1]\n")
    code, out, err = call("Model.grow", "--by=4", "--size=5")
    assert (code, out) == (0, b"9\n") and "`TOKEN`, which comes from a secret, is not set" in err
    assert err.endswith("left\n")
    assert call("nothing")[0] == 7


def test_the_result_stands_alone(call) -> None:
    code, out, err = call("loud")
    assert (code, json.loads(out)) == (0, {"a": [1]})
    assert err == "imported\nprinted\nby another program\n"


def test_numbers_that_json_has_not_are_no_json(call) -> None:
    assert call("numbers")[:2] == (0, b"nan\n")
    assert call("numbers", "--infinite")[:2] == (0, b"{'a': inf}\n")


def test_mistakes_are_named(call) -> None:
    for words, expected in [
        ((), "which function to call is missing"),
        (("ad",), "there is no function `ad`"),
        (("add",), "`add --help` lists the options"),
        (("add", "--one=x"), "`--one` takes an integer, not `x`"),
    ]:
        code, out, err = call(*words)
        assert (code, out) == (2, b"") and expected in err, err
    assert call("--help")[1].endswith(b"Functions:\n  add\n  raw\n  nothing\n  each\n  loud\n  numbers\n  Model.grow\n")
    assert call("add", "--help")[1].startswith(b"Usage: add [OPTIONS]\n\n  Adds.\n")
