"""Images of registries as bases: what is in them, logins, and what is said when one cannot be had."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shlex
import signal
import subprocess
import tarfile
import threading
import time
from pathlib import Path

import pytest
from conftest import Modal, command
from played_registry import PASSWORD, USER, Registry, archive, digest, lowest

BUILD = """
import sys
import modal

image = modal.Image.from_registry({arguments})
with modal.App("t").run():
    print(image.build().object_id)
"""
LIST = "find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /root -o -path /__modal \\) -prune -o -printf"
FORM = "%P %y %m %U %G %s %TY-%Tm-%Td %TT %l\\n"


def build(modal: Modal, *arguments: str, **options):
    modal.write("app.py", BUILD.format(arguments=", ".join(arguments)))
    return modal.python("app.py", **options)


def refused(modal: Modal, *arguments: str) -> str:
    """What is said instead of an image."""
    result = build(modal, *arguments, check=False)
    assert result.code == 1, result
    return result.stderr


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
    assert missing.code == 1 and f":1 FROM {reference[:-2]}v9" in missing.stderr and "has no image" in missing.stderr


def test_what_an_image_lacks_is_said(modal: Modal, registry: Registry) -> None:
    registry.put("bare", lowest(registry))
    registry.put("entry", lowest(registry), Entrypoint=["/nothing"])
    for tag, hint in [("bare", "`add_python="), ("entry", "`.entrypoint([])`")]:
        modal.write(
            "app.py",
            f"""
            import modal

            app = modal.App("t", image=modal.Image.from_registry("{registry.address}/team/app:{tag}"))

            @app.function()
            def main():
                pass
            """,
        )
        result = modal("run", "--progress", "plain", "app.py", check=False)
        assert result.code == 1 and hint in result.stderr.rsplit("hint:", 1)[1]
        assert "it has no Python on its PATH" in result.stderr and "it has no `/bin/sh`" in result.stderr


def test_settings_of_the_host(modal: Modal, registry: Registry, reference: str) -> None:
    settings = modal.directory / "registries.conf"
    # Of names that no other test has used.
    port = registry.address.rpartition(":")[2]
    named, host = f"python{port}", f"r{port}.example"
    modal.environment["CONTAINERS_REGISTRIES_CONF"] = str(settings)
    mirror = f'[[registry.mirror]]\nlocation = "{registry.address}/mirrored"\n'
    # A mirror that has nothing is passed over, and one that has it is asked for what is meant.
    gone = '[[registry.mirror]]\nlocation = "127.0.0.1:1/none"\n'
    settings.write_text(f'[[registry]]\nlocation = "docker.io"\n{gone}{mirror}')
    registry.put("3.11", lowest(registry))
    assert build(modal, repr(f"{named}:3.11")).stdout.startswith("im-")
    assert f"/v2/mirrored/library/{named}/manifests/3.11" in registry.requests
    # What a secret holds is for the registry itself.
    registry.login = "basic"
    settings.write_text(f'[[registry]]\nprefix = "{host}/team"\nlocation = "{registry.address}/moved"\n')
    secret = f'modal.Secret.from_dict({{"REGISTRY_USERNAME": "{USER}", "REGISTRY_PASSWORD": "{PASSWORD}"}})'
    assert build(modal, repr(f"{host}/team/app:v1"), secret).stdout.startswith("im-")
    assert "/v2/moved/app/manifests/v1" in registry.requests
    settings.write_text(f'[[registry]]\nlocation = "{host}"\nblocked = true\n')
    assert f"`{host}/x:1` is blocked" in refused(modal, repr(f"{host}/x:1"))
    settings.write_text("[[registry]\n")
    errors = refused(modal, repr(reference), "force_build=True")
    assert str(settings) in errors and "cannot be used" in errors


#: What `uv` rewrites, and expects to be as Python writes it.
SETTINGS = b"""# system configuration generated and used by the sysconfig module
build_time_vars = {'CC': 'cc'}
"""


def offer_python(modal: Modal, tmp_path: Path, *more: tuple[str, bytes | None]) -> None:
    """A stand-in for a standalone build, laid out as those are, which the host's own `uv` gets."""
    packed = archive(
        ("python", None),
        ("python/bin", None),
        ("python/bin/python3.12", b"#!/bin/sh\necho added\n"),
        ("python/lib", None),
        ("python/lib/python3.12", None),
        ("python/lib/python3.12/os.py", b""),
        ("python/lib/python3.12/_sysconfigdata__linux_x86_64-linux-gnu.py", SETTINGS),
        *more,
        mode=0o755,
    )
    built = tmp_path / "cpython-3.12.4-x86_64-unknown-linux-gnu-install_only_stripped.tar.gz"
    built.write_bytes(gzip.compress(packed))
    build_of = {
        "name": "cpython",
        "arch": {"family": "x86_64", "variant": None},
        "os": "linux",
        "libc": "gnu",
        "major": 3,
        "minor": 12,
        "patch": 4,
        "prerelease": "",
        "variant": None,
        "build": "20240713",
        "url": built.as_uri(),
        "sha256": hashlib.sha256(built.read_bytes()).hexdigest(),
    }
    (tmp_path / "builds.json").write_text(json.dumps({"cpython-3.12.4-linux-x86_64-gnu": build_of}))
    modal.environment["UV_PYTHON_DOWNLOADS_JSON_URL"] = str(tmp_path / "builds.json")


