"""The table: on the terminal, as Markdown, as JSON."""

# ruff: noqa: RUF001 - ranges have dashes, products their sign.

from __future__ import annotations

import json
from pathlib import Path

from measuring import Contestant, Goal, Row

HEADER = ("row", "what", "Lamina", "peers", "Lamina / best peer", "goal", "reached")


def amount(value: float, unit: str) -> str:
    """A value with three digits that mean something, and its unit."""
    if unit == "/s":
        return f"{value:,.0f}/s"
    if unit == "s" and abs(value) < 1:
        value, unit = value * 1000, "ms"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f} {unit}"


def figure(one: Contestant, unit: str) -> str:
    """Median, range and number, or why there is none."""
    if one.failure is not None:
        return f"failed: {one.failure}" if "not installed" not in one.failure else one.failure
    if not one.values:
        return "not measured"
    if len(one.values) == 1:
        return f"{amount(one.median, unit)} (n=1)"
    low, high = (amount(value, unit) for value in (min(one.values), max(one.values)))
    return f"{amount(one.median, unit)} ({low}–{high}, n={len(one.values)})"


def ratio(row: Row) -> str:
    """Lamina's figure over the best peer's."""
    best = row.best_peer
    if best is None or not row.ours.measured:
        return "–"
    return f"{row.ours.median / best.median:.3f} ({best.name})"


def goal_text(goal: Goal, unit: str) -> str:
    """What is to be reached."""
    sign = "≥" if unit == "/s" else "≤"
    text = amount(goal.amount, unit) if goal.amount is not None else f"{goal.share:g} × {goal.of}"
    return f"{sign} {text}" + (f" ({goal.about})" if goal.about else "")


def reached(goal: Goal, row: Row) -> bool | None:
    """Whether it was; None if that cannot be said."""
    ours = row.ours if goal.about is None else next(one for one in row.contestants if one.name == goal.about)
    if not ours.measured:
        return None
    limit = goal.amount
    if limit is None:
        peer = next((one for one in row.contestants if one.name == goal.of), None)
        if peer is None or not peer.measured:
            return None
        limit = goal.share * peer.median
    return ours.median >= limit if row.more_is_better else ours.median <= limit


def cells(row: Row) -> list[list[str]]:
    """The row's cells; each is a list of lines."""
    words = {True: "yes", False: "no", None: "?"}
    ours = [figure(row.ours, row.unit)]
    ours += [f"{one.name}: {figure(one, row.unit)}" for one in row.contestants if one.reference]
    peers = [f"{one.name}: {figure(one, row.unit)}" for one in row.contestants if one.peer and not one.reference]
    return [
        [row.id],
        [row.title],
        ours,
        peers or ["–"],
        [ratio(row)],
        [goal_text(goal, row.unit) for goal in row.goals] or ["–"],
        [words[reached(goal, row)] for goal in row.goals] or ["–"],
    ]


def markdown(rows: list[Row], machine: str) -> str:
    """The table with the machine above it."""
    lines = [machine, "", f"| {' | '.join(HEADER)} |", f"|{'---|' * len(HEADER)}"]
    for row in rows:
        texts = ["<br>".join(cell).replace("|", "\\|") for cell in cells(row)]
        lines.append(f"| {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def terminal(rows: list[Row], machine: str) -> str:
    """The same for reading at once: a block for each row."""
    blocks = [machine]
    for row in rows:
        row_id, title, ours, peers, over_best, goals, states = cells(row)
        lines = [f"{row_id[0]}  {title[0]}", f"    Lamina: {ours[0]}"]
        lines += [f"    {line}" for line in [*ours[1:], *peers] if line != "–"]
        if over_best[0] != "–":
            lines.append(f"    Lamina / best peer: {over_best[0]}")
        lines += [f"    goal {goal}: {state}" for goal, state in zip(goals, states) if goal != "–"]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def raw(rows: list[Row], machine: str) -> str:
    """Every value, for other programs."""
    content = [
        {
            "row": row.id,
            "title": row.title,
            "unit": row.unit,
            "contestants": [
                {"name": one.name, "peer": one.peer, "failure": one.failure, "values": one.values}
                for one in row.contestants
            ],
        }
        for row in rows
    ]
    return json.dumps({"machine": machine, "rows": content}, indent=1) + "\n"


def write(path: str, text: str) -> None:
    """Writes a file where the user wants it."""
    Path(path).write_text(text, encoding="utf-8")
