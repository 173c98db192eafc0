"""``modal app logs`` and its options, and what the logs of apps say about their containers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Modal, command
from leftovers import clean

PROGRAM = """
import os
import sys
import time

import modal

app = modal.App({name!r}, image=modal.Image.debian_slim(python_version="3.11"))


@app.function()
def talk(text: str) -> str:
    print("said", text)
    print("shouted", text, file=sys.stderr)
    return os.environ["MODAL_TASK_ID"]


@app.cls()
class Model:
    @modal.method()
    def run(self, text: str) -> str:
        print("modelled", text)
        return os.environ["MODAL_TASK_ID"]

    @modal.method()
    def other(self) -> None:
        print("otherwise")


@app.function(timeout=1)
def sleepy() -> None:
    time.sleep(30)


@app.cls()
class Late:
    @modal.method()
    def run(self) -> None:
        time.sleep(30)


@app.function()
def crash() -> None:
    os._exit(3)


@app.function()
def many(count: int) -> None:
    print("line\\n" * count, end="")


@app.local_entrypoint()
def main() -> None:
    print("in", talk.remote("detached"))
"""

PATIENCE = 60


class Deployed:
    """A deployed app of these tests."""

    def __init__(self, modal: Modal) -> None:
        self.modal = modal
        self.name = f"logs-{os.urandom(4).hex()}"
        modal.write("app.py", PROGRAM.format(name=self.name))
        modal("deploy", "app.py")

    def python(self, text: str) -> list[str]:
        """Runs a program that calls functions; the lines that it prints."""
        return self.modal.python("-c", f"import modal\nname = {self.name!r}\n{text}").stdout.split()

    def talk(self, text: str) -> str:
        """The container that said it."""
        return self.python(f"print(modal.Function.from_name(name, 'talk').remote({text!r}))")[0]

    def lines(self, *options: str) -> list[str]:
        """What is shown on standard output, and then on standard error."""
        done = self.modal("app", "logs", self.name, *options)
        return done.stdout.splitlines() + done.stderr.splitlines()

    def stop(self) -> None:
        self.modal("app", "stop", "--yes", self.name, check=False)


@pytest.fixture
def deployed(modal: Modal) -> Iterator[Deployed]:
    app = Deployed(modal)
    yield app
    app.stop()
    clean(modal)


def test_logs_are_chosen_by_who_printed_and_when(deployed: Deployed) -> None:
    modal = deployed.modal
    container = deployed.talk("one")
    middle = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 1))
    time.sleep(2)
    program = """
call = modal.Function.from_name(name, "talk").spawn("two")
call.get()
model = modal.Cls.from_name(name, "Model")()
print(call.object_id, model.run.remote("x"))
model.other.remote()
"""
    call, model = deployed.python(program)
    every = deployed.lines("-s", "stdout")
    assert every == ["said one", "said two", "modelled x", "otherwise"]
    assert deployed.lines("--source", "stderr") == ["shouted one", "shouted two"]
    assert deployed.lines("--function", "Model", "-s", "stdout") == ["modelled x", "otherwise"]
    assert deployed.lines("--function", "Model.run", "-s", "stdout") == ["modelled x"]
    assert deployed.lines("--function", "Mod") == []
    assert sorted(deployed.lines("--function-call", call)) == ["said two", "shouted two"]
    assert deployed.lines("--container", model, "-s", "stdout") == ["modelled x", "otherwise"]
    assert deployed.lines("--search", "wo", "-s", "stdout") == ["said two"]
    assert deployed.lines("--since", middle, "-s", "stdout") == every[1:]
    assert deployed.lines("--until", middle, "-s", "stdout") == every[:1]
    assert deployed.lines("--since", "1h", "-s", "stdout") == every
    assert deployed.lines("-n", "2", "-s", "stdout") == every[-2:]
    assert deployed.lines("-n", "0") == []
    (shown,) = deployed.lines("-n", "1", "-s", "stdout", "--timestamps", "--show-function-id", "--show-container-id")
    moment, function, shown_container, text = shown.split(" ", 3)
    assert (function, shown_container, text) == ("Model.other", model, "otherwise") and moment.endswith("Z")
    (shown,) = deployed.lines("--search", "said two", "--show-function-call-id")
    assert shown == f"{call} said two"
    entries = [json.loads(line) for line in deployed.lines("--function", "talk", "--json")]
    said = [(entry["source"], entry["container"], entry["message"]) for entry in entries if entry["source"] != "system"]
    assert ("stdout", container, "said one\n") in said and ("stderr", container, "shouted one\n") in said
    # What cannot be is refused.
    for wrong in (
        ["-f", "--since", "1h"],
        ["-f", "-n", "3"],
        ["--since", "1h", "--until", "2h"],
        ["--since", "yesterday"],
        ["--container", "one"],
        ["--function-call", "in-1"],
        ["--source", "nowhere"],
    ):
        refused = modal("app", "logs", deployed.name, *wrong, check=False)
        assert refused.code in (1, 2) and "error: " in refused.stderr, wrong


def test_what_becomes_of_containers_is_in_the_log(deployed: Deployed) -> None:
    container = deployed.talk("one")
    program = """