def test_a_python_is_added(modal: Modal, registry: Registry, tmp_path: Path) -> None:
    offer_python(modal, tmp_path)
    own = registry.address.encode()
    loader = ("lib64", None), ("lib64/ld-linux-x86-64.so.2", own)
    registry.put("glibc", archive(*loader, ("usr", None), ("usr/local", None), mode=0o750))
    registry.put("musl", archive(("lib", None), ("lib/ld-musl-x86_64.so.1", own)))
    registry.put("bare", archive(("etc", None), ("etc/bare", own)))
    reference = f"{registry.address}/team/app:glibc"
    modal.write(
        "app.py",
        f"""
        import modal

        image = modal.Image.from_registry({reference!r}, add_python="3.12")
        with modal.App("t").run():
            image.build()
            image.publish("with-python")
            lines = ["COPY --from=localhost/with-python:latest / /image", "WORKDIR /image"]
            lines += ["RUN test $(stat -c %a usr/local) = 750 && test $(usr/local/bin/python3.12) = added"]
            lines += ["RUN test -e usr/local/lib/python3.12/os.py && test -e lib64/ld-linux-x86-64.so.2"]
            lines += ["RUN grep -q build_time_vars usr/local/lib/python3.12/_sysconfig* && ! grep -r cpython-3 usr"]
            print(modal.Image.debian_slim("3.11").dockerfile_commands(lines).build().object_id)
        """,
    )
    assert modal.python("app.py").stdout.startswith("im-")
    for tag, lacks in [("musl", "musl as its C library"), ("bare", "no C library")]:
        errors = refused(modal, repr(reference.replace("glibc", tag)), 'add_python="3.12"')
        assert lacks in errors and "add_python" in errors
    errors = refused(modal, repr(reference), 'add_python="3.9"')
    assert "InvalidError" in errors and "`3.14t`" in errors
    modal.environment["UV_PYTHON_DOWNLOADS_JSON_URL"] = str(tmp_path / "none.json")
    errors = refused(modal, repr(reference), 'add_python="3.13"')
    assert "UV_PYTHON_INSTALL_MIRROR" in errors


def test_an_added_python_has_bytecode(modal: Modal, tmp_path: Path) -> None:
    """The stand-in notes what it is asked for, as the interpreter would write bytecode."""
    program = b'#!/bin/sh\nmkdir -p "$5/__pycache__"\necho "$@" > "$5/__pycache__/asked"\n'
    offer_python(modal, tmp_path, ("python/bin/python3", program))
    modal.write(
        "app.py",
        """
        import subprocess
        import modal

        with modal.App("t").run():
            base = modal.Image.debian_slim("3.11").build()
            export = ["modal", "image", "export", base.object_id, "--format", "oci-archive", "-o", "base.tar"]
            subprocess.run(export, check=True, capture_output=True)
            image = modal.Image.from_registry("oci-archive:base.tar", add_python="3.12")
            image = image.run_commands("cat /usr/local/lib/python3.12/__pycache__/asked > /asked", force_build=True)
            print(image.run_commands("cat /asked", force_build=True).build().logs.fetch())
        """,
    )
    modal.environment["PATH"] = f"{Path(command()).parent}:{modal.environment['PATH']}"
    assert "-I -m compileall -qq /usr/local/lib/python3.12" in modal.python("app.py").stdout


