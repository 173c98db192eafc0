"""``modal app autostart``: apps with schedules or containers that are always there run while the machine does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Modal, command
from leftovers import clean

PROGRAM = """
import os
import time

import modal

gates = modal.Volume.from_name({name!r}, create_if_missing=True)
app = modal.App({name!r}, image=modal.Image.debian_slim(python_version="3.11"), volumes={{"/gates": gates}})


@app.function()
def say(text: str) -> None:
    print("said", text, flush=True)


@app.function(schedule=modal.Period(seconds=1))
def tick() -> None:
    print("ticked", flush=True)


@app.cls(min_containers=1)
class Model:
    @modal.enter()
    def enter(self) -> None:
        print("entered", flush=True)

    @modal.method()
    def run(self) -> None:
        pass

    @modal.exit()
    def leave(self) -> None:
        time.sleep(1)
        with open("/gates/left", "a") as file:
            file.write("left\\n")
"""

CALL = "import sys, modal; modal.Function.from_name(sys.argv[1], 'say').remote(sys.argv[2])"

PATIENCE = 60


def read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def host(name: str) -> int | None:
    """The process of an app."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and f"__deployed\0main\0{name}\0" in read(process / "cmdline"):
            return int(process.name)
    return None


def wait_for(condition: Callable[[], object], what: str) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.05)


@pytest.fixture
def deploy(modal: Modal) -> Iterator[Callable[[], str]]:
    """Deploys apps, which are stopped in the end; gives the name of each."""
    names: list[str] = []

    def deploy() -> str:
        names.append(f"kept-{os.urandom(4).hex()}")
        modal.write("app.py", PROGRAM.format(name=names[-1]))
        modal("deploy", "app.py")
        return names[-1]

    yield deploy
    for name in names:
        modal("app", "stop", "--yes", name, check=False)
        modal("volume", "delete", "--yes", name, check=False)
    clean(modal)


@pytest.fixture
def watcher(modal: Modal) -> Iterator[subprocess.Popen]:
    """What keeps apps."""
    process = modal.start("app", "autostart", "--watch")
    yield process
    if process.poll() is None:
        process.kill()
    process.wait(PATIENCE)


def hear(watcher: subprocess.Popen, text: str) -> None:
    """Waits until it says something."""
    assert watcher.stderr
    heard = []
    while text not in (line := watcher.stderr.readline()):
        heard.append(line)
        assert line, heard


def ticks(modal: Modal, name: str) -> int:
    return modal("app", "logs", name, "-n", "10000").stdout.count("ticked")


def test_an_app_that_is_killed_comes_back_and_one_that_is_stopped_does_not(
    modal: Modal, deploy: Callable[[], str], watcher: subprocess.Popen
) -> None:
    # It came after the watcher, and was started by its deployment.
    name = deploy()
    for pause in (1, 2):
        killed = host(name)
        assert killed is not None
        before = ticks(modal, name)
        os.kill(killed, signal.SIGKILL)
        hear(watcher, f"The process of `{name}` was killed: it is started again in {pause} s.")
        hear(watcher, f"Started `{name}`.")
        assert host(name) not in (None, killed)
        wait_for(lambda: ticks(modal, name) > before, "its schedule goes on without a call")  # noqa: B023
    other = deploy()
    modal("app", "stop", "--yes", name)
    # What happens afterwards is seen after it.
    before_other = host(other)
    assert before_other is not None
    os.kill(before_other, signal.SIGKILL)
    hear(watcher, f"Started `{other}`.")
    assert host(name) is None
    # A version that needs no process is not kept.
    text = (modal.directory / "app.py").read_text()
    modal.write("app.py", text.replace("schedule=modal.Period(seconds=1)", "").replace("min_containers=1", ""))
    modal("deploy", "app.py")
    wait_for(lambda: host(other) is None, "nothing keeps it")
    third = deploy()
    os.kill(host(third) or 0, signal.SIGKILL)
    before = ticks(modal, third)
    hear(watcher, f"Started `{third}`.")
    # A process clears up after one that was killed when it starts its first container.
    wait_for(lambda: ticks(modal, third) > before, "its schedule goes on")
    assert host(other) is None


def test_an_app_whose_version_is_damaged_is_named_until_it_is_deployed_anew(
    modal: Modal, deploy: Callable[[], str]
) -> None:
    name = deploy()
    (Path(modal.store) / f"deployments/main/{name}/versions/1.json").write_text("{")
    watcher = modal.start("app", "autostart", "--watch")
    try:
        hear(watcher, f"version 1 of the app `{name}`, `")
        hear(watcher, "hint: deploy the app anew: `modal deploy`")
        assert f"version 1 of the app `{name}`" in modal("app", "autostart", "--start").stderr
        modal("deploy", "app.py")
        modal("app", "stop", "--yes", name)
    finally:
        watcher.kill()
        watcher.wait(PATIENCE)


