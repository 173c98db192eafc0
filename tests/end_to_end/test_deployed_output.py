"""What deployed apps print, followed from before they begin, and apps that start with the machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Modal, command
from leftovers import clean

PROGRAM = """
import modal

app = modal.App({name!r}, image=modal.Image.debian_slim(python_version="3.11"))


@app.function()
def say(text: str) -> None:
    print("said", text, flush=True)


@app.function(schedule=modal.Period(seconds=1))
def tick() -> None:
    print("ticked", flush=True)
"""

CALL = "import sys, modal; modal.Function.from_name(sys.argv[1], 'say').remote(sys.argv[2])"

PATIENCE = 60


@pytest.fixture
def name(modal: Modal) -> Iterator[str]:
    """An app's name; what was deployed under it is stopped in the end."""
    name = f"output-{os.urandom(4).hex()}"
    yield name
    modal("app", "stop", "--yes", name, check=False)
    clean(modal)


def write(modal: Modal, name: str, schedule: bool = False) -> None:
    text = PROGRAM.format(name=name)
    modal.write("app.py", text if schedule else text[: text.index("@app.function(schedule")])


def test_logs_are_followed_from_before_the_first_call_until_the_app_is_stopped(modal: Modal, name: str) -> None:
    write(modal, name)
    modal("deploy", "app.py")
    follower = modal.start("app", "logs", "-f", name)
    assert follower.stderr and follower.stdout
    assert follower.stderr.readline() == "It has not run yet.\n"
    modal.python("-c", CALL, name, "one")
    assert follower.stdout.readline() == "said one\n"
    modal.python("-c", CALL, name, "two")
    assert follower.stdout.readline() == "said two\n"
    modal("app", "stop", "--yes", name)
    assert follower.wait(PATIENCE) == 0


def test_a_deployment_shows_what_its_app_prints_from_then_on(modal: Modal, name: str) -> None:
    write(modal, name)
    modal("deploy", "app.py")
    modal.python("-c", CALL, name, "before")
    streamer = modal.start("deploy", "--stream-logs", "app.py")
    assert streamer.stderr and streamer.stdout
    while "follows. Ctrl-C" not in (line := streamer.stderr.readline()):
        assert line
    modal.python("-c", CALL, name, "after")
    shown = [streamer.stdout.readline() for _ in range(3)]
    assert shown[-1] == "said after\n" and "said before\n" not in shown, shown
    streamer.send_signal(signal.SIGINT)
    assert streamer.wait(PATIENCE) == -signal.SIGINT
    modal.python("-c", CALL, name, "still")


@pytest.fixture
def systemd(modal: Modal) -> Path:
    """A `systemctl` that writes down what it is told."""
    told = modal.directory / "told"
    program = modal.write("systemd/systemctl", f'#!/bin/sh\necho "$@" >> {told}\n')
    program.chmod(0o755)
    modal.environment["PATH"] = f"{program.parent}:{modal.environment['PATH']}"
    modal.environment["XDG_CONFIG_HOME"] = str(modal.directory / "configuration")
    return told


def ticks(modal: Modal, name: str) -> int:
    return modal("app", "logs", name).stdout.count("ticked")


def test_apps_with_schedules_start_with_the_machine(modal: Modal, name: str, systemd: Path) -> None:
    write(modal, name, schedule=True)
    modal("deploy", "app.py")
    assert modal("app", "autostart", "--status", check=False).code == 1
    written = modal("app", "autostart")
    assert f"`{name}`\n" in written.stdout and systemd.read_text() == "--user daemon-reload\n"
    unit = modal.directory / "configuration/systemd/user/modal-apps.service"
    link = unit.parent / "default.target.wants" / unit.name
    assert link.resolve() == unit.resolve()
    if analyze := shutil.which("systemd-analyze"):
        words, variables = [analyze, "--user", "verify", unit], {**os.environ, "XDG_RUNTIME_DIR": str(modal.directory)}
        checked = subprocess.run(words, env=variables, capture_output=True, text=True, check=False)
        assert checked.returncode == 0 and not checked.stderr, checked.stderr
    assert f"`{name}`\n" in modal("app", "autostart", "--status").stdout
    # A machine that stops, and starts: what the unit runs is run as systemd would.
    host = next(
        int(process.name)
        for process in Path("/proc").iterdir()
        if process.name.isdigit() and f"__deployed\0main\0{name}\0" in read(process / "cmdline")
    )
    os.kill(host, signal.SIGKILL)
    time.sleep(0.5)
    before = ticks(modal, name)
    started = next(line for line in unit.read_text().splitlines() if line.startswith("ExecStart="))
    assert started == f'ExecStart="{Path(command()).resolve()}" app autostart --start'
    environment = {"MODAL_STORE": str(modal.store), "HOME": str(modal.directory), "PATH": "/usr/bin:/bin"}
    words = [command(), "app", "autostart", "--start"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert f"Started `{name}`." in done.stderr
    until = time.monotonic() + PATIENCE
    while ticks(modal, name) <= before:
        assert time.monotonic() < until, "the schedule goes on"
        time.sleep(0.1)
    modal("app", "autostart", "--remove")
    assert not unit.exists() and not link.is_symlink()
    assert modal("app", "autostart", "--status", check=False).code == 1
    assert "nothing to remove" in modal("app", "autostart", "--remove").stderr


def read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def test_without_systemd_another_way_is_said(modal: Modal) -> None:
    modal.environment["XDG_CONFIG_HOME"] = str(modal.directory / "configuration")
    refused = modal("app", "autostart", check=False, PATH="/nowhere")
    assert refused.code == 1 and "has no systemd" in refused.stderr
    assert f"@reboot MODAL_STORE={modal.store} " in refused.stderr
    assert not (modal.directory / "configuration").exists()