def test_what_is_no_image_for_this_machine(modal: Modal, registry: Registry, reference: str) -> None:
    registry.put("latest", archive())
    errors = refused(modal, repr(reference.replace(":v1", ":v2")))
    assert "has no image" in errors and "its tags are `v1`, `latest`" in errors
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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_an_interrupted_download_goes_on(modal: Modal, registry: Registry, number: signal.Signals, code: int) -> None:
    registry.put("v1", archive(("etc", None), ("etc/large", os.urandom(3 << 20))))
    blob = json.loads(registry.manifests["v1"])["layers"][0]["digest"]
    registry.stuck[blob] = 2 << 20
    reference = f"{registry.address}/team/app:v1"
    modal.write(
        "app.py",
        f"""
        import modal

        app = modal.App("t")

        @app.local_entrypoint()
        def main():
            print(modal.Image.from_registry({reference!r}).build(app).object_id)
        """,
    )
    process = modal.start("run", "app.py")
    partial = modal.store / "downloads" / blob.replace("sha256:", ".partial-")
    for _ in range(300):
        if partial.exists() and partial.stat().st_size == 2 << 20:
            break
        time.sleep(0.1)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in errors and "panicked" not in errors
    registry.stuck.clear()
    assert modal("run", "app.py").stdout.startswith("im-")
    assert registry.ranges == [f"bytes={2 << 20}-"]
    assert not partial.exists()


def test_a_download_that_filled_the_disk_goes_on(modal: Modal, registry: Registry) -> None:
    registry.put("v1", archive(("etc", None), ("etc/larger", os.urandom(6 << 20))))
    modal("image", "list")
    script = """
        mount -t tmpfs -o size=4m none "$MODAL_STORE/downloads" || exit 99
        "$@" 2>&1 && exit 1
        mount -o remount,size=40m "$MODAL_STORE/downloads" && "$@"
    """
    pull = [command(), "image", "pull", f"{registry.address}/team/app:v1"]
    result = modal.run(["unshare", "--mount", "sh", "-c", script, "sh", *pull], check=False)
    if result.code == 99 or "unshare" in result.stderr:
        pytest.skip("nothing can be mounted here")
    assert result.code == 0 and "the disk of the store is full" in result.stdout, result
    assert result.stdout.splitlines()[-1].startswith("im-") and registry.ranges == [f"bytes={4 << 20}-"]


def test_an_archive_does_not_fill_the_disk(modal: Modal, registry: Registry) -> None:
    registry.put("v1", archive(("bomb", registry.address.encode() + bytes(200 << 20))))
    reference = repr(f"{registry.address}/team/app:v1")
    modal.environment["MODAL_STORE_RESERVE"] = str(1 << 40)
    errors = refused(modal, reference)
    assert "MODAL_STORE_RESERVE keeps free" in errors and "set MODAL_STORE" in errors, errors
    del modal.environment["MODAL_STORE_RESERVE"]
    assert build(modal, reference).stdout.startswith("im-")


def test_an_owner_whom_the_store_does_not_have(modal: Modal, registry: Registry) -> None:
    registry.put("v1", archive(("etc", None), ("etc/mine", b""), uid=2_000_000_000))
    errors = refused(modal, repr(f"{registry.address}/team/app:v1"))
    assert "`/etc/mine` belongs to user 2000000000" in errors or "`/etc` belongs to user 2000000000" in errors
    assert "--add-subuids" in errors and "Invalid argument" not in errors


def test_layers_are_unpacked_while_others_come(modal: Modal, registry: Registry) -> None:
    """A lower layer that cannot be unpacked ends the download of the one above, which would never end."""
    registry.put("v1", archive(("../out", b"")), lowest(registry))
    blob = json.loads(registry.manifests["v1"])["layers"][1]["digest"]
    registry.stuck[blob] = 10
    assert "leads out of the image" in refused(modal, repr(f"{registry.address}/team/app:v1"))