def test_an_app_that_somebody_has_ended_is_left_until_it_is_called(
    modal: Modal, deploy: Callable[[], str], watcher: subprocess.Popen
) -> None:
    name = deploy()
    os.kill(host(name) or 0, signal.SIGTERM)
    hear(watcher, f"The process of `{name}` ended with exit code 143: whoever calls it starts it again.")
    assert host(name) is None
    modal.python("-c", CALL, name, "hello")
    called = host(name)
    assert called is not None
    os.kill(called, signal.SIGKILL)
    hear(watcher, f"The process of `{name}` was killed")
    hear(watcher, f"Started `{name}`.")


def test_what_it_has_started_ends_with_it_in_order_and_nothing_else(modal: Modal, deploy: Callable[[], str]) -> None:
    ours, theirs = deploy(), deploy()
    os.kill(host(ours) or 0, signal.SIGKILL)
    wait_for(lambda: host(ours) is None, "it is gone")
    watcher = modal.start("app", "autostart", "--watch")
    try:
        hear(watcher, f"Started `{ours}`.")
        wait_for(lambda: modal("app", "logs", ours, "-n", "10000").stdout.count("entered") > 1, "it has entered")
        watcher.send_signal(signal.SIGTERM)
        assert watcher.wait(PATIENCE) == 0
    finally:
        watcher.kill()
    assert watcher.stderr and watcher.stderr.read() == f"Stopping `{ours}`.\n"
    assert host(ours) is None and host(theirs) is not None
    assert modal("volume", "get", ours, "left", "-").stdout == "left\n", "its exit hook has run to the end"


def test_a_watcher_that_is_killed_leaves_apps_to_the_next_one(modal: Modal, deploy: Callable[[], str]) -> None:
    name = deploy()
    os.kill(host(name) or 0, signal.SIGKILL)
    for _ in range(2):
        watcher = modal.start("app", "autostart", "--watch")
        hear(watcher, f"Started `{name}`.")
        watcher.kill()
        watcher.wait(PATIENCE)
        kept = host(name)
        assert kept is not None
        watcher = modal.start("app", "autostart", "--watch")
        try:
            # It has begun to watch when it notices what comes then.
            other = deploy()
            os.kill(host(other) or 0, signal.SIGKILL)
            hear(watcher, f"Started `{other}`.")
            assert host(name) == kept
            os.kill(kept, signal.SIGKILL)
            hear(watcher, f"Started `{name}`.")
        finally:
            watcher.kill()
            watcher.wait(PATIENCE)
        os.kill(host(name) or 0, signal.SIGKILL)
        wait_for(lambda: host(name) is None, "it is gone")


def test_a_watcher_whose_program_was_replaced_goes_on_with_the_new_one(
    modal: Modal, deploy: Callable[[], str], tmp_path: Path
) -> None:
    name = deploy()
    program, upgrade = tmp_path / "modal", tmp_path / "upgrade"
    shutil.copy(command(), program)
    watcher = modal.start("app", "autostart", "--watch", executable=program)
    try:
        kept = host(name)
        # What cannot be executed is an installation that is under way.
        upgrade.write_text("#!/bin/false")
        upgrade.chmod(0o755)
        upgrade.rename(program)
        os.kill(kept or 0, signal.SIGKILL)
        hear(watcher, f"Started `{name}`.")
        kept = host(name)
        shutil.copy(command(), upgrade)
        upgrade.rename(program)
        other = deploy()
        hear(watcher, "The program of this command was replaced")
        wait_for(lambda: os.path.samefile(f"/proc/{watcher.pid}/exe", program), "it runs the new one")
        os.kill(host(other) or 0, signal.SIGKILL)
        hear(watcher, f"Started `{other}`.")
        assert host(name) == kept, "it has gone on"
        watcher.send_signal(signal.SIGTERM)
        assert watcher.wait(PATIENCE) == 0
    finally:
        watcher.kill()
        watcher.wait(PATIENCE)


def test_an_app_that_cannot_run_is_tried_again_until_it_can(
    modal: Modal, deploy: Callable[[], str], watcher: subprocess.Popen
) -> None:
    name = deploy()
    text = (modal.directory / "app.py").read_text()
    modal("secret", "create", name, "A=value")
    modal.write(
        "app.py", text.replace("app = modal.App(", f"app = modal.App(secrets=[modal.Secret.from_name({name!r})], name=")
    )
    modal("deploy", "app.py")
    modal("secret", "delete", "--yes", name)
    os.kill(host(name) or 0, signal.SIGKILL)
    hear(watcher, f"error: the app `{name}` cannot run: there is no secret `{name}`")
    hear(watcher, f"`{name}` is started again in 2 s.")
    hear(watcher, f"`{name}` is started again in 4 s.")
    modal("secret", "create", name, "A=value")
    hear(watcher, f"Started `{name}`.")
    modal("secret", "delete", "--yes", name)


