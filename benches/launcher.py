"""Sandboxes from a running engine: an example of the sandbox crate speaks with the launcher of `modal` directly."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from lamina import Lamina
from machine import Failure, Machine

EXAMPLE = "start_sandboxes"


class Launcher:
    """The example, compiled once, on a copy of the base's files."""

    def __init__(self, machine: Machine, lamina: Lamina, source: Path | None, env: dict) -> None:
        self.machine = machine
        self.source = source
        self.env = env
        self.lamina = lamina
        self._program: str | None = None

    def build(self) -> None:
        """Compiles it, and lays out a content directory whose only layer is the base."""
        if self._program is not None:
            return
        if self.source is None:
            raise Failure("the sources of this `modal` are not known")
        if shutil.which("cargo") is None:
            raise Failure("`cargo` is not installed: `scripts/quickstart` installs Rust")
        _, output, _ = self.machine.run(
            [
                *("cargo", "build", "--release", "--quiet", "--locked", "--message-format=json"),
                *("--package", "lamina-sandbox", "--example", EXAMPLE, "--manifest-path", self.source / "Cargo.toml"),
            ],
            peer=False,
            env=self.env,
        )
        messages = [json.loads(line) for line in output.splitlines()]
        program = next((message["executable"] for message in messages if message.get("executable")), None)
        if program is None:
            raise Failure("`cargo build` built no program")
        views = self.machine.directory("content/views")
        # Where a store has the bytes of its files; those of this base are in the view.
        objects = self.machine.directory("content/objects")
        self.machine.run(["cp", "-a", self.lamina.root_filesystem(), views / "base"], peer=False)
        outside = self.lamina.id_map()[0]
        for directory in (views.parent, views, objects):
            os.chown(directory, outside, outside)
        self._program = program

    def milliseconds(self, argv: list, count: int, *, limits: bool) -> list:
        """How long so many sandboxes for a command took, each from the request to its end."""
        if self._program is None:
            raise Failure("it was not compiled")
        content = self.machine.work / "content"
        words = ["limits" if limits else "free", *argv]
        command = [self._program, self.lamina.modal, content, "views/base", count, *words]
        return [float(line) for line in self.machine.run(command, peer=False)[1].split()]
