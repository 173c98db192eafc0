"""Contestants, taken in turn, and what is made of their times."""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass, field
from functools import partial
from typing import Callable

from machine import Failure

#: Called with the number of the round, from 0 (warm-ups are below it); returns one value or many, in the row's unit.
Once = Callable[[int], "float | list"]


@dataclass
class Contestant:
    """One way of doing what a row measures."""

    name: str
    once: Once | None = None
    #: Done once, before the first round, and not measured.
    prepare: Callable[[], object] = lambda: None
    #: Done after the last round: raises `Failure` if the work was not really done.
    verify: Callable[[], object] = lambda: None
    #: Whether it is somebody else's; what is neither `peer` nor Lamina's main figure is for reference.
    peer: bool = True
    reference: bool = False
    failure: str | None = None
    values: list = field(default_factory=list)
    #: Those of the present round.
    latest: list = field(default_factory=list)

    @property
    def measured(self) -> bool:
        """Whether there is a figure to compare."""
        return bool(self.values) and self.failure is None

    @property
    def median(self) -> float:
        """The figure."""
        return statistics.median(self.values)


@dataclass
class Goal:
    """What a row is to reach: an amount, or a share of what a peer takes."""

    amount: float | None = None
    of: str | None = None
    share: float = 0.0
    #: Which of Lamina's figures it is about; None is the main one.
    about: str | None = None


@dataclass
class Row:
    """One line of the table."""

    id: str
    title: str
    unit: str
    rounds: int
    contestants: list
    goals: list
    warm_up: int = 0

    @property
    def more_is_better(self) -> bool:
        """Whether the unit is a rate."""
        return self.unit == "/s"

    @property
    def ours(self) -> Contestant:
        """Lamina's main figure."""
        return next(one for one in self.contestants if not one.peer and not one.reference)

    @property
    def best_peer(self) -> Contestant | None:
        """The peer with the best median; one that failed never counts."""
        peers = [one for one in self.contestants if one.peer and not one.reference and one.measured]
        if not peers:
            return None
        return (max if self.more_is_better else min)(peers, key=lambda one: one.median)


def measure(row: Row, rounds: int | None) -> None:
    """Takes the contestants in turn, round by round. Who fails drops out of the row with the reason."""
    rounds = rounds or row.rounds
    say(f"{row.id}: {row.title}")
    for one in row.contestants:
        guarded(one, one.prepare)
    for round_number in range(-row.warm_up, rounds):
        for one in row.contestants:
            if one.failure is None:
                say(f"{row.id}: round {round_number + 1} of {rounds}, {one.name}", transient=True)
                guarded(one, partial(take, one, round_number))
    for one in row.contestants:
        if one.failure is None:
            guarded(one, one.verify)


def take(one: Contestant, round_number: int) -> None:
    """One round of a contestant; those below 0 are for warming up."""
    values = one.once(round_number) if one.once else []
    if round_number >= 0:
        one.latest = values if isinstance(values, list) else [values]
        one.values += one.latest


def guarded(one: Contestant, action: Callable[[], object]) -> None:
    """Does it, unless the contestant has failed already; keeps the reason if it fails now."""
    if one.failure is not None:
        return
    try:
        action()
    except Failure as failure:
        one.failure = str(failure)
        say(f"  {one.name} failed: {failure}")


def say(text: str, *, transient: bool = False) -> None:
    """Says on standard error what is going on; a transient line only on a terminal, where the next one replaces it."""
    terminal = sys.stderr.isatty()
    if transient and not terminal:
        return
    print(f"\r\033[K{text}" if terminal else text, end="" if transient else "\n", file=sys.stderr, flush=True)
