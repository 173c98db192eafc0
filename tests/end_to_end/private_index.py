"""A package index on the loopback interface that asks for a password, and looks for it where it must not be."""

from __future__ import annotations

import base64
import io
import os
import subprocess
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

from packages import source_distribution

#: Another one each time: stores are kept between runs.
USER, PASSWORD = "reader", f"open-sesame-{os.urandom(4).hex()}"
ODD_USER, ODD_PASSWORD = "me@home", f"a b'c\"#$ {PASSWORD}"

BACKEND = """
import zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = "demo_source-1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{directory}/{name}", "w") as wheel:
        wheel.writestr("demo_source.py", "value = 2\\n")
        wheel.writestr("demo_source-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: demo-source\\nVersion: 1.0\\n")
        wheel.writestr("demo_source-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("demo_source-1.0.dist-info/RECORD", "demo_source.py,,\\n")
    return name
"""


def _wheel() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as wheel:
        wheel.writestr("demo_wheel.py", "value = 1\n")
        metadata = "Metadata-Version: 2.1\nName: demo-wheel\nVersion: 1.0\n"
        wheel.writestr("demo_wheel-1.0.dist-info/METADATA", metadata)
        wheel.writestr(
            "demo_wheel-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(
            "demo_wheel-1.0.dist-info/RECORD",
            "demo_wheel.py,,\ndemo_wheel-1.0.dist-info/METADATA,,\ndemo_wheel-1.0.dist-info/WHEEL,,\n"
            "demo_wheel-1.0.dist-info/RECORD,,\n",
        )
    return buffer.getvalue()


#: It is built in an environment of its own, for which `pip` starts another one.
SOURCE = {
    "PKG-INFO": "Metadata-Version: 2.1\nName: demo-source\nVersion: 1.0\n",
    "pyproject.toml": '[build-system]\nrequires = ["demo-wheel"]\nbuild-backend = "backend"\nbackend-path = ["."]\n',
    "backend.py": BACKEND,
}


def _make_repository(directory: Path) -> None:
    """Makes `source.git`, whose package is `demo-source` without anything that it is built with."""
    work = directory / "work"
    work.mkdir()
    for name, text in SOURCE.items():
        (work / name).write_text(text.replace('["demo-wheel"]', "[]"))
    identity = ["-c", "user.name=t", "-c", "user.email=t@t.invalid", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "all"]):
        subprocess.run(["git", *arguments], cwd=work, check=True)
    subprocess.run(["git", "clone", "-q", "--bare", "work", "source.git"], cwd=directory, check=True)


class PrivateIndex:
    """What the server offers and what it has seen."""

    def __init__(self, port: int) -> None:
        self.url = f"http://{USER}:{PASSWORD}@127.0.0.1:{port}/simple"
        self.token_url = f"http://{PASSWORD}@127.0.0.1:{port}/simple"
        self.odd_url = f"http://{quote(ODD_USER)}:{quote(ODD_PASSWORD)}@127.0.0.1:{port}/simple"
        self.files_url = self.url.replace("/simple", "/files")
        self.git_url = "git+" + self.url.replace("/simple", "/git/source.git")
        self.git_token_url = "git+" + self.token_url.replace("/simple", "/git/source.git")
        self.granted: list[str] = []
        self.leaks: set[str] = set()


def _arguments_with_password() -> Iterator[str]:
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            text = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if PASSWORD in text:
                yield text


@contextmanager
def private_index() -> Iterator[PrivateIndex]:
    """A running index with the wheel `demo-wheel` and the source distribution `demo-source`, which is built with it, and
    the same as a repository of git."""
    files = {
        "demo_wheel-1.0-py3-none-any.whl": _wheel(),
        "demo_source-1.0.tar.gz": source_distribution("demo_source-1.0", SOURCE),
    }
    directory = tempfile.TemporaryDirectory()
    _make_repository(Path(directory.name))
    logins = {f"{USER}:{PASSWORD}", f"{PASSWORD}:", f"{ODD_USER}:{ODD_PASSWORD}"}
    expected = {"Basic " + base64.b64encode(login.encode()).decode() for login in logins}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            index.leaks.update(_arguments_with_password())
            if self.headers.get("Authorization") not in expected:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="packages"')
                self.end_headers()
                return
            index.granted.append(self.path)
            if self.path.startswith("/git/"):
                self.answer_git()
                return
            name = self.path.rstrip("/").rsplit("/", 1)[-1]
            body, kind = files.get(name), "application/octet-stream"
            if body is None:
                links = [file for file in files if file.startswith(name.replace("-", "_") + "-")]
                body = "".join(f'<a href="/files/{file}#{_digest(files[file])}">{file}</a>' for file in links).encode()
                kind = "text/html"
                if not links:
                    self.send_error(404)
                    return
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_POST(self) -> None:
            self.do_GET()

        def answer_git(self) -> None:
            path, _, query = self.path.removeprefix("/git").partition("?")
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            variables = {
                **os.environ,
                "GIT_PROJECT_ROOT": directory.name,
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            }
            answer = subprocess.run(
                ["git", "http-backend"], input=body, stdout=subprocess.PIPE, env=variables, check=True
            ).stdout
            head, _, body = answer.partition(b"\r\n\r\n")
            fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
            self.send_response(int(fields.pop("Status", "200").split()[0]))
            for name, value in fields.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    index = PrivateIndex(server.server_port)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield index
    finally:
        server.shutdown()
        server.server_close()
        directory.cleanup()


def _digest(content: bytes) -> str:
    import hashlib

    return "sha256=" + hashlib.sha256(content).hexdigest()
