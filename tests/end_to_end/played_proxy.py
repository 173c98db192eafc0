"""A proxy in front of a real registry that the tests play: it keeps count, asks for tokens, and breaks what it is told to."""

from __future__ import annotations

import http.client
import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit

TOKEN = "Bearer a-token"


class Proxy:
    """What is on the way; tests change it."""

    def __init__(self, behind: str) -> None:
        self.behind = behind
        self.address = ""
        self.requests: list[str] = []
        #: Answers to the next requests of a method, in the place of the registry's: statuses, "cut" after a part of the body, or "gone".
        self.faults: dict[str, list[int | str]] = {}
        #: Whether tokens are asked for, and the scopes that they were asked for.
        self.wants_token = False
        self.scopes: list[list[str]] = []
        #: Bodies that were passed on, by method.
        self.sent: dict[str, list[int]] = {}
        #: Bytes of bodies that were given to who asked with GET.
        self.given = 0
        #: What requests with a body wait for, if they do.
        self.gate: threading.Event | None = None
        #: That one has come to the gate.
        self.has_come = threading.Event()
        #: What bodies of more than so many bytes do once so many have come: "trickles" byte by byte, "falls silent" or "breaks off".
        self.fails_beyond: tuple[int, str] | None = None


@contextmanager
def proxying(behind: str) -> Iterator[Proxy]:
    proxy = Proxy(behind)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def pass_or_break(self) -> None:
            url = urlsplit(self.path)
            length = int(self.headers.get("Content-Length", 0))
            if url.path == "/token":
                proxy.scopes.append(parse_qs(url.query)["scope"])
                self.answer(200, b'{"token": "a-token"}')
                return
            if proxy.wants_token and self.headers.get("Authorization") != TOKEN:
                self.rfile.read(length)
                realm = f'Bearer realm="http://{proxy.address}/token",service="s"'
                self.answer(401, WWW_Authenticate=realm)
                return
            proxy.requests.append(f"{self.command} {self.path}")
            faults = proxy.faults.get(self.command, [])
            fault = faults.pop(0) if faults else None
            if isinstance(fault, int):
                self.rfile.read(length)
                self.answer(fault, **({"Retry_After": "1"} if fault == 429 else {}))
            elif fault is not None:
                # A part reaches the registry, or nothing does, and the connection ends.
                if fault == "cut":
                    self.pass_on(self.rfile.read(length // 2), length // 2)
                self.close_connection = True
                self.connection.close()
            else:
                self.pass_whole(self.rfile.read(length))

        def pass_whole(self, body: bytes) -> None:
            if body and proxy.gate is not None:
                proxy.has_come.set()
                proxy.gate.wait()
            proxy.sent.setdefault(self.command, []).append(len(body))
            answer, data = self.pass_on(body, len(body))
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                    self.send_header(name, value.replace(proxy.behind, proxy.address))
            self.send_header("Content-Length", answer.getheader("Content-Length") or str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                proxy.given += len(data) if self.command == "GET" else 0
                if proxy.fails_beyond is not None and len(data) > proxy.fails_beyond[0]:
                    self.fail(data, *proxy.fails_beyond)
                else:
                    self.wfile.write(data)

        def fail(self, data: bytes, beyond: int, how: str) -> None:
            self.close_connection = True
            # What breaks off after more than that is asked for from there, and comes at last.
            self.wfile.write(data[: 100 if how == "breaks off" else beyond])
            if how == "falls silent":
                # Until whoever asks has enough.
                self.connection.recv(1)
            elif how == "trickles":
                for byte in data[beyond:]:
                    try:
                        self.wfile.write(bytes([byte]))
                    except OSError:
                        return
                    time.sleep(0.02)

        def pass_on(self, body: bytes, length: int) -> tuple[http.client.HTTPResponse, bytes]:
            connection = http.client.HTTPConnection(proxy.behind)
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in ("authorization", "connection", "content-length", "host")
            }
            connection.request(self.command, self.path, body or None, {**headers, "Content-Length": str(length)})
            answer = connection.getresponse()
            data = answer.read()
            connection.close()
            return answer, data

        def __getattr__(self, name: str) -> object:
            """All methods are handled alike."""
            if name.startswith("do_"):
                return self.pass_or_break
            raise AttributeError(name)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    proxy.address = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
