"""The runner as the engine sees it: a process with a socket as its descriptor 3."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time

import pytest
from fake_engine import Runner


@pytest.fixture
def run(tmp_path, capfd, monkeypatch):
    """Starts the runner on a script with the given text."""
    runners = []

    def start(text: str, function: str = "f", name: str = "script", qualname=None, directory=None) -> Runner:
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        module = {"kind": "script", "name": name, "path": str(path)}
        if qualname is not None:
            module["qualname"] = qualname
        if directory is not None:
            monkeypatch.chdir(directory)
        runner = Runner(module, function, python=python_under_test())
        runners.append(runner)
        return runner

    yield start
    for runner in runners:
        runner.stop()


def python_under_test() -> str:
    """The interpreter of the container: `RUNNER_PYTHON` tries another version than the tests' own."""
    return os.environ.get("RUNNER_PYTHON", sys.executable)


def call(runner: Runner, *args, **kwargs):
    runner.send({"type": "call", "call": 7, "function": "f"}, pickle.dumps((args, kwargs), 4))
    control, payload = runner.receive()
    assert control["type"] == "result"
    assert control["call"] == 7
    return control["status"], pickle.loads(payload)


APP = "import modal\napp = modal.App('a')\n@app.function()\n"


def test_decorated_and_plain_functions(run):
    runner = run(APP + "def f(x, y=2): return x + y\n")
    assert runner.receive() == ({"type": "ready"}, b"")
    assert call(runner, 1) == ("ok", 3)
    assert call(runner, 1, y=5) == ("ok", 6)
    assert runner.stop() == 0
    runner = run("def f(): return __name__\n", name="other")
    assert runner.receive()[0] == {"type": "ready"}
    assert call(runner) == ("ok", "other")


def test_functions_are_found_by_the_name_they_were_given(run):
    runner = run("import modal\napp = modal.App('a')\n@app.function(name='g')\ndef f(): return 1\n", function="g")
    assert runner.receive()[0] == {"type": "ready"}
    assert call(runner) == ("ok", 1)


@pytest.mark.parametrize("name", ["json", "my-app", "image", "random"])
def test_scripts_may_have_any_name(run, name):
    runner = run(APP + "def f():\n    import modal.image\n    return __name__, modal.is_local()\n", name=name)
    assert runner.receive()[0] == {"type": "ready"}
    assert call(runner) == ("ok", (name, False))


def test_garbage_of_the_function_is_collected(run):
    body = "def f():\n    import gc, weakref\n    class Node: pass\n    node = Node()\n    node.me = node\n"
    body += "    seen = weakref.ref(node)\n    del node\n    gc.collect()\n    return gc.isenabled(), seen() is None\n"
    runner = run(APP + body)
    assert runner.receive()[0] == {"type": "ready"}
    assert call(runner) == ("ok", (True, True))


def test_nothing_of_the_runner_is_in_the_way(run):
    text = APP + "def f():\n    import sys, __main__\n    return sys.path, __main__.__name__, sys.argv[0]\n"
    runner = run(text)
    assert runner.receive()[0] == {"type": "ready"}
    _, (path, main, _) = call(runner)
    assert not any(entry.endswith("modal") for entry in path)
    assert "/root" in path
    assert main == "script"


def test_failing_imports_are_told(run):
    runner = run("import no_such_module\n")
    control, payload = runner.receive()
    assert control == {"type": "failed"}
    described = pickle.loads(payload)
    assert described["type"] == "builtins.ModuleNotFoundError"
    assert "line 1, in <module>" in described["traceback"]
    assert "importlib" not in described["traceback"]
    assert "modal/_" not in described["traceback"]
    assert isinstance(pickle.loads(described["exception"]), ModuleNotFoundError)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "has no function `f`"),
        ("import sys; sys.exit(4)\n", "importing `script` ended with `sys.exit(4)`"),
        ("def f(:\n", "invalid syntax"),
    ],
)
def test_what_cannot_start_says_why(run, text, message):
    control, payload = run(text).receive()
    assert control == {"type": "failed"}
    assert message in pickle.loads(payload)["message"]


def test_errors_of_imports_blocks_count_in_their_own_image(run):
    text = (
        "import modal\n"
        "base = modal.Image.debian_slim()\n"
        "child = base.pip_install('x')\n"
        "with base.imports():\n    import no_such_module\n"
        "app = modal.App('a')\n"
        "@app.function(image={image})\n"
        "def f(): return 1\n"
    )
    control, payload = run(text.format(image="base")).receive()
    assert control == {"type": "failed"}
    assert pickle.loads(payload)["message"] == "No module named 'no_such_module'"
    assert run(text.format(image="child"), name="other").receive()[0] == {"type": "ready"}