for function in ("crash", "sleepy"):
    try:
        modal.Function.from_name(name, function).remote()
    except Exception as error:
        print(type(error).__name__)
try:
    modal.Cls.from_name(name, "Late").with_options(timeout=1)().run.remote()
except Exception as error:
    print(type(error).__name__)
"""
    assert deployed.python(program) == ["InternalFailure", "FunctionTimeoutError", "FunctionTimeoutError"]
    started = f"container {container} of `talk` started"
    assert deployed.lines("-s", "system", "--container", container) == [started]
    causes = {
        "crash": "container ID of `crash` ended: the container of function `crash` exited with code `3` before it returned a "
        "result",
        "sleepy": "function `sleepy` did not finish within its timeout of `1` seconds",
        "Late": "function `Late` did not finish within its timeout of `1` seconds",
    }
    for function, cause in causes.items():
        lines = [
            re.sub("ta-[0-9A-Za-z]+", "ID", line) for line in deployed.lines("-s", "system", "--function", function)
        ]
        assert lines[:2] == [f"container ID of `{function}` started", cause]
    deployed.modal("container", "stop", container)
    ended = f"container {container} of `talk` ended"
    assert deployed.lines("-s", "system", "--container", container) == [started, ended]
    # What the process itself could not say any more.
    listed = next(
        int(directory.name)
        for directory in Path("/proc").iterdir()
        if directory.name.isdigit() and f"__deployed\0main\0{deployed.name}\0".encode() in read(directory / "cmdline")
    )
    os.kill(listed, signal.SIGKILL)
    deployed.talk("two")
    said = "the process of the app was killed, or the machine stopped, and its containers with it"
    assert deployed.lines("-s", "system").count(said) == 1


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_containers_are_remembered_after_their_end(deployed: Deployed) -> None:
    modal = deployed.modal
    container, other = (
        deployed.talk("one"),
        deployed.python("print(modal.Cls.from_name(name, 'Model')().run.remote('x'))"),
    )
    assert modal("container", "logs", container).stdout == "said one\n"
    modal("container", "stop", container)
    for target in (container, container[:14]):
        shown = modal("container", "logs", target)
        about = f"container {container} of `talk`"
        assert (shown.stdout, shown.stderr) == ("said one\n", f"{about} started\nshouted one\n{about} ended\n")
    assert modal("container", "logs", container, "-s", "stdout", "--timestamps").stdout.endswith(" said one\n")
    assert modal("container", "logs", "--all", "-s", "stdout", container).stdout == "said one\n"
    assert modal("container", "logs", "-f", "-s", "stdout", container).stdout == "said one\n"
    assert modal("container", "logs", *other).stdout == "modelled x\n"
    for wrong, message in (("ta-nothing", "no running container"), ("ta-", "at least four characters"), ("", "")):
        refused = modal("container", "logs", wrong, check=False)
        assert refused.code == 1 and message in refused.stderr, wrong


def test_thousands_of_lines_are_shown_as_far_as_they_are_wanted(deployed: Deployed) -> None:
    deployed.python("modal.Function.from_name(name, 'many').remote(50_000)")
    assert deployed.lines("-n", "100000", "-s", "stdout").count("line") == 50_000
    assert deployed.lines("-s", "stdout").count("line") == 100
    # Who reads has seen enough.
    words = f"{command()} app logs {deployed.name} -n 100000 --json | head -n 3"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", words],
        env=deployed.modal.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(done.stdout.splitlines()) == 3 and not done.stderr


def test_a_detached_run_shows_what_others_show_and_its_log_more(modal: Modal) -> None:
    name = f"logs-{os.urandom(4).hex()}"
    modal.write("app.py", PROGRAM.format(name=name))
    done = modal("run", "-q", "--detach", "app.py")
    assert "said detached" in done.stdout and "of `talk`" not in done.stderr
    (container,) = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("in ")]
    listed = json.loads(modal("app", "list", "--json").stdout)
    (app,) = [app["app_id"] for app in listed if app["name"] == name]
    about = f"container {container} of `talk`"
    assert modal("app", "logs", app, "-s", "system").stderr == f"{about} started\n{about} ended\n"
    assert modal("app", "logs", app, "--container", container, "-s", "stdout").stdout == "said detached\n"
    assert "said detached" in modal("container", "logs", container).stdout


def test_apps_and_containers_are_listed_by_environment(deployed: Deployed) -> None:
    modal, container = deployed.modal, deployed.talk("one")

    def listed(*options: str) -> list[dict]:
        return json.loads(modal(*options, "--json").stdout)

    (app,) = [app for app in listed("app", "list") if app["name"] == deployed.name]
    assert (app["description"], app["state"], app["stopped_at"]) == (deployed.name, "deployed", None)
    assert app["tasks"] >= 1 and app["created_at"].endswith("Z") and app["app_id"].startswith("ap-")
    assert len(listed("app", "list", "--limit", "1")) == 1
    for list_of in (("app", "list"), ("container", "list")):
        assert app["app_id"] in [one["app_id"] for one in listed(*list_of, "-e", "main")]
        assert listed(*list_of, "--env", "elsewhere") == []
    for words in (["logs", container], ["stop", container], ["exec", container, "true"]):
        refused = modal("container", words[0], "-e", "elsewhere", *words[1:], check=False)
        assert refused.code == 1 and container in refused.stderr
    assert modal("container", "exec", "-e", "main", container, "true").stdout == ""
    assert modal("container", "stop", "-e", "main", container).stderr == f"Stopped {container}.\n"


def test_programs_read_logs_and_are_told_what_was_deployed(deployed: Deployed) -> None:
    container = deployed.talk("one")
    program = """
