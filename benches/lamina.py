"""Lamina as a contestant: the `modal` command with stores of its own."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
from pathlib import Path

from machine import HOST_CERTIFICATES, Failure, Machine

HERE = Path(__file__).resolve().parent


class Lamina:
    """The command, and the programs that are run with it."""

    def __init__(self, machine: Machine, modal: str | None) -> None:
        beside = HERE.parent / ".venv/bin/modal"
        found = modal or (str(beside) if beside.is_file() else shutil.which("modal"))
        if found is None or shutil.which(found) is None:
            raise Failure(f"there is no `{modal or 'modal'}`: run `scripts/quickstart` first, or name it with --modal")
        self.machine = machine
        self.modal = Path(shutil.which(found) or found).absolute()
        self.programs = machine.work / "programs"
        shutil.copytree(HERE / "programs", self.programs)
        self._counts: dict[str, int] = {}
        self._stores: set[Path] = set()
        self._root_filesystem: Path | None = None

    @property
    def python(self) -> str:
        """The Python that imports the programs."""
        beside = self.modal.parent / "python"
        return os.environ.get("MODAL_PYTHON") or (str(beside) if os.path.exists(beside) else sys.executable)

    @property
    def uv(self) -> str:
        """The `uv` that Lamina uses; peers get the same."""
        found = shutil.which("uv", path=f"{self.modal.parent}:{os.environ.get('PATH', '')}")
        if found is None:
            raise Failure(f"there is no `uv`: `{self.python} -m pip install uv`")
        return found

    def run(
        self, program: str, *words: str, store: str = "warm", options: tuple = (), env: dict | None = None
    ) -> tuple[float, str, str]:
        """`modal run PROGRAM.py::…`: the wall time in seconds, what it printed, and its standard error."""
        first, *arguments = words
        reference = f"{self.programs / program}.py::{first}"
        return self.machine.run(
            [self.modal, "run", *options, reference, *arguments], peer=False, env={**self.store(store), **(env or {})}
        )

    def printed(self, expected: str, program: str, *words: str, **options: object) -> float:
        """Runs it, insists on what it prints, and returns the wall time."""
        seconds, output, _ = self.run(program, *words, **options)
        if output.strip() != expected:
            raise Failure(f"`{program}.py` printed `{output.strip()[-200:]}` instead of `{expected}`")
        return seconds

    def command(self, *words: object, store: str = "warm") -> tuple[float, str, str]:
        """`modal WORDS`: the wall time in seconds, what it printed, and its standard error."""
        return self.machine.run([self.modal, *words], peer=False, env=self.store(store))

    def shell(self, image: str, script: str) -> float:
        """`modal shell IMAGE -c SCRIPT`: the wall time in seconds."""
        return self.machine.run([self.modal, "shell", image, "-c", script], peer=False, env=self.store("warm"))[0]

    def base_image(self) -> str:
        """The id of the base in the warm store."""
        self.run("hello", "build")
        listing = self.machine.run([self.modal, "image", "list", "--json"], peer=False, env=self.store("warm"))[1]
        for image in json.loads(listing):
            if image["layers"] == 1 and image["title"].startswith("debian_slim"):
                return image["id"]
        raise Failure("`modal image list` shows no base")

    def store(self, name: str) -> dict:
        """The environment that selects a store, which is removed at the end."""
        directory = self.machine.directory("stores") / name
        if directory not in self._stores:
            self._stores.add(directory)
            self.machine.at_end(lambda: self.remove_store(name))
        return {"MODAL_STORE": str(directory)}

    def new_store(self, kind: str) -> str:
        """The name of an empty store. Earlier ones stay until the end.

        Some file systems (ext4 without a journal) make files slowly for minutes after many were removed, which would be
        measured.
        """
        self._counts[kind] = self._counts.get(kind, 0) + 1
        return self.newest_store(kind)

    def forget_archives(self, store: str = "warm") -> None:
        """Removes the archives of layers that a store keeps: the next push or export compresses everything."""
        for kept in (self.machine.work / "stores" / store / "downloads").glob("*.frames"):
            kept.unlink()

    def newest_store(self, kind: str) -> str:
        """The name of the store that was made last."""
        return f"{kind}-{self._counts[kind]}"

    def remove_store(self, name: str) -> None:
        """`modal store remove`."""
        directory = self.machine.work / "stores" / name
        if directory.exists():
            self.machine.run([self.modal, "store", "remove", "--yes"], peer=False, env=self.store(name))

    def root_filesystem(self) -> Path:
        """A copy of the base's files, with the owners that the store gives them: what peers start from, too."""
        if self._root_filesystem is None:
            if os.geteuid() != 0:
                raise Failure("the base's files, which belong to ids of containers, can be copied as root only")
            # A store whose views have the files' bytes in them.
            self.run("hello", "build", store="plain", env={"MODAL_STORE_WITHOUT": "redirects,clones"})
            content = self.machine.work / "stores/plain/content"
            views = [*content.glob("views/*"), *content.glob("copies/*")]
            base = next((view for view in views if (view / "etc/debian_version").exists()), None)
            if base is None:
                raise Failure("the store has no view of the base")
            target = self.machine.work / "root-filesystem"
            self.machine.run(["cp", "-a", base, target], peer=False)
            self._root_filesystem = target
        return self._root_filesystem

    def id_map(self) -> tuple[int, int]:
        """Where ids inside begin outside, and how many there are."""
        text = (self.machine.work / "stores/plain/idmap.json").read_text()
        first = json.loads(text)["uids"][0]
        return first["outside"], first["count"]

    def base_archive(self) -> Path:
        """The base's files as an archive that other engines can import."""
        archive = self.machine.work / "base.tar"
        if not archive.exists():
            root = self.root_filesystem()
            offset = self.id_map()[0]

            def inside(member: tarfile.TarInfo) -> tarfile.TarInfo:
                member.uid, member.gid = member.uid - offset, member.gid - offset
                member.uname = member.gname = ""
                return member

            with tarfile.open(archive, "w") as tar:
                tar.add(root, ".", filter=inside)
        return archive


def certificates() -> Path:
    """The host's certificates, which builds of peers need where a machine has an authority of its own."""
    if not HOST_CERTIFICATES.exists():
        raise Failure(f"there is no `{HOST_CERTIFICATES}`: `apt-get install ca-certificates`")
    return HOST_CERTIFICATES
