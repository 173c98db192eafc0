"""Images that leave the store: what other programs make of them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Modal, command
from played_proxy import Proxy, proxying
from played_registry import archive, serving

BUILD = """
import modal

image = modal.Image.debian_slim(python_version="3.11").run_commands(
    "mkdir -p /data/old/deep /data/kept; echo x > /data/old/deep/x; echo {tag} > /data/y; chmod 2750 /data; chown 7:8 /data/y",
    "ln /data/y /data/z; mkfifo /data/p; ln -s /etc/one /data/l; cp /bin/true /data/suid; chmod 4711 /data/suid",
    "touch -d '2001-02-03 04:05:06.5' /data/suid; truncate -s 3M /data/sparse; : > '/data/odd name\\n'",
    "python3 -c \\"import os; os.setxattr('/data/y', 'user.q', b'1')\\"",
).run_commands(
    "rm -r /data/old /data/l; mkdir /data/old; echo new > /data/old/n; mkdir -p /data/{long}; : > /data.txt; echo > /data/a.b; ln /data/a.b /data/a",
).env({{"A": "b"}}).workdir("/data").entrypoint(["/bin/sh", "-c"]).cmd(["cat y; echo $A"])
with modal.App("t").run():
    image.build().publish("{tag}:v1")
    print(image.object_id)
