"""In images from elsewhere too, what is linked is what pip and uv install, whatever Python they have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Modal
from installers import compared
from packages import Index, serve


@pytest.fixture(scope="module")
def index() -> Iterator[Index]:
    files = {
        "lamina_tool-1.0.dist-info/entry_points.txt": "[console_scripts]\nlamina-tool = lamina_tool:VERSION.upper\n",
        "lamina_tool-1.0.data/scripts/lamina-shipped": "#!python\nprint(1)\n",
        "lamina_tool-1.0.data/data/share/lamina.txt": "data\n",
        "lamina_tool-1.0.data/headers/lamina.h": "int x;\n",
    }
    with serve() as index:
        for version in ("1.0", "2.0"):
            index.add("host", "lamina_demo", version)
        index.add("host", "lamina_tool", "1.0", requires=("lamina-demo",), files=files)
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
    result = compared(modal, index, base, [[case] for case in CASES])
    # Only where the options are the installer's own.
    assert result.runs_inside == len(CASES)
    for case, (names, differing) in zip(CASES, result.chains):
        assert "lamina_tool-1.0" in names, case
        assert differing == [], case
