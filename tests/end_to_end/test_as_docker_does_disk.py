"""Clearing away on a file system that is full, or that has no inodes left."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Modal, UserModal

APP = """
    import modal
    app = modal.App("full")
    image = modal.Image.debian_slim(python_version="3.11")

    @app.function(image=image)
    def hello():
        print("hello")
"""


def fill_bytes(directory: Path) -> None:
    with (directory / "file").open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


def fill_inodes(directory: Path) -> None:
    number = 0
    try:
        while True:
            (directory / str(number)).touch()
            number += 1
    except OSError:
        return


@contextmanager
def ext4(directory: Path) -> Iterator[Path]:
    """A small ext4 of its own, of which root has no share that others have not."""
    picture, mounted = directory / "disk.img", directory / "disk"
    mounted.mkdir()
    with picture.open("wb") as file:
        file.truncate(1200 << 20)
    made = subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-N", "30000", str(picture)], check=False)
    if made.returncode or subprocess.run(["mount", "-o", "loop", str(picture), str(mounted)], check=False).returncode:
        pytest.skip("no ext4 can be mounted here")
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "--lazy", str(mounted)], check=True)
        picture.unlink()


pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("mkfs.ext4"), reason="root alone mounts file systems, which mkfs.ext4 makes"
)


def clear(modal: Modal, disk: Path, fill: Callable[[Path], None]) -> None:
    """Fills the disk that the store is on, and looks at everything that looks or clears away."""
    assert modal("run", "full.py").stdout == "hello\n"
    filler = disk / "filler"
    filler.mkdir()
    fill(filler)
    with pytest.raises(OSError, match="No space left"):
        (disk / "one-more").write_bytes(b"x" * 8192)
    doctor = modal("doctor")
    assert "as good as full" in doctor.stdout, doctor
    assert "everything is as it was stored" in modal("store", "verify").stdout
    assert "everything is as it was stored" in modal("store", "verify", "--repair").stdout
    assert modal("image", "list").stdout.strip()
    modal("image", "prune", "--all", "--yes")
    assert not list((disk / "store/content/views").iterdir())
    # What came free is taken as well.
    (filler / "more").mkdir(parents=True)
    fill(filler / "more")
    modal("store", "remove", "--yes")
    assert not (disk / "store").exists()


@pytest.mark.parametrize("fill", [fill_bytes, fill_inodes])
def test_a_full_disk_is_cleared(tmp_path: Path, fill: Callable[[Path], None]) -> None:
    with ext4(tmp_path) as disk:
        program = tmp_path / "program"
        program.mkdir()
        modal = Modal(disk / "store", program)
        modal.write("full.py", APP)
        clear(modal, disk, fill)


@pytest.mark.parametrize("fill", [fill_bytes, fill_inodes])
def test_a_full_disk_is_cleared_by_an_ordinary_user(user: UserModal, fill: Callable[[Path], None]) -> None:
    with ext4(user.directory) as disk:
        shutil.chown(disk, user.name, user.name)
        user.use_store(disk / "store")
        user.write("full.py", APP)
        clear(user, disk, fill)


FILLING = """
    import modal
    volume = modal.Volume.from_name("data", create_if_missing=True)
    app = modal.App("filling", image=modal.Image.debian_slim(python_version="3.11"), volumes={"/data": volume})

    @app.function(timeout=120)
    def fill():
        with open("/data/mine", "w") as file:
            file.write("committed")
        volume.commit()
        with open("/data/endless", "wb") as file:
            while True:
                file.write(b"x" * (1 << 20))

    @app.local_entrypoint()
    def main():
        try:
            fill.remote()
        except modal.exception.Error as error:
            print(type(error).__name__)
"""


def test_a_full_disk_takes_nothing_that_volumes_had(tmp_path: Path) -> None:
    with ext4(tmp_path) as disk:
        program = tmp_path / "program"
        program.mkdir()
        modal = Modal(disk / "store", program)
        modal.write("filling.py", FILLING)
        assert modal("run", "-q", "filling.py").stdout == "InternalFailure\n"
        assert modal("volume", "get", "data", "mine", "-").stdout == "committed"
        modal("volume", "rm", "data", "endless")
        (program / "large").write_bytes(b"x" * (8 << 20))
        fill_bytes(disk)
        failed = modal("volume", "put", "-f", "data", "large", "mine", check=False)
        assert failed.code == 1 and "No space left" in failed.stderr, failed.stderr
        assert modal("volume", "get", "data", "mine", "-").stdout == "committed"
        assert modal("volume", "ls", "data").stdout == "mine\n"
        modal("volume", "delete", "-y", "data")
        modal("secret", "list")
        modal("store", "remove", "--yes")
