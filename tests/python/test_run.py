"""`modal run` and plain scripts as whole processes: selection, output, exit codes, pickling across `__main__`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

APP = """
import modal
app = modal.App("demo")

@app.function()
def double(n: int = 2):
    print("in", modal.is_local())
    return n * 2

@app.local_entrypoint()
def main(n: int = 3):
    '''Doubles.'''
    print("before")
    print("result", double.remote(n))
"""


@pytest.fixture
def app(project):
    project.write("app.py", APP)
    return project


def test_an_entrypoint(app):
    result = app.run("app.py", "--", "--n", "5")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "before\nresult 10\n"
    hello = result.messages[0]
    assert hello["output"] is True
    assert hello["cwd"] == str(app.root)
    assert [message["type"] for message in result.messages[1:]] == ["app.start", "call", "app.stop"]


def test_a_function_prints_nothing_but_its_own(app):
    result = app.run("app.py::double", "--", "--n", "5")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    result = app.run("app.py::app.double")
    assert result.returncode == 0
    result = app.run("-m", "app", "--", "--n", "1")
    assert (result.returncode, result.stdout) == (0, "before\nresult 2\n")


def test_results_can_be_written(project):
    project.write(
        "app.py",
        "import modal\napp = modal.App()\n@app.function()\ndef f(kind: str):\n"
        "    return {'text': 'ä', 'bytes': b'\\0', 'int': 1}[kind]\n",
    )
    for kind, data in {"text": "ä".encode(), "bytes": b"\0"}.items():
        assert project.run("--write-result", "out", "app.py", "--", "--kind", kind).returncode == 0
        assert (project.root / "out").read_bytes() == data
    result = project.run("--write-result", "out", "app.py", "--", "--kind", "int")
    assert result.returncode == 1
    assert "error: `--write-result` needs a result of type str or bytes; `f` returned `int`" in result.stderr


def test_garbage_of_the_program_is_collected(project):
    body = (
        "import gc\nimport modal\napp = modal.App()\n"
        "class Node:\n    def __init__(self):\n        self.me = self\n"
        "    def __del__(self):\n        print('gone')\n"
        "@app.local_entrypoint()\ndef main():\n    print(gc.isenabled())\n    Node()\n    gc.collect()\n    print('end')\n"
        "node = Node()\n"
    )
    project.write("app.py", body)
    result = project.run("app.py")
    assert (result.returncode, result.stdout) == (0, "True\ngone\nend\ngone\n")


def test_the_app_may_have_another_name(app):
    result = app.run("--name", "other", "app.py", "--", "--n", "1")
    assert result.returncode == 0
    assert [message["app"]["name"] for message in result.messages if message["type"] == "app.start"] == ["other"]


def test_help_and_usage_errors_start_nothing(app):
    result = app.run("app.py", "--", "--help")
    assert result.returncode == 0
    assert "Usage: modal run app.py [OPTIONS]" in result.stdout
    assert "--n INTEGER  [default: 3]" in result.stdout
    assert result.messages == []
    result = app.run("app.py", "--", "--n", "x")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: `--n` takes an integer, not `x`\n"
    assert result.messages == []
    assert app.run("--nonsense", "app.py").returncode == 2
    assert app.run().returncode == 2
    assert app.run("app.py", command="fly").returncode == 2


SELECTION = """
import modal
app = modal.App()
{body}
"""
ENTRYPOINT = "@app.local_entrypoint()\ndef {0}(): print('{0}')\n"
FUNCTION = "@app.function()\ndef {0}(): open(__file__ + '.ran', 'w').write('{0}')\n"


@pytest.mark.parametrize(
    ("body", "reference", "expected"),
    [
        (ENTRYPOINT.format("main") + FUNCTION.format("f") + FUNCTION.format("g"), "app.py", "main"),
        (FUNCTION.format("f"), "app.py", "f"),
        (ENTRYPOINT.format("a") + "del a\n" + FUNCTION.format("f"), "app.py", "f"),
        (ENTRYPOINT.format("a") + "del a\n" + FUNCTION.format("f") + "del f\n", "app.py", "a"),
        (FUNCTION.format("f") + "g = f\n", "app.py", "f"),
        (ENTRYPOINT.format("a") + ENTRYPOINT.format("b"), "app.py::b", "b"),
        (ENTRYPOINT.format("a") + "del a\n", "app.py::a", "a"),
        (ENTRYPOINT.format("a") + FUNCTION.format("f"), "app.py::app.f", "f"),
        (ENTRYPOINT.format("a") + FUNCTION.format("f"), "app.py::app", "a"),
    ],
)
def test_what_is_run(project, body, reference, expected):
    project.write("app.py", SELECTION.format(body=body))
    result = project.run(reference)
    ran = project.root / "app.py.ran"
    assert result.returncode == 0, result.stderr
    assert (ran.read_text() if ran.exists() else result.stdout.strip()) == expected


@pytest.mark.parametrize(
    ("body", "reference", "message"),
    [
        ("", "app.py", "error: `app.py` has nothing to run\nhint: put `@app.function()`"),
        (
            ENTRYPOINT.format("a") + ENTRYPOINT.format("b") + FUNCTION.format("f"),
            "app.py",
            "error: `app.py` has more than one candidate to run\n"
            "hint: name one of: `app.py::a`, `app.py::b`, `app.py::f`\n",
        ),
        (FUNCTION.format("f"), "app.py::g", "error: `g` was not found in `app.py`\nhint: it has: `f`\n"),
        ("def g(): pass\n", "app.py::g", "error: `g` in `app.py` is neither a function of an app nor a local"),
        ("@app.function()\ndef g(): yield 1\n", "app.py", "error: `g` is a generator, which cannot be run\n"),
        ("", "app.py:main", "error: `app.py:main` has a single `:`\nhint: write `path.py::name`"),
        ("", "app.py::", "error: `app.py::` is incomplete\n"),
        ("", "other.py", "error: the file `other.py` does not exist\n"),
        ("", "app", "error: `app` is not a Python file\nhint: write the path of a `.py` file, or `-m app`"),
        ("@app.function()\ndef g(x: set): pass\n", "app.py", "error: the parameter `x` of `g` is annotated `set`"),
    ],
)
def test_what_cannot_be_run(project, body, reference, message):
    project.write("app.py", SELECTION.format(body=body))
    result = project.run(reference)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(message)
    assert "Traceback" not in result.stderr


def test_missing_modules(project):
    result = project.run("-m", "no.such.module")
    assert (result.returncode, result.stderr.splitlines()[0]) == (1, "error: the module `no` was not found")
    assert project.run("-m", "app.py").returncode == 1


def test_failures_of_the_users_code_keep_their_traceback(project):
    project.write("app.py", "import modal\nimport no_such_module\n")
    result = project.run("app.py")
    assert result.returncode == 1
    assert result.stderr.startswith("Traceback (most recent call last):\n  File ")
    assert "ModuleNotFoundError: No module named 'no_such_module'" in result.stderr
    assert "modal/_" not in result.stderr
    assert "importlib" not in result.stderr
    project.write("app.py", "import modal\nx = 1 +\n")
    assert "SyntaxError" in project.run("app.py").stderr


def test_what_to_do_about_imports_that_fail_is_said(project):
    project.write("app.py", "import no_such_module\n")
    result = project.run("app.py")
    assert result.returncode == 1
    assert "hint: `no_such_module` was not found on this machine" in result.stderr
    assert "`with image.imports():`" in result.stderr
    project.write("package/__init__.py", "")
    project.write("package/app.py", "from . import names\n")
    result = project.run("package/app.py")
    assert "hint: a file that is a part of a package is run as a module: `-m package.app` in place of" in result.stderr
    project.write("alone.py", "from . import names\n")
    assert "is run as a module\n" in project.run("alone.py").stderr


def test_failures_in_containers(app):
    app.write(
        "app.py",
        """
        import modal
        app = modal.App()

        @app.function()
        def f():
            raise ValueError("inside")

        @app.local_entrypoint()
        def main():
            f.remote()
        """,
    )
    result = app.run("app.py::f")
    assert result.returncode == 1
    assert result.stderr.startswith("Traceback (most recent call last):\n")
    assert result.stderr.count("Traceback (most") == 1
    assert result.stderr.endswith("ValueError: inside\n")
    result = app.run("app.py::main")
    assert result.returncode == 1
    assert result.stderr.count("Traceback (most") == 2
    assert "f.remote()" in result.stderr
    assert "modal/" not in result.stderr


def test_lamina_errors_are_short(project):
    project.write("app.py", "import modal\nimage = modal.Image.debian_slim().add_local_dir('a', 'b')\n")
    result = project.run("app.py")
    assert result.returncode == 1
    assert result.stderr == (
        "error: `remote_path` of `Image.add_local_dir` must be absolute, not `b`\n"
        "  at app.py:2\n"
        'hint: write for example `remote_path="/root/b"`\n'
    )
    result = project.run("app.py", MODAL_TRACEBACK="1")
    assert "Traceback" in result.stderr
    assert "modal/image/" in result.stderr


def test_exit_codes_of_the_users_code_stand(project):
    entrypoint = "import modal, sys\napp = modal.App()\n@app.local_entrypoint()\ndef main():\n    sys.exit({})\n"
    for code, expected in {"0": 0, "": 0, "7": 7, "'no luck'": 1}.items():
        project.write("app.py", entrypoint.format(code))
        result = project.run("app.py")
        assert result.returncode == expected
        assert result.stderr == ("no luck\n" if expected == 1 else "")
        assert result.messages[-1]["type"] == "app.stop"


def test_a_script_beside_its_modules(project):
    project.write("sub/helper.py", "VALUE = 5\n")
    project.write(
        "sub/app.py",
        "import helper, modal\napp = modal.App()\n@app.local_entrypoint()\ndef main(): print(helper.VALUE)\n",
    )
    result = project.run("sub/app.py")
    assert (result.returncode, result.stdout) == (0, "5\n")


def test_describe(app):
    result = app.run("app.py::double", command="describe")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert result.messages[1]["type"] == "app.describe"
    assert result.messages[1]["select"] == "double"
    assert app.run("app.py", command="describe").messages[1]["select"] == "double"
    assert "is no function" in app.run("app.py::main", command="describe").stderr
    app.write("image.py", "import modal\napp = modal.App(image=modal.Image.debian_slim())\n")
    described = app.run("image.py", command="describe").messages[1]
    assert described["select"] is None
    assert len(described["images"]) == 1


def test_interrupts(app):
    app.write(
        "app.py",
        "import modal, time\napp = modal.App()\n@app.local_entrypoint()\ndef main():\n"
        "    print('ready', flush=True)\n    time.sleep(60)\n",
    )
    import socket

    from fake_engine import FakeEngine

    ours, theirs = socket.socketpair()
    fake = FakeEngine(ours)
    thread = fake.serve_in_thread()
    process = subprocess.Popen(
        [sys.executable, "-m", "modal._cli", "run", "app.py"],
        cwd=app.root,
        env=app.environment(MODAL_ENGINE_FD=str(theirs.fileno())),
        pass_fds=[theirs.fileno()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    theirs.close()
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=10)
    thread.join(10)
    assert (process.returncode, stderr) == (130, "")
    assert fake.messages[-1]["type"] == "app.stop"


SCRIPT = """
import sys
import modal

