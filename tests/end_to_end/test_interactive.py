"""Functions that ask for the terminal of whoever runs them: `modal run --interactive`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import termios
import time

import pytest
from conftest import Modal, command
from leftovers import clean
from pseudo_terminal import PseudoTerminal

APP = """
import os, sys, time
import modal

app = modal.App("interactive", image=modal.Image.debian_slim(python_version="3.11"))


@app.function()
def guess(hidden: int = 5):
    print("before:", os.isatty(0), os.isatty(1))
    modal.interact()
    print("inside:", os.isatty(0), os.isatty(1), *os.get_terminal_size(), os.environ.get("TERM"))
    number = input("Enter a number: ")
    print("to standard error", file=sys.stderr)
    return int(number) == hidden


@app.function()
def plain():
    print("plain:", os.isatty(0), os.isatty(1))


@app.function()
def debug(n: int = 2):
    total = 0
    for number in range(n):
        breakpoint()
        total += number
    return total


@app.function(timeout=1)
def slow():
    modal.interact()
    return input("Take your time: ")


@app.function()
def stuck():
    modal.interact()
    print("it is stuck")
    while True:
        time.sleep(1)


@app.function()
def numbers():
    modal.interact()
    for _ in range(3):
        yield int(input("next: "))


@app.function()
def shared(name: str):
    modal.interact()
    return name + ":" + input(f"{name}? ")


@app.function(retries=3)
def retried():
    modal.interact()
    print("attempt")
    return input("n: ")


@app.function()
def busy():
    modal.interact()
    print("it is busy")
    while True:
        time.sleep(0.01)


@app.function()
async def asleep():
    import asyncio

    modal.interact()
    yield 1
    print("it is asleep")
    await asyncio.sleep(60)


@app.function(timeout=3)
def twice():
    modal.interact()
    for _ in range(2):
        try:
            input("n: ")
        except EOFError:
            print("the end")


@app.function()
def disorderly():
    import tty

    modal.interact()
    tty.setraw(0)
    sys.stdin.close()


def remark(number, frame):
    print("a handler of the function's own")


@app.function()
def handles():
    import signal

    signal.signal(signal.SIGINT, remark)
    modal.interact()
    yield 1
    print("it handles")
    time.sleep(1)
    yield 2


@app.function()
def ends_while_it_waits():
    modal.interact()
    print("shown")
    return "ended"


@app.local_entrypoint()
def main():
    print("guessed", guess.remote(5))
    plain.remote()
    print("guessed", guess.remote(6))


@app.local_entrypoint()
def sums():
    print("sum", sum(numbers.remote_gen()))


@app.local_entrypoint()
def both():
    print(sorted(shared.map(["a", "b"])))


@app.local_entrypoint()
def iterate():
    for value in asleep.remote_gen():
        print(f"got {value}")


@app.local_entrypoint()
def handle():
    print("values", *handles.remote_gen())


@app.local_entrypoint()
def disorder():
    disorderly.remote()
    print("guessed", guess.remote(5))


@app.local_entrypoint()
def overtaken():
    asked = guess.spawn(5)
    while not os.path.exists("go"):
        time.sleep(0.05)
    print(ends_while_it_waits.remote())
    print("guessed", asked.get())


@app.local_entrypoint()
def patient():
    print("answer:", slow.remote())