def test_output_is_there_before_the_result(run, capfd):
    text = APP + "def f():\n    import sys\n    print('out', end='')\n    print('err', end='', file=sys.stderr)\n"
    runner = run("print('importing', end=' ')\n" + text)
    runner.receive()
    assert capfd.readouterr().out == "importing "
    call(runner)
    captured = capfd.readouterr()
    assert captured.out == "out"
    assert captured.err == "err"


def test_closed_output_harms_nothing(run):
    runner = run(APP + "def f():\n    import sys\n    sys.stdout.close()\n    sys.stderr = None\n    return 1\n")
    runner.receive()
    assert call(runner) == ("ok", 1)
    assert call(runner) == ("ok", 1)


def test_the_socket_is_not_inherited(run):
    text = APP + (
        "def f():\n    import subprocess, sys\n"
        "    code = 'import os; print(sorted(map(int, os.listdir(\"/proc/self/fd\")))[:4])'\n"
        "    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,"
        " close_fds=False).stdout\n"
    )
    runner = run(text)
    runner.receive()
    # 3 is the directory that is being listed.
    assert call(runner)[1].strip() in ("[0, 1, 2, 3]", "[0, 1, 2]")


def test_classes_of_main_are_found(run):
    text = "class Point:\n    pass\n" + APP + "def f(p): return type(p).__module__, p.x, p\n"
    runner = run(text)
    runner.receive()
    payload = b"\x80\x04c__main__\nPoint\n)\x81}\x8c\x01xK\x05sb\x85}\x86."
    runner.send({"type": "call", "call": 7, "function": "f"}, payload)
    control, payload = runner.receive()
    assert control["status"] == "ok"
    # Read without resolving the class: it comes back under the script's name.
    assert b"script" in payload
    assert b"__main__" not in payload


def test_arguments_that_cannot_be_read(run):
    runner = run(APP + "def f(p): pass\n")
    runner.receive()
    runner.send({"type": "call", "call": 7, "function": "f"}, b"\x80\x04cno_such_module\nX\n.")
    control, payload = runner.receive()
    assert control["status"] == "exception"
    described = pickle.loads(payload)
    assert described["type"] == "modal.exception.DeserializationError"
    assert "no_such_module" in described["message"]


def test_deep_results_are_an_error_not_a_crash(run):
    text = APP + "def f():\n    value = []\n    for _ in range(100000):\n        value = [value]\n    return value\n"
    runner = run(text)
    runner.receive()
    status, described = call(runner)
    assert status == "exception"
    assert described["type"] == "modal.exception.SerializationError"
    assert call(runner)[0] == "exception"


def test_exit_handlers_run_and_threads_do_not_hold_it_up(run, capfd):
    text = APP + (
        "def f():\n    import atexit, threading, time\n"
        "    atexit.register(print, 'bye')\n    threading.Thread(target=time.sleep, args=(60,)).start()\n"
    )
    runner = run(text)
    runner.receive()
    call(runner)
    assert runner.stop() == 0
    assert capfd.readouterr().out == "bye\n"


def test_an_idle_runner_ends_with_its_engine_and_at_interrupts(run):
    runner = run(APP + "def f(): pass\n")
    runner.receive()
    runner.connection.shut_down()
    assert runner.stop() == 0
    runner = run(APP + "def f(): pass\n", name="other")
    runner.receive()
    os.kill(runner.process, signal.SIGINT)
    assert runner.stop() == 0


def test_starting_imports_little(run):
    text = APP + "def f():\n    import sys\n    return sorted(sys.modules)\n"
    runner = run(text)
    runner.receive()
    _, modules = call(runner)
    heavy = {"asyncio", "inspect", "json", "pathlib", "pickle", "re", "socket", "subprocess", "threading", "typing"}
    assert heavy.isdisjoint(set(modules) - set(preloaded()))


