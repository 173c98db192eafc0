"""Shells on a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time

from conftest import Modal, command

APP = """
import modal
app = modal.App("s", image=modal.Image.debian_slim(python_version="3.11").env({"COLOUR": "green"}))
@app.function()
def main(): pass
"""


def converse(modal: Modal, arguments: list[str], lines: list[str]) -> tuple[str, int]:
    """Runs ``modal`` on a pseudo-terminal and types the lines, one at each prompt."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(modal.directory)
        os.execve(command(), ["modal", *arguments], {**modal.environment, "TERM": "xterm"})
    output, end = b"", time.monotonic() + 120
    pending = list(lines)
    while time.monotonic() < end:
        if pending and output.rstrip().endswith((b"#", b"$")):
            os.write(terminal, pending.pop(0).encode() + b"\r")
            output += b"\n"
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                data = os.read(terminal, 65536)
            except OSError:
                break
            if not data:
                break
            output += data
    return output.decode(), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_an_interactive_shell_has_a_terminal_and_hands_on_its_exit_code(modal: Modal) -> None:
    modal.write("app.py", APP)
    output, code = converse(modal, ["shell", "app.py"], ["tty; echo $COLOUR-$((6*7)); pwd", "exit 7"])
    assert "/dev/pts/" in output and "green-42" in output
    assert code == 7


def test_without_a_reference_it_is_the_default_image(modal: Modal) -> None:
    result = modal("shell", "--no-pty", "-c", "pwd; ls /root; cat /etc/debian_version")
    directory, version = result.stdout.split()
    assert directory == "/root" and version[0].isdigit()


def test_a_command_without_a_terminal(modal: Modal) -> None:
    modal.write("app.py", APP)
    result = modal("shell", "app.py::main", "--no-pty", "-c", "echo $COLOUR; exit 5", check=False)
    assert (result.stdout, result.code) == ("green\n", 5)


def test_the_terminal_follows_resizes_and_is_restored_when_the_shell_is_terminated(modal: Modal) -> None:
    modal.write("app.py", APP)
    modal("run", "-q", "app.py")
    terminal, inner = pty.openpty()
    resize(terminal, 33, 99)
    before = termios.tcgetattr(inner)
    child = os.fork()
    if child == 0:
        os.chdir(modal.directory)
        take_terminal(inner)
        os.execve(command(), ["modal", "shell", "app.py"], {**modal.environment, "TERM": "xterm"})
    try:
        read_until(terminal, b"# ")
        os.write(terminal, b"stty size\r")
        read_until(terminal, b"33 99\r\n")
        resize(terminal, 40, 120)
        os.write(terminal, b"stty size\r")
        read_until(terminal, b"40 120\r\n")
        assert termios.tcgetattr(inner) != before
    finally:
        os.kill(child, signal.SIGTERM)
        status = os.waitpid(child, 0)[1]
    assert os.waitstatus_to_exitcode(status) == 143
    assert termios.tcgetattr(inner) == before
    os.close(terminal)
    os.close(inner)


def take_terminal(inner: int) -> None:
    """Makes it the terminal of this process and its standard streams."""
    os.setsid()
    fcntl.ioctl(inner, termios.TIOCSCTTY, 0)
    for number in range(3):
        os.dup2(inner, number)


def resize(terminal: int, rows: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def read_until(terminal: int, expected: bytes) -> None:
    output, end = b"", time.monotonic() + 60
    while expected not in output:
        assert time.monotonic() < end, output
        if select.select([terminal], [], [], 0.2)[0]:
            output += os.read(terminal, 65536)
