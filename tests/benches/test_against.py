"""What the benchmark makes of two builds' times."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benches"))

import against
from machine import Failure
from measuring import Contestant, Row


def row(values, unit="s", seen=None, name=""):
    """A row whose contestant takes these times, one after the other."""
    left = iter(values)

    def once(number):
        if seen is not None:
            seen.append((name, number))
        value = next(left)
        if isinstance(value, Failure):
            raise value
        return value

    return Row("B0", "title", unit, len(values), [Contestant("Lamina", once, peer=False), Contestant("peer")], [])


def compare(this, that, unit="s"):
    (figure,) = against.compare(row(this, unit), row(that, unit), None)
    return figure


def test_a_slower_build_is_seen_and_a_noisy_machine_is_not():
    assert compare([1.1] * 5, [1.0] * 5).verdict == "SLOWER"
    assert compare([1.04] * 5, [1.0] * 5).verdict == "equal"
    assert compare([0.9] * 5, [1.0] * 5).verdict == "faster"
    # The machine gets slower and slower, for both.
    assert compare([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]).verdict == "equal"
    # A round was disturbed.
    assert compare([1, 1, 9, 1, 1], [1, 1, 1, 1, 1]).verdict == "equal"


def test_of_rates_more_is_better():
    assert compare([90.0] * 3, [100.0] * 3, "/s").verdict == "SLOWER"
    assert compare([110.0] * 3, [100.0] * 3, "/s").verdict == "faster"


def test_what_failed_is_not_measured_and_the_other_rows_go_on():
    figure = compare([1.0, Failure("it broke"), 1.0], [1.0] * 3)
    assert figure.verdict == "not measured"
    table = against.markdown([figure, compare([1.2] * 3, [1.0] * 3)], "a machine", "v1")
    assert "it broke" in table
    assert "More than 5 % slower than v1: B0." in table


def test_who_begins_changes_and_peers_take_no_part():
    seen = []
    against.compare(row([1.0] * 3, seen=seen, name="this"), row([1.0] * 3, seen=seen, name="that"), 2)
    assert seen == [("this", 0), ("that", 0), ("that", 1), ("this", 1)]


def test_a_few_rounds_are_the_least():
    seen = []
    ones = [1.0] * against.FEWEST_ROUNDS
    this, that = row(ones, seen=seen), row(ones, seen=seen)
    this.rounds = that.rounds = 1
    against.compare(this, that, None)
    assert len(seen) == 2 * against.FEWEST_ROUNDS
