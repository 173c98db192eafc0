"""Further clients of a detached app: they come to its socket, call its functions, and go without harm to it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from conftest import Modal
from leftovers import clean
from test_detached import PATIENCE, Detached, detached, wait_for_line  # noqa: F401

import modal
from modal._client.engine import PROTOCOL
from modal._shared.payload import pack_any, unpack
from modal._shared.wire import Connection, ConnectionClosed, encode_json


class Guest:
    """A client that speaks the protocol at the socket of an app."""

    def __init__(self, modal: Modal, app: str) -> None:
        self.app = app
        # Whatever the length of the store's path.
        directory = os.open(modal.store / "apps" / app, os.O_PATH)
        connected = socket.socket(socket.AF_UNIX)
        connected.settimeout(PATIENCE)
        connected.connect(f"/proc/self/fd/{directory}/socket")
        os.close(directory)
        self.connection = Connection(connected)
        self.tell({"type": "hello", "protocol": PROTOCOL, "package": "0", "package_directory": str(PACKAGE)})
        assert self.hear()["type"] == "welcome"

    def attach(self) -> list[str]:
        """Attaches to the app and gives the names of its functions."""
        self.tell({"type": "app.attach", "request": 1, "app": self.app})
        answer = self.hear()
        assert (answer["type"], answer["app_id"]) == ("app.attached", self.app), answer
        return sorted(answer["functions"])

    def tell(self, control: dict[str, Any], payload: Any = b"") -> None:
        self.connection.send(encode_json(control).encode(), payload)

    def hear(self) -> dict[str, Any]:
        control, payload = self.connection.receive()
        if control.get("status") == "ok":
            control["value"] = unpack(payload)
        return control

    def call(self, number: int, function: str, *arguments: Any) -> None:
        self.tell({"type": "call", "call": number, "function": function}, pack_any((arguments, {})))


PACKAGE = Path(modal.__file__).parent


def test_two_clients_call_an_app_at_once_with_equal_numbers(detached: Detached) -> None:  # noqa: F811
    foreground = detached.start("-q", "app.py::main", "--n", "4", "--gate", str(detached.gate))
    guest = Guest(detached.modal, detached.app()["app_id"])
    assert guest.attach() == ["double", "forever"]
    guest.call(7, "double", 5)
    assert guest.hear() == {"type": "result", "call": 7, "status": "ok", "value": 10}
    # The program's own calls have these numbers, too, and come while these run.
    for number in range(3):
        guest.call(number, "forever")
    for _ in range(3):
        wait_for_line(foreground, "waiting")
    detached.open_gate()
    output, errors = foreground.communicate(timeout=PATIENCE)
    assert (foreground.returncode, output) == (0, "doubling 4\nresult 8\ndoubling 4\n"), errors
    answers = [guest.hear() for _ in range(3)]
    assert sorted(answer["call"] for answer in answers) == [0, 1, 2]
    assert all("the app was stopped" in answer["message"] for answer in answers)
    assert guest.hear() == {"type": "app.ended", "app_id": guest.app}
    with pytest.raises(ConnectionClosed):
        guest.hear()
    assert detached.app()["exit_code"] == 0
    clean(detached.modal)


def test_a_client_that_is_killed_in_a_call_leaves_the_app_alone(detached: Detached) -> None:  # noqa: F811
    foreground = detached.start("-q", "app.py::main", "--gate", str(detached.gate))
    program = f"""
        import sys
        sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}
        from modal._client.attach import attach
        with attach({detached.name!r}) as app:
            app.remote("forever")
    """
    client = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], env=detached.modal.environment, start_new_session=True
    )
    wait_for_line(foreground, "waiting")
    os.killpg(client.pid, signal.SIGKILL)
    client.wait(PATIENCE)
    detached.open_gate()
    output, errors = foreground.communicate(timeout=PATIENCE)
    assert (foreground.returncode, output) == (0, "doubling 1\nresult 2\ndoubling 1\n"), errors
    clean(detached.modal)


def test_whoever_is_attached_is_told_that_the_app_is_stopped(detached: Detached) -> None:  # noqa: F811
    detached.start("-q", "app.py::wait")
    guest = Guest(detached.modal, detached.app()["app_id"])
    guest.attach()
    detached.modal("app", "stop", detached.name)
    assert guest.hear() == {"type": "app.ended", "app_id": guest.app}
    with pytest.raises(ConnectionClosed):
        guest.hear()
    clean(detached.modal)


def test_a_client_can_stop_the_app(detached: Detached) -> None:  # noqa: F811
    foreground = detached.start("-q", "app.py::wait")
    guest = Guest(detached.modal, detached.app()["app_id"])
    guest.attach()
    guest.tell({"type": "app.stop", "request": 2})
    assert guest.hear()["error"] == "ConflictError"
    guest.tell({"type": "app.stop", "request": 3, "app": guest.app})
    assert guest.hear() == {"type": "app.stopped", "request": 3}
    output, _ = foreground.communicate(timeout=PATIENCE)
    assert foreground.returncode == 130 and "clearing up" in output
    assert (detached.app()["state"], detached.app()["exit_code"]) == ("stopped", 130)
    clean(detached.modal)
