"""GPUs, by a made-up CDI specification over ordinary files and device nodes."""

from __future__ import annotations

import glob
import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import Modal, UserModal

APP = """
import ctypes
import os
import subprocess

import modal

image = modal.Image.debian_slim(python_version="3.11")
app = modal.App("gpus", image=image)


def look():
    name = os.environ.get("FAKE_GPU")
    found = {"name": name, "nodes": sorted(name for name in os.listdir("/dev") if name.startswith("nvidia"))}
    if name:
        with open("/dev/nvidiactl", "rb") as node:
            found["read"] = node.read(4).hex()
        try:
            os.chmod("/dev/nvidiactl", 0o600)
        except OSError as error:
            found["chmod"] = error.strerror
        ctypes.CDLL("libq.so.1")
        with open("/proc/self/maps") as maps:
            found["loaded"] = sorted({line.split()[5] for line in maps if "libq" in line})
        listed = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True).stdout
        found["cached"] = [line.split(" => ")[1] for line in listed.splitlines() if "libq.so.1" in line]
        found["others"] = "libc.so.6" in listed
        found["link"] = os.readlink("/opt/driver/libq.so")
        subprocess.run(["/sbin/ldconfig"], check=True)
    return found


@app.function(gpu="A100")
def one():
    return look()


@app.function(gpu=["H100", "A100:2"])
def two():
    return look()


@app.function()
def none():
    return look()


@app.local_entrypoint()
def main():
    import json

    print(json.dumps([one.remote(), two.remote(), none.remote()]))
"""


def specification(directory: Path) -> Path:
    """A CDI specification of two GPUs; the directory that it is in."""
    places = [*glob.glob("/usr/lib/*/libz.so.1"), "/usr/lib64/libz.so.1", "/lib64/libz.so.1"]
    library = next((place for place in places if Path(place).exists()), None)
    if library is None:
        pytest.skip("this machine has no libz to make a library of")
    named = Path(library).read_bytes().replace(b"libz.so.1\0", b"libq.so.1\0")
    (directory / "libq.so.9.9").write_bytes(named)
    shutil.copy("/bin/true", directory / "fake-smi")
    hook = "/usr/bin/nvidia-cdi-hook"
    gpu = {"annotations": {"model": "NVIDIA A100-SXM4-40GB"}}
    spec = {
        "cdiVersion": "0.6.0",
        "kind": "nvidia.com/gpu",
        "devices": [
            {
                **gpu,
                "name": str(number),
                "containerEdits": {
                    "env": [f"FAKE_GPU={number}"],
                    "deviceNodes": [{"path": f"/dev/nvidia{number}", "hostPath": "/dev/null"}],
                },
            }
            for number in range(2)
        ],
        "containerEdits": {
            "deviceNodes": [{"path": "/dev/nvidiactl", "hostPath": "/dev/zero"}],
            "mounts": [
                {"hostPath": str(directory / name), "containerPath": f"/opt/driver/{name}", "options": ["ro", "bind"]}
                for name in ("libq.so.9.9", "fake-smi")
            ],
            "hooks": [
                {"hookName": "createContainer", "path": hook, "args": [hook, *arguments]}
                for arguments in (
                    ["create-symlinks", "--link", "libq.so.1::/opt/driver/libq.so"],
                    ["update-ldcache", "--folder", "/opt/driver"],
                    ["unheard-of"],
                )
            ],
        },
    }
    specs = directory / "cdi"
    specs.mkdir()
    (specs / "fake.json").write_text(json.dumps(spec))
    return specs


def test_functions_have_the_gpus_that_they_ask_for(modal: Modal):
    specs = specification(modal.directory)
    modal.write("app.py", APP)
    result = modal.events("app.py", MODAL_CDI_DIRS=str(specs))
    one, two, none = json.loads(result.stdout)
    expected = {
        "name": "0",
        "nodes": ["nvidia0", "nvidiactl"],
        "read": "00000000",
        "chmod": "Read-only file system",
        "loaded": ["/opt/driver/libq.so.9.9"],
        "cached": ["/opt/driver/libq.so.1"],
        "others": True,
        "link": "libq.so.1",
    }
    assert one == expected
    # The container of the other function is idle, and has its GPU still.
    assert {**two, "name": None} == {**expected, "name": None, "nodes": ["nvidia0", "nvidia1", "nvidiactl"]}
    assert none == {"name": None, "nodes": []}
    messages = [event["message"] for event in result.of("warning")]
    assert sum("`nvidia-cdi-hook unheard-of`" in message for message in messages) == 1, messages


