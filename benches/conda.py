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

    def missing(self) -> None:
        """Nothing: it can be had everywhere."""

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


class Micromamba:
    """The program `micromamba`, where the PATH has it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.place = machine.directory("micromamba")
        self.program = shutil.which("micromamba")

    def missing(self) -> str | None:
        """Why it cannot take part, and what to do about it."""
        return None if self.program else "`micromamba` is not installed: put it on the PATH"

    def ready(self) -> None:
        """It is."""

    def environment(self, channel: Path, *packages: str) -> float:
        """As that of `Rattler`."""
        prefix = self.place / "prefix"
        shutil.rmtree(prefix, ignore_errors=True)
        os.sync()
        options = ["--yes", "--quiet", "--no-rc", "--override-channels", "--channel", channel.as_uri()]
        env = {"MAMBA_ROOT_PREFIX": str(self.place / "root"), "HOME": str(self.place)}
        return self.machine.run([self.program, "create", *options, "--prefix", prefix, *packages], peer=False, env=env)[
            0
        ]


def conda_environment(machine: Machine, lamina: Lamina) -> list[Row]:
    """B9."""
    channels = machine.directory("channels")
    rattler, micromamba = Rattler(machine, lamina), Micromamba(machine)
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

    def theirs(tool: Rattler | Micromamba, number: int) -> float:
        return tool.environment(channels / "bench", "everything", f"edition=={number}")

    def check_theirs(tool: Rattler | Micromamba) -> None:
        prefix = tool.place / "prefix"
        packages = [*(prefix / "conda-meta").glob("library-*")]
        files = [path for path in (prefix / "share/bench").rglob("*") if path.is_file()]
        settings = (prefix / "share/bench/library-7/settings").read_text()
        check_environment(f"packages={len(packages)} files={len(files)} {settings}", str(prefix))

    def beside(name: str, tool: Rattler | Micromamba) -> Contestant:
        return Contestant(
            f"{name} (to the environment)",
            lambda number: theirs(tool, number + 1),
            prepare=lambda: (tool.ready(), theirs(tool, 0)),
            verify=lambda: check_theirs(tool),
            failure=tool.missing(),
        )

    contestants = [
        Contestant("Lamina", lambda number: ours(number + 1), prepare=prepare, verify=check, peer=False),
        beside("py-rattler", rattler),
        beside("micromamba", micromamba),
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
