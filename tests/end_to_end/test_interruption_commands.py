"""Ctrl-C and its relatives while a command waits for another process, asks, or removes: it ends at once, and all is well.

The states are held with the locks that other processes of ``modal`` would hold, so that no test depends on being quick.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from conftest import Modal, command
from leftovers import clean
from pseudo_terminal import PseudoTerminal
from test_interruption import program

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
#: What a command says when another process removes images.
WAITING = "waiting for another `modal` that removes images"


@contextmanager
def held(modal: Modal, kind: int) -> Iterator[None]:
    """The lock of collections, as a process that collects (exclusive) or one that stores something (shared) holds it."""
    with open(modal.store / "locks/collection", "a") as file:
        fcntl.flock(file, kind)
        yield


def code_of(process: subprocess.Popen) -> int:
    """The exit code, as a shell would give it."""
    code = process.wait(timeout=30)
    return code if code >= 0 else 128 - code


def read_until(process: subprocess.Popen, text: str) -> None:
    """Reads standard error up to a line with a text."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if text in line:
            return
    pytest.fail(f"`{text}` never came: {seen}")


def warm(modal: Modal) -> str:
    """A program whose image is built; answers the image's id."""
    modal.write("app.py", program('base.env({"COLOUR": "green"})'))
    return modal("shell", "app.py", "--no-pty", "-c", "echo $MODAL_IMAGE_ID").stdout.strip()


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_run_that_waits_for_a_collection_says_so_and_can_be_interrupted(
    modal: Modal, number: signal.Signals, code: int
) -> None:
    warm(modal)
    with held(modal, fcntl.LOCK_EX):
        process = modal.start("run", "--progress", "json", "app.py")
        read_until(process, WAITING)
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=30)
        assert code_of(process) == code
        assert "error" not in errors and "Traceback" not in errors
    assert modal("run", "-q", "app.py").code == 0
    clean(modal)


def test_a_run_goes_on_when_the_collection_has_ended(modal: Modal) -> None:
    warm(modal)
    with held(modal, fcntl.LOCK_EX):
        process = modal.start("run", "--progress", "plain", "app.py")
        read_until(process, f"warning: {WAITING}")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and WAITING not in errors


def test_a_shell_that_waits_for_a_collection_can_be_interrupted(modal: Modal) -> None:
    image = warm(modal)
    with held(modal, fcntl.LOCK_EX):
        process = modal.start("shell", image, "--no-pty", "-c", "true")
        read_until(process, WAITING)
        os.killpg(process.pid, signal.SIGINT)
        assert code_of(process) == 130
    assert modal("shell", image, "--no-pty", "-c", "echo fine").stdout == "fine\n"
    clean(modal)


