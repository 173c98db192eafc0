"""``modal run --detach`` and ``modal app``: an app goes on without its command, and nothing is left of it in the end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Modal, command
from leftovers import clean
from pseudo_terminal import PseudoTerminal

#: Entrypoints that end by themselves, wait for whoever opens the other end of a named pipe, or wait for ever.
PROGRAM = """
import sys
import time
from pathlib import Path

import modal

app = modal.App({name!r}, image=modal.Image.debian_slim(python_version="3.11"))


@app.function()
def double(n: int) -> int:
    print(f"doubling {{n}}")
    print(f"a remark about {{n}}", file=sys.stderr)
    return 2 * n


@app.function()
def forever() -> None:
    print("waiting", flush=True)
    while True:
        time.sleep(1)


@app.local_entrypoint()
def main(n: int = 1, gate: str = "", fail: bool = False) -> str:
    print("id", app.app_id)
    if gate:
        print("waiting")
        open(gate).read()
    print("result", double.remote(n))
    if fail:
        sys.exit(7)
    return f"result {{double.remote(n)}}"


@app.local_entrypoint()
def wait(stubborn: bool = False) -> None:
    import signal
    import threading

    if stubborn:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        print("waiting", flush=True)
        threading.Event().wait()
    finally:
        print("clearing up")


@app.local_entrypoint()
def remote() -> None:
    forever.remote()