app = modal.App("script")

class Point:
    def __init__(self, x):
        self.x = x

class Wrong(Exception):
    pass

@app.function()
def move(point):
    assert type(point) is Point, type(point)
    if point.x < 0:
        raise Wrong("negative")
    return Point(point.x + 1)

if __name__ == "__main__":
    with app.run():
        moved = move.remote(Point(1))
        assert type(moved) is Point, type(moved)
        print(moved.x)
        try:
            move.remote(Point(-1))
        except Wrong as error:
            print("caught", error)
        if "fail" in sys.argv:
            move.remote(Point(-1))
"""


def test_plain_scripts(project, tmp_path):
    project.write("my_script.py", SCRIPT)
    log = tmp_path / "messages.json"
    result = project.python("my_script.py", FAKE_ENGINE_LOG=str(log))
    assert (result.returncode, result.stdout, result.stderr) == (0, "2\ncaught negative\n", "")
    messages = json.loads(log.read_text())
    assert messages[0]["output"] is False
    assert messages[1]["functions"][0]["module"] == {
        "kind": "script",
        "name": "my_script",
        "path": "/root/my_script.py",
    }


def test_modules_run_with_m(project, tmp_path):
    project.write("package/__init__.py", "")
    project.write("package/tool.py", SCRIPT)
    log = tmp_path / "messages.json"
    result = project.python("-m", "package.tool", FAKE_ENGINE_LOG=str(log))
    assert (result.returncode, result.stdout, result.stderr) == (0, "2\ncaught negative\n", "")
    function = json.loads(log.read_text())[1]["functions"][0]
    assert function["module"] == {"kind": "module", "name": "package.tool"}
    assert function["source"]["entries"][0]["target"] == "/root/package"


def test_tracebacks_of_plain_scripts_have_no_frames_of_ours(project):
    project.write("my_script.py", SCRIPT)
    result = project.python("my_script.py", "fail")
    assert result.returncode == 1
    assert result.stderr.endswith("Wrong: negative\n")
    assert "modal/" not in result.stderr


def test_enable_output(project, tmp_path):
    project.write(
        "script.py",
        "import modal\napp = modal.App()\nwith modal.enable_output():\n    with app.run():\n        pass\n"
        "with app.run():\n    pass\n",
    )
    log = tmp_path / "messages.json"
    assert project.python("script.py", FAKE_ENGINE_LOG=str(log)).returncode == 0
    assert json.loads(log.read_text())[0]["output"] is False
    project.write("script.py", "import modal\napp = modal.App()\nwith modal.enable_output(), app.run():\n    pass\n")
    assert project.python("script.py", FAKE_ENGINE_LOG=str(log)).returncode == 0
    assert json.loads(log.read_text())[0]["output"] is True


def test_a_missing_program_is_explained(project):
    project.write("script.py", "import modal\nwith modal.App().run():\n    pass\n")
    result = subprocess.run(
        [sys.executable, "script.py"],
        cwd=project.root,
        env=project.environment(MODAL_COMMAND="/nonexistent/modal"),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert "`/nonexistent/modal engine` could not be started: No such file or directory" in result.stderr
    assert "unset MODAL_COMMAND" in result.stderr


def test_a_program_that_ends_at_once(project):
    tools = project.root / ".tools"
    tools.mkdir()
    (tools / "modal").write_text("#!/bin/sh\nexit 9\n")
    (tools / "modal").chmod(0o755)
    project.write("script.py", "import modal\nwith modal.App().run():\n    pass\n")
    result = subprocess.run(
        [sys.executable, "script.py"],
        cwd=project.root,
        env=project.environment(MODAL_COMMAND=str(tools / "modal")),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert "ServiceError: the engine ended while it was needed (exit code 9)" in result.stderr


def test_an_asynchronous_entrypoint_is_run_to_its_end(project):
    project.write(
        "app.py",
        "import asyncio, modal\napp = modal.App('a')\n"
        "@app.local_entrypoint()\nasync def main(n: int = 1):\n    await asyncio.sleep(0)\n    print('done', n)\n",
    )
    result = project.run("app.py", "--", "--n", "2")
    assert (result.returncode, result.stdout) == (0, "done 2\n")


def test_a_program_that_changed_a_moment_ago_runs_as_it_is_now(project):
    for number in range(3):
        path = project.write(
            "app.py", f"import modal\napp = modal.App()\n@app.local_entrypoint()\ndef main(): print({number})\n"
        )
        # As if everything happened within one second of the clock that bytecode is compared by.
        now = int(time.time())
        os.utime(path, (now, now))
        assert project.run("app.py").stdout == f"{number}\n"
