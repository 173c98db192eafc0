"""Images that leave the store with their functions: they serve calls where Lamina is not."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from conftest import Modal
from test_images_out import peer

SECRET = os.urandom(12).hex()
APP = """
import os
import modal

image = (
    modal.Image.debian_slim(python_version="3.11")
    .env({"LEVEL": "info"})
    .add_local_file("data.txt", "/root/data.txt")
)
app = modal.App("demo", image=image, secrets=[modal.Secret.from_dict({"TOKEN": os.environ.get("GIVEN", "")})])

@app.function(env={"MODE": "fast"})
def describe(rows: list, name: str = "x") -> dict:
    '''Describes rows.'''
    data = open("/root/data.txt").read()
    return {"rows": len(rows), "name": name, "of": [os.environ["LEVEL"], os.environ["MODE"], data], "at": os.getcwd()}

@app.function()
def numbers(n: int):
    yield from range(n)

@app.function()
async def fail(text: str):
    raise ValueError(text)

@app.function()
def outer():
    return describe.remote([])

@app.function()
def token() -> str:
    return os.environ["TOKEN"]

@app.cls()
class Model:
    size: int = modal.parameter(default=3)

    @modal.enter()
    def load(self):
        self.loaded = self.size * 2

    @modal.exit()
    def leave(self):
        print("left")

    @modal.method()
    def wait(self):
        import time
        print("waiting", flush=True)
        time.sleep(600)

    @modal.method()
    def predict(self, x: int) -> str:
        return f"{self.loaded + x}"
