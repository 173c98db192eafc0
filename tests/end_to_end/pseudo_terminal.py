"""A command on a pseudo-terminal, as a person would run it, and what its screen shows."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable

import pyte
from conftest import Modal, command

#: How long anything may take to appear.
PATIENCE = 60


def _take_terminal() -> None:
    """Begins as a terminal's first program does, also where the tests run under `nohup`, which has hang-ups ignored."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class PseudoTerminal:
    """``modal`` on a terminal of its own, in whose foreground it runs."""

    def __init__(
        self,
        modal: Modal,
        *arguments: str,
        program: str | None = None,
        columns: int = 120,
        rows: int = 30,
        **environment: str,
    ) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=10_000)
        self._stream = pyte.ByteStream(self.screen)
        #: Everything that was written to the terminal.
        self.written = b""
        self._master, slave = os.openpty()
        self.resize(columns, rows)
        variables = {name: value for name, value in modal.environment.items() if name != "NO_COLOR"}
        self.process = subprocess.Popen(
            [program or command(), *arguments],
            cwd=modal.directory,
            env={**variables, "TERM": "xterm-256color", **environment},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=_take_terminal,  # noqa: PLW1509 - there are no threads
        )
        os.close(slave)

    def resize(self, columns: int, rows: int) -> None:
        """Changes the size of the terminal, which its foreground hears of."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen.resize(rows, columns)

    def type(self, text: str) -> None:
        """Types; Ctrl-C is ``\\x03``."""
        os.write(self._master, text.encode())

    def attributes(self) -> list:
        """How the terminal treats what is typed: modes, speeds and control characters."""
        return termios.tcgetattr(self._master)

    def hang_up(self) -> None:
        """Closes the terminal, which signals whoever is in its foreground."""
        os.close(self._master)
        self._master = -1

    def read(self, seconds: float) -> bool:
        """Takes in what is written for a while; false at the end."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if not select.select([self._master], [], [], left)[0]:
                return True
            try:
                data = os.read(self._master, 1 << 16)
            except OSError:
                return False
            if not data:
                return False
            self.written += data
            self._stream.feed(data)
        return True

    def wait_for(self, wanted: str | Callable[[str], bool]) -> str:
        """Waits until the screen, history included, has a text or fulfils a condition; returns it."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            shown = self.text()
            if wanted(shown) if callable(wanted) else wanted in shown:
                return shown
            if not self.read(0.05):
                break
        shown = self.text()
        if wanted(shown) if callable(wanted) else wanted in shown:
            return shown
        self.give_up()
        raise AssertionError(f"{wanted} never appeared:\n{shown}")

    def give_up(self) -> None:
        """Ends the command, so that it is in no other test's way."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def lines(self) -> list[str]:
        """The visible lines without trailing spaces."""
        return [line.rstrip() for line in self.screen.display]

    def text(self) -> str:
        """Everything that was ever shown and not taken back, without trailing empty lines."""
        above = [
            "".join(line[column].data for column in range(self.screen.columns)).rstrip() for line in self.history()
        ]
        return "\n".join([*above, *self.lines()]).rstrip("\n")

    def history(self) -> list:
        """Lines that have scrolled away."""
        return list(self.screen.history.top)

    def finish(self, timeout: float = 30) -> int:
        """Waits for the end of the command; returns its code, as a shell would give it."""
        until = time.monotonic() + timeout
        while self._master >= 0 and time.monotonic() < until and self.read(0.2):
            if self.process.poll() is not None:
                self.read(0.2)
                break
        try:
            code = self.process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            raise AssertionError(f"the command did not end:\n{self.text()}") from None
        if self._master >= 0:
            os.close(self._master)
            self._master = -1
        return code if code >= 0 else 128 - code