import datetime, sys

before = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=1)
app = modal.App.lookup(name)
info = app.info()
print(info.app_id == app.app_id, info.name == name, info.state, info.version, info.created_at > before)
entries = app.logs.fetch(before, source="stdout")
print([(entry.message, entry.object_id) for entry in entries] == [("said one\\n", sys.argv[1])])
print([entry.message for entry in app.logs.tail(2, source="system")] == [f"container {sys.argv[1]} of `talk` started\\n"])
stream = app.logs.stream(source="stdout")
print(next(stream).message == "said one\\n")
modal.Function.from_name(name, "talk").remote("two")
print(next(stream).message == "said two\\n")
function = modal.Function.from_name(name, "sleepy").info()
print(function.timeout, function.image_id[:3], function.method_names)
cls = modal.Cls.from_name(name, "Model")().run.info()
print(cls.timeout, "-".join(cls.method_names))
talk = modal.Function.from_name(name, "talk")
call = talk.spawn("three").hydrate()
call.get()
known = modal.FunctionCall.from_id(call.object_id).hydrate()
print([entry.message for entry in talk.logs.fetch(source="stdout")] == [f"said {n}\\n" for n in ("one", "two", "three")])
print([[entry.message for entry in one.logs.fetch(source="stdout")] for one in (call, known)] == [["said three\\n"]] * 2)
print([entry.source for entry in modal.Cls.from_name(name, "Model")().run.logs.tail()])
try:
    modal.FunctionCall.from_id("fc-none").hydrate()
except modal.exception.NotFoundError:
    print("no call")
try:
    modal.Function.from_name(name, "nothing").info()
except modal.exception.NotFoundError:
    print("missing")
"""
    done = deployed.modal.run([sys.executable, "-c", f"import modal\nname = {deployed.name!r}\n{program}", container])
    assert done.stdout.splitlines() == [
        "True True deployed 1 True",
        "True",
        "True",
        "True",
        "True",
        "1 im- None",
        "300 run-other",
        "True",
        "True",
        "[]",
        "no call",
        "missing",
    ]
