"""Layers in the form zstd:chunked: only files that the store lacks are fetched, and what comes of it is the whole layer."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Modal
from played_registry import Registry, archive, digest, serving

BUILD = """
import sys
import modal

image = modal.Image.from_registry(sys.argv[1])
with modal.App("t").run():
    print(image.build().object_id)
"""
SIZE = 256 << 10
NOTES = "io.github.containers.zstd-chunked."


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving() as registry:
        yield registry


def pull(modal: Modal, registry: Registry, tag: str) -> tuple[str, int]:
    """The id of an image, and how many bytes came for it."""
    modal.write("app.py", BUILD)
    before = registry.given
    image = modal.python("app.py", f"{registry.address}/team/app:{tag}").stdout.strip()
    return image, registry.given - before


def frame(data: bytes) -> bytes:
    """A frame of Zstandard, with its contents as they are."""
    blocks = [data[begin : begin + (128 << 10)] for begin in range(0, len(data), 128 << 10)] or [b""]
    last = len(blocks) - 1
    headed = [(len(block) << 3 | (number == last)).to_bytes(3, "little") + block for number, block in enumerate(blocks)]
    return b"\x28\xb5\x2f\xfd\xa0" + len(data).to_bytes(4, "little") + b"".join(headed)


class Layer:
    """A layer with a table of contents, which tests change before it is written."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.tar = archive(*files.items())
        self.blob = b""
        self.entries: list[dict] = []
        done = 0
        for name, contents in files.items():
            begin = self.tar.index(contents, done)
            self.blob += frame(self.tar[done:begin])
            offset, done = len(self.blob), begin + len(contents)
            self.blob += frame(contents)
            entry = {"type": "reg", "name": name, "size": len(contents), "digest": digest(contents)}
            self.entries.append({**entry, "offset": offset, "endOffset": len(self.blob)})
        self.blob += frame(self.tar[done:])

    def put(self, registry: Registry, tag: str, *, checksum: str | None = None) -> None:
        table = frame(json.dumps({"version": 1, "entries": self.entries}).encode())
        blob = self.blob + b"\x50\x2a\x4d\x18" + len(table).to_bytes(4, "little") + table
        described = registry.blob(blob, "application/vnd.oci.image.layer.v1.tar+zstd")
        described["annotations"] = {
            NOTES + "manifest-checksum": checksum or digest(table),
            NOTES + "manifest-position": f"{len(self.blob) + 8}:{len(table)}:{len(table)}:1",
        }
        config = {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [digest(self.tar)]},
        }
        manifest = {
            "schemaVersion": 2,
            "config": registry.blob(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
            "layers": [described],
        }
        registry.put_manifest(tag, manifest)


@pytest.fixture
def files() -> dict[str, bytes]:
    return {f"data-{number}": os.urandom(SIZE) for number in range(12)}


def whole(fresh_store: Modal, registry: Registry, tag: str) -> str:
    """The id of an image of which another store fetches everything."""
    registry.knows_parts = False
    image, given = pull(fresh_store, registry, tag)
    assert given > 12 * SIZE
    return image


def test_one_changed_file_among_many(
    modal: Modal, fresh_store: Modal, registry: Registry, files: dict[str, bytes]
) -> None:
    Layer(files).put(registry, "v1")
    _, given = pull(modal, registry, "v1")
    assert given > 12 * SIZE
    changed = {**files, "data-5": os.urandom(SIZE), "small": b"new"}
    Layer(changed).put(registry, "v2")
    image, given = pull(modal, registry, "v2")
    assert SIZE < given < 1.1 * SIZE
    assert image == whole(fresh_store, registry, "v2")
    # What of it is here counts for other layers, wherever it came from.
    registry.knows_parts = True
    Layer({"elsewhere": changed["data-5"], **files}).put(registry, "v3")
    assert pull(modal, registry, "v3")[1] < 0.1 * SIZE


def test_an_image_of_which_a_part_was_fetched_leaves_again(
    modal: Modal, registry: Registry, files: dict[str, bytes], tmp_path: Path
) -> None:
    Layer(files).put(registry, "v1")
    pull(modal, registry, "v1")
    changed = {**files, "data-5": os.urandom(SIZE)}
    layer = Layer(changed)
    layer.put(registry, "v2")
    image, given = pull(modal, registry, "v2")
    assert given < 1.1 * SIZE
    modal("image", "export", image, "-o", str(tmp_path / "files.tar"), "--format", "rootfs-tar")
    with tarfile.open(tmp_path / "files.tar") as tar:
        assert {name: tar.extractfile(name).read() for name in changed} == changed
    layout = tmp_path / "layout"
    modal("image", "export", image, "-o", str(layout), "--format", "oci-dir")
    listed = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]

    def blob(name: str) -> bytes:
        data = (layout / "blobs" / name.replace(":", "/")).read_bytes()
        assert digest(data) == name
        return data

    for described in json.loads(blob(listed))["layers"]:
        blob(described["digest"])


