"""Rows of images that leave and come: pushed to a registry on this machine, pulled from it, written as archives."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tarfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Callable

from images import TAVILY, Images
from lamina import Lamina
from machine import Failure, Machine, end
from measuring import Contestant, Goal, Row
from peers import SEARCH_PATH, Buildah, Builder, BuildKit, Peer, as_peer, program


class Registry(Peer):
    """Debian's `docker-registry`, with data of its own."""

    name = "docker-registry"
    programs = ("docker-registry",)
    package = "docker-registry"

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self._count = 0

    def start(self) -> str:
        """Starts an empty one on a free port of the loopback device: its address."""
        reason = self.missing()
        if reason is not None:
            raise Failure(reason)
        self._count += 1
        directory = self.machine.directory(f"registries/{self._count}")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        (directory / "config.yml").write_text(
            "version: 0.1\nlog: {accesslog: {disabled: true}, level: error}\n"
            f"storage: {{filesystem: {{rootdirectory: {directory / 'data'}}}}}\nhttp: {{addr: '{address}'}}\n"
        )
        with (directory / "log").open("wb") as log:
            server = self.machine.start(
                [program("docker-registry"), "serve", directory / "config.yml"],
                peer=False,
                env={"OTEL_TRACES_EXPORTER": "none"},
                stdout=log,
                stderr=log,
            )
        self.machine.at_end(lambda: end(server))
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and server.poll() is None:
            try:
                urllib.request.urlopen(f"http://{address}/v2/", timeout=5).close()
                return address
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise Failure("docker-registry does not answer")


class Skopeo(Peer):
    """`skopeo copy`, of buildah's images."""

    name = "skopeo"
    programs = ("skopeo", "buildah", "crun")
    package = "skopeo buildah crun"

    def copy(self, *words: object) -> float:
        """The wall time in seconds."""
        os.sync()
        return self.machine.run([program("skopeo"), "copy", "--quiet", *words], peer=True, env={"PATH": SEARCH_PATH})[0]

    @staticmethod
    def storage(directory: Path, image: str) -> str:
        """How it names an image of buildah's."""
        return f"containers-storage:[overlay@{directory}/storage+{directory}/run]{image}"


