"""Two builds of Lamina in turn, on equal work: how much slower or faster the one is than the other."""

# ruff: noqa: RUF001 - products have their sign.

from __future__ import annotations

import json
import statistics
import time
from dataclasses import dataclass, field
from functools import partial

from measuring import Contestant, Row, guarded, say, take
from report import amount

#: How much slower a figure may be before its row counts as slower.
TOLERANCE = 1.05
#: Rounds that a row has at least: of one or two nothing can be said on a machine that others use, too.
FEWEST_ROUNDS = 3
#: After so long no further round of a row begins.
ROW_SECONDS = 600


@dataclass
class Figure:
    """One figure of both builds; a row has one or several."""

    id: str
    title: str
    unit: str
    this: Contestant
    that: Contestant
    #: `this / that` of each round, as durations, so that more than 1 is slower.
    ratios: list = field(default_factory=list)

    @property
    def measured(self) -> bool:
        """Whether both builds could be measured."""
        return bool(self.ratios) and self.this.measured and self.that.measured

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios: what slows the machine down slows down both halves of a round."""
        return statistics.median(self.ratios)

    @property
    def of_medians(self) -> float:
        """The ratio of both medians, as durations."""
        return _duration(self.this.median, self.unit) / _duration(self.that.median, self.unit)

    @property
    def slower(self) -> bool:
        """Whether both ways of looking at it say so."""
        return self.measured and min(self.ratio, self.of_medians) > TOLERANCE

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if not self.measured:
            return "not measured"
        if self.slower:
            return "SLOWER"
        return "faster" if max(self.ratio, self.of_medians) < 1 / TOLERANCE else "equal"


def _duration(value: float, unit: str) -> float:
    return 1 / value if unit == "/s" else value


def compare(this: Row, that: Row, rounds: int | None) -> list[Figure]:
    """Measures a row of both builds in turn; who begins changes from round to round."""
    rounds = rounds or max(this.rounds, FEWEST_ROUNDS)
    say(f"{this.id}: {this.title}")
    sides = [[one for one in row.contestants if not one.peer] for row in (this, that)]
    figures = [
        Figure(this.id, this.title if not ours.reference else f"{this.title}: {ours.name}", this.unit, ours, theirs)
        for ours, theirs in zip(*sides)
    ]
    for one in [*sides[0], *sides[1]]:
        guarded(one, one.prepare)
    began = time.monotonic()
    for number in range(-this.warm_up, rounds):
        if number > 0 and time.monotonic() - began > ROW_SECONDS:
            say(f"{this.id}: {number} rounds took {ROW_SECONDS} seconds; that is enough")
            break
        for side in sides if number % 2 == 0 else sides[::-1]:
            for one in side:
                say(f"{this.id}: round {number + 1} of {rounds}", transient=True)
                one.latest = []
                guarded(one, partial(take, one, number))
        for figure in figures if number >= 0 else []:
            if figure.this.failure is None and figure.that.failure is None and figure.this.latest:
                ours, theirs = (statistics.median(one.latest) for one in (figure.this, figure.that))
                if ours > 0 and theirs > 0:  # Differences may not be.
                    figure.ratios.append(_duration(ours, figure.unit) / _duration(theirs, figure.unit))
    for one in [*sides[0], *sides[1]]:
        guarded(one, one.verify)
    for figure in figures:
        say(f"  {figure.title}: {_share(figure)}")
    return figures


def _share(figure: Figure) -> str:
    if not figure.measured:
        return "; ".join(one.failure for one in (figure.this, figure.that) if one.failure) or "not measured"
    low, high = min(figure.ratios), max(figure.ratios)
    return f"{figure.ratio:.3f} ({low:.2f} to {high:.2f}; of medians {figure.of_medians:.3f}): {figure.verdict}"


def markdown(figures: list[Figure], machine: str, revision: str) -> str:
    """The table with the machine above it."""
    header = [
        "row",
        "what",
        "this",
        revision,
        "this / it, as time: median of pairs (range)",
        "of medians",
        "rounds",
        "",
    ]
    lines = [machine, "", f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    for figure in figures:
        if figure.measured:
            low, high = min(figure.ratios), max(figure.ratios)
            cells = [
                amount(figure.this.median, figure.unit),
                amount(figure.that.median, figure.unit),
                f"{figure.ratio:.3f} ({low:.2f}–{high:.2f})",
                f"{figure.of_medians:.3f}",
                str(len(figure.ratios)),
                f"**{figure.verdict}**" if figure.slower else figure.verdict,
            ]
        else:
            cells = ["–", "–", "–", "–", "0", _share(figure)]
        lines.append(f"| {' | '.join([figure.id, figure.title, *cells])} |")
    slower = sorted({figure.id for figure in figures if figure.slower})
    lines += ["", f"More than 5 % slower than {revision}: {', '.join(slower) or 'none'}."]
    return "\n".join(lines) + "\n"


def raw(figures: list[Figure], machine: str, revision: str) -> str:
    """Every value, for other programs."""
    content = [
        {
            "row": figure.id,
            "title": figure.title,
            "unit": figure.unit,
            "this": {"failure": figure.this.failure, "values": figure.this.values},
            "that": {"failure": figure.that.failure, "values": figure.that.values},
            "ratios": figure.ratios,
            "verdict": figure.verdict,
        }
        for figure in figures
    ]
    return json.dumps({"machine": machine, "against": revision, "rows": content}, indent=1) + "\n"
