"""``modal container`` and ``modal shell ta-…``: containers that run, in whichever process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Modal
from leftovers import clean
from pseudo_terminal import PseudoTerminal

PROGRAM = """
import os
import sys
import time

import modal

gates = modal.Volume.from_name({name!r}, create_if_missing=True)
app = modal.App({name!r}, image=modal.Image.debian_slim(python_version="3.11").workdir("/srv"), volumes={{"/gates": gates}})


def wait_for(gate: str) -> None:
    while not os.path.exists("/gates/" + gate):
        time.sleep(0.05)


@app.function(env={{"GREETING": "hello"}})
def wait(gate: str) -> str:
    print("waiting", flush=True)
    print("on stderr", file=sys.stderr, flush=True)
    wait_for(gate)
    print("waited", flush=True)
    return os.environ["MODAL_TASK_ID"]


@app.function()
def count(gate: str):
    yield 1
    print("waiting", flush=True)
    wait_for(gate)
    yield 2


@app.cls()
class Model:
    @modal.method()
    def run(self, gate: str) -> str:
        print("waiting", flush=True)
        wait_for(gate)
        return os.environ["MODAL_TASK_ID"]

    @modal.exit()
    def leave(self) -> None:
        with open("/gates/left-" + os.environ["MODAL_TASK_ID"], "w"):
            pass
