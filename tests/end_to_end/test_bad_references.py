"""Bad REFs, options and arguments: the complete output of each is a file in ``snapshots``."""

from __future__ import annotations

import pytest
import snapshots
from conftest import Modal

APP = """
import datetime
from typing import Literal, Optional
import modal

app = modal.App("arguments")
text = "no function"

class Plain:
    def method(self): pass

def plain(): pass

@app.local_entrypoint()
def main(
    count: int = 1, ratio: float = 0.5, flag: bool = False, day: Optional[datetime.datetime] = None,
    colour: Literal["red", "green"] = "red", maybe: Optional[int] = None, items: list = [], untyped="x",
):
    print(count, ratio, flag, day, colour, maybe, items, untyped)

@app.local_entrypoint()
def needs(name: str, size: int, flag: bool):
    print(name)

@app.local_entrypoint()
def odd(value: complex = 0):
    print(value)

@app.local_entrypoint()
def everything(**options):
    print(options)

@app.local_entrypoint()
def bare(name):
    print(type(name).__name__, name)

@app.function()
def values():
    yield 1
"""

OTHERS = {
    "empty.py": "",
    "text.py": "this is no Python\n",
    "binary.py": "\0\1\2",
    "raises.py": "raise ValueError('no `TOKEN` is set')\n",
    "needs_module.py": "import no_such_module_here\n",
    "no_app.py": "def main(): pass\n",
    "two_apps.py": "import modal\none = modal.App('one')\ntwo = modal.App('two')\n@one.function()\ndef f(): pass\n@two.function()\ndef g(): pass\n",
    "two_entrypoints.py": "import modal\napp = modal.App('x')\n@app.local_entrypoint()\ndef a(): pass\n@app.local_entrypoint()\ndef b(): pass\n",
    "only_app.py": "import modal\napp = modal.App('x')\n",
    "exits.py": "import sys\nsys.exit('not today')\n",
    "notes.txt": "not a program\n",
    "package/__init__.py": "",
    "package/program.py": "import modal\napp = modal.App('x')\n@app.local_entrypoint()\ndef main(): print('ran')\n",
    "classes.py": "import modal\napp = modal.App('x')\n@app.cls()\nclass Model:\n    @modal.method()\n    def run(self): pass\n",
}

REFERENCES = {
    "missing-file": ["missing.py"],
    "missing-name": ["app.py::nothing"],
    "missing-name-of-app": ["app.py::app.nothing"],
    "single-colon": ["app.py:main"],
    "single-colon-in-name": ["app.py::main:x"],
    "dotted-module-without-m": ["package.program"],
    "file-with-m": ["-m", "app.py"],
    "missing-module": ["-m", "package.missing"],
    "missing-package": ["-m", "nowhere.program"],
    "directory": ["package"],
    "directory-with-slash": ["package/"],
    "empty": [""],
    "only-colons": ["::main"],
    "nothing-behind-colons": ["app.py::"],
    "not-python": ["notes.txt"],
    "empty-file": ["empty.py"],
    "syntax-error": ["text.py"],
    "binary": ["binary.py"],
    "import-raises": ["raises.py"],
    "import-needs-module": ["needs_module.py"],
    "import-exits": ["exits.py"],
    "no-app": ["no_app.py"],
    "only-app": ["only_app.py"],
    "several-apps": ["two_apps.py"],
    "several-candidates": ["two_entrypoints.py"],
    "method": ["app.py::Plain.method"],
    "class": ["app.py::Plain"],
    "plain-function": ["app.py::plain"],
    "value": ["app.py::text"],
    "generator": ["app.py::values"],
    "class-of-app": ["classes.py::Model.walk"],
    "nothing-given": [],
}

ARGUMENTS = {
    "unknown-option": ["app.py::main", "--colr", "red"],
    "strange-option": ["app.py::main", "--zzz", "1"],
    "positional": ["app.py::main", "7"],
    "missing-argument": ["app.py::needs", "--name", "x"],
    "missing-value": ["app.py::main", "--count"],
    "bad-int": ["app.py::main", "--count", "seven"],
    "bad-float": ["app.py::main", "--ratio", "half"],
    "bad-bool": ["app.py::main", "--flag=maybe"],
    "bad-datetime": ["app.py::main", "--day", "tomorrow"],
    "bad-choice": ["app.py::main", "--colour", "blue"],
    "bad-optional": ["app.py::main", "--maybe", "none"],
    "bad-json": ["app.py::main", "--items", "[1,"],
    "json-of-another-kind": ["app.py::main", "--items", "{}"],
    "unsupported-type": ["app.py::odd", "--value", "1j"],
    "keywords": ["app.py::everything", "--a", "1"],
    "option-before-ref": ["--nope", "app.py::main"],
    "bad-progress": ["--progress", "loud", "app.py::main"],
}


@pytest.fixture
def program(modal: Modal) -> Modal:
    modal.write("app.py", APP)
    for name, text in OTHERS.items():
        modal.write(name, text)
    return modal


@pytest.mark.parametrize("name", REFERENCES)
def test_references(program: Modal, name: str) -> None:
    result = program("run", *REFERENCES[name], check=False)
    assert result.code == (2 if name == "nothing-given" else 1)
    snapshots.check(program, f"reference-{name}", result)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments(program: Modal, name: str) -> None:
    result = program("run", *ARGUMENTS[name], check=False)
    assert result.code == (1 if name in ("unsupported-type", "keywords") else 2)
    assert "Traceback" not in result.stderr
    snapshots.check(program, f"argument-{name}", result)


def test_an_untyped_argument_is_text(program: Modal) -> None:
    assert program("run", "-q", "app.py::bare", "--name", "7").stdout == "str 7\n"
    assert program("run", "-q", "app.py::main", "--untyped", "7").stdout.endswith(" 7\n")
