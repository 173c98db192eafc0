"""`pip_install_private_repos` clones for real, from a server that is reached as if it were GitHub."""

from __future__ import annotations

import http.client
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from conftest import Modal
from private_index import PASSWORD, USER, PrivateIndex, private_index

REPOSITORY = "/somebody/package"


@contextmanager
def github(index: PrivateIndex, directory: Path) -> Iterator[str]:
    """The address of a proxy behind which github.com has one repository, that of the index."""
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=github.com"]
    make += ["-addext", "subjectAltName=DNS:github.com", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(make, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    place = index.url.split("@")[1].removesuffix("/simple")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_CONNECT(self) -> None:
            assert self.path == "github.com:443"
            self.send_response(200)
            self.end_headers()
            self.connection = context.wrap_socket(self.connection, server_side=True)
            self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", buffering=0)

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            connection = http.client.HTTPConnection(place)
            fields = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            connection.request(self.command, self.path.replace(REPOSITORY, "/git/source.git"), body, fields)
            answer = connection.getresponse()
            contents = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() in ("content-type", "www-authenticate"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(contents)))
            self.end_headers()
            self.wfile.write(contents)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_private_repository_is_cloned_and_its_token_is_not_kept(modal: Modal) -> None:
    with private_index() as index, github(index, modal.directory) as proxy:
        settings = {
            "GIT_CONFIG_COUNT": "2",
            "GIT_CONFIG_KEY_0": "http.proxy",
            "GIT_CONFIG_VALUE_0": proxy,
            "GIT_CONFIG_KEY_1": "http.sslVerify",
            "GIT_CONFIG_VALUE_1": "false",
        }
        modal.write(
            "app.py",
            f"""
            import modal

            image = modal.Image.debian_slim(python_version="3.11").pip_install_private_repos(
                "github.com{REPOSITORY}",
                git_user={USER!r},
                secrets=[modal.Secret.from_dict({{"GITHUB_TOKEN": {PASSWORD!r}}})],
                env={settings!r},
            )
            app = modal.App("repositories", image=image)

            @app.function()
            def installed():
                import demo_source
                from pathlib import Path
                files = [path.read_text() for path in Path("/usr/local/lib").glob("python3*/*-packages/demo_*.dist-info/*")]
                return demo_source.value, any({PASSWORD!r} in text for text in files), any("github.com" in text for text in files)

            @app.local_entrypoint()
            def main():
                print(installed.remote())
            """,
        )
        result = modal("run", "--progress", "plain", "app.py")
        assert result.stdout == "(2, False, True)\n"
        assert any(path.startswith("/git/") for path in index.granted)
        assert not index.leaks
    assert PASSWORD not in result.stderr
    kept = [*modal.store.glob("index*"), *modal.store.glob("logs/*")]
    assert kept and not [file for file in kept if file.is_file() and PASSWORD.encode() in file.read_bytes()]
