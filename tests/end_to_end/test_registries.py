"""Images of registries as bases: what is in them, logins, and what is said when one cannot be had."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Modal
from played_registry import BASIC, PASSWORD, USER, Registry, archive, digest, serving

BUILD = """
import sys
import modal

image = modal.Image.from_registry({arguments})
with modal.App("t").run():
    print(image.build().object_id)
"""
LIST = "find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /root -o -path /__modal \\) -prune -o -printf"
FORM = "%P %y %m %U %G %s %TY-%Tm-%Td %TT %l\\n"


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving() as registry:
        yield registry


def build(modal: Modal, *arguments: str, **options):
    modal.write("app.py", BUILD.format(arguments=", ".join(arguments)))
    return modal.python("app.py", **options)


def refused(modal: Modal, *arguments: str) -> str:
    """What is said instead of an image."""
    result = build(modal, *arguments, check=False)
    assert result.code == 1, result
    return result.stderr


def lowest(registry: Registry) -> bytes:
    """A layer that no other test has brought into the store."""
    return archive(("etc", None), ("etc/one", registry.address.encode()))


@pytest.fixture
def reference(registry: Registry) -> str:
    registry.put("v1", lowest(registry), Env=["A=b"])
    return f"{registry.address}/team/app:v1"


def test_a_tag_is_looked_up_once(modal: Modal, registry: Registry, reference: str) -> None:
    first = build(modal, repr(reference)).stdout
    asked = len(registry.requests)
    assert asked > 0
    assert build(modal, repr(reference)).stdout == first
    assert len(registry.requests) == asked
    exact = registry.put("v1", lowest(registry), archive(("etc/two", registry.address.encode())), Env=["A=b"])
    assert build(modal, repr(reference)).stdout == first
    second = build(modal, repr(reference), "force_build=True").stdout
    assert second != first
    # The lower layer was there already.
    assert sum("/blobs/" in path for path in registry.requests[asked:]) == 2
    assert build(modal, repr(reference)).stdout == second
    assert build(modal, repr(f"{registry.address}/team/app@{exact}")).stdout == second


def test_dockerfiles_start_from_images_and_copy_from_them(modal: Modal, registry: Registry, reference: str) -> None:
    registry.put("v2", archive(("etc", None), ("etc/two", b"2\n")))
    other = reference.replace(":v1", ":v2")
    lines = f"ARG TAG=v1\nFROM {reference[:-2]}$TAG AS one\nFROM one\nCOPY --from={other} /etc/two /etc/\n"
    built = modal("image", "build", ".", "-f", "-", input=lines)
    shown = json.loads(modal("image", "inspect", "--json", built.stdout.strip()).stdout)
    assert shown["environment"]["A"] == "b", shown
    missing = modal("image", "build", ".", "-f", "-", input=f"FROM {reference[:-2]}v9\n", check=False)
    assert missing.code == 1 and f"FROM {reference[:-2]}v9" in missing.stderr and "has no image" in missing.stderr


@pytest.mark.parametrize("kind", ["basic", "bearer"])
def test_logins(modal: Modal, registry: Registry, reference: str, kind: str) -> None:
    registry.login = kind
    if kind == "basic":
        assert "docker login" in refused(modal, repr(reference))
    secret = f'modal.Secret.from_dict({{"REGISTRY_USERNAME": "{USER}", "REGISTRY_PASSWORD": "{PASSWORD}"}})'
    assert build(modal, repr(reference), secret).stdout.startswith("im-")
    wrong = secret.replace(PASSWORD, "something-else")
    said = refused(modal, repr(reference), wrong, "force_build=True")
    assert "refuses" in said and "something-else" not in said
    assert "REGISTRY_PASSWORD" in refused(modal, repr(reference), 'modal.Secret.from_dict({"A": "b"})')
    settings = modal.directory / "docker"
    settings.mkdir()
    logins = {"auths": {f"{registry.address}/team": {"auth": BASIC.split()[1]}}}
    (settings / "config.json").write_text(json.dumps(logins))
    modal.environment["DOCKER_CONFIG"] = str(settings)
    assert build(modal, repr(reference), "force_build=True").stdout.startswith("im-")


def test_a_login_does_not_follow_a_redirection(modal: Modal, registry: Registry, reference: str) -> None:
    registry.login, registry.elsewhere = "bearer", []
    assert build(modal, repr(reference)).stdout.startswith("im-")
    assert registry.elsewhere
    assert not any("authorization" in map(str.lower, headers) for headers in registry.elsewhere)


def test_what_is_no_image_for_this_machine(modal: Modal, registry: Registry, reference: str) -> None:
    assert "has no image" in refused(modal, repr(reference.replace(":v1", ":v2")))
    assert "no tag" in refused(modal, repr(reference + ":x"))
    registry.put("other", archive(), platform={"architecture": "s390x", "os": "linux"})
    assert "`linux/s390x`" in refused(modal, repr(reference.replace(":v1", ":other")))
    manifests = [
        {"digest": digest(b""), "size": 1, "platform": {"os": "linux", "architecture": name}}
        for name in ("arm", "mips")
    ]
    registry.put_manifest("index", {"schemaVersion": 2, "manifests": manifests})
    assert "`linux/arm`, `linux/mips`" in refused(modal, repr(reference.replace(":v1", ":index")))
    registry.put_manifest("old", {"schemaVersion": 1})
    assert "schema version `1`" in refused(modal, repr(reference.replace(":v1", ":old")))


def test_a_registry_that_lies(modal: Modal, registry: Registry) -> None:
    layer = lowest(registry)
    registry.put("v1", layer)
    reference = f"{registry.address}/team/lies:v1"
    manifest = json.loads(registry.manifests["v1"])
    blob = manifest["layers"][0]["digest"]
    registry.instead[blob] = registry.blobs[blob][:-1] + b"x"
    assert "was announced" in refused(modal, repr(reference))
    registry.instead = {manifest["config"]["digest"]: b"{}"}
    assert "something else than" in refused(modal, repr(reference))
    exact = digest(registry.manifests["v1"])
    registry.instead = {exact: registry.manifests["v1"] + b" "}
    assert "something else than" in refused(modal, repr(f"{registry.address}/team/lies@{exact}"))
    # An archive that is not the one of the configuration.
    registry.instead = {}
    registry.put("other", archive(("etc", None), ("etc/one", b"2\n")))
    manifest["layers"] = json.loads(registry.manifests["other"])["layers"]
    registry.put_manifest("v1", manifest)
    assert "configuration says" in refused(modal, repr(reference))
    registry.put("v1", layer)
    assert build(modal, repr(reference)).stdout.startswith("im-")


def test_a_registry_that_stumbles(modal: Modal, registry: Registry) -> None:
    layer = archive(("etc", None), ("etc/large", os.urandom(3 << 20)))
    registry.put("v1", layer)
    blob = json.loads(registry.manifests["v1"])["layers"][0]["digest"]
    packed = registry.blobs[blob]
    half, end = len(packed) // 2, len(packed) - 1
    registry.next = {
        "v1": [(429, b"", {"Retry_After": "1"}), (503, b"", {})],
        blob: [
            (200, packed[:half], {"Content_Length": str(len(packed))}),
            (206, packed[half:], {"Content_Range": f"bytes {half}-{end}/{len(packed)}"}),
        ],
    }
    assert build(modal, repr(f"{registry.address}/team/app:v1")).stdout.startswith("im-")
    assert registry.requests.count(f"/v2/team/app/blobs/{blob}") == 2


@pytest.mark.parametrize(
    ("status", "headers", "said"),
    [
        (429, {"Retry_After": "21600"}, "21600 seconds"),
        (302, {"Location": "file:///etc/passwd"}, "leads to `file:///etc/passwd`"),
        (302, {"Location": "http://169.254.169.254/latest/x"}, "this machine's own network"),
        (200, {"Content_Type": "text/html"}, "`text/html`"),
        (200, {"Docker_Content_Digest": digest(b"another")}, "something else than"),
    ],
)
def test_a_registry_that_leads_astray(
    modal: Modal, registry: Registry, reference: str, status: int, headers: dict, said: str
) -> None:
    registry.next = {"v1": [(status, registry.manifests["v1"], headers)]}
    errors = refused(modal, repr(reference))
    assert said in errors and "from_registry" in errors
    # The next time, it is as it should be.
    assert build(modal, repr(reference)).stdout.startswith("im-")


def test_an_owner_whom_the_store_does_not_have(modal: Modal, registry: Registry) -> None:
    registry.put("v1", archive(("etc", None), ("etc/mine", b""), uid=2_000_000_000))
    errors = refused(modal, repr(f"{registry.address}/team/app:v1"))
    assert "`/etc/mine` belongs to user 2000000000" in errors or "`/etc` belongs to user 2000000000" in errors
    assert "--add-subuids" in errors and "Invalid argument" not in errors


def test_layers_are_unpacked_while_others_come(modal: Modal, registry: Registry) -> None:
    """A lower layer that cannot be unpacked ends the download of the one above, which would never end."""
    registry.put("v1", archive(("../out", b"")), lowest(registry))
    blob = json.loads(registry.manifests["v1"])["layers"][1]["digest"]
    registry.stuck.add(blob)
    assert "leads out of the image" in refused(modal, repr(f"{registry.address}/team/app:v1"))


@pytest.mark.parametrize(
    ("entries", "attributes"),
    [
        ([("../out", b"x")], {}),
        ([("etc/../../out", b"x")], {}),
        ([("link", b"")], {"type": tarfile.SYMTYPE}),
        ([("name", b"")], {"type": tarfile.LNKTYPE, "linkname": "nothing"}),
        ([(".wh...", b"")], {}),
        ([("cut", b"contents")], {"cut": 512 + 4}),
    ],
)
def test_layers_that_are_none(modal: Modal, registry: Registry, entries: list, attributes: dict) -> None:
    cut = attributes.pop("cut", None)
    registry.put("v1", archive(*entries, **attributes)[:cut])
    assert "cannot be unpacked" in refused(modal, repr(f"{registry.address}/team/bad:v1"))
    assert not (modal.store.parent / "out").exists()


@pytest.fixture(scope="module")
def real_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Debian's registry on a free port of this machine."""
    for program in ("docker-registry", "buildah", "skopeo", "umoci"):
        if shutil.which(program) is None:
            pytest.skip(f"`{program}` is not installed; scripts/test installs it as root")
    directory = tmp_path_factory.mktemp("registry")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    settings = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
        "http": {"addr": address},
    }
    (directory / "config.yml").write_text(json.dumps(settings))
    with open(directory / "log", "w") as log:
        process = subprocess.Popen(["docker-registry", "serve", directory / "config.yml"], stdout=log, stderr=log)
    try:
        for _ in range(100):
            try:
                socket.create_connection(tuple(address.split(":"))).close()
                break
            except OSError:
                assert process.poll() is None, (directory / "log").read_text()
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait()