class Limit(Peer):
    """What cannot be spared, done by programs that do nothing else, on all processors."""

    name = "limits"
    programs = ("zstd", "openssl", "curl")
    package = "zstd openssl curl"

    def __init__(self, machine: Machine, lamina: Lamina, image: Callable[[], str]) -> None:
        super().__init__(machine)
        self.lamina = lamina
        self.image = image
        self.work = machine.directory("limits")
        self.plain = self.work / "plain.tar"
        self.packed = self.work / "packed.zst"

    def contestant(self, name: str, script: str) -> Contestant:
        """What a shell script takes; `H` in it hashes its input or a file, and the archives are in its directory."""

        def once(_number: int) -> float:
            for left in ("written", "fetched"):
                (self.work / left).unlink(missing_ok=True)
            os.sync()
            hashing = "openssl dgst -sha256"
            command = f'cd {self.work}; H() {{ {hashing} "$@" >/dev/null; }}; {script}'
            return self.machine.run(["sh", "-ec", command], peer=False)[0]

        contestant = as_peer(name, [self], once, self._prepare)
        contestant.reference = True
        return contestant

    def _prepare(self) -> None:
        """Makes the image's archive without compression, takes its largest layer out, and compresses both."""
        if not self.packed.exists():
            options = ("--format", "docker-archive", "-o", self.plain, "--force")
            self.lamina.command("image", "export", self.image(), *options)
            layer = self.work / "layer.tar"
            with tarfile.open(self.plain) as archive:
                largest = max(archive.getmembers(), key=lambda member: member.size)
                with archive.extractfile(largest) as source, layer.open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
            for source, target in ((layer, self.work / "layer.zst"), (self.plain, self.packed)):
                self.machine.run([program("zstd"), "-q", "-3", "-T0", "-f", source, "-o", target], peer=False)

    def packing(self) -> Contestant:
        """Of whoever makes compressed archives of everything."""
        return self.contestant("compressing and hashing alone", "H plain.tar & zstd -q -3 -T0 -c plain.tar | H; wait")

    def hashing(self) -> Contestant:
        """Of whoever sends a layer in which little has changed: its digests are of all of it."""
        return self.contestant("hashing before and after compression alone", "H layer.tar & H layer.zst; wait")

    def copying(self) -> Contestant:
        """Of whoever writes archives that are not compressed."""
        return self.contestant("hashing and writing alone", "H plain.tar & cp plain.tar written; wait")

    def pulling(self, repository: Callable[[], str]) -> Contestant:
        """Of whoever fetches an image of many files: they are all made, beside all that `unpacking` does."""

        def prepare() -> None:
            self._prepare()
            self._write_layers()
            address, _, name = repository().partition("/")
            blobs = f"http://{address}/v2/{name}"
            manifest = f"{blobs}/manifests/latest"
            request = urllib.request.Request(manifest, headers={"Accept": "application/vnd.oci.image.manifest.v1+json"})
            with urllib.request.urlopen(request, timeout=30) as answer:
                digests = [layer["digest"] for layer in json.load(answer)["layers"]]
            lines = [f'url = "{blobs}/blobs/{digest}"\noutput = "got/{digest}"\n' for digest in digests]
            (self.work / "blobs").write_text("".join(lines))

        name = "fetching, decompressing, hashing, writing all files and syncing alone"
        # Files of earlier rounds stay, as stores do: removing many of them slows down what comes next.
        steps = (
            "F=$(mktemp -d files.XXXXXX); rm -rf pipe got; mkfifo pipe",
            "tar -xpi -b 512 --numeric-owner -C $F <pipe & writing=$!",
            "(curl -sfZ --create-dirs -K blobs; H got/*) & fetching=$!",
            "zstd -q -dc layers.zst | tee pipe | H",
            "wait $writing; wait $fetching; sync -f $F",
        )
        contestant = self.contestant(name, "\n".join(steps))
        contestant.prepare = prepare
        return contestant

    def _write_layers(self) -> None:
        """Writes the archives of all layers behind each other, and compresses them."""
        layers = self.work / "layers.tar"
        with tarfile.open(self.plain) as archive, layers.open("wb") as target:
            for name in json.load(archive.extractfile("manifest.json"))[0]["Layers"]:
                with archive.extractfile(name) as source:
                    shutil.copyfileobj(source, target, 1 << 20)
        self.machine.run([program("zstd"), "-q", "-3", "-T0", "-f", layers, "-o", self.work / "layers.zst"], peer=False)
        layers.unlink()

    def unpacking(self) -> Contestant:
        """Of whoever keeps what was fetched, and what is in it, and does not answer before both are on the disk."""
        fetched = "cp packed.zst fetched; H fetched"
        unpacked = "zstd -q -dc packed.zst | tee written | H"
        return self.contestant(
            "decompressing, hashing, writing and syncing alone", f"({fetched}) & {unpacked}; wait; sync -f written"
        )


