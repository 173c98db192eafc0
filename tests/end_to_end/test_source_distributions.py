"""The newest version counts, also where it has only a source distribution and an older one has a wheel."""

from __future__ import annotations

import pytest
from conftest import Modal
from packages import serve, source_distribution

BACKEND = """
import zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = "lamina_source-2.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{directory}/{name}", "w") as wheel:
        wheel.writestr("lamina_source/__init__.py", "VERSION = '2.0, built'\\n")
        metadata = "lamina_source-2.0.dist-info/"
        wheel.writestr(metadata + "METADATA", "Metadata-Version: 2.1\\nName: lamina-source\\nVersion: 2.0\\n")
        wheel.writestr(metadata + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(metadata + "RECORD", "lamina_source/__init__.py,,\\n")
    return name
"""

SOURCE = {
    "PKG-INFO": "Metadata-Version: 2.1\nName: lamina-source\nVersion: 2.0\n",
    "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
    "backend.py": BACKEND,
}


@pytest.mark.parametrize("method", ["pip_install", "uv_pip_install"])
@pytest.mark.parametrize(
    ("requirement", "version"),
    [("lamina-source", "2.0, built"), ("lamina-source<2", "1.0"), ("lamina-user", "2.0, built")],
)
def test_the_newest_version_counts(modal: Modal, method: str, requirement: str, version: str) -> None:
    modal.write(
        "app.py",
        f"""
        import modal

        app = modal.App("source")

        @app.function(image=modal.Image.debian_slim(python_version="3.11").{method}({requirement!r}))
        def version():
            import lamina_source
            return lamina_source.VERSION

        @app.local_entrypoint()
        def main():
            print(version.remote())
        """,
    )
    with serve() as index:
        index.add("host", "lamina_source", "1.0")
        index.add("host", "lamina_user", "1.0", requires=("lamina-source",))
        index.wheels["host"]["lamina_source-2.0.tar.gz"] = source_distribution("lamina_source-2.0", SOURCE)
        result = modal("run", "--progress", "plain", "app.py", PIP_INDEX_URL=index.url("host"))
    assert result.stdout == f"{version}\n", result.stderr