DOCKERFILE = """
FROM scratch
ADD rootfs.tar /
ENV GREETING=hi
RUN mkdir -p /data/old/deep /data/kept /srv/w; echo x > /data/old/deep/x; echo y > /data/y; chmod 2750 /data; chown 7:8 /data/y; \
    ln /data/y /data/z; mkfifo /data/p; ln -s /etc/one /data/l; echo 1 > /etc/one; chmod 1777 /data/kept; : > /data/kept/k; \
    cp /bin/true /data/suid; chmod 4711 /data/suid; mkdir /data/file; : > /data/directory
RUN rm -r /data/old /data/file /data/directory; mkdir /data/old /data/directory; echo new > /data/old/n; rm /etc/one; \
    echo f > /data/file; touch -d '2001-02-03 04:05:06' /data/y; : > '/data/odd name\\n'
RUN rm -r /data/directory; echo more > /data/kept/more
WORKDIR /srv/w
LABEL a=b
"""


def test_an_image_of_buildah_is_the_same_here(modal: Modal, real_registry: str, tmp_path: Path) -> None:
    modal.write(
        "dump.py",
        """
        import subprocess
        import modal

        app = modal.App("dump", image=modal.Image.debian_slim(python_version="3.11"))

        @app.function()
        def dump():
            command = "tar -C / -c bin etc home lib lib64 opt root sbin srv usr var"
            return subprocess.run(command, shell=True, stdout=subprocess.PIPE, check=True).stdout

        @app.local_entrypoint()
        def main(path: str):
            with open(path, "wb") as file:
                file.write(dump.remote())
        """,
    )
    (tmp_path / "context").mkdir()
    modal("run", "dump.py", "--path", str(tmp_path / "context/rootfs.tar"))
    (tmp_path / "context/Dockerfile").write_text(DOCKERFILE)
    image = f"{real_registry}/team/base:v1"
    environment = {**os.environ, "STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}

    def run(*command: str) -> None:
        subprocess.run(command, check=True, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)

    storage = ("--root", str(tmp_path / "storage"), "--runroot", str(tmp_path / "run"))
    run("buildah", *storage, "bud", "-q", "--layers", "-t", image, "context")
    run("buildah", *storage, "push", "-q", "--tls-verify=false", image)
    run("skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{image}", "oci:oci:v1")
    # A layer with nothing but files below a directory that is a link in the base.
    (tmp_path / "inserted").write_text("inserted")
    run("umoci", "insert", "--image", "oci:v1", "inserted", "/lib/inserted/file")
    run("skopeo", "copy", "-q", "--dest-tls-verify=false", "oci:oci:v1", f"docker://{image}")
    run("umoci", "unpack", "--image", "oci:v1", "bundle")
    modal.write(
        "app.py",
        f"""
        import modal

        app = modal.App("t", image=modal.Image.from_registry({image!r}))

        @app.function()
        def main():
            import os, subprocess
            print(os.environ["GREETING"], os.getcwd())
            print(subprocess.run({LIST + " " + shlex.quote(FORM)!r}, shell=True, stdout=subprocess.PIPE, text=True).stdout)
        """,
    )
    first, *found = modal("run", "app.py").stdout.splitlines()
    assert first == "hi /srv/w"
    listed = subprocess.run(
        LIST.replace("find /", "find .").replace("path /", "path ./") + " " + shlex.quote(FORM),
        shell=True,
        cwd=tmp_path / "bundle/rootfs",
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )

    def normal(lines: list[str]) -> dict[str, list[str]]:
        """What is to be equal: of directories neither the size nor, where containers are given mounts, the time."""
        rows = {}
        for line in lines:
            name, *rest = line.split(" ")
            if rest and rest[0] == "d":
                rest = rest[:4] + (rest[5:] if name.startswith("data") else [])
            rows[name] = rest
        return rows

    here, there = normal(found), normal(listed.stdout.splitlines())
    mounted = {"", "etc/resolv.conf", "etc/hosts", "etc/hostname", "etc/mtab"}
    different = {
        name: (here.get(name), there.get(name))
        for name in here.keys() | there.keys()
        if here.get(name) != there.get(name) and name not in mounted
    }
    assert different == {}
    assert len(there) > 5000
