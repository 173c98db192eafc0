"""Shared pieces of the Python tests: the package from the source tree, and an app that runs on the fake engine."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1] / "python"
sys.path[:0] = [str(PACKAGE), str(HERE)]

from fake_engine import FakeEngine  # noqa: E402

from modal._client.engine import Engine  # noqa: E402
from modal._shared.wire import Connection  # noqa: E402


@pytest.fixture
def engine():
    """A client's `Engine`, connected with a `FakeEngine` at `engine.fake`."""
    ours, theirs = socket.socketpair()
    fake = FakeEngine(theirs)
    thread = fake.serve_in_thread()
    client = Engine(Connection(ours))
    client.fake = fake
    yield client
    client.close()
    thread.join(10)


@pytest.fixture
def start(engine, monkeypatch):
    """Starts an app on the fake engine: `with start(app) as fake`."""
    from modal._client.running import RunningApp

    monkeypatch.setattr(
        "modal._client.engine.connect", lambda output, interactive=False: engine.greet(output) or engine
    )

    class Started:
        def __init__(self, app):
            self.running = RunningApp(app)

        def __enter__(self):
            self.running.__enter__()
            return engine.fake

        def __exit__(self, *details):
            self.running.__exit__(*details)

    return Started


class Project:
    """A directory with a user's files, and the commands run there."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    def run(self, *words: str, command: str = "run", stdin: object = None, **environment: str):
        """`python -m modal._cli COMMAND …` with a fake engine in this process; its messages are `result.messages`."""
        ours, theirs = socket.socketpair()
        fake = FakeEngine(ours)
        thread = fake.serve_in_thread()
        process = subprocess.Popen(
            [sys.executable, "-m", "modal._cli", command, *words],
            cwd=self.root,
            env=self.environment(MODAL_ENGINE_FD=str(theirs.fileno()), **environment),
            pass_fds=[theirs.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        theirs.close()
        stdout, stderr = process.communicate(timeout=60)
        thread.join(10)
        result = subprocess.CompletedProcess(words, process.returncode, stdout, stderr)
        result.messages = fake.messages
        return result

    def python(self, *words: str, **environment: str) -> subprocess.CompletedProcess:
        """`python …`, with the fake engine in the place of `modal`."""
        tools = self.root / ".tools"
        tools.mkdir(exist_ok=True)
        program = tools / "modal"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {HERE / "fake_engine.py"} "$@"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return subprocess.run(
            [sys.executable, *words],
            cwd=self.root,
            env=self.environment(MODAL_COMMAND=str(program), **environment),
            capture_output=True,
            text=True,
            timeout=60,
        )

    def environment(self, **changes: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MODAL_")}
        return {**kept, "PYTHONPATH": str(PACKAGE), "MODAL_CONFIG_PATH": str(self.root / "no-profiles"), **changes}


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)
