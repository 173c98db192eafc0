"""What images take up, and giving it back."""

from __future__ import annotations

import json
import subprocess

from conftest import Modal, command
from test_interruption import wait_for

APP = """
import modal
base = modal.Image.debian_slim(python_version="3.11")
small = base.uv_pip_install("humanize==4.12.3").env({"COLOUR": "green"})
large = base.run_commands("head -c 5000000 /dev/urandom > /opt/noise")
app = modal.App("collection")

@app.function(image=small)
def size(n: int):
    import humanize
    return humanize.naturalsize(n)

@app.function(image=large)
def sleep(seconds: float):
    import time
    print("begun", flush=True)
    time.sleep(seconds)
    return len(open("/opt/noise", "rb").read())
"""


def listed(modal: Modal, *words: str):
    return json.loads(modal("image", *words, "--json").stdout)


def test_the_life_of_images(fresh_store: Modal) -> None:
    modal = fresh_store
    modal.write("app.py", APP)
    assert modal("run", "-q", "app.py::sleep", "--seconds", "0").code == 0
    images = {image["title"].split("(")[0]: image["id"] for image in listed(modal, "list")}
    small, large = images["env"], images["run_commands"]

    inspected = listed(modal, "inspect", small)
    assert inspected["environment"]["COLOUR"] == "green"
    assert [layer["title"].split("(")[0] for layer in inspected["layers"]] == ["debian_slim", "uv_pip_install"]
    assert [layer["title"] for layer in listed(modal, "history", large)][1].startswith("run_commands(")
    assert 'uv_pip_install("humanize==4.12.3")' in modal("image", "inspect", small[:9]).stdout

    usage = listed(modal, "du")
    sizes = {image["id"]: image["bytes"] for image in listed(modal, "list")}
    assert {image["id"]: image["bytes"] for image in usage["images"]} == sizes
    own = {image["id"]: image["unique"] for image in usage["images"]}
    assert own[large] > 5_000_000 > own[small] > 0
    on_disk = subprocess.run(["du", "-sB1", modal.store], capture_output=True, text=True, check=True).stdout.split()[0]
    assert abs(usage["total"] - int(on_disk)) < 4 << 20

    nobody = modal("image", "prune", "--all", check=False)
    assert nobody.code == 1 and "--yes" in nobody.stderr
    assert small in modal("image", "prune", "--all", "--dry-run").stdout
    assert len(listed(modal, "list")) == 2

    pruned = modal("image", "prune", large[:12], "--yes")
    assert pruned.stdout == f"{large}\n"
    assert [image["id"] for image in listed(modal, "list")] == [small]
    assert modal("shell", small, "--no-pty", "-c", "python -c 'import humanize'").code == 0
    gone = modal("shell", large, "--no-pty", "-c", "true", check=False)
    assert gone.code == 1 and large in gone.stderr

    # A random file cannot be the same again: the step has run anew, the base has not.
    again = modal.events("app.py::sleep", "--seconds", "0")
    assert len(again.of("step_started")) == 1
    assert modal("run", "-w", "size.txt", "app.py::size", "--n", "1000").code == 0
    assert (modal.directory / "size.txt").read_text() == "1.0 kB"


def test_nothing_that_a_running_function_uses_is_taken(fresh_store: Modal) -> None:
    modal = fresh_store
    modal.write("app.py", APP)
    process = modal.start("run", "--progress", "json", "app.py::sleep", "--seconds", "4")
    wait_for(process, "container_started")
    pruned = modal("image", "prune", "--all", "--yes")
    assert "in use" in pruned.stderr and pruned.stdout == ""
    process.communicate(timeout=60)
    assert process.returncode == 0
    modal("image", "prune", "--all", "--yes")
    usage = listed(modal, "du")
    assert (usage["images"], usage["layers"], usage["local_files"], usage["packages"]) == ([], 0, 0, 0)
    assert usage["total"] < 9 << 20


def test_pruning_beside_many_runs_fails_none_of_them(fresh_store: Modal) -> None:
    modal = fresh_store
    modal.write("app.py", APP)
    for _ in range(3):
        running = [modal.start("run", "-q", "-w", f"{n}.txt", "app.py::size", "--n", str(n)) for n in range(6)]
        while any(process.poll() is None for process in running):
            subprocess.run(
                [command(), "image", "prune", "--all", "--yes"],
                env=modal.environment,
                check=True,
                capture_output=True,
            )
        outcomes = [process.communicate() for process in running]
        assert [process.returncode for process in running] == [0] * 6, outcomes
