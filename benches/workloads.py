"""All rows of the table."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Callable

from images import Images
from lamina import Lamina
from launcher import Launcher
from machine import Failure, Machine
from measuring import Row
from peers import Buildah, BuildKit
from running import Running
from stays import Stays
from travelling import Travelling


def rows(
    machine: Machine, lamina: Lamina, source: Path | None, env: dict | None = None
) -> dict[str, Callable[[], list[Row]]]:
    """What can be asked for, by its name; engines are shared by the rows."""
    buildkit = BuildKit(machine, lamina)
    buildah = Buildah(machine, lamina)
    images = Images(machine, lamina, [buildkit, buildah])
    running = Running(machine, lamina, buildkit, Launcher(machine, lamina, source, env or {}))
    travelling = Travelling(machine, lamina, buildkit, buildah, images)
    return {**images.rows(), **running.rows(), **travelling.rows(), **Stays(machine, lamina).rows()}


def free_space(machine: Machine) -> None:
    """Refuses to begin without room for three engines' images."""
    free = shutil.disk_usage(machine.work).free
    if free < 30 << 30:
        raise Failure(f"`{machine.work}` has {free >> 30} GiB free; the builds need 30: name another place with --work")
