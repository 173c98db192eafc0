"""Images that this machine has outside of the store, as other programs keep and write them."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import shutil
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Modal, command
from played_registry import archive, digest
from played_registry import serving as serving_registry

BUILD = """
import sys
import modal

image = modal.Image.from_registry(sys.argv[1])
with modal.App("t").run():
    print(image.build().object_id)
"""


def peer(*words: str | Path, **options) -> str:
    """What another program prints."""
    if shutil.which(str(words[0])) is None:
        pytest.skip(f"`{words[0]}` is not installed; scripts/test installs it as root")
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, **options).stdout


@pytest.fixture
def load(modal: Modal):
    """Builds the image that a name stands for, and answers its id."""
    modal.write("load.py", BUILD)

    def load(reference: str, *, code: int = 0, **environment: str) -> str:
        result = modal.python("load.py", reference, check=False, **environment)
        assert result.code == code, result
        return result.stderr if code else result.stdout.strip()

    return load


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """An OCI layout that umoci has made, with two layers."""
    layout, tree = tmp_path / "layout", tmp_path / "tree"
    peer("umoci", "init", "--layout", layout)
    peer("umoci", "new", "--image", f"{layout}:v1")
    for number in ("one", "two"):
        (tree / "etc").mkdir(parents=True, exist_ok=True)
        (tree / "etc" / number).write_text(f"{number} {os.urandom(8).hex()}\n")
        os.chmod(tree / "etc" / number, 0o4711)
        peer("umoci", "insert", "--image", f"{layout}:v1", tree / "etc" / number, f"/etc/{number}")
    peer("umoci", "config", "--image", f"{layout}:v1", "--config.env", "A=b", "--config.user", "7:8")
    return layout


def test_every_form_is_the_image_of_the_registry(modal: Modal, load, layout: Path, real_registry: str) -> None:
    reference = f"{real_registry}/in/{os.urandom(4).hex()}:v1"
    source = f"oci:{layout}:v1"
    peer("skopeo", "copy", "--quiet", "--dest-tls-verify=false", source, f"docker://{reference}")
    pulled = load(reference)
    assert load(source) == load(f"oci:{layout}") == pulled
    for transport, name in (("oci-archive", "v1"), ("docker-archive", "team/app:v1")):
        path = layout.with_suffix(f".{transport}.tar")
        peer("skopeo", "copy", "--quiet", source, f"{transport}:{path}:{name}")
        assert load(f"{transport}:{path}:{name}") == pulled
        peer("gzip", "-k", path)
        packed = path.with_suffix(".tar.gz")
        assert load(f"{transport}:{packed}") == pulled
        tag = os.urandom(4).hex()
        imported = modal("image", "import", str(packed), "--name", tag)
        assert imported.stdout.strip() == pulled
        with open(path, "rb") as file:
            piped = subprocess.run(
                [command(), "image", "import", "-"],
                stdin=file,
                cwd=modal.directory,
                env=modal.environment,
                capture_output=True,
                text=True,
                check=True,
            )
        assert piped.stdout.strip() == pulled
        missing = load(f"{transport}:{path}:none-such:v9", code=1)
        assert "is none of its images" in missing and name in missing
    lines = (
        "FROM oci:layout:v1 AS one\nFROM scratch\nCOPY --from=oci:layout /etc/two /two\nCOPY --from=one /etc/one /one\n"
    )
    built = modal("image", "build", ".", "-f", "-", input=lines).stdout.strip()
    modal("image", "export", built, "--format", "rootfs-tar", "-o", "files.tar")
    with tarfile.open(modal.directory / "files.tar") as files:
        found = {member.name: member.mode for member in files.getmembers() if member.isfile()}
    assert found == {"one": 0o4711, "two": 0o4711}


def test_a_shell_opens_in_an_image_without_a_program(modal: Modal, layout: Path, real_registry: str) -> None:
    reference = f"{real_registry}/in/{os.urandom(4).hex()}:v1"
    modal("image", "import", str(layout), "--name", "shell-less")
    said = modal("shell", "--image", f"oci:{layout}", "--cmd", "true", check=False)
    assert said.code == 1 and "/bin/sh" in said.stderr
    modal.write(
        "app.py",
        'import modal\nwith modal.App("t").run():\n    print(modal.Image.debian_slim("3.11").build().object_id)\n',
    )
    modal("image", "push", modal.python("app.py").stdout.strip(), reference)
    shown = modal("shell", "--image", reference, "--cmd", "python3 -V; cat /etc/debian_version", "--no-pty")
    assert shown.stdout.startswith("Python 3.11")
    gone = modal("shell", "--image", reference.replace(":v1", ":v2"), check=False)
    assert gone.code == 1 and "has no image" in gone.stderr
    wrong = modal("shell", "--image", reference, "--add-python", "2.7", check=False)
    assert wrong.code == 1 and "`add_python` takes a series" in wrong.stderr


def test_what_comes_by_standard_input_leaves_nothing(modal: Modal, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    modal.environment["TMPDIR"] = str(temporary)
    said = modal("image", "import", "-", input="no archive at all\n" * 100, check=False)
    assert said.code == 1 and "`standard input` cannot be read" in said.stderr
    process = subprocess.Popen(
        [command(), "image", "import", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=modal.directory,
        env=modal.environment,
    )
    # As much as no pipe holds: some of it has been read.
    process.stdin.write(bytes(4 << 20))
    process.stdin.flush()
    process.terminate()
    process.communicate()
    assert process.returncode == 143
    assert list(temporary.iterdir()) == []


def test_an_image_that_changed_is_taken_anew(load, layout: Path) -> None:
    first = load(f"oci:{layout}:v1")
    assert load(f"oci:{layout}:v1") == first
    peer("umoci", "config", "--image", f"{layout}:v1", "--config.env", "C=d")
    assert load(f"oci:{layout}:v1") != first


def test_more_layers_than_there_is_room_for_are_said(modal: Modal, tmp_path: Path) -> None:
    layers = [archive((f"etc/{number}", b"")) for number in range(401)]
    with serving_registry() as registry:
        registry.put("v1", *layers)
        reference = f"{registry.address}/team/app:v1"
        refused = modal("image", "pull", reference, check=False)
        assert (
            f"`{reference}` has 401 layers, and 400 are the most" in refused.stderr and "--squash-all" in refused.stderr
        )
        registry.put("v1", *layers[:400])
        modal("image", "pull", reference, "--name", "many:layers")
    # Steps make more of them, until Linux takes no more.
    (modal.directory / "x").write_text("x")
    lines = ["FROM localhost/many:layers", *(f"COPY x /{number}" for number in range(101)), 'RUN ["/none"]']
    (modal.directory / "Dockerfile").write_text("\n".join(lines))
    refused = modal("image", "build", ".", check=False)
    assert "the image has 501 layers, and Linux lays" in refused.stderr


def test_files_alone_are_an_image(modal: Modal) -> None:
    (modal.directory / "root.tar").write_bytes(archive(("etc", None), ("etc/one", b"1\n")))
    image = modal("image", "import", "root.tar").stdout.strip()
    modal("image", "export", image, "--format", "rootfs-tar", "-o", "back.tar", "--keep-times")
    with tarfile.open(modal.directory / "back.tar") as back:
        times = {member.name: member.mtime for member in back.getmembers()}
    assert times["etc"] == times["etc/one"] == 1_000_000_000
    (modal.directory / "bad.tar").write_bytes(archive(("../x", b"")))
    said = modal("image", "import", "bad.tar", check=False)
    assert said.code == 1 and "`../x`" in said.stderr
    (modal.directory / "text.tar").write_text("no archive at all\n" * 100)
    said = modal("image", "import", "text.tar", check=False)
    assert said.code == 1 and "text.tar` cannot be read" in said.stderr


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[dict]:
    """A daemon's socket, and the images that it has: archives by name."""
    images: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_arguments) -> None:
            pass

        def address_string(self) -> str:
            return "socket"

        def do_GET(self) -> None:
            name, _, kind = self.path.removeprefix("/images/").rpartition("/")
            of_id = {digest(data): data for data in images.values()}
            if kind == "json" and name in images:
                return self.answer(200, json.dumps({"Id": digest(images[name])}).encode())
            if kind == "get" and name in of_id:
                return self.answer(200, of_id[name])
            return self.answer(404, json.dumps({"message": f"No such image: {name}"}).encode())

        def answer(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(data)

    path = tmp_path / "docker.sock"
    with serving(socketserver.ThreadingUnixStreamServer(str(path), Handler)):
        yield {"address": f"unix://{path}", "images": images, "handler": Handler}


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_daemon_is_asked(load, layout: Path, daemon: dict, tmp_path: Path) -> None:
    put(daemon, layout, tmp_path)
    host = {"DOCKER_HOST": daemon["address"]}
    expected = load(f"oci:{layout}:v1")
    assert load("docker-daemon:app:v1", **host) == expected
    missing = load("docker-daemon:app:v2", code=1, **host)
    assert "No such image: app:v2" in missing
    daemon["images"]["cut:v1"] = daemon["images"]["app:v1"][:-2000]
    assert "cannot be read" in load("docker-daemon:cut:v1", code=1, **host)
    away = load("docker-daemon:app:v1", code=1, DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert f"unix://{tmp_path}/none.sock" in away and "docker save" in away
    # A context names the daemon, too.
    settings = tmp_path / "docker"
    digits = hashlib.sha256(b"mine").hexdigest()
    place = settings / "contexts/meta" / digits
    place.mkdir(parents=True)
    (place / "meta.json").write_text(json.dumps({"Name": "mine", "Endpoints": {"docker": {"Host": daemon["address"]}}}))
    (settings / "config.json").write_text(json.dumps({"currentContext": "mine"}))
    assert load("docker-daemon:app:v1", DOCKER_CONFIG=str(settings), DOCKER_HOST="") == expected


def put(daemon: dict, layout: Path, tmp_path: Path) -> None:
    """Gives the daemon an image."""
    path = tmp_path / "saved.tar"
    peer("skopeo", "copy", "--quiet", f"oci:{layout}:v1", f"docker-archive:{path}:app:v1")
    daemon["images"]["app:v1"] = path.read_bytes()


def test_a_daemon_with_certificates_is_asked(
    modal: Modal, load, layout: Path, daemon: dict, certificates: Path, tmp_path: Path
) -> None:
    put(daemon, layout, tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificates / "server.crt", certificates / "server.key")
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(certificates / "ca.crt")

    class Server(socketserver.ThreadingTCPServer):
        def get_request(self):
            stream, address = super().get_request()
            stream.settimeout(30)
            # The handshake is made by the thread that reads.
            return tls.wrap_socket(stream, server_side=True, do_handshake_on_connect=False), address

        def handle_error(self, request, client_address) -> None:
            """Whoever is not let in is told so."""

        def shutdown_request(self, request) -> None:
            try:
                request.unwrap()
            except OSError:
                pass
            super().shutdown_request(request)

    own = tmp_path / "own"
    own.mkdir()
    server = Server(("127.0.0.1", 0), daemon["handler"])
    host = {
        "DOCKER_HOST": f"tcp://127.0.0.1:{server.server_address[1]}",
        "DOCKER_TLS_VERIFY": "1",
        "DOCKER_CERT_PATH": str(own),
    }
    with serving(server):
        assert f"{own}/ca.pem` cannot be used" in load("docker-daemon:app:v1", code=1, **host)
        # An authority that has not signed the daemon's certificate.
        shutil.copy(certificates / "client.crt", own / "ca.pem")
        assert "invalid peer certificate" in load("docker-daemon:app:v1", code=1, **host)
        shutil.copy(certificates / "ca.crt", own / "ca.pem")
        assert "cannot be spoken to" in load("docker-daemon:app:v1", code=1, **host)
        shutil.copy(certificates / "client.crt", own / "cert.pem")
        shutil.copy(certificates / "client.key", own / "key.pem")
        taken = load("docker-daemon:app:v1", **host)
    assert taken == load(f"oci:{layout}:v1")


def test_a_daemon_that_cannot_be_reached_is_not_waited_for(modal: Modal, load) -> None:
    with socket.socket() as listener, socket.socket() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        # One waits to be let in, and no further one gets an answer.
        waiting.connect(listener.getsockname())
        modal.environment["DOCKER_HOST"] = f"127.0.0.1:{listener.getsockname()[1]}"
        process = subprocess.Popen(
            [command(), "image", "pull", "docker-daemon:app:v1"],
            cwd=modal.directory,
            env=modal.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        _, address = listener.getsockname()
        waited = f"0100007F:{address:04X} 02 "
        for _ in range(100):
            if waited in Path("/proc/net/tcp").read_text():
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=25)
    assert process.returncode == 130, errors


SSH = """#!{python}
import os, socket, sys, threading

arguments = sys.argv[sys.argv.index("--") + 1 :]
if arguments != ["far.example", "docker", "system", "dial-stdio"]:
    sys.exit(f"ssh: Could not resolve hostname {{arguments[0]}}")
stream = socket.socket(socket.AF_UNIX)
stream.connect("{path}")
stream.sendall(os.read(0, 65536))
while data := stream.recv(65536):
    os.write(1, data)
"""


def test_a_daemon_behind_ssh_is_asked(load, layout: Path, daemon: dict, tmp_path: Path) -> None:
    put(daemon, layout, tmp_path)
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "ssh").write_text(SSH.format(python=sys.executable, path=daemon["address"].removeprefix("unix://")))
    (programs / "ssh").chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    taken = load("docker-daemon:app:v1", DOCKER_HOST="ssh://me@far.example", PATH=path)
    assert taken == load(f"oci:{layout}:v1")
    refused = load("docker-daemon:app:v1", code=1, DOCKER_HOST="ssh://nowhere.example", PATH=path)
    assert "`ssh` says: ssh: Could not resolve hostname nowhere.example" in refused


@pytest.mark.skipif(os.geteuid() != 0, reason="podman's storage here is root's")
def test_the_storage_of_podman_is_read(modal: Modal, load, layout: Path, tmp_path: Path) -> None:
    storage = tmp_path / "storage.conf"
    storage.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path}/graph"\nrunroot = "{tmp_path}/run"\n')
    environment = {**os.environ, "CONTAINERS_STORAGE_CONF": str(storage)}
    peer(
        "skopeo",
        "copy",
        "--quiet",
        "--insecure-policy",
        f"oci:{layout}:v1",
        "containers-storage:localhost/app:v1",
        env=environment,
    )
    expected = load(f"oci:{layout}:v1")
    assert load("containers-storage:localhost/app:v1", CONTAINERS_STORAGE_CONF=str(storage)) == expected
    # As podman has it, what is built here needs no registry in its name.
    assert load("containers-storage:app:v1", CONTAINERS_STORAGE_CONF=str(storage)) == expected
    # Of layers that came compressed by zstd those programs make no archive of Docker's.
    modal("image", "import", layout, "--name", "compressed:v1")
    modal("image", "export", "compressed:v1", "--format", "oci-dir", "--compression", "zstd", "-o", tmp_path / "zstd")
    stored = ("copy", "--quiet", "--insecure-policy", f"oci:{tmp_path}/zstd:compressed:v1")
    peer("skopeo", *stored, "containers-storage:localhost/zstd:v1", env=environment)
    assert load("containers-storage:localhost/zstd:v1", CONTAINERS_STORAGE_CONF=str(storage)) == expected
    missing = load("containers-storage:localhost/app:v2", code=1, CONTAINERS_STORAGE_CONF=str(storage))
    assert "`containers-storage:localhost/app:v2` is none of the images" in missing
    for program in ("podman", "buildah"):
        only = tmp_path / program
        only.mkdir()
        found = shutil.which(program)
        if found is None:
            continue
        os.symlink(found, only / program)
        path = f"{only}:{os.path.dirname(command())}"
        load("containers-storage:app:v1", CONTAINERS_STORAGE_CONF=str(storage), PATH=path)
        load("containers-storage:zstd:v1", CONTAINERS_STORAGE_CONF=str(storage), PATH=path)
        missing = load("containers-storage:app:v2", code=1, CONTAINERS_STORAGE_CONF=str(storage), PATH=path)
        assert "is none of the images that podman and buildah have here" in missing
    none = load("containers-storage:localhost/app:v1", code=1, PATH="/none")
    assert "none of `skopeo`, `podman` and `buildah`" in none
