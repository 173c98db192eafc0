"""``modal run --detach`` when something goes wrong around it: disks, limits, locks, records that are gone."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator

import pytest
from conftest import Modal, command
from pseudo_terminal import PseudoTerminal

#: An entrypoint that prints, waits for whoever opens the other end of a named pipe, and says how it ends.
PROGRAM = """
import sys
import modal

app = modal.App("mishaps")


@app.local_entrypoint()
def main(size: int = 0, code: int = 0):
    print("x" * size)
    print("waiting", flush=True)
    open("gate").read()
    sys.exit(code)
"""

PATIENCE = 60


@pytest.fixture
def local(fresh_store: Modal) -> Iterator[Modal]:
    """A store of its own, and a program that needs no image."""
    fresh_store.write("app.py", PROGRAM)
    os.mkfifo(fresh_store.directory / "gate")
    yield fresh_store
    for app in apps(fresh_store):
        if app["state"] == "ephemeral (detached)":
            fresh_store("app", "stop", app["app_id"])


def apps(modal: Modal) -> list[dict]:
    return json.loads(modal("app", "list", "--json").stdout)


def start(modal: Modal, *arguments: str, **options) -> subprocess.Popen:
    """A detached run, once it waits."""
    process = modal.start("run", "-q", "-d", "app.py", *arguments, **options)
    for line in process.stdout:
        if line == "waiting\n":
            return process
    pytest.fail(f"it does not wait: {process.communicate()[1]}")


def open_gate(modal: Modal) -> None:
    (modal.directory / "gate").write_text("go")


def test_an_app_that_starts_during_the_question_keeps_the_store(local: Modal) -> None:
    local("image", "list")
    terminal = PseudoTerminal(local, "store", "remove", columns=300)
    terminal.wait_for("[y/N]")
    foreground = start(local)
    (app,) = apps(local)
    terminal.type("y\n")
    terminal.wait_for(f"was not removed: the detached app `{app['app_id']}` uses it")
    assert terminal.finish() == 1
    open_gate(local)
    foreground.communicate(timeout=PATIENCE)
    assert foreground.returncode == 0


def test_damaged_output_does_not_lose_the_app(local: Modal) -> None:
    foreground = start(local, "--code", "7")
    (app,) = apps(local)
    with (local.store / "apps" / app["app_id"] / "log" / "0000000001").open("ab") as output:
        output.write(b"\x09" * 100)
    open_gate(local)
    _, errors = foreground.communicate(timeout=PATIENCE)
    assert foreground.returncode == 7
    assert errors.count("is no log that this version can read, and is left out") == 1


def test_a_record_that_is_removed_does_not_lose_the_code(local: Modal) -> None:
    foreground = start(local, "--code", "7")
    shutil.rmtree(local.store / "apps" / apps(local)[0]["app_id"])
    open_gate(local)
    _, errors = foreground.communicate(timeout=PATIENCE)
    assert (foreground.returncode, errors) == (7, "")


def test_a_limit_on_the_size_of_files_costs_only_output(local: Modal) -> None:
    limit = 8 << 20
    foreground = start_limited(local, limit)
    open_gate(local)
    _, errors = foreground.communicate(timeout=PATIENCE)
    (app,) = apps(local)
    assert (foreground.returncode, app["state"], app["exit_code"]) == (0, "stopped", 0), errors


def start_limited(modal: Modal, limit: int) -> subprocess.Popen:
    return modal.start(
        *("run", "-q", "-d", "app.py", "--size", str(2 * limit)),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )


@pytest.mark.parametrize("how", ["run", "logs"])
def test_output_that_cannot_be_shown_is_an_error(local: Modal, how: str) -> None:
    words = ["run", "-q", "-d", "app.py"]
    if how == "logs":
        foreground = start(local)
        words = ["app", "logs", apps(local)[0]["app_id"]]
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [command(), *words],
            cwd=local.directory,
            env=local.environment,
            stdout=full,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=PATIENCE,
        )
    assert result.returncode == 1
    assert "cannot write what the app printed: No space left on device" in result.stderr
    (app,) = apps(local)
    assert app["state"] == "ephemeral (detached)"
    assert how == "logs" or f"The app goes on as {app['app_id']}" in result.stderr
    open_gate(local)
    if how == "logs":
        foreground.communicate(timeout=PATIENCE)


def test_a_start_that_waits_says_so_and_hears_ctrl_c(local: Modal) -> None:
    local("image", "list")
    with (local.store / "locks" / "apps").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = local.start("run", "-d", "app.py")
        assert process.stderr.readline().startswith("Waiting for another `modal`")
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output, errors) == (130, "", "")
    assert apps(local) == []


def test_a_working_directory_that_was_deleted_is_named(local: Modal) -> None:
    gone = local.directory / "gone"
    gone.mkdir()
    script = f"cd {gone} && rmdir {gone} && exec {command()} run -d app.py"
    result = local.run(["bash", "-c", script], check=False)
    assert result.code == 1
    assert f"the working directory `{gone}` cannot be found" in result.stderr and "hint: " in result.stderr


def test_asking_for_apps_makes_no_store(fresh_store: Modal) -> None:
    assert apps(fresh_store) == []
    assert "there is no deployed app `demo`" in fresh_store("app", "logs", "demo", check=False).stderr
    assert not fresh_store.store.exists()
