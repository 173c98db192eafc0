"""Secrets of dotenv files and of the caller's environment."""

from __future__ import annotations

from conftest import Modal

APP = """
import os
import modal

app = modal.App("secrets", image=modal.Image.debian_slim(python_version="3.11"))
NAMES = ("FROM_FILE", "SHARED", "FROM_HERE", "LAST")

@app.function(
    secrets=[
        modal.Secret.from_dotenv(__file__),
        modal.Secret.from_local_environ(["FROM_HERE"]),
        modal.Secret.from_dict({"SHARED": "dictionary", "LAST": "dictionary"}),
    ],
    env={"LAST": "env"},
)
def read():
    return [os.environ.get(name) for name in NAMES]

@app.local_entrypoint()
def main():
    print(read.remote())
"""


def test_secrets_of_files_and_of_the_environment(modal: Modal) -> None:
    modal.write("project/deep/app.py", APP)
    modal.write("project/.env", "FROM_FILE='from the file'\nSHARED=file\n")
    result = modal("run", "-q", "project/deep/app.py", FROM_HERE="from here")
    assert result.stdout == "['from the file', 'dictionary', 'from here', 'env']\n"


def test_what_is_missing_is_named(modal: Modal) -> None:
    modal.write("app.py", APP)
    result = modal("run", "app.py", check=False)
    assert result.code == 1
    assert "`FROM_HERE`" in result.stderr and "export FROM_HERE" in result.stderr
    result = modal("run", "app.py", check=False, FROM_HERE="x")
    assert result.code == 1
    assert "`.env`" in result.stderr and "Traceback" not in result.stderr