"""

CALLERS = {
    "wait": 'print(modal.Function.from_name({name!r}, "wait").remote(sys.argv[1]))',
    "count": 'print(list(modal.Function.from_name({name!r}, "count").remote_gen(sys.argv[1])))',
    "Model": 'print(modal.Cls.from_name({name!r}, "Model")().run.remote(sys.argv[1]))',
}

PATIENCE = 60


class Running:
    """A deployed app whose functions wait until they are told."""

    def __init__(self, modal: Modal) -> None:
        self.modal = modal
        self.name = f"containers-{os.urandom(4).hex()}"
        modal.write("app.py", PROGRAM.format(name=self.name))
        modal("deploy", "app.py")

    def call(self, function: str, gate: str = "gate") -> subprocess.Popen:
        program = "import sys, modal\n" + CALLERS[function].format(name=self.name)
        return subprocess.Popen(
            [sys.executable, "-c", program, gate],
            env=self.modal.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def containers(self, function: str | None = None) -> list[str]:
        """Ids of this app's containers."""
        listed = json.loads(self.modal("container", "list", "--json").stdout)
        own = [container for container in listed if container["app_name"] == self.name]
        return [container["container_id"] for container in own if function in (None, container["function"])]

    def one(self, function: str, but: str | None = None) -> str:
        """The id of the one container of a function that runs an input, once there is one."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            found = [container for container in self.containers(function) if container != but]
            if found and "waiting" in self.modal("container", "logs", found[0], check=False).stdout:
                return found[0]
            time.sleep(0.05)
        raise AssertionError(f"no container of {function} ran")

    def open_gate(self, gate: str = "gate") -> None:
        self.modal.write(gate, "open")
        self.modal("volume", "put", self.name, gate, gate)


@pytest.fixture
def running(modal: Modal) -> Iterator[Running]:
    app = Running(modal)
    yield app
    modal("app", "stop", "--yes", app.name)
    modal("volume", "delete", "--yes", app.name)
    clean(modal)


def test_a_command_has_what_the_container_has(running: Running) -> None:
    modal, caller = running.modal, running.call("wait")
    container = running.one("wait")
    assert container in modal("container", "list").stdout
    text = "echo $GREETING $MODAL_TASK_ID $PWD; id -u; echo oops >&2; exit 7"
    done = modal("container", "exec", container[:12], "sh", "-c", text, check=False)
    assert (done.code, done.stdout, done.stderr) == (7, f"hello {container} /srv\n0\n", "oops\n")
    # Standard input, also much of it; words that look like options are the command's.
    sent = "line\n" * 200_000
    assert modal("container", "exec", container, "cat", input=sent).stdout == sent
    assert modal("container", "exec", container, "--", "echo", "-n", "--pty").stdout == "--pty"
    # What one changes the others see.
    modal("container", "exec", container, "touch", "/srv/made")
    assert modal("shell", container, "-c", "ls /srv").stdout == "made\n"
    # It looks into what runs there, as debuggers do, and not into what is around it.
    text = "for file in /proc/[0-9]*/environ; do tr '\\0' '\\n' < $file | grep GREETING= && echo $file; done"
    looked = modal("container", "exec", container, "sh", "-c", text, check=False).stdout.split()
    assert {"GREETING=hello", "/proc/2/environ"} <= set(looked) and "/proc/1/environ" not in looked
    assert "Permission denied" in modal("container", "exec", container, "cat", "/proc/1/environ", check=False).stderr
    missing = modal("container", "exec", container, "nonsense", check=False)
    assert missing.code == 1 and "`nonsense` was not found" in missing.stderr
    killed = modal("container", "exec", container, "sh", "-c", "kill -TERM $$", check=False)
    assert killed.code == 128 + signal.SIGTERM
    running.open_gate()
    assert caller.communicate(timeout=PATIENCE)[0].strip() == container


def test_a_shell_in_a_container_is_on_a_terminal(running: Running) -> None:
    modal, caller = running.modal, running.call("wait")
    container = running.one("wait")
    terminal = PseudoTerminal(modal, "shell", container, columns=90, rows=20)
    terminal.type("stty size; echo $TERM\n")
    terminal.wait_for("20 90")
    terminal.wait_for("xterm-256color")
    terminal.resize(70, 30)
    terminal.type("sleep 1000\n")
    terminal.wait_for("sleep 1000")
    terminal.type("\x03")
    terminal.type("stty size; exit 5\n")
    terminal.wait_for("30 70")
    assert terminal.finish() == 5
    # What it leaves behind may write for as long as it likes.
    left = "(trap '' HUP; while :; do echo again; done) & sleep 0.3; exit 6"
    assert PseudoTerminal(modal, "container", "exec", container, "sh", "-c", left).finish() == 6
    # One whose terminal is hung up takes what it runs along.
    terminal = PseudoTerminal(modal, "container", "exec", container, "sh")
    terminal.type("echo begun-$((1 + 1)); sleep 4711\n")
    terminal.wait_for("begun-2")
    terminal.hang_up()
    terminal.finish()
    processes = ["container", "exec", container, "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]
    until = time.monotonic() + PATIENCE
    while "sleep 4711" in modal(*processes).stdout.replace("sh -c", ""):
        assert time.monotonic() < until
    running.open_gate()
    caller.communicate(timeout=PATIENCE)


def test_signals_reach_a_command_and_it_ends_with_its_container(running: Running) -> None:
    modal, caller = running.modal, running.call("wait")
    container = running.one("wait")
    text = "trap 'echo interrupted; exit 9' INT; echo ready; while :; do sleep 0.05; done"
    command = modal.start("container", "exec", container, "sh", "-c", text)
    assert command.stdout and command.stdout.readline() == "ready\n"
    command.send_signal(signal.SIGINT)
    assert command.communicate(timeout=PATIENCE)[0] == "interrupted\n" and command.returncode == 9
    command = modal.start("container", "exec", container, "sh", "-c", "echo ready; sleep 1000")
    assert command.stdout and command.stdout.readline() == "ready\n"
    running.open_gate()
    caller.communicate(timeout=PATIENCE)
    modal("container", "stop", container)
    assert command.wait(PATIENCE) == 128 + signal.SIGKILL
    gone = modal("container", "exec", container, "true", check=False)
    assert gone.code == 1 and f"there is no running container `{container}`" in gone.stderr


def test_what_a_container_prints_can_be_followed(running: Running) -> None:
    modal, caller = running.modal, running.call("wait")
    container = running.one("wait")
    shown = modal("container", "logs", container)
    assert (shown.stdout, shown.stderr) == ("waiting\n", "on stderr\n")
    follower = modal.start("container", "logs", "-f", container)
    assert follower.stdout and follower.stdout.readline() == "waiting\n"
    running.open_gate()
    assert follower.stdout.readline() == "waited\n"
    caller.communicate(timeout=PATIENCE)
    modal("container", "stop", container)
    assert follower.wait(PATIENCE) == 0


@pytest.mark.parametrize("function", ["wait", "Model"])
def test_inputs_of_a_container_that_is_stopped_run_in_another(running: Running, function: str) -> None:
    modal, caller = running.modal, running.call(function)
    container = running.one(function)
    assert modal("container", "stop", container).stderr == f"Stopped {container}.\n"
    other = running.one(function, but=container)
    assert container not in running.containers()
    running.open_gate()
    printed, said = caller.communicate(timeout=PATIENCE)
    assert printed.strip() == other, said
    left = modal("volume", "ls", running.name).stdout
    assert (f"left-{container}" in left) == (function == "Model")


def test_a_container_that_is_stopped_gracefully_ends_its_inputs(running: Running) -> None:
    modal, caller = running.modal, running.call("Model", "first")
    container = running.one("Model")
    stop = modal.start("container", "stop", "--graceful", container)
    # Whoever calls meanwhile gets another one.
    other = running.call("Model", "second")
    second = running.one("Model", but=container)
    assert stop.poll() is None
    running.open_gate("first")
    assert caller.communicate(timeout=PATIENCE)[0].strip() == container
    assert stop.wait(PATIENCE) == 0
    running.open_gate("second")
    assert other.communicate(timeout=PATIENCE)[0].strip() == second


def test_values_that_were_taken_are_not_made_again(running: Running) -> None:
    caller = running.call("count")
    container = running.one("count")
    running.modal("container", "stop", container)
    said = caller.communicate(timeout=PATIENCE)[1]
    assert caller.returncode == 1 and "cannot run again in another one" in said


def test_containers_of_programs_are_listed_until_these_are_killed(modal: Modal) -> None:
    modal.write("app.py", PROGRAM.format(name="program"))
    program = modal.start("run", "app.py::wait", "--gate", "never")
    app = Running.__new__(Running)
    app.modal, app.name = modal, "program"
    container = app.one("wait")
    assert modal("container", "exec", container, "echo", "here").stdout == "here\n"
    further = modal.start("container", "exec", container, "sh", "-c", "echo ready; sleep 1000")
    assert further.stdout and further.stdout.readline() == "ready\n"
    os.killpg(program.pid, signal.SIGKILL)
    program.wait()
    # The process may have been killed before it could say that the command runs, which then has printed already.
    _, said = further.communicate(timeout=PATIENCE)
    killed, lost = 128 + signal.SIGKILL, "error: the container has ended, and the process that ran it\n"
    assert (further.returncode, said) in [(killed, ""), (1, lost)]
    assert app.containers() == []
    assert list((Path(modal.store) / "containers").iterdir()) == []
    modal("volume", "delete", "--yes", "program")


def test_a_process_that_does_not_answer_is_named(running: Running) -> None:
    modal, caller = running.modal, running.call("wait")
    container = running.one("wait")
    (host,) = [
        int(process.name)
        for process in Path("/proc").iterdir()
        if process.name.isdigit() and f"__deployed\0main\0{running.name}\0" in command_line(process)
    ]
    os.kill(host, signal.SIGSTOP)
    try:
        done = modal("container", "list")
    finally:
        os.kill(host, signal.SIGCONT)
    assert container not in done.stdout
    assert f"warning: the process `{host}` has not said which containers it has" in done.stderr, done.stderr
    assert f"`kill -CONT {host}`" in done.stderr, done.stderr
    done = modal("container", "list")
    assert container in done.stdout and "warning" not in done.stderr
    running.open_gate()
    caller.communicate(timeout=PATIENCE)


def command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_text(errors="replace")
    except OSError:
        return ""


def test_wrong_words_are_explained(running: Running) -> None:
    modal, caller = running.modal, running.call("wait")
    container = running.one("wait")
    for words, expected in [
        (["exec", running.name, "ls"], f"that is an app, which has `{container}`"),
        (["stop", container[:-1] + "!"], f"did you mean `{container}`?"),
        (["logs", "ta-1"], "at least four characters"),
    ]:
        refused = modal("container", *words, check=False)
        assert refused.code == 1 and expected in refused.stderr, refused.stderr
    refused = modal("shell", container, "--cpu", "1", check=False)
    assert refused.code == 2 and "the container runs already" in refused.stderr
    running.open_gate()
    caller.communicate(timeout=PATIENCE)


def test_shells_are_among_the_containers(modal: Modal) -> None:
    text = "echo $MODAL_TASK_ID; trap 'exit 5' HUP; while :; do sleep 0.05; done"
    shell = modal.start("shell", "--no-pty", "-c", text)
    assert shell.stdout
    container = shell.stdout.readline().strip()
    try:
        record = listed(modal, container)
        assert (record["app_id"], record["app_name"], record["function"]) == (None, "modal shell", None)
        assert any(line.split()[:3] == [container, "modal", "shell"] for line in table(modal))
        # It is the same container: what the shell sees, others see.
        modal("container", "exec", container, "touch", "/tmp/made")
        assert modal("shell", container, "-c", "ls /tmp").stdout == "made\n"
        refused = modal("container", "logs", container, check=False)
        assert refused.code == 1 and "is on its own terminal" in refused.stderr
        assert modal("container", "stop", "--graceful", container).stderr == f"Stopped {container}.\n"
        assert shell.wait(PATIENCE) == 5
    finally:
        shell.kill()
    killed = modal.start("shell", "--no-pty", "-c", "echo $MODAL_TASK_ID; trap '' HUP; sleep 1000")
    assert killed.stdout
    container = killed.stdout.readline().strip()
    listed(modal, container)
    modal("container", "stop", container)
    assert killed.wait(PATIENCE) == 137
    assert container not in "".join(table(modal))
    clean(modal)


def listed(modal: Modal, container: str) -> dict:
    """What is known of a container, once it is listed: what it prints may come before that."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        for record in json.loads(modal("container", "list", "--json").stdout):
            if record["container_id"] == container:
                return record
        time.sleep(0.05)
    raise AssertionError(f"{container} is not listed")


def table(modal: Modal) -> list[str]:
    return modal("container", "list").stdout.splitlines()
