"""Ctrl-C, SIGTERM and a closed terminal in every phase of a run: nothing is left, and the next run works."""

from __future__ import annotations

import os
import re
import signal
import sys
import time

import pytest
from conftest import Modal
from leftovers import MARKER, clean
from pseudo_terminal import PseudoTerminal

HEAD = """
import os, sys, time
import modal

base = modal.Image.debian_slim(python_version="3.11")
"""

FUNCTIONS = (
    HEAD
    + """
app = modal.App("phases", image=base)

@app.function()
def wait(x=0):
    print("in the function")
    time.sleep(300)

@app.function()
def values():
    while True:
        yield 1
        print("in the generator")
        time.sleep(1)

@app.local_entrypoint()
def remote():
    wait.remote()

@app.local_entrypoint()
def map():
    list(wait.map(range(10_000)))

@app.local_entrypoint()
def endless_map():
    import itertools
    list(wait.map(itertools.count(), order_outputs=False))

@app.local_entrypoint()
def generator():
    for _ in values.remote_gen():
        pass

@app.local_entrypoint()
def spawn():
    calls = [wait.spawn() for _ in range(3)]
    calls[0].get()

@app.local_entrypoint()
def local():
    print("in the entrypoint")
    time.sleep(300)

@app.local_entrypoint()
async def asynchronous():
    import asyncio
    await asyncio.gather(*(wait.remote.aio(x) for x in range(3)))

@app.local_entrypoint()
async def asynchronous_map():
    async for _ in wait.map.aio(range(100)):
        pass

@app.local_entrypoint()
async def asynchronous_generator():
    async for _ in values.remote_gen.aio():
        pass

@app.local_entrypoint()
def threads():
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(wait.remote, range(4)))
"""
)

HANGING_IMPORT = """
app = modal.App("hangs", image=base)
if not modal.is_local():
    print("in the import")
    time.sleep(300)

@app.function()
def main():
    pass
"""


def with_step(step: str) -> str:
    return f'{HEAD}\napp = modal.App("phases", image=base.{step})\n@app.function()\ndef main():\n    pass\n'


def warm(modal: Modal) -> None:
    modal.write(
        "warm.py", HEAD + '\napp = modal.App("w", image=base)\n@app.function()\ndef main():\n    print("works")\n'
    )
    assert modal("run", "-q", "warm.py").stdout == "works\n"


def interrupt(modal: Modal, terminal: PseudoTerminal, how: str) -> str:
    """Interrupts what runs on the terminal in one of the ways and checks its end; returns what was shown."""
    codes = {"ctrl-c": 130, "int": 130, "term": 143, "group-term": 143, "hang-up": 129}
    if how == "ctrl-c":
        terminal.type("\x03")
    elif how == "hang-up":
        terminal.hang_up()
    elif how == "group-term":
        os.killpg(terminal.process.pid, signal.SIGTERM)
    else:
        terminal.process.send_signal({"int": signal.SIGINT, "term": signal.SIGTERM}[how])
    code = terminal.finish()
    shown = terminal.text()
    assert code == codes[how], shown
    assert "Traceback" not in shown and "panicked" not in shown and "Error" not in shown, shown
    clean(modal)
    return shown


EVERY_WAY = pytest.mark.parametrize("how", ["ctrl-c", "int", "term", "group-term", "hang-up"])


@EVERY_WAY
def test_while_python_imports_the_program(modal: Modal, how: str) -> None:
    warm(modal)
    modal.write("app.py", HEAD + 'print("importing")\ntime.sleep(300)\n')
    terminal = PseudoTerminal(modal, "run", "app.py")
    terminal.wait_for("importing")
    interrupt(modal, terminal, how)
    warm(modal)


