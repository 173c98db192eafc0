"""What a person sees while a build runs: live rows on a pseudo-terminal, read with a terminal emulator."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest
from conftest import Modal
from pseudo_terminal import PseudoTerminal

SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


def live(lines: list[str]) -> list[str]:
    """The rows of running steps."""
    return [line for line in lines if line[:1] in SPINNER and line]


def slow(modal: Modal, *names: str, body: str = "pass") -> None:
    """A program whose image has one slow step per name, side by side; each waits until its file exists."""
    tag = os.urandom(4).hex()
    lines = ["import modal", 'base = modal.Image.debian_slim(python_version="3.11")', f'app = modal.App("{tag}")']
    for name in names:
        script = (
            f"echo {tag}; echo {name}-begins; sleep 2; for i in 1 2 3; do echo {name} line $i; sleep 0.4; done; sleep 1"
        )
        lines += [
            f"image_{name} = base.run_commands({script!r})",
            f"@app.function(image=image_{name})",
            f"def f_{name}():",
            f"    {body}",
        ]
    lines += ["@app.local_entrypoint()", "def main():", f"    f_{names[0]}.remote()", '    print("the end")']
    modal("run", "-q", str(modal.write("warm.py", WARM)))
    modal.write("app.py", "\n".join(lines) + "\n")


WARM = 'import modal\napp = modal.App("w", image=modal.Image.debian_slim(python_version="3.11"))\n@app.function()\ndef f(): pass\n'


def test_one_row_per_running_step_with_its_last_line_and_then_the_table(modal: Modal) -> None:
    slow(modal, "one", "two", body='print("from the container")')
    terminal = PseudoTerminal(modal, "run", "app.py", columns=150)
    terminal.wait_for(lambda text: "one-begins" in text and "two-begins" in text)
    terminal.read(0.3)
    rows = live(terminal.lines())
    assert len(rows) == 2, terminal.text()
    for row in rows:
        assert re.fullmatch(r". run_commands\(.*  \d+\.\ds  (one|two)-begins", row), row
    terminal.wait_for("one line 2")
    rows = live(terminal.lines())
    assert len(rows) == 2 and sum("one line" in row and "begins" not in row.split("s  ")[-1] for row in rows) == 1
    assert terminal.finish() == 0
    shown = terminal.text().splitlines()
    assert not live(shown), shown
    assert shown[0].split() == ["step", "cache", "time", "new", "shared"]
    assert [line[0] for line in shown[1:4]] == ["✓", "✓", "✓"]
    assert shown[1].split()[1:3] == ['debian_slim(python_version="3.11")', "cached"]
    assert shown[4].startswith("Built ") and "2 of 3 steps ran" in shown[4]
    assert shown[5:] == ["from the container", "the end"]


def test_a_second_run_says_nothing_about_building(modal: Modal) -> None:
    modal("run", "-q", str(modal.write("warm.py", WARM)))
    modal.write("app.py", WARM.replace("pass", 'print("out")'))
    terminal = PseudoTerminal(modal, "run", "app.py")
    assert terminal.finish() == 0
    assert terminal.text() == "out"


def test_colours_are_there_unless_refused(modal: Modal) -> None:
    slow(modal, "one")
    terminal = PseudoTerminal(modal, "run", "app.py")
    assert terminal.finish() == 0
    assert b"\x1b[32m" in terminal.written
    slow(modal, "one")
    plain = PseudoTerminal(modal, "run", "app.py", NO_COLOR="1")
    plain.wait_for("one-begins")
    assert len(live(plain.lines())) == 1, "rows without colour"
    assert plain.finish() == 0
    assert not re.search(rb"\x1b\[[0-9;]*m", plain.written), plain.written
    slow(modal, "one")
    dumb = PseudoTerminal(modal, "run", "app.py", TERM="dumb")
    assert dumb.finish() == 0
    assert b"\x1b" not in dumb.written
    assert "one line 3" in dumb.text()


def test_without_a_terminal_every_line_is_kept(modal: Modal) -> None:
    slow(modal, "one")
    result = modal("run", "app.py")
    assert result.stdout == "the end\n"
    assert "\x1b" not in result.stderr and "\r" not in result.stderr
    for line in ("one-begins", "one line 1", "one line 2", "one line 3"):
        assert re.search(rf"^#\d+ .*{line}$", result.stderr, re.MULTILINE), result.stderr
    assert "Built im-" in result.stderr


@pytest.mark.parametrize("columns", [20, 40, 70])
def test_rows_fit_narrow_terminals(modal: Modal, columns: int) -> None:
    slow(modal, "one", "two")
    terminal = PseudoTerminal(modal, "run", "app.py", columns=columns)
    terminal.wait_for(lambda text: len(live(text.splitlines())) == 2)
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        terminal.read(0.1)
        rows = live(terminal.lines())
        assert len(rows) == 2, terminal.text()
        assert all(len(row) < columns for row in rows)
        assert not terminal.history(), "no row was left behind"
    assert terminal.finish() == 0
    assert "the end" in terminal.text() and not live(terminal.text().splitlines())


def test_a_terminal_may_change_its_size(modal: Modal) -> None:
    slow(modal, "one", "two")
    terminal = PseudoTerminal(modal, "run", "app.py", columns=100)
    terminal.wait_for(lambda text: "one-begins" in text and "two-begins" in text)
    for columns in (140, 60, 200, 100):
        terminal.resize(columns, 30)
        os.killpg(terminal.process.pid, signal.SIGWINCH)
        terminal.read(0.35)
        assert len(live(terminal.lines())) == 2, terminal.text()
        assert all(len(row) < columns for row in live(terminal.lines()))
    assert terminal.finish() == 0
    assert not live(terminal.text().splitlines())


def test_a_step_per_line_is_more_than_the_terminal_has_lines_for(modal: Modal) -> None:
    slow(modal, *(f"step{number}" for number in range(8)))
    # At least four steps run at once on two processors, and two rows stay free.
    terminal = PseudoTerminal(modal, "run", "app.py", rows=4)
    terminal.wait_for("more steps")
    assert len(live(terminal.lines())) <= 2
    assert terminal.finish(60) == 0
    assert not live(terminal.text().splitlines()) and "more steps" not in terminal.text()


def test_programs_and_rows_do_not_garble_each_other(modal: Modal) -> None:
    """A container prints, with and without line ends, while another app of the same run is being built."""
    modal("run", "-q", str(modal.write("warm.py", WARM)))
    tag = os.urandom(4).hex()
    modal.write(
        "app.py",
        f"""
        import sys, time
        import modal

        base = modal.Image.debian_slim(python_version="3.11")
        app = modal.App("prints", image=base)

        @app.function()
        def talk():
            for number in range(12):
                print(f"whole line {{number}}")
                sys.stdout.write(f"half {{number}} ")
                sys.stdout.flush()
                time.sleep(0.15)
                print(f"other half {{number}}")

        @app.function(image=base.run_commands("echo {tag}; echo building; sleep 2; echo built"))
        def other():
            print("from the other")

        @app.local_entrypoint()
        def main():
            print("in the program")
            talk.remote()
            other.remote()
        """,
    )
    terminal = PseudoTerminal(modal, "run", "app.py")
    assert terminal.finish() == 0
    expected = ["in the program"]
    for number in range(12):
        expected += [f"whole line {number}", f"half {number} other half {number}"]
    expected.append("from the other")
    shown = terminal.text().splitlines()
    assert shown[-len(expected) :] == expected, terminal.text()
    assert not live(shown)
