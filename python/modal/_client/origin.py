"""What images come from: a program or a Dockerfile, and the commit that it is at."""

from __future__ import annotations

import os
import subprocess
import sys


def git(directory: str, *words: str) -> str:
    """What git prints about a directory."""
    command = ["git", "-C", directory, *words]
    done = subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=10)
    return done.stdout.decode(errors="replace").strip()


def commit_of(directory: str, changed: str) -> str | None:
    """The commit that a directory is at, with ``changed`` behind it if something is; None outside of repositories."""
    try:
        head = git(directory, "rev-parse", "--short=12", "HEAD")
        return head + (changed if git(directory, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def origin_of(program: str, as_module: bool = False) -> dict[str, str]:
    """A program and its commit, said alike on all machines: its path is that in its repository, or its name alone."""
    if as_module:
        directory = os.getcwd()
    else:
        directory, program = os.path.split(os.path.abspath(program))
        try:
            program = git(directory, "rev-parse", "--show-prefix") + program
        except (OSError, subprocess.SubprocessError):
            pass
    # That something there is changed is said as `git describe` does.
    revision = commit_of(directory, "-dirty")
    return {"program": program, **({} if revision is None else {"revision": revision})}


def origin() -> dict[str, str]:
    """What is known of the program that runs: the one that the command line names, or the one that Python was given."""
    command = sys.modules.get("modal._cli.reference")
    if command is not None:
        return origin_of(*command.program) if command.program else {}
    file = getattr(sys.modules["__main__"], "__file__", None)
    return origin_of(file) if file else {}
