"""Wheels made on the spot, and an index of them on this machine."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def wheel(
    name: str,
    version: str,
    requires: tuple[str, ...] = (),
    record: Callable[[str], str] = lambda text: text,
    more: Callable[[zipfile.ZipFile], object] = lambda _: None,
    files: dict[str, str] | None = None,
) -> bytes:
    """A wheel with one module and `files`; `record` may spoil its RECORD, and `more` adds what that does not name."""
    metadata = f"{name}-{version}.dist-info"
    requirements = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
    files = {
        **(files or {}),
        f"{name}/__init__.py": f"VERSION = {version!r}\n",
        f"{metadata}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requirements}",
        f"{metadata}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        rows = ""
        for path, text in files.items():
            archive.writestr(zipfile.ZipInfo(path), text)
            rows += record_row(path, text)
        archive.writestr(zipfile.ZipInfo(f"{metadata}/RECORD"), record(f"{rows}{metadata}/RECORD,,\n"))
        more(archive)
    return buffer.getvalue()


def source_distribution(directory: str, files: dict[str, str]) -> bytes:
    """A source distribution whose files lie in a directory of this name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in files.items():
            information = tarfile.TarInfo(f"{directory}/{name}")
            information.size = len(text)
            archive.addfile(information, io.BytesIO(text.encode()))
    return buffer.getvalue()


def record_row(path: str, text: str) -> str:
    """The line of a RECORD for a file."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
    return f"{path},sha256={digest},{len(text)}\n"


class Index:
    """Indexes by name; each has wheels by their file names."""

    def __init__(self) -> None:
        self.address = ""
        self.wheels: dict[str, dict[str, bytes]] = {}

    def add(self, index: str, name: str, version: str, **options) -> str:
        """Adds a wheel to an index; its SHA-256."""
        contents = wheel(name, version, **options)
        self.wheels.setdefault(index, {})[f"{name}-{version}-py3-none-any.whl"] = contents
        return hashlib.sha256(contents).hexdigest()

    def url(self, index: str) -> str:
        return f"{self.address}/{index}/simple"

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Status, type and contents for ``/INDEX/simple/PROJECT/`` or ``/INDEX/files/WHEEL``."""
        _, index, kind, name, *_ = [*path.split("/"), "", ""]
        wheels = self.wheels.get(index, {})
        if kind == "files" and name in wheels:
            return 200, "application/octet-stream", wheels[name]
        links = [
            f'<a href="/{index}/files/{file}#sha256={hashlib.sha256(contents).hexdigest()}">{file}</a>'
            for file, contents in wheels.items()
            if file.split("-")[0].replace("_", "-") == name
        ]
        return (200 if links else 404), "text/html", f"<!DOCTYPE html><body>{''.join(links)}</body>".encode()


@contextmanager
def serve() -> Iterator[Index]:
    """Serves an index until the end."""
    index = Index()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, kind, contents = index.answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(contents)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(contents)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    index.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield index
    finally:
        server.shutdown()