"""
LONG = "/".join(["long" * 10] * 5)
FORM = "%P %y %m %U %G %s %n %T@ %l\\n"


@pytest.fixture
def name(modal: Modal) -> str:
    """A published image."""
    tag = os.urandom(4).hex()
    modal.write("app.py", BUILD.format(tag=tag, long=LONG))
    modal.python("app.py")
    return f"{tag}:v1"


def peer(*command: str | Path, **options) -> str:
    """What another program prints."""
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"`{command[0]}` is not installed; scripts/test installs it as root")
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **options).stdout


def listed(root: Path) -> list[str]:
    return sorted(peer("find", ".", "-printf", FORM, cwd=root).splitlines())


def test_what_comes_out_is_what_other_programs_take(modal: Modal, name: str, tmp_path: Path) -> None:
    layout, bundle, root = tmp_path / "layout", tmp_path / "bundle", tmp_path / "root"
    options = ("--keep-times", "--compression", "gzip")
    modal("image", "export", name, "--format", "oci-dir", "-o", str(layout), *options)
    shown = json.loads(peer("skopeo", "inspect", "--config", f"oci:{layout}:{name}"))
    assert shown["config"] == {
        "Env": ["A=b", "LANG=C.UTF-8", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": ["cat y; echo $A"],
        "WorkingDir": "/data",
    }
    assert [step["created_by"].split("(")[0] for step in shown["history"]] == [
        "debian_slim",
        "run_commands",
        "run_commands",
    ]
    peer("umoci", "unpack", "--image", f"{layout}:{name}", bundle)
    files = {line.split(" ")[0]: line for line in listed(bundle / "rootfs")}
    assert files["data/suid"].split(" ")[1:] == [
        "f",
        "4711",
        "0",
        "0",
        files["data/suid"].split(" ")[5],
        "1",
        "981173106.5000000000",
        "",
    ]
    assert files["data/y"].split(" ")[1:7] == ["f", "644", "7", "8", "9", "2"]
    assert "data/old/deep" not in files and "data/l" not in files and "data/old/n" in files and f"data/{LONG}" in files
    assert os.getxattr(bundle / "rootfs/data/z", "user.q") == b"1"
    # Without layers it is the same.
    modal("image", "export", name, "--format", "rootfs-tar", "-o", str(tmp_path / "root.tar"), "--keep-times")
    root.mkdir()
    peer("tar", "-x", "-C", root, "-f", tmp_path / "root.tar", "--xattrs", "--xattrs-include=user.*")
    assert listed(root) == listed(bundle / "rootfs")
    assert os.getxattr(root / "data/z", "user.q") == b"1"


@pytest.mark.parametrize(("kind", "transport"), [("oci-archive", "oci-archive"), ("docker-archive", "docker-archive")])
def test_archives_are_the_same_every_time(modal: Modal, name: str, tmp_path: Path, kind: str, transport: str) -> None:
    paths = [tmp_path / "one.tar", tmp_path / "two.tar"]
    for path in paths:
        modal("image", "export", name, "--format", kind, "-o", str(path))
    assert len({hashlib.sha256(path.read_bytes()).digest() for path in paths}) == 1
    shown = json.loads(peer("skopeo", "inspect", f"{transport}:{paths[0]}"))
    assert len(shown["Layers"]) == 3
    taken = modal("image", "export", name, "--format", kind, "-o", str(paths[0]), check=False)
    assert taken.code == 1 and "--force" in taken.stderr
    modal("image", "export", name, "--format", kind, "-o", str(paths[0]), "--force")
    # It was built again: the same contents, at another time.
    with tarfile.open(paths[0]) as archive:
        assert {member.mtime for member in archive.getmembers()} == {946684800}


def test_an_export_that_is_interrupted_ends_in_the_middle_of_a_layer(modal: Modal) -> None:
    length = 16 << 20
    with serving() as registry:
        registry.put("v1", archive(("large", os.urandom(length))))
        image = modal("image", "pull", f"{registry.address}/team/app:v1").stdout.strip()
    process = modal.start("image", "export", image, "--format", "oci-archive", "-o", "-")
    output = process.stdout.buffer
    output.read(4096)
    # It waits for whoever reads, and has a moment to hear of the interrupt.
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(1)
    assert len(output.read()) < length
    assert process.wait(timeout=30) == 130


def test_what_cannot_be_exported_is_said(modal: Modal, tmp_path: Path) -> None:
    def refused(*arguments: str, code: int = 1) -> str:
        result = modal("image", "export", *arguments, check=False)
        assert result.code == code, result
        return result.stderr

    unknown = refused("nobody-has-this", "--format", "oci-archive", "-o", "x.tar")
    assert "no image has the name `nobody-has-this:latest`" in unknown and "modal image names list" in unknown
    assert "standard output" in refused("nobody-has-this", "--format", "oci-dir", "-o", "-", code=2)
    modal.write(
        "app.py",
        """
        import modal

        image = modal.Image.debian_slim(python_version="3.11").run_commands("mkdir /d; : > /d/.wh.x")
        with modal.App("t").run():
            print(image.build().object_id)
        """,
    )
    image = modal.python("app.py").stdout.strip()
    # A disk that is full is not the store's.
    root = modal.run(
        ["sh", "-c", f"{command()} image export {image} --format rootfs-tar -o - > /dev/full"], check=False
    )
    assert root.code == 1 and "what leaves the store" in root.stderr and "disk of the store" not in root.stderr
    assert "`/d/.wh.x` cannot be in an image" in refused(image, "--format", "oci-archive", "-o", "x.tar")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    assert "already" in refused(image, "--format", "oci-dir", "-o", "full")
    assert not (tmp_path / "x.tar").exists()
    os.mkfifo(tmp_path / "pipe")
    for more in ((), ("--force",)):
        said = refused(image, "--format", "rootfs-tar", "-o", "pipe", *more)
        assert "`pipe` is a named pipe" in said and "--output -" in said
    for kind in ("rootfs-tar", "oci-dir"):
        said = refused(image, "--format", kind, "-o", "missing/out")
        assert "`missing/out` cannot be written: there is no directory `missing`" in said


@pytest.fixture
def proxy(real_registry: str) -> Iterator[Proxy]:
    with proxying(real_registry) as proxy:
        yield proxy


PULL = """
import modal

image = modal.Image.from_registry({reference!r})
# The entrypoint is a shell that executes no arguments.
app = modal.App("t", image=image.entrypoint([]))

@app.function(serialized=True)
def read():
    import os
    return open("/data/y").read().strip(), os.environ["A"], os.stat("/data/sparse").st_blocks, len(os.listdir("/data"))

with app.run():
    print(image.build().object_id, read.remote())
