"""What is linked beside what pip and uv install with the same arguments in the same image, file by file."""

from __future__ import annotations

import json
from dataclasses import dataclass

from conftest import Modal
from packages import Index

#: An option that changes nothing, with which the tool itself installs.
ITSELF = {"pip": "--no-input", "uv_pip": "--no-progress"}

PROGRAM = """
import json
import modal

base = BASE
app = modal.App("installers")

def files():
    import hashlib, os
    found = {}
    for top in ("/usr", "/opt", "/tmp", "/root"):
        for directory, directories, names in os.walk(top):
            for path in (os.path.join(directory, name) for name in directories + names):
                if path.startswith("/root/app.py") or "__pycache__/app." in path:
                    continue
                kind = os.lstat(path)
                content = hashlib.sha256(open(path, "rb").read()).hexdigest() if os.path.isfile(path) else ""
                found[path] = [kind.st_mode, content, os.readlink(path) if os.path.islink(path) else ""]
    return found

STEPS

@app.local_entrypoint()
def main():
    for linked, installed in PAIRS:
        one, other = linked.remote(), installed.remote()
        names = sorted(path.rsplit("/", 1)[1][:-10] for path in one if path.endswith(".dist-info"))
        differing = [path for path in sorted({*one, *other}) if one.get(path) != other.get(path)]
        print(json.dumps([names, differing]))
"""

#: A method and its arguments as they are written.
Call = tuple[str, str]


@dataclass
class Compared:
    """What several chains of installing left."""

    #: For each chain: what is installed in the end, and the paths where the tool itself leaves something else.
    chains: list[tuple[list[str], list[str]]]
    #: How often a tool has run inside an image.
    runs_inside: int


def compared(modal: Modal, index: Index, base: str, chains: list[list[Call]]) -> Compared:
    """Installs each chain twice: as it is, and with the tool itself in every step."""
    steps, pairs = "", ""
    for number, chain in enumerate(chains):
        for way in ("linked", "installed"):
            image = "base"
            for method, arguments in chain:
                itself = f", extra_options={ITSELF[method.removesuffix('_install')]!r}" if way == "installed" else ""
                image += f".{method}({arguments}{itself}, force_build=True)"
            steps += f"{way}{number} = app.function(image={image}, name='{way}{number}')(files)\n"
        pairs += f"(linked{number}, installed{number}), "
    program = PROGRAM.replace("BASE", base).replace("STEPS", steps).replace("PAIRS", f"[{pairs}]")
    modal.write("app.py", program)
    result = modal("run", "--progress", "plain", "app.py", PIP_INDEX_URL=index.url("host"))
    found = [tuple(json.loads(line)) for line in result.stdout.splitlines()]
    return Compared(found, result.stderr.count("installing inside the sandbox"))
