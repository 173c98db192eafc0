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
from leftovers import clean

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


def test_local_files_and_limits_in_the_default_image(modal: Modal) -> None:
    modal.write("data/one.txt", "one")
    modal.write("data/below/two.txt", "two")
    modal.write("note.txt", "three")
    script = "cd /mnt && cat data/one.txt data/below/two.txt note.txt; echo; echo new > data/one.txt; echo $MODAL_ENVIRONMENT"
    options = ["--add-local", "data", "--add-local", "note.txt", "--cpu", "0.5", "--memory", "512", "-e", "stage"]
    result = modal("shell", "--no-pty", *options, "-c", script)
    assert result.stdout == "onetwothree\nstage\n"
    assert (modal.directory / "data/one.txt").read_text() == "one"


def test_local_files_and_limits_in_an_image(modal: Modal) -> None:
    modal.write("app.py", APP)
    image = image_of(modal, "app.py")
    modal.write("data/one.txt", "one")
    options = ["--add-local", "data", "--memory", "64", "--env", "stage"]
    script = "cat /mnt/data/one.txt; echo; echo $COLOUR $MODAL_ENVIRONMENT; pwd"
    assert modal("shell", image, "--no-pty", *options, "-c", script).stdout == "one\ngreen stage\n/\n"
    hungry = "python3 -c 'bytes(bytearray(1 << 29))' && echo fed"
    assert modal("shell", image, "--no-pty", "-c", hungry).stdout == "fed\n"
    starved = modal("shell", image, "--no-pty", *options, "-c", hungry, check=False)
    assert starved.code != 0 and starved.stdout == ""


def test_where_memory_has_no_attributes_changes_are_on_disk(modal: Modal) -> None:
    script = "rm -r /etc/apt && mkdir /etc/apt && ls -A /etc/apt && df --output=size -B1 / | tail -n 1"
    disk = os.statvfs(modal.store)
    sizes = []
    for without in ("", "memory-attributes"):
        sizes.append(int(modal("shell", "--no-pty", "-c", script, MODAL_SANDBOX_WITHOUT=without).stdout))
    assert (sizes[0] == disk.f_blocks * disk.f_frsize, sizes[1]) == (False, disk.f_blocks * disk.f_frsize)
    clean(modal)


def test_what_cannot_be_taken_along_is_named(modal: Modal) -> None:
    modal.write("app.py", APP)
    missing = modal("shell", "--no-pty", "--add-local", "nowhere", "-c", "true", check=False)
    assert missing.code == 1
    assert missing.stderr.endswith(f"error: local path `{modal.directory}/nowhere` does not exist\n")
    modal.write("a/x", "")
    modal.write("b/x", "")
    twice = modal("shell", image_of(modal, "app.py"), "--add-local", "a/x", "--add-local", "b/x", check=False)
    assert twice.code == 1 and "`b/x` cannot be taken along: another one has the same name" in twice.stderr


def test_the_environment_has_a_name_beside_a_function_too(modal: Modal) -> None:
    modal.write("app.py", APP)
    assert modal("shell", "app.py", "--no-pty", "-e", "stage", "-c", "echo $MODAL_ENVIRONMENT").stdout == "stage\n"
    assert modal("shell", "app.py", "--no-pty", "-c", "echo $MODAL_ENVIRONMENT").stdout == "main\n"


def image_of(modal: Modal, path: str) -> str:
    """The id of the image that the function of a program runs on."""
    return modal("shell", path, "--no-pty", "-c", "echo $MODAL_IMAGE_ID").stdout.strip()