"""


@pytest.fixture
def interactive(modal: Modal) -> Modal:
    """A program with functions that ask for the terminal, whose image is built."""
    modal.write("app.py", APP)
    modal("run", "-q", "app.py::plain")
    return modal


def attributes(terminal: PseudoTerminal) -> list:
    return termios.tcgetattr(terminal._master)


def test_a_function_converses_with_the_user(interactive: Modal) -> None:
    terminal = PseudoTerminal(interactive, "run", "-i", "app.py::main", columns=99, rows=33)
    before = attributes(terminal)
    terminal.wait_for("Enter a number:")
    assert attributes(terminal) != before
    terminal.type("5\r")
    terminal.wait_for("guessed True")
    terminal.wait_for(lambda text: text.count("Enter a number:") == 2)
    terminal.type("5\r")
    terminal.wait_for("guessed False")
    assert terminal.finish() == 0
    inside = "inside: True True 99 33 xterm-256color"
    assert terminal.text().splitlines() == [
        "before: False False", inside, "Enter a number: 5", "to standard error", "guessed True",
        "plain: False False",
        "before: False False", inside, "Enter a number: 5", "to standard error", "guessed False",
    ]  # fmt: skip
    clean(interactive)


def test_a_breakpoint_is_a_debugger_at_its_line(interactive: Modal) -> None:
    terminal = PseudoTerminal(interactive, "run", "-q", "-i", "app.py::debug")
    terminal.wait_for("(Pdb)")
    assert terminal.text().splitlines() == [
        f"> /root/app.py({line_of('total += number')})debug()",
        "-> total += number",
        "(Pdb)",
    ]
    terminal.type("p number, total\r")
    terminal.wait_for("(0, 0)")
    terminal.type("c\r")
    terminal.wait_for(lambda text: text.count("total += number") == 2)
    # Over the end of the function: our own code around it is not shown.
    for _ in range(5):
        terminal.type("n\r")
    assert terminal.finish() == 0
    assert "modal/_runner" not in terminal.text()


def line_of(text: str) -> int:
    return next(number for number, line in enumerate(APP.splitlines(), 1) if text in line)


def test_the_terminal_follows_resizes(interactive: Modal) -> None:
    terminal = PseudoTerminal(interactive, "run", "-i", "app.py::debug", "--n", "1")
    terminal.wait_for("(Pdb)")
    terminal.resize(70, 20)
    for _ in range(50):
        # What is typed may arrive before the news of the resize.
        terminal.type("import os; os.get_terminal_size()\r")
        terminal.read(0.2)
        if "columns=70, lines=20" in terminal.text():
            break
    terminal.wait_for("columns=70, lines=20")
    terminal.type("c\r")
    assert terminal.finish() == 0


def test_ctrl_c_interrupts_the_function_and_the_command(interactive: Modal) -> None:
    terminal = PseudoTerminal(interactive, "run", "-i", "app.py::guess")
    before = attributes(terminal)
    terminal.wait_for("Enter a number:")
    terminal.type("\x03")
    read_to_the_end(terminal)
    assert attributes(terminal) == before
    assert terminal.finish() == 130
    assert "Traceback" not in terminal.text()
    clean(interactive)


def test_ctrl_c_is_final_and_neither_retried_nor_too_much(interactive: Modal) -> None:
    terminal = PseudoTerminal(interactive, "run", "-i", "app.py::retried")
    terminal.wait_for("n:")
    terminal.type("\x03")
    assert terminal.finish() == 130
    assert terminal.text().count("attempt") == 1
    for pause in (0, 0.001, 0.002, 0.005):
        terminal = PseudoTerminal(interactive, "run", "-i", "app.py::busy")
        terminal.wait_for("it is busy")
        terminal.type("\x03")
        time.sleep(pause)
        terminal.type("\x03")
        assert terminal.finish() == 130, terminal.text()
    terminal = PseudoTerminal(interactive, "run", "-i", "app.py::iterate")
    terminal.wait_for("it is asleep")
    assert "got 1" in terminal.text()
    terminal.type("\x03")
    assert terminal.finish() == 130, terminal.text()


def test_a_function_may_handle_ctrl_c_itself(interactive: Modal) -> None:
    terminal = PseudoTerminal(interactive, "run", "-i", "app.py::handle")
    terminal.wait_for("it handles")
    terminal.type("\x03")
    terminal.wait_for("values 1 2")
    assert terminal.finish() == 0
    assert "a handler of the function's own" in terminal.text()


def test_the_next_input_finds_the_terminal_in_order(interactive: Modal) -> None:
    terminal = PseudoTerminal(interactive, "run", "-i", "app.py::disorder")
    terminal.wait_for("Enter a number:")
    terminal.type("5\r")
    terminal.wait_for("guessed True")
    assert terminal.finish() == 0


def test_one_that_ends_while_another_has_the_terminal_does_not_wait_for_it(interactive: Modal) -> None:
    terminal = PseudoTerminal(interactive, "run", "-i", "app.py::overtaken")
    terminal.wait_for("Enter a number:")
    interactive.write("go", "")
    terminal.wait_for("ended")
    assert "shown" in terminal.text()
    terminal.type("5\r")
    terminal.wait_for("guessed True")
    assert terminal.finish() == 0


def test_a_terminal_that_takes_no_output_does_not_keep_the_command_alive(modal: Modal) -> None:
    modal.write("app.py", APP + "\n\n@app.function()\ndef flood():\n    while True:\n        print('x' * 99)\n")
    modal("run", "-q", "app.py::plain")
    terminal = PseudoTerminal(modal, "run", "app.py::flood")
    terminal.wait_for("xxx")
    for _ in range(2):
        time.sleep(1)
        os.kill(terminal.process.pid, signal.SIGTERM)
    assert terminal.process.wait(20) == 143


def test_signals_and_the_quit_key_end_it_and_the_terminal_is_as_before(interactive: Modal) -> None:
    for number, code in ((signal.SIGTERM, 143), (signal.SIGHUP, 129), (None, 1)):
        terminal = PseudoTerminal(interactive, "run", "-i", "app.py::stuck")
        before = attributes(terminal)
        terminal.wait_for("it is stuck")
        if number is None:
            terminal.type("\x1c")
        else:
            os.kill(terminal.process.pid, number)
        read_to_the_end(terminal)
        assert attributes(terminal) == before
        assert terminal.finish() == code, terminal.text()
        clean(interactive)
    assert "SIGQUIT" in terminal.text()


def read_to_the_end(terminal: PseudoTerminal) -> None:
    while terminal.process.poll() is None:
        terminal.read(0.05)


def test_the_users_time_does_not_count_as_the_functions(interactive: Modal) -> None:
    terminal = PseudoTerminal(interactive, "run", "-i", "app.py::patient")
    terminal.wait_for("Take your time:")
    terminal.read(2.5)
    terminal.type("I did\r")
    terminal.wait_for("answer: I did")
    assert terminal.finish() == 0


def test_generators_converse_and_one_function_at_a_time_has_the_terminal(interactive: Modal) -> None:
    terminal = PseudoTerminal(interactive, "run", "-i", "app.py::sums")
    for count, number in enumerate("123", 1):
        terminal.wait_for(lambda text, count=count: text.count("next:") == count)
        terminal.type(f"{number}\r")
    terminal.wait_for("sum 6")
    assert terminal.finish() == 0

    terminal = PseudoTerminal(interactive, "run", "-i", "app.py::both")
    shown = terminal.wait_for("?")
    first = "a" if "a?" in shown else "b"
    second = "b" if first == "a" else "a"
    terminal.read(0.3)
    assert f"{second}?" not in terminal.text()
    terminal.type("1\r")
    terminal.wait_for(f"{second}?")
    terminal.type("2\r")
    terminal.wait_for(str(sorted([f"{first}:1", f"{second}:2"])))
    assert terminal.finish() == 0


def test_input_may_come_from_a_pipe(interactive: Modal) -> None:
    result = interactive("run", "-i", "app.py::guess", input="5\n")
    assert "Enter a number: " in result.stdout and "inside: True True" in result.stdout
    unterminated = interactive("run", "-i", "app.py::guess", input="5")
    # As with any terminal, what is typed ahead is echoed when it comes, which may be before the prompt.
    assert "Enter a number: " in unterminated.stdout and "to standard error" in unterminated.stdout
    ended = interactive("run", "-i", "app.py::guess", input="", check=False)
    assert ended.code == 1 and "EOFError" in ended.stderr
    again = interactive("run", "-i", "app.py::twice", input="")
    assert again.stdout.count("the end") == 2


def test_a_pipe_on_which_nothing_comes_is_no_user(interactive: Modal) -> None:
    read, write = os.pipe()
    process = subprocess.run(
        [command(), "run", "-i", "app.py::twice"],
        stdin=read,
        cwd=interactive.directory,
        env=interactive.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(read)
    os.close(write)
    assert process.returncode == 1 and "timeout" in process.stderr, process.stderr


def test_without_the_option_there_is_an_error_that_names_it(interactive: Modal) -> None:
    for function, name in (("guess", "`modal.interact()`"), ("debug", "`breakpoint()`")):
        result = interactive("run", "-q", f"app.py::{function}", check=False)
        assert result.code == 1
        assert f"{name} was" in result.stderr and "run the app with `modal run --interactive`" in result.stderr


def test_breakpoints_are_switched_off_as_in_plain_python(modal: Modal) -> None:
    modal.write("app.py", APP.replace('3.11")', '3.11").env({"PYTHONBREAKPOINT": "0"})'))
    modal("run", "-q", "app.py::debug")
    modal("run", "-q", "-i", "app.py::debug")


def test_the_module_itself_can_be_debugged(modal: Modal) -> None:
    modal.write("app.py", APP + "\nif not modal.is_local():\n    breakpoint()\n    loaded = 1\n")
    terminal = PseudoTerminal(modal, "run", "-q", "-i", "app.py::plain")
    terminal.wait_for("(Pdb)")
    assert "-> loaded = 1" in terminal.text()
    terminal.type("c\r")
    terminal.wait_for("plain: False False")
    assert terminal.finish() == 0


def test_what_others_print_meanwhile_stays_at_the_left_margin(modal: Modal) -> None:
    modal.write(
        "app.py",
        APP
        + """

