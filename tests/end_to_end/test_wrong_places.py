"""Places that nothing can be written to or run in: what is wrong is said, and not something else."""

from __future__ import annotations

import json
import os
import sys

import pytest
from conftest import Modal, command

APP = """
import modal
image = modal.Image.debian_slim(python_version="3.11"){more}
app = modal.App("places", image=image)

@app.function()
def main():
    print("hello")
"""


def said(stderr: str) -> str:
    return " ".join(stderr.split())


@pytest.mark.parametrize("arguments", [["run", "app.py"], ["run", "--detach", "app.py"], ["shell", "app.py::main"]])
def test_a_working_directory_that_was_deleted_is_named(modal: Modal, arguments: list[str]) -> None:
    gone = modal.directory / "gone"
    gone.mkdir()
    script = 'cd "$1" && rmdir "$1" && shift && exec "$@"'
    result = modal.run(["sh", "-c", script, "sh", str(gone), command(), *arguments], check=False)
    assert result.code == 1
    assert f"the working directory `{gone}` cannot be found" in said(result.stderr)
    assert "it may have been deleted: change to one that exists" in said(result.stderr)


def test_a_working_directory_whose_name_is_no_text_is_named(modal: Modal) -> None:
    place = os.fsencode(modal.directory / "names") + b"\xff"
    os.mkdir(place)
    (modal.directory / "app.py").write_text(APP.format(more=""))
    script = 'cd "$1" && shift && exec "$@"'
    result = modal.run(["sh", "-c", script, "sh", place, command(), "run", "../app.py"], check=False)
    assert result.code == 1 and "Traceback" not in result.stderr
    assert r"names\udcff'` is no text in UTF-8" in said(result.stderr)


def test_a_program_in_a_deleted_working_directory_says_so(modal: Modal) -> None:
    gone = modal.directory / "gone"
    gone.mkdir()
    text = "import modal\\nwith modal.App('a').run(): pass"
    script = f'cd "$1" && rmdir "$1" && exec "$2" -c "$(printf "{text}")"'
    result = modal.run(["sh", "-c", script, "sh", str(gone), sys.executable], check=False)
    assert result.code == 1 and "change to one that exists" in result.stderr, result.stderr


def test_output_that_cannot_be_written_is_an_error(modal: Modal) -> None:
    modal.write("app.py", APP.format(more=""))
    for arguments in ["run app.py", "image list", "doctor"]:
        result = modal.run(["sh", "-c", f"'{command()}' {arguments} > /dev/full"], check=False)
        assert result.code == 1 and "No space left on device" in result.stderr, arguments
        assert "MODAL_STORE" not in result.stderr
    name = f"full-{os.getpid()}"
    modal("volume", "create", name)
    modal.write("data", "x")
    modal("volume", "put", name, "data", "data")
    result = modal("volume", "get", name, "data", "/dev/full", check=False)
    modal("volume", "delete", "--yes", name)
    assert result.code == 1 and "the volume's `data` cannot be written there: No space left" in result.stderr, result
    assert "MODAL_STORE" not in result.stderr


def test_a_step_that_writes_elsewhere_is_not_told_that_the_disk_is_full(modal: Modal) -> None:
    modal.write("app.py", APP.format(more='.run_commands("cat /etc/passwd > /dev/full")'))
    result = modal("run", "app.py", check=False)
    assert result.code == 1 and "hint: the disk of the store has space" in said(result.stderr), result.stderr


def test_an_id_map_of_another_store_is_told(fresh_store: Modal) -> None:
    fresh_store("image", "list")
    path = fresh_store.store / "idmap.json"
    right = path.read_text()
    recorded = json.loads(right)
    if recorded["uids"][0]["outside"] == os.geteuid():
        pytest.skip("the files are the user's own, whatever the map says")
    for ranges in recorded.values():
        ranges[0]["outside"] = 1_700_000_000
    path.write_text(json.dumps(recorded))
    owner = (fresh_store.store / "content").stat().st_uid
    result = fresh_store("image", "list", check=False)
    assert result.code == 1
    assert f"belong to the user id `{owner}`, and not to `1700000000`" in said(result.stderr), result.stderr
    assert (fresh_store.store / "content").stat().st_uid == owner
    path.write_text(right)
    fresh_store("image", "list")


def test_a_store_on_an_overlay_is_refused_and_the_doctor_tries_it(modal: Modal) -> None:
    place = modal.directory / "overlay"
    place.mkdir()
    script = """
        mount -t tmpfs tmpfs "$1" && cd "$1" && mkdir lower upper work merged || exit 99
        mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work merged || exit 99
        shift && export MODAL_STORE="$PWD/merged/store" && exec "$@"
    """
    for arguments, words in [
        (["image", "list"], "is on an overlay, as everything in a container is that is no volume"),
        (["doctor"], "Keep the store on a filesystem that overlays can be written to"),
    ]:
        result = modal.run(
            ["unshare", "--mount", "sh", "-c", script, "sh", str(place), command(), *arguments], check=False
        )
        if result.code == 99 or "unshare" in result.stderr:
            pytest.skip("no overlay can be mounted here")
        assert result.code == 1 and words in said(result.stdout + result.stderr), result