def preloaded() -> list[str]:
    """What this Python's own start-up imports, `.pth` files included."""
    import subprocess

    code = "import importlib.util, sys; print(*sys.modules)"
    return subprocess.run([python_under_test(), "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_forked_children_give_no_answer(run, capfd):
    text = APP + (
        "def f(how):\n    import os, sys\n    child = os.fork()\n"
        "    if child == 0:\n"
        "        if how == 'return': return 'child'\n"
        "        if how == 'exit': sys.exit(7)\n"
        "        raise ValueError('of the child')\n"
        "    return os.WEXITSTATUS(os.waitpid(child, 0)[1])\n"
    )
    runner = run(text)
    runner.receive()
    assert [call(runner, how) for how in ("return", "exit", "raise")] == [("ok", 0), ("ok", 7), ("ok", 1)]
    assert "ValueError: of the child" in capfd.readouterr().err
    assert runner.stop() == 0


def test_a_child_forked_by_the_import_gives_no_answer(run):
    runner = run("import os\nif os.fork():\n    os.wait()\n" + APP + "def f(): return 1\n")
    assert runner.receive()[0] == {"type": "ready"}
    assert call(runner) == ("ok", 1)


def test_generators(run):
    runner = run(APP + "def f(count):\n    for x in range(count): yield x\n")
    runner.receive()
    runner.send({"type": "call", "call": 7, "function": "f"}, pickle.dumps(((40,), {}), 4))
    values = []
    while True:
        control, payload = runner.receive()
        if control["type"] == "result":
            break
        assert control == {"type": "item", "call": 7}
        values.append(pickle.loads(payload))
        runner.send({"type": "more", "call": 7, "count": 1})
    assert (control["status"], payload) == ("ok", b"")
    assert values == list(range(40))


def test_coroutines_share_one_event_loop_which_goes_on_between_them(run):
    text = APP + (
        "async def f(what):\n"
        "    global queue, ticks, loop\n"
        "    import asyncio\n"
        "    async def tick(value):\n"
        "        global ticks\n"
        "        while True:\n"
        "            await asyncio.sleep(0.001)\n"
        "            ticks += 1\n"
        "            await queue.put(value)\n"
        "    if what == 'start':\n"
        "        queue, ticks, loop = asyncio.Queue(), 0, asyncio.get_running_loop()\n"
        "        loop.task = asyncio.ensure_future(tick(what))\n"
        "        return ticks\n"
        "    if what == 'fail':\n"
        "        raise ValueError(what)\n"
        "    assert asyncio.get_running_loop() is loop\n"
        "    return await queue.get(), ticks\n"
    )
    runner = run(text)
    runner.receive()
    assert call(runner, "start") == ("ok", 0)
    time.sleep(0.2)
    status, (first, ticks) = call(runner, "look")
    assert (status, first) == ("ok", "start")
    assert ticks > 1
    assert call(runner, "fail")[0] == "exception"
    assert call(runner, "look")[0] == "ok"
    assert runner.stop() == 0


def test_tasks_are_cancelled_when_the_container_leaves(run, capfd):
    text = APP + (
        "async def f():\n"
        "    import asyncio\n"
        "    async def wait():\n"
        "        try: await asyncio.sleep(1000)\n"
        "        finally: print('cancelled')\n"
        "    global task\n"
        "    task = asyncio.ensure_future(wait())\n"
        "    await asyncio.sleep(0)\n"
    )
    runner = run(text)
    runner.receive()
    assert call(runner) == ("ok", None)
    assert runner.stop() == 0
    assert capfd.readouterr().out == "cancelled\n"


def test_a_loop_that_was_stopped_or_closed_is_no_end(run):
    text = APP + (
        "async def f(how):\n"
        "    import asyncio\n"
        "    loop = asyncio.get_running_loop()\n"
        "    if how == 'later': loop.call_soon(loop.stop)\n"
        "    if how == 'now': loop.stop(); await asyncio.sleep(1)\n"
        "    return how\n"
    )
    runner = run(text)
    runner.receive()
    assert call(runner, "later") == ("ok", "later")
    assert call(runner, "now")[0] == "exception"
    assert call(runner, "well") == ("ok", "well")


@pytest.mark.parametrize("qualname", ["work", "Tools.work"])
def test_functions_of_other_modules_are_found_by_their_own_name(run, qualname):
    text = "def work(): return 1\nclass Tools:\n    @staticmethod\n    def work(): return 1\n"
    runner = run(text, function="one", name="helpers", qualname=qualname)
    assert runner.receive()[0] == {"type": "ready"}
    assert call(runner) == ("ok", 1)


def test_the_working_directory_is_importable_before_all_else(run, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "colorsys.py").write_text("mine = 1\n")
    text = "import os\nos.chdir('/')\nimport colorsys\n" + APP + "def f(): return colorsys.mine\n"
    runner = run(text, directory=tmp_path / "here")
    assert runner.receive()[0] == {"type": "ready"}
    assert call(runner) == ("ok", 1)


def test_a_generator_that_waits_ends_with_stop(run):
    runner = run(APP + "def f():\n    while True: yield 1\n")
    runner.receive()
    runner.send({"type": "call", "call": 7, "function": "f"}, pickle.dumps(((), {}), 4))
    assert runner.receive()[0]["type"] == "item"
    assert runner.stop() == 0