"""


def calling(layout: Path, root: Path):
    """A function that does in the files of an image what a runtime would, and answers the exit code and what was printed."""
    if os.geteuid() != 0:
        pytest.skip("chroot is for root")
    config = json.loads(peer("skopeo", "inspect", "--config", f"oci:{layout}"))["config"]

    def call(*words: str, user: int = 0, until: str = "", **environment: str) -> tuple[int, str, str]:
        """With `until`, `SIGTERM` is sent when standard error has said that."""
        environment = {**dict(variable.split("=", 1) for variable in config["Env"]), **environment}
        start = ["chroot", f"--userspec={user}:{user}", str(root)]
        start += ["/usr/bin/env", "-C", config["WorkingDir"] if user == 0 else "/", *config["Entrypoint"]]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen([*start, *words], env=environment, text=True, **pipes) as ran:
            if until:
                said = ran.stderr.readline()
                assert until in said
                ran.terminate()
            out, err = ran.communicate(timeout=60)
        return ran.returncode, out, err

    return call


def test_functions_are_called_without_lamina(modal: Modal, tmp_path: Path) -> None:
    modal.write("app.py", APP)
    modal.write("data.txt", "hello")
    git = ("git", "-c", "user.name=A", "-c", "user.email=a@example.com")
    for words in (("init", "-q"), ("add", "app.py"), ("commit", "-qm", "first")):
        peer(*git, *words, cwd=tmp_path)
    commit = peer("git", "rev-parse", "--short=12", "HEAD", cwd=tmp_path).strip()
    modal.write("app.py", f"{APP}\n# changed\n")
    layout = tmp_path / "layout"
    options = ("--format", "oci-dir", "-o", str(layout), "--compression", "none")
    modal("image", "export", "app.py", "--with-functions", *options, GIVEN=SECRET)
    assert all(SECRET.encode() not in blob.read_bytes() for blob in (layout / "blobs/sha256").iterdir())
    manifest = json.loads(peer("skopeo", "inspect", "--raw", f"oci:{layout}"))
    assert manifest["annotations"]["lamina.program"] == "app.py"
    assert manifest["annotations"]["org.opencontainers.image.revision"] == f"{commit}-dirty"
    root = tmp_path / "root"
    root.mkdir()
    options = ("--format", "rootfs-tar", "-o", str(tmp_path / "root.tar"))
    modal("image", "export", "app.py", "--with-functions", *options, GIVEN=SECRET)
    peer("tar", "-x", "-C", root, "-f", tmp_path / "root.tar")
    call = calling(layout, root)
    code, out, err = call("describe", "--rows", '[{"a": 1}]')
    assert (code, json.loads(out)) == (
        0,
        {"rows": 1, "name": "x", "of": ["info", "fast", "hello"], "at": "/root"},
    ), err
    assert call("numbers", "--n=3")[:2] == (0, "0\n1\n2\n")
    assert call("Model.predict", "--x=4", "--size=5")[:2] == (0, "14\n")
    assert call("token", TOKEN="given")[:2] == (0, "given\n")
    code, out, err = call("token")
    assert code == 1 and "`TOKEN`, which comes from a secret, is not set" in err and "KeyError" in err
    code, out, err = call("fail", "--text=oh")
    assert (code, out) == (1, "") and "raise ValueError(text)\nValueError: oh\n" in err and "_runner" not in err
    code, out, err = call("outer")
    assert code == 1 and "`describe` cannot be called from here" in err and "`.local()`" in err
    assert call("Model.wait", until="waiting", TOKEN="x") == (143, "", "left\n")
    code, out, err = call("describe", "--rows=[]", user=1000)
    assert (code, out) == (1, "") and "user 1000 may not enter `/root`" in err and "chmod a+x /root" in err
    code, out, _ = call("--help")
    assert code == 0 and all(f"\n  {name}\n" in out for name in ("describe", "numbers", "Model.predict"))
    code, out, _ = call("describe", "--help")
    assert code == 0 and out.startswith("Usage: describe [OPTIONS]\n\n  Describes rows.\n")
    for words, said in [
        ((), "which function to call is missing"),
        (("nothing",), "there is no function `nothing`"),
        (("describe", "--rows=5"), "`--rows` takes a JSON array, not `5`"),
        (("describe",), "`describe --help` lists the options"),
    ]:
        code, out, err = call(*words)
        assert (code, out) == (2, "") and said in err, (words, err)


@pytest.mark.skipif(os.geteuid() != 0, reason="podman has its storage and control groups as root only")
def test_podman_calls_functions(modal: Modal, tmp_path: Path, real_registry: str) -> None:
    modal.write("app.py", APP)
    modal.write("data.txt", "hello")
    archive = tmp_path / "app.tar"
    modal("image", "export", "app.py::numbers", "--with-functions", "--format", "docker-archive", "-o", str(archive))
    reference = f"{real_registry}/functions/{os.urandom(4).hex()}:v1"
    modal("image", "push", "app.py", reference, "--with-functions")
    with tempfile.TemporaryDirectory(prefix="podman-", ignore_cleanup_errors=True) as short:
        # Paths of more than fifty letters are too long for it.
        podman = ["podman", "--root", f"{tmp_path}/storage", "--runroot", short, "--storage-driver", "vfs"]
        podman += ["--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]
        loaded = peer(*podman, "load", "--quiet", "-i", archive).split()[-1]
        # Its own limits are more than some machines allow.
        limits = ["--network", "host", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
        # The only function need not be named.
        assert peer(*podman, "run", "--rm", *limits, loaded, "--n=2") == "0\n1\n"
        run = ("run", "--rm", "--quiet", "--tls-verify=false", *limits, reference)
        called = json.loads(peer(*podman, *run, "describe", "--rows", '[{"a": 1}]', "--name=y"))
        assert (called["rows"], called["name"], called["of"]) == (1, "y", ["info", "fast", "hello"])


def test_which_functions_are_meant_is_said(modal: Modal, tmp_path: Path) -> None:
    modal.write(
        "app.py",
        """
        import modal

        app = modal.App("demo")
        other = modal.Image.debian_slim(python_version="3.11")

        @app.function(image=other)
        def one():
            pass

        @app.function(image=other.env({"A": "b"}))
        def two():
            pass
        """,
    )
    modal.write("none.py", "import modal\napp = modal.App()\n")

    def refused(reference: str, *options: str) -> str:
        options = (*options, "--format", "oci-archive", "-o", "x.tar")
        result = modal("image", "export", reference, "--with-functions", *options, check=False)
        assert result.code == 1 and not (tmp_path / "x.tar").exists(), result
        return result.stderr

    said = refused("app.py")
    assert "have several images" in said and "`one`; `two`" in said
    assert "`none.py` has no functions" in refused("none.py")
    assert "the file `gone.py` does not exist" in refused("gone.py")
