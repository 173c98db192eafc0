"""Sandboxes from a running engine: the bench target `sandbox_start`, which speaks with the launcher directly."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from machine import Failure, Machine

CHECKOUT = Path(__file__).resolve().parent.parent
#: Its line for a sandbox with limits: median, 95th percentile and maximum in milliseconds.
LINE = re.compile(r"^memory upper, limits\s+([\d.]+)\s+[\d.]+\s+[\d.]+", re.MULTILINE)


class Launcher:
    """The bench target, compiled once and run for each round."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._program: str | None = None

    def build(self) -> None:
        """Compiles it where the checkout compiles, if it is not there already."""
        if shutil.which("cargo") is None:
            raise Failure("`cargo` is not installed: `scripts/quickstart` installs Rust")
        _, output, _ = self.machine.run(
            [
                *("cargo", "bench", "--quiet", "--locked", "--no-run", "--message-format=json"),
                *("--manifest-path", CHECKOUT / "Cargo.toml", "-p", "lamina-sandbox", "--bench", "sandbox_start"),
            ],
            peer=False,
        )
        for line in output.splitlines():
            message = json.loads(line)
            if message.get("target", {}).get("name") == "sandbox_start" and message.get("executable"):
                self._program = message["executable"]
        if self._program is None:
            raise Failure("`cargo bench --no-run` built no `sandbox_start`")

    def sandboxes(self) -> float:
        """The median of 200 sandboxes for `/bin/true` with limits, in milliseconds."""
        _, output, _ = self.machine.run([self._program, "--bench"], peer=False)
        found = LINE.search(output)
        if found is None:
            raise Failure(f"`sandbox_start` printed no line for limits: `{output.strip()[-200:]}`")
        return float(found[1])
