"""Importing the package costs next to nothing: no heavy module comes along."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    "argparse",
    "ast",
    "asyncio",
    "cloudpickle",
    "dataclasses",
    "dotenv",
    "inspect",
    "json",
    "logging",
    "pathlib",
    "pickle",
    "re",
    "socket",
    "subprocess",
    "threading",
    "traceback",
    "typing",
}


def loaded(project, code: str) -> set[str]:
    result = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys\n{code}\nprint(*sys.modules)"],
        cwd=project.root,
        env=project.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return set(result.stdout.split())


def test_import_alone(project):
    modules = loaded(project, "import modal")
    assert [name for name in modules if name.startswith("modal.")] == []
    assert modules & HEAVY == set()


@pytest.mark.parametrize(
    "code",
    [
        "import modal\napp = modal.App('a', image=modal.Image.debian_slim().pip_install('x').add_local_dir('a', '/a'))\n"
        "@app.function()\ndef f(): pass\n",
        "import modal._runner.runner",
        "import modal._client.engine",
        "import modal._cli.command, modal._cli.arguments, modal._cli.reference, modal._cli.signature",
    ],
)
def test_declaring_and_running(project, code):
    assert loaded(project, code) & HEAVY == set()


def test_everything_public_is_there():
    import modal

    for name in modal.__all__:
        assert getattr(modal, name) is not None
