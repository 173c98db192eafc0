"""Builds of revisions to compare: each commit is compiled once, into an environment below `target/against`."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import venv
from dataclasses import dataclass
from pathlib import Path

from machine import Failure
from measuring import say

REPOSITORY = Path(__file__).resolve().parent.parent
BUILDS = REPOSITORY / "target/against"
#: Compiling everything on two slow cores takes a third of this.
PATIENCE = 3600


@dataclass
class Build:
    """A `modal` to measure."""

    name: str
    modal: str
    #: Its sources, for the examples that measure single crates; None where it was built elsewhere.
    source: Path | None
    #: Where Cargo compiles these.
    target: Path | None = None

    @property
    def cargo_environment(self) -> dict:
        """What Cargo is run with."""
        return _cargo_environment(self.target) if self.target else {}


def working_tree() -> Build:
    """What is checked out here, with all changes, compiled like the other one."""
    say("building the working tree")
    place = BUILDS / "this"
    return Build("this", _environment(REPOSITORY, place), REPOSITORY, _target(place))


def revision(name: str) -> Build:
    """A revision of this repository, or the `modal` of another environment if `name` is the path of one."""
    if "/" in name and os.access(name, os.X_OK) and Path(name).is_file():
        return Build("that", name, None)
    try:
        commit = _output(["git", "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"]).decode().strip()[:12]
    except Failure:
        raise Failure(
            f"`{name}` is neither a revision of this repository nor a program: see `git log`, or `git fetch`"
        ) from None
    place = BUILDS / commit
    source = place / "source"
    if not source.is_dir():
        # Not `git worktree`, which would leave its mark in the repository.
        unfinished = place / "source.part"
        shutil.rmtree(unfinished, ignore_errors=True)
        with tarfile.open(fileobj=io.BytesIO(_output(["git", "archive", commit]))) as archive:
            archive.extractall(unfinished, **({"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}))
        unfinished.rename(source)
    done = place / "done"
    modal = place / "environment/bin/modal"
    if not done.exists():
        say(f"building {commit}")
        _environment(source, place)
        done.touch()
    return Build(name, str(modal), source, _target(place))


def _target(place: Path) -> Path:
    """A folder of its own: in one for both, Cargo would take crates of the one checkout for those of the other."""
    return place / "cargo"


def _cargo_environment(target: Path) -> dict:
    return {"CARGO_TARGET_DIR": str(target)}


def _environment(source: Path, place: Path) -> str:
    """Compiles the package and installs it; answers the path of its `modal`."""
    environment = place / "environment"
    python = environment / "bin/python"
    if not python.exists():
        venv.create(environment, with_pip=True, clear=True)
    wheels = place / "wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    maturin = [environment / "bin/maturin", "build", "--release", "--locked", "--quiet", "--out", wheels]
    _run([*pip, "install", "maturin>=1.9,<2"], source)
    _run(maturin, source, _cargo_environment(_target(place)))
    packages = list(wheels.glob("lamina-*.whl"))
    _run([*pip, "uninstall", "--yes", "lamina"], source)
    _run([*pip, "install", *packages], source)
    return str(environment / "bin/modal")


def _run(command: list, directory: Path, env: dict | None = None) -> None:
    name = os.path.basename(str(command[0]))
    try:
        status = subprocess.run(
            [str(word) for word in command],
            cwd=directory,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            timeout=PATIENCE,
            check=False,
        ).returncode
    except subprocess.TimeoutExpired:
        raise Failure(f"`{name}` did not end within {PATIENCE // 60} minutes") from None
    if status != 0:
        raise Failure(f"`{name}` in `{directory}` exited with {status}; its messages are above")


def _output(command: list) -> bytes:
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=120, check=False)
    if done.returncode != 0:
        raise Failure(f"`{' '.join(command)}`: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