def test_little_that_is_here_is_fetched_with_the_rest(
    modal: Modal, registry: Registry, files: dict[str, bytes]
) -> None:
    Layer(files).put(registry, "v1")
    pull(modal, registry, "v1")
    Layer({"data-5": files["data-5"], **{f"new-{number}": os.urandom(SIZE) for number in range(11)}}).put(
        registry, "v2"
    )
    before = len(registry.ranges)
    assert pull(modal, registry, "v2")[1] > 12 * SIZE
    # Only the table of contents.
    assert len(registry.ranges) == before + 1


def test_a_registry_that_knows_no_parts(
    modal: Modal, fresh_store: Modal, registry: Registry, files: dict[str, bytes]
) -> None:
    Layer(files).put(registry, "v1")
    pull(modal, registry, "v1")
    Layer({**files, "data-5": b"changed"}).put(registry, "v2")
    registry.knows_parts = False
    image, given = pull(modal, registry, "v2")
    assert given > 11 * SIZE
    registry.knows_parts = True
    assert image == pull(fresh_store, registry, "v2")[0]


@pytest.mark.parametrize("lie", ["checksum", "digests", "sizes", "offsets", "overlap", "chunk"])
def test_a_table_that_lies_changes_no_layer(
    modal: Modal, fresh_store: Modal, registry: Registry, files: dict[str, bytes], lie: str
) -> None:
    Layer(files).put(registry, "v1")
    pull(modal, registry, "v1")
    layer = Layer({**files, "data-5": os.urandom(SIZE)})
    entries, checksum = layer.entries, None
    if lie == "checksum":
        checksum = digest(b"another table")
    elif lie == "digests":
        entries[0]["digest"], entries[1]["digest"] = entries[1]["digest"], entries[0]["digest"]
    elif lie == "sizes":
        # The store has a file with this digest and length, but the archive says another one.
        entries[5].update(size=SIZE, digest=entries[4]["digest"])
    elif lie == "offsets":
        entries[0]["endOffset"] -= 1000
    elif lie == "overlap":
        entries[1]["offset"] = entries[0]["offset"]
    else:
        entries[0]["type"] = "chunk"
        entries[1]["digest"] = entries[2]["digest"]
    layer.put(registry, "v2", checksum=checksum)
    image, given = pull(modal, registry, "v2")
    assert given > 12 * SIZE
    assert image == whole(fresh_store, registry, "v2")


def test_layers_of_buildah(modal: Modal, fresh_store: Modal, registry: Registry, tmp_path: Path) -> None:
    if shutil.which("buildah") is None:
        pytest.skip("`buildah` is not installed; scripts/test installs it as root")
    context = tmp_path / "context"
    (context / "data").mkdir(parents=True)
    for number in range(40):
        (context / f"data/{number}").write_bytes(os.urandom(SIZE))
    os.link(context / "data/1", context / "data/linked")
    (context / "data/sparse").write_bytes(b"begin" + bytes(1 << 20) + os.urandom(1 << 17))
    storage = ("buildah", "--root", tmp_path / "storage", "--runroot", tmp_path / "run", "--storage-driver", "vfs")

    def put(tag: str) -> None:
        def run(*words: str | Path) -> str:
            return subprocess.run([*storage, *words], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

        container = run("from", "scratch")
        run("copy", container, context / "data", "/data")
        run("commit", "-q", container, tag)
        layout = tmp_path / tag
        run("push", "-q", "--compression-format", "zstd:chunked", tag, f"oci:{layout}:{tag}")
        for blob in (layout / "blobs/sha256").iterdir():
            registry.blobs[f"sha256:{blob.name}"] = blob.read_bytes()
        listed = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
        registry.put_manifest(tag, json.loads(registry.blobs[listed]))

    put("v1")
    pull(modal, registry, "v1")
    changed = os.urandom(SIZE)
    (context / "data/7").write_bytes(changed)
    put("v2")
    image, given = pull(modal, registry, "v2")
    assert SIZE < given < 1.1 * SIZE + (64 << 10), hashlib.sha256(changed).hexdigest()
    assert image == whole(fresh_store, registry, "v2")
