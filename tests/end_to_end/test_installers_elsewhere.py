"""In images from elsewhere too, what is linked is what pip and uv install, whatever Python they have."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Modal
from packages import Index, record_row, serve

#: An option that changes nothing, with which the tool itself installs.
ITSELF = {"pip": "--no-input", "uv_pip": "--no-progress"}

PROGRAM = """
import json, sys
import modal

base = BASE
app = modal.App("elsewhere")

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


@pytest.fixture(scope="module")
def index() -> Iterator[Index]:
    def more(archive) -> None:
        files = {
            "lamina_tool-1.0.dist-info/entry_points.txt": "[console_scripts]\nlamina-tool = lamina_tool:VERSION.upper\n",
            "lamina_tool-1.0.data/scripts/lamina-shipped": "#!python\nprint(1)\n",
            "lamina_tool-1.0.data/data/share/lamina.txt": "data\n",
            "lamina_tool-1.0.data/headers/lamina.h": "int x;\n",
        }
        for path, text in files.items():
            archive.writestr(path, text)

    def record(text: str) -> str:
        files = {
            "lamina_tool-1.0.dist-info/entry_points.txt": "[console_scripts]\nlamina-tool = lamina_tool:VERSION.upper\n",
            "lamina_tool-1.0.data/scripts/lamina-shipped": "#!python\nprint(1)\n",
            "lamina_tool-1.0.data/data/share/lamina.txt": "data\n",
            "lamina_tool-1.0.data/headers/lamina.h": "int x;\n",
        }
        return "".join(record_row(path, text) for path, text in files.items()) + text

    with serve() as index:
        for version in ("1.0", "2.0"):
            index.add("host", "lamina_demo", version)
        index.add("host", "lamina_tool", "1.0", requires=("lamina-demo",), more=more, record=record)
        yield index


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, shared_store: Path) -> Path:
    """A Debian with Python, as an archive."""
    directory = tmp_path_factory.mktemp("exported")
    modal = Modal(shared_store, directory)
    modal.write(
        "base.py",
        """
        import modal

        with modal.App("t").run():
            print(modal.Image.debian_slim(python_version="3.11").build().object_id)
        """,
    )
    image = modal.python("base.py").stdout.strip()
    modal("image", "export", image, "--format", "oci-archive", "-o", "base.tar")
    return directory / "base.tar"


def compared(modal: Modal, index: Index, base: str, cases: list[tuple[str, str]]) -> list[tuple[list[str], list[str]]]:
    """What each way of installing leaves, and where the tool itself leaves something else."""
    steps, pairs = "", ""
    for number, (method, arguments) in enumerate(cases):
        tool = method.removesuffix("_install")
        for way, more in (("linked", ""), ("installed", f", extra_options={ITSELF[tool]!r}")):
            image = f"base.{method}({arguments}{more}, force_build=True)"
            steps += f"{way}{number} = app.function(image={image}, name='{way}{number}')(files)\n"
        pairs += f"(linked{number}, installed{number}), "
    program = PROGRAM.replace("BASE", base).replace("STEPS", steps).replace("PAIRS", f"[{pairs}]")
    modal.write("app.py", program)
    result = modal("run", "--progress", "plain", "app.py", PIP_INDEX_URL=index.url("host"))
    # Only where the options are the installer's own.
    assert result.stderr.count("installing inside the sandbox") == len(cases), result.stderr
    return [tuple(json.loads(line)) for line in result.stdout.splitlines()]


CASES = [
    ("pip_install", "'lamina-tool'"),
    ("uv_pip_install", "'lamina-tool'"),
    ("pip_install", "'lamina-tool', 'lamina-demo<2'"),
]

VENV = (
    ".run_commands('apt-get update -qq && apt-get install -qq -y --no-install-recommends python3-venv >/dev/null',"
    " 'python3 -m venv /opt/venv').env({'PATH': '/opt/venv/bin:/usr/local/bin:/usr/bin:/bin'})"
)


@pytest.mark.parametrize("more", ["", VENV], ids=["debian", "venv"])
def test_what_is_linked_is_what_the_installer_installs(modal: Modal, index: Index, exported: Path, more: str) -> None:
    base = f"modal.Image.from_registry('oci-archive:{exported}'){more}"
    for case, (names, differing) in zip(CASES, compared(modal, index, base, CASES)):
        assert "lamina_tool-1.0" in names, case
        assert differing == [], case
