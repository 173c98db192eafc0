"""Rows of running something in images: for each what Lamina and every peer do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Callable

from lamina import Lamina
from launcher import Launcher
from machine import Machine
from measuring import Contestant, Goal, Row
from peers import BuildKit, Crun, as_peer


class Running:
    """Makes rows."""

    def __init__(self, machine: Machine, lamina: Lamina, buildkit: BuildKit, launcher: Launcher) -> None:
        self.machine = machine
        self.lamina = lamina
        self.buildkit = buildkit
        self.crun = Crun(machine, lamina)
        self.launcher = launcher

    def rows(self) -> dict[str, Callable[[], list[Row]]]:
        """What can be asked for."""
        return {
            "S1": self.sandbox,
            "S2": self.python_in_a_container,
            "S3": self.hello,
            "S5": self.latency,
            "S6": self.rate,
            "S7": self.importing,
        }

    def sandbox(self) -> list[Row]:
        """S1."""
        return self._in_a_sandbox("S1", "`/bin/true` in a sandbox", ["/bin/true"], 3.5)

    def python_in_a_container(self) -> list[Row]:
        """S2."""
        return self._in_a_sandbox("S2", "`python3 -c pass` in a sandbox", ["/usr/bin/python3", "-c", "pass"], 13)

    def hello(self) -> list[Row]:
        """S3."""
        script = self.machine.directory("hello") / "hello.py"
        script.write_text('print("hello")\n')
        contestants = [
            Contestant("Lamina", lambda _number: 1e3 * self.lamina.printed("hello", "hello", "main"), peer=False),
            as_peer(
                "docker run",
                [self.buildkit],
                lambda _number: 1e3 * self.buildkit.hello(script),
                prepare=self.buildkit.ready,
            ),
        ]
        title = "`modal run hello.py`, nothing to build"
        return [Row("S3", title, "ms", 20, contestants, [Goal(amount=60)], warm_up=2)]

    def latency(self) -> list[Row]:
        """S5."""
        ours, pool = self._calls("latency", 2000, 1e6)
        return [Row("S5", "warm `.remote()` of a no-op", "µs", 3, [ours, pool], [Goal(amount=100)])]

    def rate(self) -> list[Row]:
        """S6."""
        ours, pool = self._calls("rate", 20_000, 1)
        return [Row("S6", "`.map` of no-ops", "/s", 3, [ours, pool], [Goal(amount=15_000)])]

    def importing(self) -> list[Row]:
        """S7."""
        python = self.lamina.python

        def seconds(code: str) -> float:
            # The least of five: what else the machine does only adds to it.
            return min(self.machine.run([python, "-c", code], peer=False)[0] for _ in range(5))

        bare = Contestant("bare Python start", lambda _number: 1e3 * seconds("pass"), peer=False, reference=True)
        ours = Contestant("Lamina", lambda _number: 1e3 * (-seconds("pass") + seconds("import modal")), peer=False)
        title = "`import modal`, above a bare Python start"
        return [Row("S7", title, "ms", 12, [ours, bare], [Goal(amount=12)], warm_up=2)]

    def _calls(self, what: str, count: int, scale: float) -> list[Contestant]:
        pool = self.lamina.programs / "pool.py"

        def ours(_number: int) -> list:
            _, output, _ = self.lamina.run("calls", what, "--count", str(count))
            return [scale * value for value in json.loads(output)]

        def theirs(_number: int) -> list:
            _, output, _ = self.machine.run([self.lamina.python, pool, what, str(count)], peer=False)
            return [scale * value for value in json.loads(output)]

        return [Contestant("Lamina", ours, peer=False), Contestant("ProcessPoolExecutor", theirs)]

    def _in_a_sandbox(self, row_id: str, title: str, argv: list, goal: float) -> list[Row]:
        """From an engine that runs, with limits; and as a whole command, without."""
        each = 20
        image: dict[str, str] = {}

        def find_image() -> None:
            image["id"] = self.lamina.base_image()

        launched = Contestant(
            "Lamina",
            lambda _number: self.launcher.milliseconds(argv, each, limits=True),
            prepare=self.launcher.build,
            peer=False,
        )
        command = Contestant(
            "Lamina",
            lambda _number: 1e3 * self.lamina.shell(image["id"], f"exec {' '.join(argv)}"),
            prepare=find_image,
            peer=False,
        )
        limited, free = (self._crun(f"{row_id}-{limits}", argv, limits=limits) for limits in (True, False))
        several = limited.once
        limited.once = lambda number: [several(number) for _ in range(each)]
        return [
            Row(
                row_id,
                f"{title} with limits, from a running engine",
                "ms",
                5,
                [launched, limited],
                [Goal(amount=goal)],
                warm_up=1,
            ),
            Row(row_id, f"{title}, as a whole command (`modal shell`)", "ms", 50, [command, free], [], warm_up=2),
        ]

    def _crun(self, name: str, argv: list, *, limits: bool) -> Contestant:
        bundle: dict[str, Path] = {}

        def prepare() -> None:
            bundle["path"] = self.crun.bundle(name, argv, limits=limits)

        return as_peer(
            "crun run", [self.crun], lambda _number: 1e3 * self.crun.run(bundle["path"], limits=limits), prepare
        )
