"""What is in a tree of files, as data: the same program looks at it from outside and inside of a container."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

#: Kernel file systems, and what engines put over an image's own files while something runs in it.
LEFT_OUT = ("/proc", "/sys", "/dev", "/run", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname", "/root", "/__modal")

#: A time that no build makes.
LONG_AGO = 1_234_567_890

#: Prints kind, mode, owner and group of each path; target of links; first name, checksum and old times of files. Of
#: directories only a time that somebody has given them counts: what is made by a build has no time here.
PROGRAM = (
    f"""
GIVEN = {LONG_AGO}
"""
    + """
import json, os, stat, sys, zlib
root, left_out = sys.argv[1], sys.argv[2:]
found, names = {}, {}

def look(path):
    if path in left_out:
        return
    whole = os.fsencode(root + path)
    status = os.lstat(whole)
    entry = [stat.filemode(status.st_mode), status.st_uid, status.st_gid]
    if stat.S_ISLNK(status.st_mode):
        entry.append(os.fsdecode(os.readlink(whole)))
    elif stat.S_ISREG(status.st_mode):
        first = names.setdefault(status.st_ino, path) if status.st_nlink > 1 else path
        with open(whole, "rb") as file:
            entry += ["" if first == path else first, zlib.crc32(file.read())]
    if status.st_mtime == GIVEN or stat.S_ISREG(status.st_mode) and status.st_mtime < 1_600_000_000:
        entry.append(int(status.st_mtime))
    if path != "/":
        found[path] = entry
    if stat.S_ISDIR(status.st_mode):
        for name in sorted(os.listdir(whole)):
            look(path.rstrip("/") + "/" + os.fsdecode(name))

look("/")
json.dump(found, sys.stdout)
"""
)

#: A program that writes the tree of an image beside itself, and prints its id; with `ARGUMENTS` for the Dockerfile.
LAMINA = f"""
import subprocess
import modal

image = modal.Image.from_dockerfile("Dockerfile", context_dir="context", build_args=ARGUMENTS)
app = modal.App("t", image=image.entrypoint([]))

@app.function()
def tree():
    return subprocess.run(["/usr/bin/python3", "-c", {PROGRAM!r}, "", *{LEFT_OUT!r}], stdout=-1, check=True).stdout

@app.local_entrypoint()
def main():
    with open("tree.json", "wb") as file:
        file.write(tree.remote())
    print(image.build(app).object_id)
"""


def tree(root: str | Path) -> dict[str, list]:
    """The tree below a directory of this machine."""
    command = [sys.executable, "-c", PROGRAM, str(root), *LEFT_OUT]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def differences(one: dict[str, list], other: dict[str, list]) -> list[str]:
    """What is not the same in two trees."""
    paths = sorted({*one, *other})
    return [f"{path}: {one.get(path)} {other.get(path)}" for path in paths if one.get(path) != other.get(path)]