def test_a_program_of_its_own_that_waits_for_a_collection_can_be_interrupted(modal: Modal) -> None:
    warm(modal)
    text = program('base.env({"COLOUR": "green"})') + 'with modal.enable_output(), app.run():\n    print("started")\n'
    modal.write("own.py", text.replace("@app.function()\ndef main():\n    pass\n", ""))
    with held(modal, fcntl.LOCK_EX):
        process = subprocess.Popen(
            [sys.executable, "own.py"],
            cwd=modal.directory,
            env={
                **modal.environment,
                "MODAL_PROGRESS": "plain",
                "PATH": f"{Path(command()).parent}:{os.environ['PATH']}",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        read_until(process, WAITING)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
        assert process.returncode != 0 and output == ""
        clean(modal)


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_prune_interrupted_before_it_begins_removes_nothing(modal: Modal, number: signal.Signals, code: int) -> None:
    image = warm(modal)
    with held(modal, fcntl.LOCK_SH):
        process = modal.start("image", "prune", image, "--yes")
        read_until(process, "Waiting for another `modal`")
        os.killpg(process.pid, number)
        assert code_of(process) == code
    assert image in modal("image", "list").stdout
    assert modal("shell", image, "--no-pty", "-c", "echo $COLOUR").stdout == "green\n"
    clean(modal)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_prune_interrupted_in_the_middle_leaves_a_store_that_works(
    fresh_store: Modal, number: signal.Signals
) -> None:
    modal = fresh_store
    image = warm(modal)
    # What was used within this second stays; with it, the trees would never be empty.
    time.sleep(1.1)
    trees = modal.store / "content/trees"
    with open(modal.store / "locks/collection", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        process = modal.start("image", "prune", "--all", "--yes")
        read_until(process, "Waiting for another `modal`")
        fcntl.flock(lock, fcntl.LOCK_UN)
        while any(trees.iterdir()):
            assert process.poll() is None
        fcntl.flock(lock, fcntl.LOCK_SH)
        # The layers are gone, their files are not: the prune cannot sweep now.
        read_until(process, "Waiting for another `modal`")
        os.killpg(process.pid, number)
        assert code_of(process) == 128 + number
    clean(modal)
    assert image not in modal("image", "list").stdout
    before = json.loads(modal("image", "du", "--json").stdout)
    assert before["layers"] == 0 and before["packages"] > 100_000_000
    assert modal("run", "-q", "app.py").code == 0
    assert image in modal("image", "list").stdout
    modal("image", "prune", "--all", "--yes")
    after = json.loads(modal("image", "du", "--json").stdout)
    assert after["packages"] == after["layers"] == 0


@pytest.mark.parametrize(
    ("words", "question"), [(["image", "prune"], "Remove 1 image"), (["store", "remove"], "Remove")]
)
@pytest.mark.parametrize("way", ["ctrl-c", "sigterm", "hang-up"])
def test_a_question_that_is_interrupted_removes_nothing(
    modal: Modal, words: list[str], question: str, way: str
) -> None:
    image = warm(modal)
    terminal = PseudoTerminal(modal, *words, *([image] if words[0] == "image" else []), columns=300)
    before = terminal.attributes()
    terminal.wait_for(lambda shown: question in shown and shown.endswith("[y/N]"))
    if way == "ctrl-c":
        terminal.type("\x03")
    elif way == "sigterm":
        terminal.process.send_signal(signal.SIGTERM)
    else:
        terminal.hang_up()
    if way != "hang-up":
        assert terminal.attributes() == before
    assert terminal.finish() == {"ctrl-c": 130, "sigterm": 143, "hang-up": 129}[way]
    assert "Removed" not in terminal.text()
    assert image in modal("image", "list").stdout
    assert modal("shell", image, "--no-pty", "-c", "echo $COLOUR").stdout == "green\n"
    clean(modal)


def test_a_removal_of_the_store_interrupted_in_the_middle_can_be_finished(fresh_store: Modal) -> None:
    modal = fresh_store
    modal("image", "list")
    (modal.store / "downloads/some.deb").write_text("of a build")
    terminal = PseudoTerminal(modal, "store", "remove", columns=300)
    terminal.wait_for("[y/N]")
    helpers = descendants(terminal.process.pid)
    assert helpers
    for helper in helpers:
        os.kill(helper, signal.SIGSTOP)
    try:
        terminal.type("y\r")
        # With its worker stopped the command waits in the middle of what it was told to do.
        terminal.wait_for("[y/N] y")
        wait_until_asleep(terminal.process.pid)
        terminal.type("\x03")
        assert terminal.finish() == 130
    finally:
        for helper in helpers:
            with suppress(ProcessLookupError):
                os.kill(helper, signal.SIGCONT)
    clean(modal)
    assert modal.store.exists()
    assert "There are no images yet" in modal("image", "list").stderr
    assert modal("store", "remove", "--yes").stderr.startswith("Removed ")
    assert not modal.store.exists()


def descendants(process: int) -> list[int]:
    """Processes below a process."""
    found = []
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *descendants(child)]
    return found


def wait_until_asleep(process: int) -> None:
    """Waits until no thread of a process runs: it has read what was typed, and waits for others."""
    states: list[str] = []
    while not states or any(state != "S" for state in states):
        with suppress(FileNotFoundError):
            stats = [(task / "stat").read_text() for task in Path(f"/proc/{process}/task").iterdir()]
            states = [stat.rpartition(")")[2].split()[0] for stat in stats]


@pytest.mark.parametrize("words", [["list"], ["du"], ["list", "--json"], ["du", "--json"]])
def test_a_listing_that_nobody_reads_to_its_end_can_be_interrupted(modal: Modal, words: list[str]) -> None:
    warm(modal)
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b"\n" * 4096)
    os.set_blocking(writing, True)
    process = subprocess.Popen(
        [command(), "image", *words],
        env=modal.environment,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    os.close(writing)
    # The pipe is full: the command cannot end by itself.
    wait_until_asleep(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    assert code_of(process) == 130
    assert process.stderr is not None
    assert process.stderr.read() == ""
    os.close(reading)
    clean(modal)


def test_an_interrupted_doctor_leaves_no_trial(modal: Modal) -> None:
    # There is no store yet: the trial is where it would be.
    place = modal.directory / "place"
    place.mkdir()
    codes = []
    # Now and then the trial is over before the signal has come.
    while 130 not in codes and len(codes) < 20:
        process = modal_with(modal, MODAL_STORE=str(place / "store")).start("doctor")
        while process.poll() is None:
            if any(place.iterdir()):
                os.killpg(process.pid, signal.SIGINT)
                break
        output, errors = process.communicate(timeout=30)
        codes.append(code_of(process))
        assert errors == "" and (output == "") == (codes[-1] == 130)
        assert list(place.iterdir()) == []
    assert 130 in codes
    clean(modal)


def modal_with(modal: Modal, **environment: str) -> Modal:
    """The same with further environment variables."""
    other = Modal(modal.store, modal.directory)
    other.environment.update(environment)
    return other