STEPS = """
import modal

image = modal.Image.debian_slim(python_version="3.11").run_commands(
    "test -c /dev/nvidia0 && echo $FAKE_GPU > /found && /opt/driver/fake-smi",
    "ldconfig -p | grep -q 'libq.so.1 ' && ldconfig && test -e /opt/driver/libq.so",
    gpu="any",
)


def compiled():
    import ctypes

    ctypes.CDLL("libq.so.1")
    open("/compiled", "w").close()


image = image.run_function(compiled, gpu=["H100", "A100"])
image = image.dockerfile_commands("WORKDIR /of-lines", "RUN test -c /dev/nvidia0 && touch seen", gpu="A100")
app = modal.App("gpu-steps", image=image)


@app.function()
def left():
    import os

    names = [name for name in os.listdir("/opt") if name == "driver"]
    return os.path.exists("/dev/nvidia0"), names, open("/found").read().strip() in "01", os.path.exists("/compiled"), os.listdir("/of-lines")


@app.local_entrypoint()
def main():
    print(left.remote())
"""


def test_steps_have_gpus_and_the_image_nothing_of_them(modal: Modal):
    specs = specification(modal.directory)
    modal.write("app.py", STEPS)
    built = modal.events("app.py", MODAL_CDI_DIRS=str(specs))
    assert built.stdout == "(False, [], True, True, ['seen'])\n"
    # What is cached needs no GPU.
    again = modal.events("app.py", MODAL_CDI_DIRS="/nonexistent")
    assert (again.stdout, again.of("step_started")) == (built.stdout, [])


def test_nothing_is_built_if_a_step_lacks_its_gpu(modal: Modal):
    specs = specification(modal.directory)
    modal.write(
        "app.py",
        f"""
        import modal

        base = modal.Image.debian_slim(python_version="3.11").run_commands("echo {os.urandom(4).hex()}")
        image = base.run_commands("true", gpu="any").pip_install("six", gpu="A100:3").run_commands("true", gpu="H100")
        app = modal.App("lacking")


        @app.function(image=image)
        def f():
            print("ran")
        """,
    )
    environment = {"MODAL_CDI_DIRS": str(specs)}
    result = modal.events("app.py", check=False, **environment)
    assert "2 steps ask for GPUs that this machine does not have:" in result.stderr
    assert 'pip_install("six"' in result.stderr and "`MODAL_GPU=ignore`" in result.stderr, result.stderr
    assert result.of("step_queued") == []
    assert modal("run", "-q", "app.py", MODAL_GPU="ignore", **environment).stdout == "ran\n"


def test_containers_share_gpus_and_the_least_used_come_first(modal: Modal):
    specs = specification(modal.directory)
    modal.write(
        "app.py",
        """
        import os
        import time

        import modal

        app = modal.App("shared", image=modal.Image.debian_slim(python_version="3.11"))


        @app.function(gpu="A100", max_containers=4)
        def which(_):
            time.sleep(3)
            return os.environ["FAKE_GPU"], os.environ["MODAL_TASK_ID"]


        @app.local_entrypoint()
        def main():
            print(*sorted(gpu for gpu, task in set(which.map(range(8)))))
        """,
    )
    assert modal("run", "-q", "app.py", MODAL_CDI_DIRS=str(specs)).stdout == "0 0 1 1\n"


def test_programs_that_run_at_once_have_different_gpus(modal: Modal):
    modal.environment["MODAL_CDI_DIRS"] = str(specification(modal.directory))
    modal.write(
        "app.py",
        """
        import os
        import time

        import modal

        app = modal.App("at-once", image=modal.Image.debian_slim(python_version="3.11"))


        @app.function(gpu="A100")
        def which(seconds):
            print(os.environ["FAKE_GPU"], flush=True)
            time.sleep(seconds)


        @app.local_entrypoint()
        def main(seconds: int = 0):
            which.remote(seconds)
        """,
    )
    running = modal.start("run", "-q", "app.py", "--seconds", "600")
    try:
        first = running.stdout.readline().strip()
        assert first in ("0", "1")
        for _ in range(2):
            assert {first, modal("run", "-q", "app.py").stdout.strip()} == {"0", "1"}
    finally:
        # Whoever is killed has no GPU any more.
        running.kill()
        running.communicate()
    assert modal("run", "-q", "app.py").stdout == "0\n"