def switches(process: int) -> int:
    """How often threads of a process have gone to sleep."""
    texts = [read(thread / "status") for thread in Path(f"/proc/{process}/task").iterdir()]
    lines = [line for text in texts for line in text.splitlines() if line.startswith("voluntary_ctxt_switches")]
    return sum(int(line.split()[1]) for line in lines)


def test_nothing_wakes_up_while_nothing_happens(
    modal: Modal, deploy: Callable[[], str], watcher: subprocess.Popen
) -> None:
    name = deploy()
    os.kill(host(name) or 0, signal.SIGKILL)
    hear(watcher, f"Started `{name}`.")
    last = -1
    # The app runs every second; who keeps it does not care.
    for _ in range(10):
        before, last = last, switches(watcher.pid)
        if before == last:
            return
        time.sleep(3)
    raise AssertionError("it wakes up for nothing")


def test_a_store_may_come_later_and_go(modal: Modal, tmp_path: Path) -> None:
    modal.environment["MODAL_STORE"] = str(tmp_path / "far/store")
    watcher = modal.start("app", "autostart", "--watch")
    time.sleep(1)
    assert watcher.poll() is None and not (tmp_path / "far").exists()
    watcher.send_signal(signal.SIGINT)
    assert watcher.wait(PATIENCE) == 130


@pytest.fixture
def systemd(modal: Modal) -> Path:
    """A `systemctl` that writes down what it is told."""
    told = modal.directory / "told"
    program = modal.write("systemd/systemctl", f'#!/bin/sh\necho "$@" >> {told}\n')
    program.chmod(0o755)
    modal.environment["PATH"] = f"{program.parent}:{modal.environment['PATH']}"
    modal.environment["XDG_CONFIG_HOME"] = str(modal.directory / "configuration")
    return told


def test_apps_with_schedules_start_with_the_machine(modal: Modal, deploy: Callable[[], str], systemd: Path) -> None:
    name = deploy()
    assert modal("app", "autostart", "--status", check=False).code == 1
    written = modal("app", "autostart")
    told = ["--user daemon-reload"]
    if Path("/run/systemd/system").exists():
        told.append("--user start modal-apps.service")
    assert f"`{name}`\n" in written.stdout and systemd.read_text().splitlines() == told
    unit = modal.directory / "configuration/systemd/user/modal-apps.service"
    link = unit.parent / "default.target.wants" / unit.name
    assert link.resolve() == unit.resolve()
    if analyze := shutil.which("systemd-analyze"):
        words, variables = [analyze, "--user", "verify", unit], {**os.environ, "XDG_RUNTIME_DIR": str(modal.directory)}
        checked = subprocess.run(words, env=variables, capture_output=True, text=True, check=False)
        assert checked.returncode == 0 and not checked.stderr, checked.stderr
    assert f"`{name}`\n" in modal("app", "autostart", "--status").stdout
    started = next(line for line in unit.read_text().splitlines() if line.startswith("ExecStart="))
    assert started == f'ExecStart="{Path(command()).resolve()}" app autostart --watch'
    # A machine that stops, and starts: what the unit runs is run as systemd would; and so is the form that ends at once.
    environment = {"MODAL_STORE": str(modal.store), "HOME": str(modal.directory), "PATH": "/usr/bin:/bin"}
    for what in ("--watch", "--start"):
        os.kill(host(name) or 0, signal.SIGKILL)
        wait_for(lambda: host(name) is None, "it is gone")
        before = ticks(modal, name)
        words = [command(), "app", "autostart", what]
        process = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
        hear(process, f"Started `{name}`.")
        wait_for(lambda: ticks(modal, name) > before, "the schedule goes on")  # noqa: B023
        if what == "--watch":
            process.kill()
        process.wait(PATIENCE)
    modal("app", "autostart", "--remove")
    assert not unit.exists() and not link.is_symlink()
    assert modal("app", "autostart", "--status", check=False).code == 1
    assert "nothing to remove" in modal("app", "autostart", "--remove").stderr


def test_without_systemd_another_way_is_said(modal: Modal) -> None:
    modal.environment["XDG_CONFIG_HOME"] = str(modal.directory / "configuration")
    refused = modal("app", "autostart", check=False, PATH="/nowhere")
    assert refused.code == 1 and "has no systemd" in refused.stderr
    assert f"@reboot MODAL_STORE={modal.store} " in refused.stderr and refused.stderr.endswith(" --watch\n")
    assert not (modal.directory / "configuration").exists()
