"""What deployed apps print, followed from before they begin."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from conftest import Modal
from leftovers import clean

PROGRAM = """
import modal

app = modal.App({name!r}, image=modal.Image.debian_slim(python_version="3.11"))


@app.function()
def say(text: str) -> None:
    print("said", text, flush=True)

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


def write(modal: Modal, name: str) -> None:
    modal.write("app.py", PROGRAM.format(name=name))


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