REFUSED = """
import modal

app = modal.App("refused", image=modal.Image.debian_slim(python_version="3.11"))


@app.function(gpu={gpu!r})
def f():
    import os

    return os.path.exists("/dev/nvidia0")


@app.local_entrypoint()
def main():
    print(f.remote())
"""


@pytest.mark.parametrize(
    ("gpu", "setting", "words"),
    [
        (
            "H100:2",
            "",
            ["function `f`: this machine does not have", "it has 2 NVIDIA A100-SXM4-40GB", "MODAL_GPU=any"],
        ),
        ("A100:3", "", ["function `f`: this machine does not have", "it has 2 NVIDIA A100-SXM4-40GB"]),
        ("a10000", "", ["`A10000` is no known type of GPU", "did you mean `A100`?"]),
        ("A100", "no", ["`MODAL_GPU` is `no`: set it to `any` or `ignore`"]),
    ],
)
def test_gpus_that_are_not_there_are_named(modal: Modal, gpu, setting, words):
    specs = specification(modal.directory)
    modal.write("app.py", REFUSED.format(gpu=gpu))
    result = modal("run", "app.py", check=False, MODAL_CDI_DIRS=str(specs), MODAL_GPU=setting)
    assert result.code == 1
    assert all(word in result.stderr for word in words), result.stderr
    assert "Traceback" not in result.stderr


def test_a_machine_without_gpus_says_so_and_can_do_without(modal: Modal):
    if Path("/proc/driver/nvidia/gpus").exists():
        pytest.skip("this machine has GPUs")
    modal.write("app.py", REFUSED.format(gpu="T4"))
    result = modal("run", "app.py", check=False, MODAL_CDI_DIRS="/nonexistent")
    assert 'this machine has no GPU for `gpu="T4"`' in result.stderr
    assert "`/nonexistent`" in result.stderr
    assert "`MODAL_GPU=ignore` runs everything without GPUs" in result.stderr
    result = modal.events("app.py", MODAL_CDI_DIRS="/nonexistent", MODAL_GPU="ignore")
    assert result.stdout == "False\n"
    assert [event["message"] for event in result.of("warning")] == [
        "everything runs without GPUs, because `MODAL_GPU` is `ignore`"
    ]


def test_what_a_specification_names_and_is_gone_is_said(modal: Modal):
    specs = specification(modal.directory)
    (modal.directory / "libq.so.9.9").unlink()
    modal.write("app.py", REFUSED.format(gpu="any"))
    result = modal("run", "app.py", check=False, MODAL_CDI_DIRS=str(specs))
    assert "fake.json` names `" in result.stderr
    assert "which is not there" in result.stderr
    assert "nvidia-ctk cdi generate" in result.stderr


def test_a_shell_has_the_gpus_of_its_function_or_its_own(modal: Modal):
    specs = specification(modal.directory)
    modal.write("app.py", REFUSED.format(gpu="A100"))
    result = modal("shell", "app.py::f", "-c", "ls /dev", MODAL_CDI_DIRS=str(specs))
    assert "nvidia0" in result.stdout.split()
    image = modal.events("app.py", MODAL_CDI_DIRS=str(specs), MODAL_FORCE_BUILD="1").of("image_built")[0]["image"]
    result = modal("shell", image, "--gpu", "a100:2", "-c", "ls /dev", MODAL_CDI_DIRS=str(specs))
    assert {"nvidia0", "nvidia1"} <= set(result.stdout.split())
    result = modal("shell", image, "--gpu", "H100", "-c", "true", MODAL_CDI_DIRS=str(specs), check=False)
    assert "this machine does not have" in result.stderr, result.stderr
    result = modal("shell", image, "--gpu", "H100:0", check=False)
    assert "`H100:0` names no GPU" in result.stderr, result.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can create users")
def test_ordinary_users_have_gpus_as_well(user: UserModal):
    user.directory.chmod(0o755)
    specs = specification(user.directory)
    user.write("app.py", APP)
    one, two, none = json.loads(user("run", "-q", "app.py", MODAL_CDI_DIRS=str(specs)).stdout)
    assert (one["read"], one["chmod"], one["cached"]) == (
        "00000000",
        "Read-only file system",
        ["/opt/driver/libq.so.1"],
    )
    assert (two["nodes"], none["nodes"]) == (["nvidia0", "nvidia1", "nvidiactl"], [])