@app.function()
def chatty():
    for number in range(3):
        print("chatty", number)


@app.local_entrypoint()
def together():
    asked = guess.spawn(5)
    while not os.path.exists("go"):
        time.sleep(0.05)
    chatty.remote()
    print("local one\\nlocal two")
    print("guessed", asked.get())
""",
    )
    modal("run", "-q", "app.py::plain")
    terminal = PseudoTerminal(modal, "run", "-i", "app.py::together")
    terminal.wait_for("Enter a number:")
    modal.write("go", "")
    terminal.wait_for("local two")
    assert {"chatty 1", "chatty 2", "local one", "local two"} <= set(terminal.text().splitlines())
    terminal.type("5\r")
    terminal.wait_for("guessed True")
    assert terminal.finish() == 0


def test_a_plain_script_can_be_interactive(interactive: Modal) -> None:
    script = (
        "\nif __name__ == '__main__':\n    with app.run(interactive=True):\n        print('guessed', guess.remote(5))\n"
    )
    interactive.write("app.py", APP + script)
    terminal = PseudoTerminal(interactive, "app.py", program=sys.executable)
    before = attributes(terminal)
    terminal.wait_for("Enter a number:")
    terminal.type("5\r")
    terminal.wait_for("guessed True")
    read_to_the_end(terminal)
    assert attributes(terminal) == before
    assert terminal.finish() == 0