"""


def test_an_image_comes_back_as_it_went(modal: Modal, fresh_store: Modal, name: str, proxy: Proxy) -> None:
    repository = f"{proxy.address}/team/{name.split(':', maxsplit=1)[0]}"
    pushed = modal("image", "push", name, f"{repository}:v1")
    exact = pushed.stdout.strip()
    assert exact.startswith(f"{repository}@sha256:") and "sent 3 of 3 layers" in pushed.stderr
    # The same again: nothing is sent but the manifest.
    proxy.sent.clear()
    again = modal("image", "push", name, f"{repository}:v2")
    assert again.stdout == pushed.stdout and "sent 0 of 3 layers" in again.stderr
    assert "PATCH" not in proxy.sent and len(proxy.sent["PUT"]) == 1
    # To another repository, whose registry has it all.
    other = modal("image", "push", name, f"{proxy.address}/other/{name.split(':', maxsplit=1)[0]}:v1")
    assert "sent 0 of 3 layers" in other.stderr
    assert any("mount=sha256" in request and "from=team" in request for request in proxy.requests)
    # Into a store that has nothing.
    fresh_store.write("pull.py", PULL.format(reference=exact))
    first = modal.python("app.py").stdout.split()[0]
    found, *values = fresh_store.python("pull.py").stdout.split(maxsplit=1)
    assert found == first
    assert values[0].startswith(f"('{name.split(':', maxsplit=1)[0]}', 'b', ")
    # What came from a registry goes out as it came, as long as it is here.
    behind = repository.replace(proxy.address, proxy.behind)
    layers = json.loads(peer("skopeo", "inspect", "--tls-verify=false", f"docker://{behind}:v1"))["Layers"]
    fresh_store("image", "push", found, f"{repository}:v3")
    back = json.loads(peer("skopeo", "inspect", "--tls-verify=false", f"docker://{behind}:v3"))
    assert back["Layers"] == layers
    # Unless it is to be packed in another way.
    asked = fresh_store("image", "push", found, f"{repository}:v4", "--compression", "gzip")
    assert "3 layers of a registry have another digest than there" in asked.stderr
    packed = json.loads(peer("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{behind}:v4"))
    assert {layer["mediaType"].rsplit("+", 1)[1] for layer in packed["layers"]} == {"gzip"}
    for kept in (fresh_store.store / "downloads").iterdir():
        kept.unlink()
    said = fresh_store(
        "image", "export", found, "--format", "oci-archive", "-o", "x.tar", "--compression", "gzip"
    ).stderr
    assert "3 layers of a registry have another digest than there" in said
    raw = json.loads(peer("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{behind}:v3"))
    assert raw["annotations"]["org.opencontainers.image.base.digest"] == exact.split("@")[1]


@pytest.mark.parametrize("below", ["", "below"])
def test_what_a_name_comes_from_is_said(modal: Modal, tmp_path: Path, below: str) -> None:
    git = ("git", "-c", "user.name=A", "-c", "user.email=a@example.com")
    modal.write(f"{below}/app.py".lstrip("/"), BUILD.format(tag="origin", long="long"))
    modal.write("Dockerfile", "FROM scratch\nLABEL a=b\n")
    if below:
        for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "first")):
            peer(*git, *words, cwd=tmp_path)
    image = modal.python(f"{below}/app.py".lstrip("/")).stdout.strip()

    def said(name: str, **environment: str) -> dict[str, str]:
        with tempfile.TemporaryDirectory() as directory:
            modal("image", "export", name, "--format", "oci-dir", "-o", f"{directory}/layout", **environment)
            annotations = json.loads(peer("skopeo", "inspect", "--raw", f"oci:{directory}/layout"))["annotations"]
        assert annotations.pop("lamina.image").startswith("im-") and annotations.pop("lamina.version")
        return annotations

    assert said(image) == {}
    commit = peer("git", "rev-parse", "--short=12", "HEAD", cwd=tmp_path).strip() if below else None
    revision = {"org.opencontainers.image.revision": commit} if commit else {}
    assert said("origin:v1") == {"lamina.program": f"{below}/app.py".lstrip("/"), **revision}
    modal("image", "build", ".", "-t", "origin:docker")
    assert said("origin:docker") == {"lamina.program": "Dockerfile", **revision}
    # The program of `modal run` is not the command.
    modal.write(
        "run.py",
        f"import modal\napp = modal.App()\n@app.local_entrypoint()\ndef main():\n    modal.Image.from_id({image!r}).build().publish('origin:run')\n",
    )
    modal("run", str(tmp_path / "run.py"))
    assert said("origin:run") == {"lamina.program": "run.py", **revision}


def test_what_breaks_on_the_way_goes_on(modal: Modal, name: str, proxy: Proxy) -> None:
    reference = f"{proxy.address}/broken/{name.split(':', maxsplit=1)[0]}:v1"
    proxy.wants_token = True
    proxy.faults = {"PATCH": ["cut", 429, 503, 401], "PUT": [500], "POST": ["gone"], "HEAD": [502]}
    modal("image", "push", name, reference)
    assert proxy.scopes[0] == [f"repository:broken/{name.split(':', maxsplit=1)[0]}:pull,push"]
    assert any(request.startswith("GET") and "uploads" in request for request in proxy.requests)
    config = json.loads(
        peer("skopeo", "inspect", "--tls-verify=false", f"docker://{reference.replace(proxy.address, proxy.behind)}")
    )
    assert len(config["Layers"]) == 3


def test_a_pull_needs_no_program(modal: Modal, name: str, real_registry: str) -> None:
    tag = name.split(":", maxsplit=1)[0]
    reference = f"{real_registry}/pulled/{tag}:v1"
    modal("image", "push", name, reference)
    pulled = modal("image", "pull", reference, "--name", f"{tag}:back").stdout.strip()
    again = modal("image", "pull", reference)
    assert again.stdout.strip() == pulled and "(checked again)" in again.stderr
    assert f"asking {real_registry}" in again.stderr and "all of its layers are here" in again.stderr
    names = json.loads(modal("image", "names", "list", "--prefix", tag, "--json").stdout)
    assert {each["tag"]: each["image"] for each in names} == {"v1": pulled, "back": pulled}
    wrong = modal("image", "pull", reference, "--name", "im-x", check=False)
    assert wrong.code == 1 and "cannot be the name of an image" in wrong.stderr
    missing = modal("image", "pull", reference.replace(":v1", ":v2"), check=False)
    assert missing.code == 1 and "has no image" in missing.stderr


def test_a_push_that_fails_publishes_nothing(modal: Modal, name: str, proxy: Proxy) -> None:
    reference = f"{proxy.address}/gone/{name.split(':', maxsplit=1)[0]}:v1"

    def refused(reference: str, **faults: list) -> str:
        proxy.faults = dict(faults)
        result = modal("image", "push", name, reference, check=False)
        assert result.code == 1, result
        return result.stderr

    said = refused(reference, PATCH=["gone"] * 100)
    assert f"the upload to `{reference}` failed" in said and "not published" in said and "push it again" in said
    assert "fetched" not in said and "_state" not in said
    assert not any("PUT" in request and "manifests" in request for request in proxy.requests)
    forbidden = refused(reference, PATCH=[403] * 100)
    assert reference in forbidden and f"`docker login {proxy.address}`" in forbidden and "secret=" not in forbidden
    assert f"`{reference}`: status 413" in refused(reference, PATCH=[413] * 100)
    assert "digest" in refused(f"{proxy.address}/gone/x@sha256:{'0' * 64}")
    usage = modal("image", "push", name, "UPPER", check=False)
    assert usage.code == 2 and "`UPPER` names no image" in usage.stderr
    # An upload that is forgotten is begun anew.
    proxy.faults = {"PATCH": [404]}
    modal("image", "push", name, reference)


@pytest.mark.skipif(os.geteuid() != 0, reason="podman has its storage and control groups as root only")
def test_podman_runs_what_comes_out(modal: Modal, name: str, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="podman-", ignore_cleanup_errors=True) as short:
        # Paths of more than fifty letters are too long for it.
        podman = ["podman", "--root", f"{tmp_path}/storage", "--runroot", short, "--storage-driver", "vfs"]
        podman += ["--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]
        for kind, compression in (("oci-archive", "zstd"), ("docker-archive", "none")):
            path = tmp_path / f"{kind}.tar"
            modal("image", "export", name, "--format", kind, "-o", str(path), "--compression", compression)
            loaded = peer(*podman, "load", "--quiet", "-i", path).split()[-1]
            # Its own limits are more than some machines allow.
            limits = ["--network", "host", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
            assert peer(*podman, "run", "--rm", *limits, loaded).split() == [name.split(":", maxsplit=1)[0], "b"]
            peer(*podman, "rmi", loaded)


@pytest.mark.skipif(os.geteuid() != 0, reason="a bundle of root's is run by root")
def test_crun_runs_what_comes_out(modal: Modal, name: str, tmp_path: Path) -> None:
    layout, bundle = tmp_path / "layout", tmp_path / "bundle"
    modal("image", "export", name, "--format", "oci-dir", "-o", str(layout), "--compression", "gzip")
    peer("umoci", "unpack", "--image", f"{layout}:{name}", bundle)
    settings = json.loads((bundle / "config.json").read_text())
    settings["process"]["terminal"] = False
    (bundle / "config.json").write_text(json.dumps(settings))
    # This version of it refuses machines that have both versions of control groups, unless the newer one is out of sight.
    hide = "if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi"
    run = f"{hide}; exec crun --root {tmp_path}/crun run --bundle {bundle} {tmp_path.name}"
    peer("crun", "--version")
    # It gives its standard input to the container, so that is to be nothing of the machine's.
    printed = peer("unshare", "--mount", "sh", "-c", run, input="")
    assert printed.split() == [name.split(":", maxsplit=1)[0], "b"]


def test_a_dockerfile_makes_the_same_files_and_settings(modal: Modal, name: str, tmp_path: Path) -> None:
    modal("image", "export", name, "--format", "dockerfile", "-o", "context")
    image = f"containers-storage:localhost/{name}"
    storage = tmp_path / "storage.conf"
    storage.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path}/graph"\nrunroot = "{tmp_path}/run"\n')
    environment = {**os.environ, "CONTAINERS_STORAGE_CONF": str(storage)}
    options = ("--isolation", "chroot", "--quiet", "-t", f"localhost/{name}")
    peer("buildah", "bud", *options, tmp_path / "context", env=environment)
    layout, bundle = tmp_path / "layout", tmp_path / "bundle"
    peer("skopeo", "copy", "--quiet", "--insecure-policy", image, f"oci:{layout}:v1", env=environment)
    peer("umoci", "unpack", "--image", f"{layout}:v1", bundle)
    modal("image", "export", name, "--format", "rootfs-tar", "-o", "root.tar")
    root = tmp_path / "root"
    root.mkdir()
    peer("tar", "-x", "-C", root, "-f", tmp_path / "root.tar")
    # Of the root itself buildah keeps its own time.
    assert listed(bundle / "rootfs")[1:] == listed(root)[1:]
    modal("image", "export", name, "--format", "oci-dir", "-o", "own")
    built = modal("image", "build", "context").stdout.strip()
    modal("image", "export", built, "--format", "oci-dir", "-o", "again")
    layouts = (tmp_path / "own", tmp_path / "again", layout)
    own, ours, theirs = (json.loads(peer("skopeo", "inspect", "--config", f"oci:{each}"))["config"] for each in layouts)
    # Buildah signs what it makes, and has an order of its own.
    theirs.pop("Labels", None)
    theirs["Env"].sort()
    assert own == ours == theirs


def test_what_containers_get_beside_their_image_is_said(modal: Modal) -> None:
    modal.write("data.txt", "x")
    modal.write(
        "app.py",
        """
        import modal

        image = modal.Image.debian_slim(python_version="3.11").env({"ATTACHED": "1"})
        with modal.App("t").run():
            print(image.add_local_file("data.txt", "/root/data.txt").build().object_id)
        """,
    )
    image = modal.python("app.py").stdout.strip()
    said = modal("image", "export", image, "--format", "rootfs-tar", "-o", "x.tar").stderr
    assert "local files are not in it" in said and "`/root/data.txt`" in said and "--with-functions" in said
