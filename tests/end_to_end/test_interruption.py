"""Ctrl-C, kill -9 and many processes at once: nothing stays behind, nothing is done twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import pytest
from conftest import Modal
from leftovers import MARKER, clean

HEAD = 'import modal\nbase = modal.Image.debian_slim(python_version="3.11")\n'


def program(image: str, body: str = "pass") -> str:
    return f'{HEAD}image = {image}\napp = modal.App("i", image=image)\n@app.function()\ndef main():\n    {body}\n'


def wait_for(process: subprocess.Popen, event: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("{") and json.loads(line)["event"] == event:
            return
    pytest.fail(f"`{event}` never came")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("phase", ["build", "function"])
def test_an_interrupted_run_leaves_nothing(modal: Modal, number: signal.Signals, code: int, phase: str) -> None:
    modal("run", "-q", str(modal.write("warm.py", program("base"))))
    slow = f"sh -c 'sleep 300; : {MARKER}' & sleep 300"
    if phase == "build":
        modal.write("app.py", program(f"base.run_commands({slow!r})"))
        event = "step_started"
    else:
        modal.write("app.py", program("base", "import time; time.sleep(300)"))
        event = "container_started"
    process = modal.start("run", "--progress", "json", "app.py")
    wait_for(process, event)
    time.sleep(0.5)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in errors and "panicked" not in errors
    clean(modal)
    assert modal("run", "-q", "warm.py").code == 0


def test_a_killed_engine_takes_everything_with_it_and_the_store_is_sound(modal: Modal) -> None:
    modal.write("app.py", program('base.run_commands("sleep 300")'))
    process = modal.start("run", "--progress", "json", "app.py")
    wait_for(process, "step_started")
    process.kill()
    process.wait(timeout=30)
    modal("run", "-q", str(modal.write("warm.py", program("base"))))
    clean(modal)


def test_many_processes_build_each_layer_once(modal: Modal) -> None:
    tag = os.urandom(8).hex()
    modal.write(
        "app.py",
        program(
            f'base.run_commands("echo {tag}; sleep 1; date +%N > /opt/a").run_commands("cat /opt/a > /opt/b; sleep 1")',
            'print(open("/opt/b").read().strip())',
        ),
    )
    running = [modal.start("run", "--progress", "json", "app.py") for _ in range(8)]
    outcomes = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0] * 8, outcomes
    assert len({output for output, _ in outcomes}) == 1
    events = [json.loads(line) for _, errors in outcomes for line in errors.splitlines() if line.startswith("{")]
    assert sum(event["event"] == "step_started" for event in events) == 2
    clean(modal)