"""

#: How long anything may take.
PATIENCE = 60


class Detached:
    """Detached apps of one test, under a name of its own."""

    def __init__(self, modal: Modal) -> None:
        self.modal = modal
        self.name = f"detached-{os.urandom(4).hex()}"
        modal.write("app.py", PROGRAM.format(name=self.name))
        self.gate = modal.directory / "gate"
        os.mkfifo(self.gate)
        self._started: list[subprocess.Popen] = []

    def run(self, *arguments: str, check: bool = True):
        """A detached run to its end."""
        return self.modal("run", "-d", *arguments, check=check)

    def start(self, *arguments: str) -> subprocess.Popen:
        """A detached run that waits, once it does."""
        process = self.modal.start("run", "-d", *arguments)
        self._started.append(process)
        wait_for_line(process, "waiting")
        return process

    def open_gate(self) -> None:
        """Lets an entrypoint go on that waits at the gate."""
        self.gate.write_text("go")

    def apps(self) -> list[dict]:
        """The apps of this test, newest first."""
        return [app for app in json.loads(self.modal("app", "list", "--json").stdout) if app["name"] == self.name]

    def app(self) -> dict:
        """The only app of this test."""
        (app,) = self.apps()
        return app

    def finish(self) -> None:
        for app in self.apps():
            if app["state"] == "ephemeral (detached)":
                self.modal("app", "stop", app["app_id"])
        for process in self._started:
            process.kill()
            process.communicate(timeout=PATIENCE)


def wait_for_line(process: subprocess.Popen, wanted: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.rstrip("\n") == wanted:
            return
    pytest.fail(f"`{wanted}` never came: {process.communicate()[1]}")


def process_of(detached: Detached, app: str | None = None) -> int:
    """The process of an app, or of the only one of a test."""
    state = (detached.modal.store / "apps" / (app or detached.app()["app_id"]) / "state").read_text()
    return int(state.split()[1])


@pytest.fixture
def detached(modal: Modal) -> Iterator[Detached]:
    apps = Detached(modal)
    yield apps
    apps.finish()


def test_a_detached_run_shows_and_returns_what_any_run_does(detached: Detached) -> None:
    modal = detached.modal
    plain = modal("run", "-q", "app.py::main", "--n", "4", "--fail", check=False)
    result = detached.run("-q", "app.py::main", "--n", "4", "--fail", check=False)
    app = detached.app()
    assert (plain.code, result.code) == (7, 7)
    assert result.stdout.splitlines() == [f"id {app['app_id']}", *plain.stdout.splitlines()[1:]]
    assert result.stderr == plain.stderr == "a remark about 4\n"
    assert (app["state"], app["exit_code"]) == ("stopped", 7)
    assert (app["reference"], app["arguments"]) == ("app.py::main", ["--n", "4", "--fail"])
    assert app["directory"] == str(modal.directory) and app["created_at"] <= app["stopped_at"]
    clean(modal)
    logs = modal("app", "logs", app["app_id"])
    # What becomes of containers is in the log only.
    container, *lines, other = logs.stderr.splitlines(keepends=True)
    assert (logs.stdout, "".join(lines)) == (result.stdout, result.stderr)
    assert container.endswith(" started\n") and other.endswith(" ended\n")
    assert modal("app", "logs", "-f", app["app_id"][:12]).stdout == result.stdout


def test_options_apply_to_the_background(detached: Detached) -> None:
    modal = detached.modal
    program = (modal.directory / "app.py").read_text()
    modal.write("package/__init__.py", "")
    modal.write(
        "package/app.py",
        program + "\n\n@app.local_entrypoint()\ndef env():\n    import os\n"
        "    print(os.environ['MODAL_ENVIRONMENT'])\n    double.remote(3)\n",
    )
    name = detached.name = detached.name + "-renamed"
    result = detached.run("-n", name, "-e", "staging", "--timestamps", "-m", "package.app::env")
    lines = result.stdout.splitlines()
    assert lines[0] == "staging"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z doubling 3", lines[1])
    assert f"Running detached as {detached.app()['app_id']}" in result.stderr
    detached.run("-q", "-n", name, "-w", "result.txt", "app.py::main", "--n", "5")
    assert (modal.directory / "result.txt").read_text() == "result 10"
    events = modal.events("-d", "-n", name, "app.py::main")
    assert events.stderr.splitlines() == [json.dumps(event, separators=(",", ":")) for event in events.events]
    assert events.of("container_started")


@pytest.mark.parametrize("arguments", [["missing.py"], ["app.py::nothing"], ["app.py::main", "--nope"]])
def test_errors_are_seen_as_without_detaching(detached: Detached, arguments: list[str]) -> None:
    plain = detached.modal("run", "-q", *arguments, check=False)
    result = detached.run("-q", *arguments, check=False)
    assert plain.code != 0 and "error:" in plain.stderr
    assert (result.code, result.stdout, result.stderr) == (plain.code, plain.stdout, plain.stderr)


def test_an_app_goes_on_when_its_command_is_killed(detached: Detached) -> None:
    foreground = detached.start("-q", "app.py::main", "--n", "21", "--gate", str(detached.gate))
    app = detached.app()
    assert app["state"] == "ephemeral (detached)" and app["exit_code"] is None
    os.killpg(foreground.pid, signal.SIGKILL)
    foreground.wait(PATIENCE)
    follower = detached.modal.start("app", "logs", "--follow", detached.name)
    wait_for_line(follower, "waiting")
    detached.open_gate()
    output, errors = follower.communicate(timeout=PATIENCE)
    assert follower.returncode == 0
    assert output == "doubling 21\nresult 42\ndoubling 21\n"
    assert errors.count("a remark about 21\n") == 2 and len(errors.splitlines()) == 4
    assert (detached.app()["state"], detached.app()["exit_code"]) == ("stopped", 0)
    clean(detached.modal)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_end_only_the_command(detached: Detached, number: signal.Signals, code: int) -> None:
    foreground = detached.start("-q", "app.py::main", "--gate", str(detached.gate))
    app = detached.app()
    os.killpg(foreground.pid, number)
    _, errors = foreground.communicate(timeout=PATIENCE)
    assert foreground.returncode == code
    assert f"The app goes on as {app['app_id']}" in errors and f"modal app stop {app['app_id']}" in errors
    detached.open_gate()
    assert "result 2" in detached.modal("app", "logs", "-f", app["app_id"]).stdout
    assert detached.app()["exit_code"] == 0


@pytest.mark.parametrize("how", ["Ctrl-C", "hang-up"])
def test_an_app_outlives_its_terminal(detached: Detached, how: str) -> None:
    terminal = PseudoTerminal(detached.modal, "run", "-d", "app.py::main", "--gate", str(detached.gate))
    terminal.wait_for("waiting")
    app = detached.app()
    if how == "Ctrl-C":
        terminal.type("\x03")
        shown = terminal.wait_for("ends it.")
        assert f"The app goes on as {app['app_id']}" in shown and "Traceback" not in shown
        assert terminal.finish() == 130
    else:
        terminal.hang_up()
        assert terminal.finish() == 129
    assert detached.app()["state"] == "ephemeral (detached)"
    detached.open_gate()
    assert "result 2" in detached.modal("app", "logs", "-f", app["app_id"]).stdout
    assert detached.app()["exit_code"] == 0
    clean(detached.modal)


def test_a_pipe_that_is_closed_ends_only_the_command(detached: Detached) -> None:
    # `head` ends with the first line; the shell waits for the pipe to be closed by everybody.
    script = f"{command()} run -q -d app.py::main --gate gate | head -n 1; echo ${{PIPESTATUS[0]}}"
    shell = subprocess.Popen(
        ["bash", "-c", script],
        cwd=detached.modal.directory,
        env=detached.modal.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    detached.open_gate()
    output, errors = shell.communicate(timeout=PATIENCE)
    app = detached.app()
    assert output.splitlines() == [f"id {app['app_id']}", "141"]
    assert f"The app goes on as {app['app_id']}" in errors
    assert "result 2" in detached.modal("app", "logs", "-f", app["app_id"]).stdout


def test_the_background_holds_nothing_of_its_starter(detached: Detached) -> None:
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [command(), "run", "-q", "-d", "app.py::main", "--gate", "gate"],
        cwd=detached.modal.directory,
        env=detached.modal.environment,
        stdout=subprocess.PIPE,
        pass_fds=[writing],
        text=True,
    )
    os.close(writing)
    wait_for_line(process, "waiting")
    process.kill()
    process.communicate(timeout=PATIENCE)
    # The end of the pipe: nobody has it open any longer.
    assert os.read(reading, 1) == b""
    os.close(reading)
    assert detached.app()["state"] == "ephemeral (detached)"
    detached.open_gate()
    detached.modal("app", "logs", "-f", detached.name)


@pytest.mark.parametrize("entrypoint", ["wait", "remote"])
def test_stop_is_a_ctrl_c(detached: Detached, entrypoint: str) -> None:
    modal = detached.modal
    foreground = detached.start("-q", f"app.py::{entrypoint}")
    app = detached.app()
    stopped = modal("app", "stop", detached.name)
    assert stopped.stderr == f"Stopped {app['app_id']}.\n"
    clean(modal, patience=1)
    output, errors = foreground.communicate(timeout=PATIENCE)
    assert foreground.returncode == 130 and "Traceback" not in errors
    assert entrypoint == "remote" or "clearing up" in output
    assert (detached.app()["state"], detached.app()["exit_code"]) == ("stopped", 130)
    assert modal("app", "stop", app["app_id"]).stderr == f"{app['app_id']} has ended already.\n"


def test_one_that_does_not_listen_is_stopped_and_one_that_cannot_is_killed(detached: Detached) -> None:
    stubborn = detached.start("-q", "app.py::wait", "--stubborn")
    deaf = detached.app()["app_id"]
    silent = detached.start("-q", "app.py::remote")
    (gone,) = {app["app_id"] for app in detached.apps()} - {deaf}
    os.kill(process_of(detached, gone), signal.SIGSTOP)
    # Side by side, since each has all the time that there is to end.
    for stop in [detached.modal.start("app", "stop", "--yes", app) for app in (deaf, gone)]:
        stop.communicate(timeout=2 * PATIENCE)
        assert stop.returncode == 0
    for foreground, code in ((stubborn, 130), (silent, 137)):
        foreground.communicate(timeout=PATIENCE)
        assert foreground.returncode == code
    # What was killed could not clear up; the next run does.
    detached.run("-q", "-n", "sweeper", "app.py::main")
    clean(detached.modal)
    states = {app["app_id"]: (app["state"], app["exit_code"]) for app in detached.apps()}
    assert states == {deaf: ("stopped", 130), gone: ("stopped", 137)}


def test_one_that_was_killed_has_died(detached: Detached) -> None:
    foreground = detached.start("-q", "app.py::wait")
    app = detached.app()
    os.kill(process_of(detached), signal.SIGKILL)
    _, errors = foreground.communicate(timeout=PATIENCE)
    assert foreground.returncode == 137
    assert f"the app `{app['app_id']}` was killed by signal 9" in errors
    assert (detached.app()["state"], detached.app()["exit_code"]) == ("stopped", None)
    assert re.search(rf"{app['app_id']} +{detached.name} +died ", detached.modal("app", "list").stdout)
    # Nobody could remove its control groups; whoever comes next does.
    detached.run("-q", "-n", "sweeper", "app.py::main")
    clean(detached.modal)


def test_two_apps_of_one_name_are_told_apart_by_their_ids(detached: Detached) -> None:
    for _ in range(2):
        detached.start("-q", "app.py::main", "--gate", "gate")
    ids = {app["app_id"] for app in detached.apps()}
    assert len(ids) == 2
    for verb in ("stop", "logs"):
        result = detached.modal("app", verb, detached.name, check=False)
        assert result.code == 1
        assert f"several running apps are called `{detached.name}`" in result.stderr
        assert all(f"`{each}`" in result.stderr for each in ids)
    table = detached.modal("app", "list").stdout.splitlines()
    assert ["id", "name", "state", "tasks", "started", "REF"] in [line.split() for line in table]
    for each in ids:
        assert any(line.split()[:3] == [each, detached.name, "running"] for line in table)
        detached.modal("app", "stop", each)
    clean(detached.modal)


@pytest.mark.parametrize("verb", ["logs", "stop"])
def test_bad_ids_are_explained(modal: Modal, verb: str) -> None:
    for target, message in [
        ("ap-1", "`ap-1` is no app id: give `ap-` and at least four characters"),
        ("ap-nothing", "there is no detached app `ap-nothing`: `modal app list` shows what there is"),
        ("nothing", "there is no deployed app `nothing`"),
        ("", "`` is no usable name of an app"),
        ("../locks", "`../locks` is no usable name of an app"),
    ]:
        result = modal("app", verb, target, check=False)
        assert result.code == 1 and message in result.stderr, result
        assert result.stdout == ""


def test_detached_and_interactive_exclude_each_other(modal: Modal) -> None:
    result = modal("run", "--detach", "--interactive", "app.py", check=False)
    assert result.code == 2
    assert "--detach" in result.stderr and "--interactive" in result.stderr


def test_a_store_in_use_is_not_removed(fresh_store: Modal) -> None:
    gate = fresh_store.directory / "gate"
    os.mkfifo(gate)
    fresh_store.write(
        "app.py",
        'import modal\napp = modal.App("local")\n@app.local_entrypoint()\ndef main():\n'
        '    print("waiting")\n    open("gate").read()\n',
    )
    foreground = fresh_store.start("run", "-q", "-d", "app.py")
    wait_for_line(foreground, "waiting")
    (app,) = json.loads(fresh_store("app", "list", "--json").stdout)
    result = fresh_store("store", "remove", "--yes", check=False)
    assert result.code == 1
    assert f"the detached app `{app['app_id']}` uses it" in result.stderr
    assert f"modal app stop {app['app_id']}" in result.stderr
    gate.write_text("go")
    foreground.communicate(timeout=PATIENCE)
    assert foreground.returncode == 0
    fresh_store("store", "remove", "--yes")
    assert not Path(fresh_store.store).exists()
