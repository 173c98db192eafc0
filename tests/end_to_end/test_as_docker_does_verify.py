"""Damage of the store is noticed, and mended."""

import subprocess

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


def flip(store):
    """Changes a byte of the file wherever the store has it, and not its times."""
    found = subprocess.run(
        ["grep", "-rlx", "what-is-right", store / "content" / "objects", store / "content" / "copies"],
        capture_output=True,
        text=True,
    )
    paths = found.stdout.split()
    assert paths
    for path in paths:
        script = 't=$(mktemp); touch -r "$1" "$t"; printf W | dd of="$1" conv=notrunc status=none; touch -r "$t" "$1"; rm "$t"'
        subprocess.run(["sh", "-c", script, "sh", path], check=True)