@pytest.mark.parametrize(
    ("entrypoint", "shown"),
    [
        ("remote", "in the function"),
        ("map", "in the function"),
        ("endless_map", "in the function"),
        ("generator", "in the generator"),
        ("spawn", "in the function"),
        ("local", "in the entrypoint"),
        ("asynchronous", "in the function"),
        ("asynchronous_map", "in the function"),
        ("asynchronous_generator", "in the generator"),
        ("threads", "in the function"),
    ],
)
def test_ctrl_c_while_functions_run(modal: Modal, entrypoint: str, shown: str) -> None:
    modal.write("app.py", FUNCTIONS)
    terminal = PseudoTerminal(modal, "run", f"app.py::{entrypoint}")
    terminal.wait_for(shown)
    interrupt(modal, terminal, "ctrl-c")
    warm(modal)


@EVERY_WAY
@pytest.mark.parametrize("entrypoint", ["map", "asynchronous"])
def test_every_way_while_functions_run(modal: Modal, entrypoint: str, how: str) -> None:
    modal.write("app.py", FUNCTIONS)
    terminal = PseudoTerminal(modal, "run", f"app.py::{entrypoint}")
    terminal.wait_for("in the function")
    interrupt(modal, terminal, how)
    warm(modal)


@EVERY_WAY
def test_while_a_container_imports_the_program(modal: Modal, how: str) -> None:
    modal.write("app.py", HEAD + HANGING_IMPORT)
    terminal = PseudoTerminal(modal, "run", "app.py")
    terminal.wait_for("in the import")
    interrupt(modal, terminal, how)
    warm(modal)


@EVERY_WAY
def test_while_a_command_step_runs(modal: Modal, how: str) -> None:
    warm(modal)
    modal.write("app.py", with_step(f"""run_commands("sh -c 'sleep 300; : {MARKER}' & echo working; sleep 300")"""))
    terminal = PseudoTerminal(modal, "run", "app.py")
    terminal.wait_for("working")
    interrupt(modal, terminal, how)
    warm(modal)


def interrupt_build(modal: Modal, terminal: PseudoTerminal, pause: float) -> bool:
    """Interrupts a build after a pause, unless it is over by then; whether it did."""
    terminal.read(pause)
    builds = terminal.process.poll() is None and "Built" not in terminal.text()
    if builds:
        interrupt(modal, terminal, "ctrl-c")
    else:
        terminal.finish()
    return builds


@pytest.mark.parametrize(
    ("step", "shown"),
    [
        ('apt_install("cowsay", "fortune-mod")', "apt_install"),
        ('uv_pip_install("networkx==3.2.1", "sympy==1.12")', "uv_pip_install"),
        ('pip_install("networkx==3.2.1", "sympy==1.12")', "pip_install"),
    ],
)
def test_while_packages_are_installed(modal: Modal, step: str, shown: str) -> None:
    warm(modal)
    interrupted = 0
    for pause in (0, 0.3, 1):
        # A layer of its own each time: what is in the package cache may be installed before it is interrupted.
        tag = os.urandom(4).hex()
        modal.write("app.py", with_step(f'run_commands("echo {tag} > /opt/tag").{step}'))
        terminal = PseudoTerminal(modal, "run", "app.py")
        terminal.wait_for(lambda text: any(re.match(f"^. {shown}", line) for line in text.splitlines()))
        interrupted += interrupt_build(modal, terminal, pause)
    assert interrupted, "every step was faster than the first pause"
    assert modal("run", "-q", "app.py").code == 0
    clean(modal)


def test_while_a_layer_is_committed(modal: Modal) -> None:
    warm(modal)
    tag = os.urandom(4).hex()
    files = (
        "mkdir /opt/many; cd /opt/many; seq 1 30000 | xargs touch; head -c 100M /dev/urandom > large; echo all-written"
    )
    modal.write("app.py", with_step(f'run_commands("echo {tag}; {files}")'))
    interrupted = 0
    for pause in (0, 0.1, 0.4):
        terminal = PseudoTerminal(modal, "run", "app.py")
        terminal.wait_for(lambda text: "all-written" in text or "Built" in text)
        interrupted += interrupt_build(modal, terminal, pause)
    assert interrupted, "every commit was faster than the first pause"
    assert modal("run", "-q", "app.py").code == 0
    clean(modal)


