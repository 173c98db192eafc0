"""The row of conda: an environment from a channel that is made on the spot."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

from lamina import Lamina
from machine import Failure, Machine
from measuring import Contestant, Row

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/end_to_end"))

from conda_channel import PREFIX, Channel, Contents

PACKAGES = 80
FILES = 150
#: Versions of the one package that changes from round to round; each is used once.
EDITIONS = 40


class Rattler:
    """`py-rattler`, by which pixi solves and installs, in an environment of its own."""

    def __init__(self, machine: Machine, lamina: Lamina) -> None:
        self.machine = machine
        self.lamina = lamina
        self.place = machine.directory("rattler")

    def ready(self) -> None:
        """Installs it."""
        python = self.place / "venv/bin/python"
        if not python.exists():
            for words in (
                ["venv", "--python", sys.executable, self.place / "venv"],
                ["pip", "install", "--python", python, "py-rattler==0.28.0"],
            ):
                subprocess.run([self.lamina.uv, "--quiet", *words], check=True)

    def environment(self, channel: Path, *packages: str) -> float:
        """Makes one: the wall time in seconds. Downloads and unpacked packages are kept from one to the next."""
        prefix = self.place / "prefix"
        shutil.rmtree(prefix, ignore_errors=True)
        os.sync()
        program = self.lamina.programs / "rattler_install.py"
        words = [channel.as_uri(), prefix, self.place / "cache", *packages]
        return self.machine.run([self.place / "venv/bin/python", program, *map(str, words)], peer=False)[0]


def conda_environment(machine: Machine, lamina: Lamina) -> list[Row]:
    """B9."""
    channels = machine.directory("channels")
    rattler = Rattler(machine, lamina)
    env = {"MODAL_CONDA_CHANNEL_ALIAS": channels.as_uri()}

    def edition(number: int) -> dict:
        if number >= EDITIONS:
            raise Failure(f"there are {EDITIONS} versions to take turns with: use fewer rounds")
        return {**env, "BENCH_EDITION": str(number)}

    def ours(number: int) -> float:
        os.sync()
        return lamina.run("conda_environment", "build", env=edition(number))[0]

    def prepare() -> None:
        make_channels(channels)
        ours(0)

    def check() -> None:
        check_environment(lamina.run("conda_environment", "main", env=edition(1))[1], "/opt/conda")

    def theirs(number: int) -> float:
        return rattler.environment(channels / "bench", "everything", f"edition=={number}")

    def prepare_theirs() -> None:
        rattler.ready()
        theirs(0)

    def check_theirs() -> None:
        prefix = rattler.place / "prefix"
        packages = [*(prefix / "conda-meta").glob("library-*")]
        files = [path for path in (prefix / "share/bench").rglob("*") if path.is_file()]
        settings = (prefix / "share/bench/library-7/settings").read_text()
        check_environment(f"packages={len(packages)} files={len(files)} {settings}", str(prefix))

    contestants = [
        Contestant("Lamina", lambda number: ours(number + 1), prepare=prepare, verify=check, peer=False),
        Contestant(
            "py-rattler (to the environment)",
            lambda number: theirs(number + 1),
            prepare=prepare_theirs,
            verify=check_theirs,
        ),
    ]
    title = f"one of {PACKAGES} conda packages with {PACKAGES * FILES:,} files changed, packages cached"
    return [Row("B9", title, "s", 3, contestants, [])]


def check_environment(printed: str, prefix: str) -> None:
    """Refuses what is not the whole environment."""
    expected = f"packages={PACKAGES} files={PACKAGES * FILES} prefix = {prefix}"
    if printed.strip() != expected:
        raise Failure(f"the environment is not complete: `{printed.strip()[-200:]}` instead of `{expected}`")


def make_channels(channels: Path) -> None:
    """The channel with the packages, and a `conda-forge` with what the base needs."""
    if channels.joinpath("bench").exists():
        return
    Channel(channels / "conda-forge").add_python("3.11.2")
    bench = Channel(channels / "bench")
    chance = random.Random(1)
    names = [f"library-{number}" for number in range(PACKAGES)]
    for number, name in enumerate(names):
        place = f"share/bench/{name}"
        files: dict[str, str | bytes] = {f"{place}/settings": f"prefix = {PREFIX}"}
        for file in range(FILES - 1):
            files[f"{place}/{file % 10}/{file}"] = chance.randbytes(chance.randrange(200, 8000))
        contents = Contents(files, {}, {f"{place}/settings": "text"})
        bench.add(name, f"1.{number}", contents, depends=tuple(names[max(0, number - 3) : number]))
    bench.add("everything", "1.0", depends=tuple(names))
    for number in range(EDITIONS):
        bench.add("edition", str(number), Contents({"share/edition": str(number)}))
