"""Damage of the store is noticed, and mended."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from conftest import Modal
from packages import serve

DEFINITION = """
import modal

image = modal.Image.debian_slim(python_version="3.11").run_commands("echo what-is-right > /bytes")
app = modal.App("verify", image=image)


@app.function()
def read():
    return open("/bytes").read()


@app.local_entrypoint()
def main():
    print("read", read.remote())
"""


def flip(store: Path) -> None:
    """Changes a byte of the file wherever the store has it, and not its times."""
    found = subprocess.run(
        ["grep", "-rlx", "what-is-right", store / "content" / "objects", store / "content" / "copies"],
        capture_output=True,
        text=True,
    )
    paths = found.stdout.split()
    assert paths
    for path in paths:
        status = Path(path).stat()
        with open(path, "r+b") as file:
            file.write(b"W")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_flipped_byte_is_found_and_made_again(fresh_store: Modal) -> None:
    modal = fresh_store
    modal.write("app.py", DEFINITION)
    assert "read what-is-right" in modal("run", "-q", "app.py").stdout
    sound = modal("store", "verify")
    assert (sound.code, "everything is as it was stored" in sound.stdout) == (0, True)
    flip(modal.store)
    found = modal("store", "verify", check=False)
    assert (found.code, "/bytes" in found.stdout) == (1, True)
    assert modal("store", "verify", "--repair").code == 0
    assert modal("store", "verify").code == 0
    assert "read what-is-right" in modal("run", "-q", "app.py").stdout
    # A step that is run again replaces what is damaged.
    flip(modal.store)
    modal.write("app.py", DEFINITION.replace('/bytes")\n', '/bytes", force_build=True)\n', 1))
    assert "read what-is-right" in modal("run", "-q", "app.py").stdout
    assert modal("store", "verify").code == 0


def test_a_shell_in_a_damaged_image_has_what_was_built(fresh_store: Modal) -> None:
    modal = fresh_store
    modal.write("app.py", DEFINITION)
    assert "read what-is-right" in modal("run", "-q", "app.py").stdout
    image = json.loads(modal("image", "list", "--json").stdout)[0]["id"]
    found = subprocess.run(["find", modal.store / "content", "-name", "bytes"], capture_output=True, text=True)
    views = [Path(path) for path in found.stdout.split()]
    assert views
    for path in views:
        path.unlink()
    # The look at the view and the start of the shell go on at once.
    shown = modal("shell", image, "--no-pty", "-c", "cat /bytes").stdout
    assert shown.splitlines() == ["what-is-right"]
    assert all(path.exists() for path in views)


INSTALLS = """
import modal

image = modal.Image.debian_slim(python_version="3.11").env({"TRY": "NUMBER"}).uv_pip_install("lamina-demo")
app = modal.App("packages", image=image)


@app.function()
def version():
    import lamina_demo

    return lamina_demo.VERSION


@app.local_entrypoint()
def main():
    print("version", version.remote())
"""


def test_a_damaged_package_is_found_and_unpacked_again(fresh_store: Modal) -> None:
    modal = fresh_store
    with serve() as index:
        index.add("host", "lamina_demo", "1.0")

        def install(number: int) -> str:
            modal.write("app.py", INSTALLS.replace("NUMBER", str(number)))
            return modal("run", "-q", "app.py", PIP_INDEX_URL=index.url("host")).stdout

        assert install(1) == "version 1.0\n"
        (description,) = (modal.store / "content" / "wheels").glob("?" * 64 + ".2.json")
        text = description.read_text()
        description.write_text(text.replace("lamina_demo", "lamina_dema", 1))
        found = modal("store", "verify", check=False)
        assert (found.code, description.name in found.stdout) == (1, True)
        repaired = modal("store", "verify", "--repair")
        assert (repaired.code, "unpacks it again" in repaired.stdout) == (0, True)
        assert modal("store", "verify").code == 0
        assert (install(2), description.read_text()) == ("version 1.0\n", text)
        # Without a check, too, what is damaged is not installed.
        description.write_text(text.replace("lamina_demo", "lamina_dema", 1))
        assert (install(3), description.read_text()) == ("version 1.0\n", text)
