"""Conda packages made on the spot, in channels on this machine."""

from __future__ import annotations

import bz2
import hashlib
import io
import json
import os
import tarfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

#: What packages were built for, where they name their prefix.
PREFIX = "/build/" + "a_long_prefix_" * 16

SUBDIR = "linux-aarch64" if os.uname().machine == "aarch64" else "linux-64"


@dataclass
class Contents:
    """The files of a package: texts by path; links by path; how files name the prefix (``text`` or ``binary``)."""

    files: dict[str, str | bytes] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    prefixes: dict[str, str] = field(default_factory=dict)
    entry_points: tuple[str, ...] = ()


class Channel:
    """A channel in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.index: dict[str, dict[str, dict]] = {subdir: {} for subdir in (SUBDIR, "noarch")}

    def add(
        self,
        name: str,
        version: str,
        contents: Contents | None = None,
        *,
        depends: tuple[str, ...] = (),
        noarch: str | None = None,
        form: str = ".conda",
    ) -> None:
        """Adds a package; `noarch` is ``python`` or ``generic``."""
        contents = contents or Contents()
        subdir = "noarch" if noarch else SUBDIR
        record = {"name": name, "version": version, "build": "0", "build_number": 0, "depends": [*depends]}
        record |= {"subdir": subdir, **({"noarch": noarch} if noarch else {})}
        stem = f"{name}-{version}-0"
        made = make(record, contents, stem, form)
        path = self.directory / subdir / (stem + form)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made)
        digests = {"sha256": hashlib.sha256(made).hexdigest(), "md5": hashlib.md5(made).hexdigest()}
        self.index[subdir][stem + form] = {**record, **digests, "size": len(made)}
        self.write()

    def add_python(self, *versions: str) -> None:
        """Adds Pythons that are the base's own with the environment as their prefix, and an empty pip."""
        for version in versions:
            series = ".".join(version.split(".")[:2])
            settings = "home = /usr/bin\ninclude-system-site-packages = true\nversion = 3.11\n"
            links = {f"bin/python{series}": "/usr/bin/python3.11"}
            links |= dict.fromkeys(("bin/python", "bin/python3"), f"python{series}")
            self.add("python", version, Contents({"pyvenv.cfg": settings}, links))
        self.add("pip", "24.0", depends=("python",), noarch="python")

    def write(self, *, compressed: bool = True) -> None:
        """Writes the indexes."""
        for subdir, packages in self.index.items():
            kinds = {"packages": ".tar.bz2", "packages.conda": ".conda"}
            index = {
                kind: {name: record for name, record in packages.items() if name.endswith(ending)}
                for kind, ending in kinds.items()
            }
            text = json.dumps({"info": {"subdir": subdir}, **index, "repodata_version": 1}).encode()
            directory = self.directory / subdir
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "repodata.json.zst").unlink(missing_ok=True)
            (directory / "repodata.json").write_bytes(text)
            if compressed and subdir == SUBDIR:
                (directory / "repodata.json.zst").write_bytes(zstd(text))


def make(record: dict, contents: Contents, stem: str, form: str) -> bytes:
    """A package as a file."""
    files = {path: text if isinstance(text, bytes) else text.encode() for path, text in contents.files.items()}
    paths = []
    for path, data in files.items():
        entry: dict[str, object] = {"_path": path, "path_type": "hardlink", "size_in_bytes": len(data)}
        entry["sha256"] = hashlib.sha256(data).hexdigest()
        if path in contents.prefixes:
            entry |= {"file_mode": contents.prefixes[path], "prefix_placeholder": PREFIX}
        paths.append(entry)
    for path, target in contents.links.items():
        paths.append({"_path": path, "path_type": "softlink", "size_in_bytes": len(target)})
    information = {"index.json": record, "paths.json": {"paths_version": 1, "paths": paths}}
    if record.get("noarch") == "python":
        python = {"type": "python", "entry_points": [*contents.entry_points]}
        information["link.json"] = {"noarch": python, "package_metadata_version": 1}
    metadata = {f"info/{name}": json.dumps(value).encode() for name, value in information.items()}
    if form == ".tar.bz2":
        return bz2.compress(tar({**metadata, **files}, contents.links))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("metadata.json", '{"conda_pkg_format_version": 2}')
        archive.writestr(f"pkg-{stem}.tar.zst", zstd(tar(files, contents.links)))
        archive.writestr(f"info-{stem}.tar.zst", zstd(tar(metadata, {})))
    return buffer.getvalue()


def tar(files: dict[str, bytes], links: dict[str, str]) -> bytes:
    """A tar archive; what is in `bin` can be executed."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, data in files.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(data), 0o755 if "/bin/" in f"/{path}" else 0o644
            archive.addfile(member, io.BytesIO(data))
        for path, target in links.items():
            member = tarfile.TarInfo(path)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return buffer.getvalue()


def zstd(data: bytes) -> bytes:
    """A frame of zstd with the bytes as they are."""
    size = 128 << 10
    frame = b"\x28\xb5\x2f\xfd\xe0" + len(data).to_bytes(8, "little")
    blocks = [data[start : start + size] for start in range(0, len(data), size)] or [b""]
    for number, block in enumerate(blocks):
        is_last = number == len(blocks) - 1
        frame += (len(block) << 3 | is_last).to_bytes(3, "little") + block
    return frame
