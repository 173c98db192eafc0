"""Rows of building images: for each what Lamina and every peer do, and that they really did it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Callable

from conda import conda_environment
from lamina import Lamina
from machine import Failure, Machine
from measuring import Contestant, Goal, Row
from peers import IMPORT, Builder, Mmdebstrap, as_peer, host_arguments, import_files

REQUIREMENTS = (
    "crewai>=0.80.0",
    "crewai-tools>=0.14.0",
    "fastapi>=0.115.0",
    "pydantic>=2.0.0",
    "pydantic-settings>=2.0.0",
    "supabase>=2.0.0",
    "openai>=1.0.0",
    "tavily-python>=0.3.0",
    "httpx>=0.27.0",
)
#: Versions of the one requirement that changes, with equal requirements of their own; each is used once.
TAVILY = tuple(f"tavily-python==0.7.{number}" for number in range(27, 9, -1))
APT = "RUN apt-get update -q && apt-get install -q -y --no-install-recommends"
CACHE = "/root/.cache/uv"
MANY = 10_000
EDITED = "p050/m05005.py"


class Images:
    """Makes rows; what rows share is made once."""

    def __init__(self, machine: Machine, lamina: Lamina, builders: list[Builder]) -> None:
        self.machine = machine
        self.lamina = lamina
        self.builders = builders
        self.mmdebstrap = Mmdebstrap(machine)
        self._edits = 0

    def rows(self) -> dict[str, Callable[[], list[Row]]]:
        """What can be asked for."""
        return {
            "B1": self.crew_from_nothing,
            "B2": self.nothing_changed,
            "B3": self.one_requirement_changed,
            "B4": self.one_file_changed,
            "B5": self.no_file_changed,
            "B6": self.locked_project,
            "B7": self.base_from_nothing,
            "B8": self.dockerfile,
            "B9": lambda: conda_environment(self.machine, self.lamina),
            "D1": self.crew_on_disk,
        }

    def crew_from_nothing(self) -> list[Row]:
        """B1."""
        source = self.sources("crew", 40)
        bootstraps: dict[int, float] = {}

        def bootstrap(number: int) -> float:
            if number not in bootstraps:
                bootstraps[number] = self.mmdebstrap.archive(self.machine.work / "bootstrapped.tar")
            return bootstraps[number]

        def ours(number: int) -> float:
            self._sync()
            store = self.lamina.new_store("crew")
            return self.lamina.run("crew", "build", store=store, env={"BENCH_SOURCE": str(source)})[0]

        def checked() -> None:
            store = self.lamina.newest_store("crew")
            self._check_crew(self.lamina.run("crew", "main", store=store, env={"BENCH_SOURCE": str(source)})[1])

        def theirs(builder: Builder) -> Callable[[int], float]:
            def once(number: int) -> float:
                seconds = bootstrap(number)
                builder.import_base("bootstrapped", self.machine.work / "bootstrapped.tar")
                recipe = self.crew_recipe(builder, "bootstrapped", f"b1-{number}", REQUIREMENTS[7])
                return seconds + builder.build("crew-from-nothing", recipe, source.parent, cached=False)

            return once

        contestants = [Contestant("Lamina", ours, verify=checked, peer=False)]
        contestants += [
            as_peer(
                f"mmdebstrap + {builder.name} + uv",
                [builder, self.mmdebstrap],
                theirs(builder),
                prepare=builder.ready,
                verify=lambda builder=builder: self._check_crew_of(builder, "crew-from-nothing"),
            )
            for builder in self.builders
        ]
        goal = Goal(of="mmdebstrap + BuildKit + uv", share=0.5)
        return [Row("B1", "`crew` from an empty store, base included", "s", 1, contestants, [goal])]

    def nothing_changed(self) -> list[Row]:
        """B2."""
        source = self.sources("ten", 40)
        env = {"BENCH_SOURCE": str(source)}
        expected = "4.12.3 one two three 40"

        def theirs(builder: Builder) -> Callable[[], float]:
            recipe = builder.recipe(
                f"ten-{builder.name}",
                f"FROM {builder.base('base')}",
                f"{APT} figlet",
                "RUN uv pip install -q --system humanize==4.12.3",
                "ENV LOG_LEVEL=INFO",
                "RUN echo one > /etc/one",
                "RUN echo two > /etc/two",
                "WORKDIR /root",
                "RUN echo three > three",
                "COPY src /root/src",
                "RUN find src -type f | wc -l > count",
            )
            return lambda: builder.build("ten", recipe, source.parent)

        def check(builder: Builder) -> None:
            version = "python3 -c 'from importlib.metadata import version as v; print(v(\"humanize\"))'"
            printed = builder.inside("ten", f"{version}; cat /etc/one /etc/two /root/three /root/count")
            if " ".join(printed.split()) != expected:
                raise Failure(f"the image of {builder.name} holds `{printed}` instead of `{expected}`")

        engine_times: list = []

        def ours(_number: int) -> float:
            seconds, _, errors = self.lamina.run("ten_steps", "build", options=("--progress", "json"), env=env)
            built = next((json.loads(line) for line in errors.splitlines() if '"image_built"' in line), None)
            if built is None or not built["cached"]:
                raise Failure("a step ran although nothing had changed")
            engine_times.append(built["seconds"])
            return seconds

        contestants = [
            Contestant(
                "Lamina",
                ours,
                prepare=lambda: self.lamina.printed(expected, "ten_steps", "main", env=env),
                verify=lambda: self.lamina.printed(expected, "ten_steps", "main", env=env),
                peer=False,
            ),
            Contestant("Lamina's engine alone", lambda _number: engine_times[-1], peer=False, reference=True),
        ]
        for builder in self.builders:
            contestants.append(
                as_peer(
                    builder.name,
                    [builder],
                    lambda _number, builder=builder: theirs(builder)(),
                    prepare=lambda builder=builder: (builder.ready(), theirs(builder)()),
                    verify=lambda builder=builder: check(builder),
                )
            )
        goals = [Goal(of="BuildKit", share=0.2), Goal(amount=0.020, about="Lamina's engine alone")]
        return [Row("B2", "nothing changed: an image of 10 steps", "s", 10, contestants, goals, warm_up=1)]

    def one_requirement_changed(self) -> list[Row]:
        """B3."""
        source = self.sources("crew", 40)
        env = {"BENCH_SOURCE": str(source)}
        last: dict = {}

        def version(number: int) -> str:
            if number >= len(TAVILY):
                raise Failure(f"there are {len(TAVILY)} versions to take turns with: use fewer rounds")
            return TAVILY[number]

        def warm_ours() -> None:
            self.lamina.run("crew", "build", env=env)
            for package in TAVILY:
                self.lamina.run("warm", "build", env={"BENCH_TAVILY": package})

        def ours(number: int) -> float:
            self._sync()
            last["Lamina"] = {**env, "BENCH_TAVILY": version(number)}
            return self.lamina.run("crew", "build", env=last["Lamina"])[0]

        def warm_theirs(builder: Builder) -> None:
            builder.ready()
            builder.build("crew", self.crew_recipe(builder, "base", "b3", REQUIREMENTS[7]), source.parent)
            install = " && ".join(f"uv pip install -q --no-deps --target /tmp/warm {package}" for package in TAVILY)
            recipe = builder.recipe(
                f"warm-{builder.name}",
                f"FROM {builder.base('base')}",
                f"RUN --mount=type=cache,id=b3,target={CACHE} {install}",
            )
            builder.build("warm", recipe, source.parent)

        def theirs(builder: Builder) -> Callable[[int], float]:
            def once(number: int) -> float:
                last[builder.name] = version(number)
                return builder.build("crew", self.crew_recipe(builder, "base", "b3", version(number)), source.parent)

            return once

        def check_ours() -> None:
            printed = self.lamina.run("crew", "main", env=last["Lamina"])[1]
            self._check_crew(printed, last["Lamina"]["BENCH_TAVILY"])

        contestants = [Contestant("Lamina", ours, prepare=warm_ours, verify=check_ours, peer=False)]
        contestants += [
            as_peer(
                f"{builder.name} + uv",
                [builder],
                theirs(builder),
                prepare=lambda builder=builder: warm_theirs(builder),
                verify=lambda builder=builder: self._check_crew_of(builder, "crew", last[builder.name]),
            )
            for builder in self.builders
        ]
        goals = [Goal(amount=1.5), Goal(of="BuildKit + uv", share=0.1)]
        return [Row("B3", "one requirement of `crew` changed, packages cached", "s", 3, contestants, goals)]

    def one_file_changed(self) -> list[Row]:
        """B4."""
        source = self.sources("many", MANY)

        def ours(_number: int) -> float:
            line = self.edit(source)
            self._sync()
            return self._last_line(source, line)

        def theirs(builder: Builder) -> Callable[[int], float]:
            def once(_number: int) -> float:
                self.edit(source)
                return self.copy_many(builder, source)

            return once

        row = self._many_files("B4", "one of 10,000 local files changed", source, ours, theirs)
        row.goals = [Goal(amount=0.150)]
        return [row]

    def no_file_changed(self) -> list[Row]:
        """B5."""
        source = self.sources("many", MANY)
        env = {"BENCH_SOURCE": str(source)}

        def ours(_number: int) -> float:
            return self._last_line(source, self._final_line(source))

        row = self._many_files(
            "B5",
            "10,000 local files unchanged",
            source,
            ours,
            lambda builder: lambda _number: self.copy_many(builder, source),
        )
        row.contestants.insert(
            1,
            Contestant(
                "Lamina without a call",
                lambda _number: self.lamina.run("many_files", "build", env=env)[0],
                peer=False,
                reference=True,
            ),
        )
        row.goals = [Goal(amount=0.060)]
        return [row]

    def locked_project(self) -> list[Row]:
        """B6."""
        project = self._locked_project()
        env = {"BENCH_PROJECT": str(project)}
        text = (project / "pyproject.toml").read_text()

        def changed(number: int) -> None:
            (project / "pyproject.toml").write_text(f"{text}# round {number}\n")
            self._sync()

        def ours(number: int) -> float:
            changed(number)
            return self.lamina.run("locked", "build", env=env)[0]

        def recipe(builder: Builder) -> Path:
            sync = "uv sync -q --project=/.uv --no-install-workspace --compile-bytecode --frozen"
            return builder.recipe(
                f"locked-{builder.name}",
                f"FROM {builder.base('base')}",
                "COPY pyproject.toml uv.lock /.uv/",
                f"RUN --mount=type=cache,id=b6,target={CACHE} {sync}",
            )

        def theirs(builder: Builder) -> Callable[[int], float]:
            def once(number: int) -> float:
                changed(number)
                return builder.build("locked", recipe(builder), project)

            return once

        def check(printed: str) -> None:
            found = re.match(r"packages=(\d+) python=/.uv/.venv/bin/python$", printed.strip())
            if not found or int(found[1]) < 140:
                raise Failure(f"the project is not complete: `{printed.strip()[-200:]}`")

        def check_theirs(builder: Builder) -> None:
            script = (
                "import sys; from importlib.metadata import distributions; "
                "print('packages=%d python=%s' % (len(list(distributions())), sys.executable))"
            )
            check(builder.inside("locked", f'/.uv/.venv/bin/python -c "{script}"'))

        contestants = [
            Contestant(
                "Lamina",
                ours,
                prepare=lambda: self.lamina.run("locked", "build", env=env),
                verify=lambda: check(self.lamina.run("locked", "main", env=env)[1]),
                peer=False,
            )
        ]
        contestants += [
            as_peer(
                f"{builder.name} + uv",
                [builder],
                theirs(builder),
                prepare=lambda builder=builder: (builder.ready(), builder.build("locked", recipe(builder), project)),
                verify=lambda builder=builder: check_theirs(builder),
            )
            for builder in self.builders
        ]
        return [Row("B6", "`crew` from `uv.lock`, packages cached", "s", 3, contestants, [])]

    def _locked_project(self) -> Path:
        """A directory with the packages of `crew` as a project, and its lock."""
        project = self.machine.directory("locked")
        requirements = ", ".join(f'"{item}"' for item in REQUIREMENTS)
        header = '[project]\nname = "crew"\nversion = "1"\nrequires-python = "==3.11.*"\n'
        (project / "pyproject.toml").write_text(f"{header}dependencies = [{requirements}]\n")
        self.machine.run([self.lamina.uv, "lock", "--quiet", "--project", project], peer=False)
        return project

    def base_from_nothing(self) -> list[Row]:
        """B7."""

        def ours(_number: int) -> float:
            self._sync()
            return self.lamina.run("hello", "build", store=self.lamina.new_store("base"))[0]

        def checked() -> None:
            self.lamina.printed("hello", "hello", "main", store=self.lamina.newest_store("base"))

        target = self.machine.work / "base-of-mmdebstrap.tar"

        def check_theirs() -> None:
            listing = subprocess.run(["tar", "--list", "--file", target], capture_output=True, text=True, check=False)
            for path in ("./usr/bin/python3", "./usr/bin/pip3", "./usr/sbin/update-ca-certificates"):
                if path not in listing.stdout.splitlines():
                    raise Failure(f"the archive has no `{path}`")
            target.unlink()

        contestants = [
            Contestant("Lamina", ours, verify=checked, peer=False),
            as_peer(
                "mmdebstrap", [self.mmdebstrap], lambda _number: self.mmdebstrap.archive(target), verify=check_theirs
            ),
        ]
        goal = Goal(of="mmdebstrap", share=0.4)
        return [Row("B7", "Debian 12 and Python, from nothing", "s", 2, contestants, [goal])]

    def dockerfile(self) -> list[Row]:
        """B8."""
        source = self.sources("lines", 40)
        context = source.parent
        env: dict = {}

        def recipe(builder: Builder, name: str, base: str, number: int) -> Path:
            requirements = " ".join(f'"{item}"' for item in REQUIREMENTS)
            return builder.recipe(
                f"lines-{name}",
                base,
                f"ENV BENCH_ROUND={number}",
                f"{APT} git curl",
                f"RUN --mount=type=cache,id=b8,target={CACHE} uv pip install -q --system {requirements}",
                "ENV PYTHONPATH=/root/src LOG_LEVEL=INFO",
                "COPY src /root/src",
            )

        def prepare() -> None:
            # What peers import is a stage of Lamina's file.
            import_files(self.lamina, self.lamina.base_archive(), context)
            env.update(BENCH_CONTEXT=str(context), BENCH_ARGUMENTS=json.dumps(host_arguments()))
            ours(-1)

        def ours(number: int) -> float:
            first, *rest = IMPORT
            base = "\n".join([f"{first} AS base", *rest, "FROM base"])
            env["BENCH_DOCKERFILE"] = str(recipe(self.builders[0], "Lamina", base, number))
            self._sync()
            return self.lamina.run("lines", "build", env=env)[0]

        def theirs(builder: Builder, number: int) -> float:
            return builder.build(
                "lines", recipe(builder, builder.name, f"FROM {builder.base('base')}", number), context
            )

        contestants = [
            Contestant(
                "Lamina",
                ours,
                prepare=prepare,
                verify=lambda: self._check_crew(self.lamina.run("lines", "main", env=env)[1]),
                peer=False,
            )
        ]
        contestants += [
            as_peer(
                f"{builder.name} + uv",
                [builder],
                lambda number, builder=builder: theirs(builder, number),
                prepare=lambda builder=builder: (builder.ready(), theirs(builder, -1)),
                verify=lambda builder=builder: self._check_crew_of(builder, "lines"),
            )
            for builder in self.builders
        ]
        title = "`crew` from a Dockerfile, all but its base anew, packages in `uv`'s cache"
        return [Row("B8", title, "s", 3, contestants, [])]

    def crew_on_disk(self) -> list[Row]:
        """D1."""
        source = self.sources("crew", 40)

        def prepare() -> None:
            self.lamina.run("crew", "build", store="size", env={"BENCH_SOURCE": str(source)})

        def mebibytes(_number: int) -> float:
            content = self.machine.work / "stores/size/content"
            parts = [entry for entry in content.iterdir() if entry.name not in {"caches", "work"}]
            output = self.machine.run(["du", "--total", "--summarize", "--block-size=1", *parts], peer=False)[1]
            return int(output.splitlines()[-1].split()[0]) / (1 << 20)

        ours = Contestant("Lamina", mebibytes, prepare, peer=False)
        return [Row("D1", "`crew` on the disk, packages kept for other images included", "MiB", 1, [ours], [])]

    def _many_files(
        self, row_id: str, title: str, source: Path, ours: Callable, theirs: Callable[[Builder], Callable]
    ) -> Row:
        def prepare(builder: Builder) -> None:
            builder.ready()
            self.copy_many(builder, source)

        def check(builder: Builder) -> None:
            printed = builder.inside("many", f"find /root/src -type f | wc -l; tail -n 1 /root/src/{EDITED}")
            count, _, line = printed.partition("\n")
            if int(count) != MANY or (row_id == "B5" and line != self._final_line(source)):
                raise Failure(f"the image of {builder.name} holds {count} files, and `{line}` in the edited one")
            if not line.startswith("# edit"):
                raise Failure(f"the image of {builder.name} does not have the edited file")

        contestants = [
            Contestant(
                "Lamina",
                ours,
                prepare=lambda: (self.edit(source), self._last_line(source, self._final_line(source))),
                peer=False,
            )
        ]
        contestants += [
            as_peer(
                builder.name,
                [builder],
                theirs(builder),
                prepare=lambda builder=builder: prepare(builder),
                verify=lambda builder=builder: check(builder),
            )
            for builder in self.builders
        ]
        return Row(row_id, f"{title}, to a function's first result (peers: to the image)", "s", 5, contestants, [])

    def _last_line(self, source: Path, expected: str) -> float:
        return self.lamina.printed(expected, "many_files", "main", "--path", EDITED, env={"BENCH_SOURCE": str(source)})

    def copy_many(self, builder: Builder, source: Path) -> float:
        """Builds the image `many`: the wall time in seconds."""
        recipe = builder.recipe(f"many-{builder.name}", f"FROM {builder.base('base')}", "COPY src /root/src")
        return builder.build("many", recipe, source.parent)

    def edit(self, source: Path) -> str:
        """Adds a line to one of many files, and answers it."""
        self._edits += 1
        line = f"# edit {self._edits}"
        with (source / EDITED).open("a") as file:
            file.write(f"{line}\n")
        return line

    @staticmethod
    def _final_line(source: Path) -> str:
        return (source / EDITED).read_text().splitlines()[-1]

    @staticmethod
    def _sync() -> None:
        """Lets the disk finish what others left to it."""
        os.sync()

    def sources(self, name: str, count: int) -> Path:
        """A directory `src` with so many small modules, alone in a directory of this name."""
        source = self.machine.directory(name) / "src"
        if not source.exists():
            for number in range(count):
                package = source / f"p{number // 100:03}"
                package.mkdir(parents=True, exist_ok=True)
                functions = [f"def f{index}(x):\n    return x * {number} + {index}\n" for index in range(8)]
                (package / f"m{number:05}.py").write_text(f"# module {number}\n" + "".join(functions))
            time.sleep(0.1)  # No file is as young as the first look at it.
        return source

    def crew_recipe(self, builder: Builder, base: str, cache: str, tavily: str) -> Path:
        """The image `crew` as a Dockerfile."""
        requirements = [tavily if item.startswith("tavily") else item for item in REQUIREMENTS]
        quoted = " ".join(f'"{item}"' for item in requirements)
        return builder.recipe(
            f"crew-{builder.name}-{cache}",
            f"FROM {builder.base(base)}",
            f"{APT} git curl",
            f"RUN --mount=type=cache,id={cache},target={CACHE} uv pip install -q --system {quoted}",
            "ENV PYTHONPATH=/root/src LOG_LEVEL=INFO",
            "COPY src /root/src",
        )

    def _check_crew_of(self, builder: Builder, tag: str, tavily: str = "") -> None:
        # `installed` of the program for Lamina, by other means.
        script = (
            "import os, shutil; from importlib.metadata import distributions, version; "
            "print('packages=%d tavily=%s programs=%s modules=%d' % ("
            "len(list(distributions())), version('tavily-python'), "
            "all(shutil.which(name) for name in ('git', 'curl')), "
            "sum(len(files) for _, _, files in os.walk('/root/src'))))"
        )
        self._check_crew(builder.inside(tag, f'python3 -c "{script}"'), tavily)

    @staticmethod
    def _check_crew(printed: str, tavily: str = "") -> None:
        found = re.match(r"packages=(\d+) tavily=(\S+) programs=True modules=40$", printed.strip())
        if not found or int(found[1]) < 140:
            raise Failure(f"the image `crew` is not complete: `{printed.strip()[-200:]}`")
        if tavily and f"tavily-python=={found[2]}" != tavily:
            raise Failure(f"the image `crew` has tavily-python {found[2]} instead of `{tavily}`")