def test_a_layer_is_unpacked_while_it_comes(modal: Modal, registry: Registry) -> None:
    name = digest(os.urandom(8))[7:]
    registry.put("v1", archive((name, os.urandom(2 << 20)), ("last", os.urandom(2 << 20))))
    blob = json.loads(registry.manifests["v1"])["layers"][0]["digest"]
    rest = threading.Event()
    registry.held[blob] = (3 << 20, rest)
    process = modal.start("image", "pull", f"{registry.address}/team/app:v1")
    try:
        for _ in range(300):
            unpacked = list((modal.store / "content").glob(f"work/*/upper/{name}"))
            if unpacked:
                break
            time.sleep(0.1)
    finally:
        rest.set()
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, output + errors
    assert unpacked


def test_a_layer_that_is_in_an_image_twice_comes_once(modal: Modal, registry: Registry) -> None:
    layer = archive(("etc", None), ("etc/large", os.urandom(1 << 20)))
    registry.put("v1", layer, lowest(registry), layer)
    blob = json.loads(registry.manifests["v1"])["layers"][0]["digest"]
    assert build(modal, repr(f"{registry.address}/team/app:v1")).stdout.startswith("im-")
    assert registry.requests.count(f"/v2/team/app/blobs/{blob}") == 1


def test_a_layer_that_comes_anew_is_unpacked_anew(modal: Modal, registry: Registry) -> None:
    layer = archive(("etc", None), ("etc/large", os.urandom(3 << 20)))
    registry.put("v1", layer)
    registry.knows_parts = False
    blob = json.loads(registry.manifests["v1"])["layers"][0]["digest"]
    packed = registry.blobs[blob]
    half, end = 2 << 20, len(packed) - 1
    registry.next = {
        blob: [
            (200, packed[:half], {"Content_Length": str(len(packed))}),
            # Of another file, which is found out at its end.
            (206, bytes(len(packed) - half), {"Content_Range": f"bytes {half}-{end}/{len(packed)}"}),
        ]
    }
    assert build(modal, repr(f"{registry.address}/team/app:v1")).stdout.startswith("im-")
    assert registry.requests.count(f"/v2/team/app/blobs/{blob}") == 3


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


def zstd_frame(data: bytes) -> bytes:
    """A frame whose blocks are as they are."""
    parts = [data[begin : begin + 65536] for begin in range(0, len(data), 65536)]
    blocks = [
        (len(part) << 3 | (number == len(parts) - 1)).to_bytes(3, "little") + part for number, part in enumerate(parts)
    ]
    return b"\x28\xb5\x2f\xfd\x00\x58" + b"".join(blocks)


@pytest.mark.parametrize(("kind", "pack"), [("gzip", gzip.compress), ("zstd", zstd_frame)])
def test_archives_of_several_parts(modal: Modal, registry: Registry, kind: str, pack) -> None:
    layer = archive(("etc", None), ("etc/one", os.urandom(200_000)), ("etc/two", kind.encode()))
    whole = registry.put("v1", layer)
    reference = f"{registry.address}/team/app"
    manifest = json.loads(registry.manifests["v1"])
    several = pack(layer[:100_000]) + pack(layer[100_000:])
    manifest["layers"] = [registry.blob(several, f"application/vnd.oci.image.layer.v1.tar+{kind}")]
    registry.put_manifest("parts", manifest)
    assert build(modal, repr(f"{reference}:parts")).stdout == build(modal, repr(f"{reference}@{whole}")).stdout
    other = archive(("etc", None), ("etc/one", os.urandom(200_000)))
    registry.put("v2", other)
    manifest = json.loads(registry.manifests["v2"])
    manifest["layers"] = [registry.blob(pack(other)[:-100], f"application/vnd.oci.image.layer.v1.tar+{kind}")]
    registry.put_manifest("cut", manifest)
    assert "cannot be unpacked" in refused(modal, repr(f"{reference}:cut"))


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
