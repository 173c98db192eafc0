"""The private modules of CPython that the package uses may be gone, or other than they are, in another Python."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: Sends a value through a connection, loads a script, and looks at signals, as both processes do.
EXERCISE = """
import os, sys
sys.path[:0] = {path!r}
from modal._shared import interpreter
from modal._shared.errors import pack_exception, unpack_exception
from modal._shared.payload import pack, unpack
from modal._shared.wire import Connection, decode_json, encode_json

ours, theirs = interpreter.socketpair(interpreter.AF_UNIX, interpreter.SOCK_STREAM)
text = {{"name": "gr\\u00fc\\u00df \\"'\\\\ \\x00", "numbers": [1, -2.5, True, None], "deep": {{"a": []}}}}
Connection(ours).send(encode_json(text).encode(), pack((1, "x" * 100_000, b"y" * (2 << 20))))
control, payload = Connection(theirs).receive()
assert control == text, control
assert unpack(payload) == (1, "x" * 100_000, b"y" * (2 << 20))
error = unpack_exception(pack_exception(ValueError("no")))
assert type(error) is ValueError and error.args == ("no",)
try:
    encode_json({{"a": object()}})
except TypeError:
    pass
else:
    raise AssertionError("an object was written")

spec = interpreter.script_spec("loaded", {script!r})
module = interpreter.module_from_spec(spec)
spec.loader.exec_module(module)
assert module.VALUE == 7
assert interpreter.find_spec("no_such_module") is None
assert interpreter.find_spec("sqlite3").origin.endswith("__init__.py")
signal = interpreter.signals()
signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1,))
assert signal.getsignal(signal.SIGINT) is not None
import modal._client.engine, modal._runner.runner, modal._cli.reference
print(interpreter.decode_json.__module__, interpreter.Pickler.__module__, interpreter.signals().__name__)
"""


@pytest.fixture
def exercise(tmp_path, project):
    script = tmp_path / "loaded.py"
    script.write_text("VALUE = 7\n")

    def run(before: str) -> str:
        path = [entry for entry in project.environment()["PYTHONPATH"].split(":") if entry]
        code = before + EXERCISE.format(path=path, script=str(script))
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    return run


def test_the_fast_halves_are_used(exercise):
    if sys.implementation.name == "cpython" and sys.version_info < (3, 16):
        assert exercise("") == "modal._shared.interpreter _pickle _signal"


@pytest.mark.parametrize(
    ("private", "public"),
    [
        ("_json", "json"),
        ("_pickle", None),
        ("_struct", "struct"),
        ("_socket", "socket"),
        ("_signal", "signal"),
        ("_frozen_importlib", "importlib.util"),
        ("_frozen_importlib_external", "importlib.util"),
    ],
)
def test_without_a_private_module(exercise, private, public):
    # The public module has what it needs of the private one already, as it would under another name; `pickle` does
    # without it.
    imports = "sys, importlib.machinery" if public is None else f"sys, importlib.machinery, {public}"
    json, pickle, signal = exercise(f"import {imports}\nsys.modules[{private!r}] = None\n").split()
    assert json == ("json" if private == "_json" else "modal._shared.interpreter")
    assert pickle == ("pickle" if private == "_pickle" else "_pickle")
    assert signal == ("signal" if private == "_signal" else "_signal")


SCANNER = """
import sys, types, _json
real = _json.make_scanner
def make_scanner(context):
    context.array_hook, context.whatever_comes_next
    return real(context)
sys.modules["_json"] = types.SimpleNamespace(**{**vars(_json), "make_scanner": make_scanner})
"""


def test_a_scanner_that_asks_for_more(exercise):
    assert exercise(SCANNER).startswith("modal._shared.interpreter")


@pytest.mark.parametrize(
    "change",
    [
        "make_encoder=lambda *few: 1/0",
        "make_encoder=lambda *few: lambda value, indent: ('{}',)",
        "make_scanner=lambda context: lambda text, start: (None, 0)",
        "make_scanner=lambda context: lambda text: None",
        "encode_basestring=None",
    ],
)
def test_halves_that_do_something_else(exercise, change):
    before = "import sys, types, _json, json\n"
    before += f"sys.modules['_json'] = types.SimpleNamespace(**{{**vars(_json), **dict({change})}})\n"
    assert exercise(before).startswith("json")