class Travelling:
    """Makes rows."""

    def __init__(self, machine: Machine, lamina: Lamina, buildkit: BuildKit, buildah: Buildah, images: Images) -> None:
        self.machine = machine
        self.lamina = lamina
        self.buildkit = buildkit
        self.buildah = buildah
        self.images = images
        self.skopeo = Skopeo(machine)
        self.limit = Limit(machine, lamina, lambda: self._crew(None)(-1))
        self.registry = Registry(machine)

    def rows(self) -> dict[str, Callable[[], list[Row]]]:
        """What can be asked for."""
        return {
            "T1": self.first_push,
            "T2": self.push_one_file_changed,
            "T3": self.push_one_requirement_changed,
            "T4": self.pull,
            "T5": self.export,
        }

    def first_push(self) -> list[Row]:
        """T1: into an empty registry, round by round."""

        def registry(_who: str) -> str:
            self.lamina.forget_archives()
            return self.registry.start()

        contestants = [*self._pushing(self._crew, registry), self.limit.packing()]
        return [Row("T1", "`crew` pushed to an empty registry", "s", 2, contestants, self._twice("buildah, zstd"))]

    def push_one_file_changed(self) -> list[Row]:
        """T2: the registry has the image as it was before."""
        contestants = self._pushing(self._many, self._own_registries())
        title = "pushed again with one of 10,000 files changed"
        return [Row("T2", title, "s", 3, contestants, self._twice("buildah, zstd"))]

    def push_one_requirement_changed(self) -> list[Row]:
        """T3: the registry has the image as it was before."""
        contestants = [*self._pushing(self._crew, self._own_registries()), self.limit.hashing()]
        title = "`crew` pushed again with one requirement changed"
        return [Row("T3", title, "s", 2, contestants, self._twice("buildah, zstd"))]

    def pull(self) -> list[Row]:
        """T4: what every one has pushed itself comes back, into an empty store."""
        address: list[str] = []

        def pushed(push: Callable[[str], object]) -> None:
            if not address:
                address.append(self.registry.start())
            push(address[0])

        def ours(compression: str) -> Contestant:
            def once(_number: int) -> float:
                os.sync()
                store = self.lamina.new_store("pulled")
                return self.lamina.command("image", "pull", f"{address[0]}/lamina-{compression}", store=store)[0]

            def prepare() -> None:
                image = self._crew(None)(-1)
                pushed(lambda address: self._push_ours(image, f"{address}/lamina-{compression}", compression))

            return Contestant(
                "Lamina" if compression == "zstd" else f"Lamina, {compression}", once, prepare, peer=False
            )

        def theirs(compression: str) -> list[Contestant]:
            def prepare() -> None:
                self.buildah.ready()
                self._crew(self.buildah)(-1)
                pushed(lambda address: self.buildah.push("crew", f"{address}/buildah-{compression}", compression))

            def place(number: int, name: str) -> Path:
                return self.machine.directory(f"pulled-{name}-{compression}-{number}")

            def by_buildah(number: int) -> float:
                os.sync()
                return self.buildah.pull(f"{address[0]}/buildah-{compression}", place(number, "buildah"))

            def by_skopeo(number: int) -> float:
                target = self.skopeo.storage(place(number, "skopeo"), "localhost/pulled:latest")
                source = f"docker://{address[0]}/buildah-{compression}"
                return self.skopeo.copy("--src-tls-verify=false", source, target)

            return [
                as_peer(f"buildah, {compression}", [self.buildah, self.registry], by_buildah, prepare),
                as_peer(f"skopeo, {compression}", [self.skopeo, self.registry], by_skopeo, prepare),
            ]

        def prepare_docker() -> None:
            self.buildkit.ready()
            self._crew(self.buildkit)(-1)
            pushed(lambda address: self.buildkit.push("crew", f"{address}/docker"))

        def by_docker(number: int) -> float:
            return self.buildkit.elsewhere(f"pulled-{number}").pull(f"{address[0]}/docker")

        reference = ours("gzip")
        reference.reference = True
        contestants = [ours("zstd"), reference, *theirs("zstd"), *theirs("gzip")]
        contestants.append(as_peer("docker, gzip", [self.buildkit, self.registry], by_docker, prepare_docker))
        contestants.append(self.limit.unpacking())
        contestants.append(self.limit.pulling(lambda: f"{address[0]}/lamina-zstd"))
        title = "`crew` pulled into an empty store"
        return [Row("T4", title, "s", 2, contestants, self._twice("buildah, zstd"))]

    def export(self) -> list[Row]:
        """T5: an OCI archive, and one for `docker load`."""
        oci = [
            Contestant("Lamina", self._exporting("oci-archive"), peer=False),
            as_peer("buildah", [self.buildah], self._written_by_buildah, self._built(self.buildah)),
            as_peer("skopeo", [self.skopeo], self._written_by_skopeo, self._built(self.buildah)),
            self.limit.packing(),
        ]
        docker = [
            Contestant("Lamina", self._exporting("docker-archive"), peer=False),
            as_peer("docker save", [self.buildkit], self._saved_by_docker, self._built(self.buildkit)),
            self.limit.copying(),
        ]
        return [
            Row("T5", "`crew` as an OCI archive", "s", 2, oci, [Goal(of="buildah", share=0.5)]),
            Row("T5", "`crew` as an archive for `docker load`", "s", 2, docker, [Goal(of="docker save", share=0.5)]),
        ]

    @staticmethod
    def _twice(peer: str) -> list[Goal]:
        return [Goal(of=peer, share=0.5)]

    def _own_registries(self) -> Callable[[str], str]:
        """A registry for each: what one has pushed is no help to the others."""
        addresses: dict[str, str] = {}

        def registry(who: str) -> str:
            if who not in addresses:
                addresses[who] = self.registry.start()
            return addresses[who]

        return registry

    def _pushing(
        self, built: Callable[[Builder | None], Callable[[int], str]], address: Callable[[str], str]
    ) -> list[Contestant]:
        """All that push, each what it has built anew, to a repository of its own. Building is not measured."""

        def once(name: str, build: Callable[[int], str], push: Callable[[str, str], float]) -> Callable[[int], float]:
            def once(number: int) -> float:
                image = build(number)
                target = f"{address(name)}/{name}:{number + 1}"
                os.sync()
                return push(image, target)

            return once

        def contestant(
            name: str, repository: str, builder: Builder | None, tools: list[Peer], push: Callable
        ) -> Contestant:
            pushed = once(repository, built(builder), push)
            if builder is None:
                return Contestant(name, pushed, lambda: pushed(-1), peer=False)
            return as_peer(name, [*tools, self.registry], pushed, lambda: (builder.ready(), pushed(-1)))

        def by_skopeo(image: str, target: str) -> float:
            source = self.skopeo.storage(self.machine.directory("buildah"), self.buildah.base(image))
            options = ("--dest-compress-format", "zstd", "--dest-tls-verify=false")
            return self.skopeo.copy(*options, source, f"docker://{target}")

        ours = contestant("Lamina", "lamina", None, [], lambda image, target: self._push_ours(image, target, "zstd"))
        return [
            ours,
            contestant(
                "buildah, zstd",
                "buildah-zstd",
                self.buildah,
                [self.buildah],
                lambda image, target: self.buildah.push(image, target, "zstd"),
            ),
            contestant(
                "buildah, gzip",
                "buildah-gzip",
                self.buildah,
                [self.buildah],
                lambda image, target: self.buildah.push(image, target, "gzip"),
            ),
            contestant("skopeo, zstd", "skopeo", self.buildah, [self.skopeo], by_skopeo),
            contestant("docker, gzip", "docker", self.buildkit, [self.buildkit], self.buildkit.push),
        ]

    def _push_ours(self, image: str, target: str, compression: str) -> float:
        return self.lamina.command("image", "push", image, target, "--compression", compression)[0]

    def _crew(self, builder: Builder | None) -> Callable[[int], str]:
        """Builds `crew` with another version of one requirement in each round, by Lamina or by a peer."""
        source = self.images.sources("crew", 40)

        def build(number: int) -> str:
            tavily = TAVILY[(number + 1) % len(TAVILY)]
            if builder is None:
                env = {"BENCH_SOURCE": str(source), "BENCH_COPY": "1", "BENCH_TAVILY": tavily}
                return self.lamina.run("crew", "build", env=env)[1].strip()
            builder.build("crew", self.images.crew_recipe(builder, "base", "t", tavily), source.parent)
            return "crew"

        return build

    def _many(self, builder: Builder | None) -> Callable[[int], str]:
        """Builds an image with 10,000 files, of which another edit is made in each round."""
        source = self.images.sources("many", 10_000)

        def build(_number: int) -> str:
            self.images.edit(source)
            if builder is None:
                env = {"BENCH_SOURCE": str(source), "BENCH_COPY": "1"}
                return self.lamina.run("many_files", "build", env=env)[1].strip()
            self.images.copy_many(builder, source)
            return "many"

        return build

    def _built(self, builder: Builder) -> Callable[[], object]:
        return lambda: (builder.ready(), self._crew(builder)(-1))

    def _target(self, name: str) -> Path:
        """Where an archive is written; the last one is gone."""
        target = self.machine.work / f"written-by-{name}.tar"
        target.unlink(missing_ok=True)
        os.sync()
        return target

    def _exporting(self, form: str) -> Callable[[int], float]:
        def once(_number: int) -> float:
            image = self._crew(None)(-1)
            self.lamina.forget_archives()
            return self.lamina.command("image", "export", image, "--format", form, "-o", self._target("lamina"))[0]

        return once

    def _written_by_buildah(self, _number: int) -> float:
        return self.buildah.write("crew", self._target("buildah"))

    def _written_by_skopeo(self, _number: int) -> float:
        source = self.skopeo.storage(self.machine.directory("buildah"), self.buildah.base("crew"))
        return self.skopeo.copy(source, f"oci-archive:{self._target('skopeo')}")

    def _saved_by_docker(self, _number: int) -> float:
        return self.buildkit.save("crew", self._target("docker"))
