"""`Image.run_function`: a function whose changes are the layer."""

from __future__ import annotations

import os
import signal
import time

from conftest import Modal

PROGRAM = """
import modal

TAG = "{tag}"

def text(number):
    return TAG * number

def make(number, *, name):
    import os, sys
    print("working in", os.getcwd(), os.environ["MODAL_IS_REMOTE"], os.environ["TOKEN"], file=sys.stderr)
    with open(f"/opt/{{name}}", "w") as file:
        file.write(text(number))
    return object()

async def later():
    open("/opt/later", "w").write("2")

def never():
    raise RuntimeError("no model")

def stop():
    raise KeyboardInterrupt

secret = modal.Secret.from_dict({{"TOKEN": "hunter2-hunter2"}})
image = modal.Image.debian_slim(python_version="3.11"){chain}
app = modal.App("t", image=image)

@app.function()
def main():
    import os
    print(sorted(os.listdir("/opt")), open("/opt/made").read(), os.environ.get("TOKEN"))
"""
MADE = '.run_function(make, args=(2,), kwargs={"name": "made"}, secrets=[secret])'


def write(modal: Modal, tag: str, chain: str = MADE, before: str = "", after: str = "") -> None:
    program = PROGRAM.format(tag=tag, chain=chain)
    modal.write("app.py", program.replace("TAG * number", before + "TAG * number") + after)


def test_what_a_function_writes_is_the_layer_and_its_source_is_not(modal: Modal) -> None:
    tag = os.urandom(4).hex()
    write(modal, tag, MADE + ".run_function(later)")
    first = modal.events("app.py")
    assert first.stdout == f"['later', 'made'] {tag}{tag} None\n"
    logged = [event["line"] for event in first.of("step_log")]
    assert "working in /root 1 ***" in logged
    image = first.of("image_built")[0]["image"]
    looked = modal("shell", image, "-c", "find / -xdev -newer /opt/made -type f; ls -A /root; ls -d /__modal || true")
    found = looked.stdout.split()
    assert "/opt/later" in found and "app.py" not in found and "/__modal" not in found
    assert not [path for path in found if path.endswith(".pyc")]


def test_it_runs_again_when_its_code_changes_and_not_when_the_rest_of_the_file_does(modal: Modal) -> None:
    tag = os.urandom(4).hex()
    write(modal, tag)
    assert len(modal.events("app.py").of("step_started")) == 1
    write(modal, tag, after="\ndef other():\n    pass\n")
    assert modal.events("app.py").of("step_started") == []
    write(modal, tag, before="'' + ")
    changed = modal.events("app.py")
    assert changed.of("step_started")[0]["miss"] == {"reason": "changed", "parts": ["helpers"]}
    write(modal, os.urandom(4).hex(), before="'' + ")
    assert modal.events("app.py").of("step_started")[0]["miss"] == {"reason": "changed", "parts": ["globals"]}


def test_a_function_that_fails_is_a_failed_build_with_its_own_frames(modal: Modal) -> None:
    write(modal, "x", ".run_function(never)")
    result = modal("run", "app.py", check=False)
    assert result.code == 1
    assert "the function `never` failed: RuntimeError: no model" in result.stderr
    assert 'File "/root/app.py"' in result.stderr and "_runner" not in result.stderr
    write(modal, "x", ".run_function(stop)")
    result = modal("run", "app.py", check=False)
    assert "the function `stop` failed: KeyboardInterrupt" in result.stderr and "_runner" not in result.stderr


def test_a_function_ends_when_its_time_is_up(modal: Modal) -> None:
    program = PROGRAM.format(tag="x", chain=".run_function(wait, timeout=1)")
    modal.write(
        "app.py", program.replace("def never", "def wait():\n    import time\n    time.sleep(600)\n\ndef never")
    )
    result = modal("run", "app.py", check=False)
    assert result.code == 1 and "longer than its `timeout` of 1 s" in result.stderr


def test_an_interruption_ends_the_function(modal: Modal) -> None:
    program = PROGRAM.format(tag="x", chain=".run_function(wait)")
    modal.write(
        "app.py",
        program.replace(
            "def never", 'def wait():\n    import time\n    print("asleep")\n    time.sleep(600)\n\ndef never'
        ),
    )
    process = modal.start("run", "--progress", "json", "app.py")
    assert process.stderr is not None
    for line in process.stderr:
        if "asleep" in line:
            break
    os.killpg(process.pid, signal.SIGINT)
    begin = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert time.monotonic() - begin < 60


def test_a_function_has_the_volumes_of_its_step(modal: Modal) -> None:
    name = "step-" + os.urandom(4).hex()
    program = PROGRAM.format(tag="x", chain=f'.run_function(fill, volumes={{"/data": volume}}){MADE}')
    fill = f"""
volume = modal.Volume.from_name("{name}", create_if_missing=True)

def fill():
    open("/data/kept", "w").write("kept")
    volume.commit()

def never"""
    modal.write("app.py", program.replace("\ndef never", fill).replace("print(sorted", "print(os.listdir('/'), sorted"))
    assert "'data'" not in modal("run", "app.py").stdout
    assert modal("volume", "get", name, "kept", "-").stdout == "kept"


def test_a_secret_that_a_function_writes_is_refused(modal: Modal) -> None:
    program = PROGRAM.format(tag="x", chain=".run_function(leak, secrets=[secret])")
    leak = 'def leak():\n    import os\n    open("/opt/leak", "w").write(os.environ["TOKEN"])\n\ndef never'
    modal.write("app.py", program.replace("def never", leak))
    result = modal("run", "app.py", check=False)
    assert result.code == 1 and "`/opt/leak`" in result.stderr and "hunter2" not in result.stderr