def test_while_another_process_makes_the_layer(modal: Modal) -> None:
    warm(modal)
    modal.write("app.py", with_step(f'run_commands("echo {os.urandom(4).hex()}; sleep 300")'))
    first = PseudoTerminal(modal, "run", "app.py")
    first.wait_for("run_commands")
    second = PseudoTerminal(modal, "run", "app.py")
    second.wait_for("another process is making this layer")
    second.type("\x03")
    assert second.finish() == 130
    assert "Traceback" not in second.text()
    assert first.process.poll() is None
    interrupt(modal, first, "ctrl-c")
    warm(modal)


@pytest.mark.parametrize("shown", ["downloading", "Setting up", "Updating certificates"])
def test_while_the_base_is_made(fresh_store: Modal, shown: str) -> None:
    fresh_store.write("app.py", with_step('env({"A": "1"})'))
    terminal = PseudoTerminal(fresh_store, "run", "app.py")
    terminal.wait_for(shown)
    interrupt(fresh_store, terminal, "ctrl-c")


def test_at_any_moment_of_the_start(modal: Modal) -> None:
    warm(modal)
    modal.write("app.py", FUNCTIONS)
    for milliseconds in range(0, 240, 12):
        terminal = PseudoTerminal(modal, "run", "app.py::remote")
        terminal.read(milliseconds / 1000)
        terminal.type("\x03")
        code, shown = terminal.finish(), terminal.text()
        assert code == 130, (milliseconds, shown)
        assert "Traceback" not in shown and "panicked" not in shown, (milliseconds, shown)
    clean(modal)
    warm(modal)


def test_a_second_ctrl_c_ends_a_program_that_does_not_listen(modal: Modal) -> None:
    modal.write(
        "app.py",
        HEAD
        + """
app = modal.App("stubborn", image=base)

@app.function()
def wait():
    print("in the function")
    time.sleep(300)

@app.local_entrypoint()
def main():
    try:
        wait.remote()
    except KeyboardInterrupt:
        print("once more")
        while True:
            try:
                time.sleep(300)
            except KeyboardInterrupt:
                pass
""",
    )
    terminal = PseudoTerminal(modal, "run", "app.py")
    terminal.wait_for("in the function")
    terminal.type("\x03")
    terminal.wait_for("once more")
    assert terminal.process.poll() is None
    interrupt(modal, terminal, "ctrl-c")
    warm(modal)


@pytest.mark.parametrize("how", ["int", "term", "hang-up"])
def test_in_a_shell(modal: Modal, how: str) -> None:
    warm(modal)
    modal.write("app.py", FUNCTIONS)
    terminal = PseudoTerminal(modal, "shell", "app.py::wait")
    terminal.wait_for("#")
    terminal.type("echo $((6 * 7))-ready; sleep 300\n")
    terminal.wait_for("42-ready")
    interrupt(modal, terminal, how)
    warm(modal)


def test_ctrl_c_in_a_shell_is_for_its_command(modal: Modal) -> None:
    warm(modal)
    modal.write("app.py", FUNCTIONS)
    terminal = PseudoTerminal(modal, "shell", "app.py::wait")
    terminal.wait_for("#")
    terminal.type("echo $((6 * 7))-ready; sleep 300\n")
    terminal.wait_for("42-ready")
    time.sleep(0.2)
    terminal.type("\x03")
    terminal.type("echo still-$((6 * 8)); exit 5\n")
    terminal.wait_for("still-48")
    assert terminal.finish() == 5
    clean(modal)


def test_ctrl_c_in_plain_python(modal: Modal) -> None:
    """``python app.py`` starts an engine of its own, which the terminal signals as well."""
    warm(modal)
    modal.write("app.py", FUNCTIONS + '\nif __name__ == "__main__":\n    with app.run():\n        wait.remote()\n')
    terminal = PseudoTerminal(modal, "app.py", program=sys.executable)
    terminal.wait_for("in the function")
    terminal.type("\x03")
    assert terminal.finish() == 130
    assert "KeyboardInterrupt" in terminal.text() and "panicked" not in terminal.text()
    clean(modal)
