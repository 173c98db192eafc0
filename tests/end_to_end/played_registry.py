"""A registry that the tests play: one small image, and whatever may go wrong on the way to it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.server
import io
import json
import ssl
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

USER, PASSWORD = "reader", "let-me-in-please"
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
TOKEN = "Bearer a-token-for-reading"


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def archive(*entries: tuple[str, bytes | None], **attributes) -> bytes:
    """A tar archive of files, and of directories where there are no contents."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for name, contents in entries:
            member = tarfile.TarInfo(name)
            member.mtime = 1_000_000_000
            member.type = tarfile.DIRTYPE if contents is None else tarfile.REGTYPE
            member.size = len(contents or b"")
            for attribute, value in attributes.items():
                setattr(member, attribute, value)
            tar.addfile(member, io.BytesIO(contents or b""))
    return written.getvalue()


def lowest(registry: Registry) -> bytes:
    """A layer that no other test has brought into the store."""
    return archive(("etc", None), ("etc/one", registry.address.encode()))


class Registry:
    """What is served; tests change it."""

    def __init__(self) -> None:
        self.address = ""
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        #: The names and passwords that are taken, as headers have them.
        self.basic = {BASIC}
        #: What was sent to services that give logins: path, headers, and body.
        self.sent: list[tuple[str, dict[str, str], str]] = []
        #: What these answer, by a part of what they are sent.
        self.replies: dict[str, tuple[int, str]] = {}
        #: `None`, `"basic"` or `"bearer"`.
        self.login: str | None = None
        self.requests: list[str] = []
        #: Contents that come in the place of those that were asked for.
        self.instead: dict[str, bytes] = {}
        #: How the next requests for something are answered, by its name: status, body and headers.
        self.next: dict[str, list[tuple[int, bytes, dict[str, str]]]] = {}
        #: Of these only so many bytes come, and then nothing.
        self.stuck: dict[str, int] = {}
        #: Of these only so many bytes come until the event.
        self.held: dict[str, tuple[int, threading.Event]] = {}
        #: The parts of blobs that were asked for.
        self.ranges: list[str] = []
        #: Whether only these are given then.
        self.knows_parts = True
        #: Bytes of manifests and blobs that were given.
        self.given = 0
        #: Headers of requests to the server that blobs are redirected to, if they are.
        self.elsewhere: list[dict[str, str]] | None = None

    def accept(self, user: str, password: str) -> None:
        self.basic.add("Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())

    def put(self, tag: str, *layers: bytes, platform: dict | None = None, **config) -> str:
        """Makes an image of these archives; answers the digest of its manifest."""
        described = []
        for layer in layers:
            packed = gzip.compress(layer, mtime=0)
            described.append(self.blob(packed, "application/vnd.oci.image.layer.v1.tar+gzip"))
        configuration = {
            **(platform or {"architecture": "amd64", "os": "linux"}),
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self.blob(json.dumps(configuration).encode(), "application/vnd.oci.image.config.v1+json"),
            "layers": described,
        }
        return self.put_manifest(tag, manifest)

    def put_manifest(self, tag: str, manifest: dict) -> str:
        data = json.dumps(manifest).encode()
        self.manifests[tag] = self.manifests[digest(data)] = data
        return digest(data)

    def blob(self, data: bytes, media_type: str) -> dict:
        self.blobs[digest(data)] = data
        return {"mediaType": media_type, "digest": digest(data), "size": len(data)}


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Registry]:
    """A registry on a free port of this machine."""
    registry, ended = Registry(), threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_arguments) -> None:
            pass

        def answer(self, status: int, data: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            if "Content_Length" not in headers:
                self.send_header("Content-Length", str(len(data)))
            self.close_connection = "Content_Length" in headers
            self.end_headers()
            self.wfile.write(data)

        def do_POST(self) -> None:
            sent = self.rfile.read(int(self.headers["Content-Length"])).decode()
            headers = {name.lower(): value for name, value in self.headers.items()}
            registry.sent.append((self.path, headers, sent))
            text = f"{self.path} {self.headers.get('X-Amz-Target', '')} {sent}"
            status, reply = next((reply for part, reply in registry.replies.items() if part in text), (400, "{}"))
            self.answer(status, reply.encode())

        def do_GET(self) -> None:
            registry.requests.append(self.path)
            given = self.headers.get("Authorization")
            if self.path.startswith("/token"):
                known = given is None or given in registry.basic
                return self.answer(200 if known else 401, json.dumps({"token": TOKEN[7:]}).encode())
            if self.path.startswith("/elsewhere/"):
                registry.elsewhere.append(dict(self.headers))
                return self.answer(200, registry.blobs[self.path.rsplit("/", 1)[1]])
            wanted = {None: {given}, "basic": registry.basic, "bearer": {TOKEN}}[registry.login]
            if given not in wanted:
                realm = f'Bearer realm="http://{registry.address}/token",service="played"'
                challenge = realm if registry.login == "bearer" else 'Basic realm="played"'
                return self.answer(401, WWW_Authenticate=challenge)
            if self.path == "/v2/":
                return self.answer(200)
            if "/tags/list" in self.path:
                tags = sorted(tag for tag in registry.manifests if not tag.startswith("sha256:"))
                return self.answer(200, json.dumps({"name": "any", "tags": tags}).encode())
            kind, name = self.path.rsplit("/", 2)[1:]
            if registry.next.get(name):
                status, data, headers = registry.next[name].pop(0)
                return self.answer(status, data, **headers)
            if name in registry.stuck:
                self.send_response(200)
                self.send_header("Content-Length", str(len(registry.blobs[name])))
                self.end_headers()
                self.wfile.write(registry.blobs[name][: registry.stuck[name]])
                return ended.wait()
            if name in registry.held:
                self.send_response(200)
                self.send_header("Content-Length", str(len(registry.blobs[name])))
                self.end_headers()
                length, event = registry.held[name]
                self.wfile.write(registry.blobs[name][:length])
                event.wait()
                return self.wfile.write(registry.blobs[name][length:])
            data = registry.instead.get(name) or getattr(registry, kind, {}).get(name)
            if data is None:
                return self.answer(404)
            if kind == "blobs" and registry.elsewhere is not None:
                return self.answer(307, Location=f"http://127.0.0.2:{server.server_port}/elsewhere/{name}")
            part = self.headers.get("Range")
            if part is not None:
                registry.ranges.append(part)
                if registry.knows_parts:
                    begin, _, last = part.removeprefix("bytes=").partition("-")
                    end = int(last) + 1 if last else len(data)
                    where = f"bytes {begin}-{end - 1}/{len(data)}"
                    registry.given += end - int(begin)
                    return self.answer(206, data[int(begin) : end], Content_Range=where)
            registry.given += len(data)
            return self.answer(200, data)

    server = http.server.ThreadingHTTPServer(("", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    registry.address = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield registry
    finally:
        ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
