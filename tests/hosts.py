"""Runs the package's unit tests as a user's process would, under several Pythons: `modal run tests/hosts.py`.

The Pythons are those of the bases that Lamina builds: the oldest and the newest ones that it supports, Debian's and others.
"""

import os
import subprocess
import sys

import modal

app = modal.App("hosts")


def host(version: str) -> modal.Image:
    """A machine with this Python, the checkout at `/host`, and what the tests need."""
    image = (
        modal.Image.debian_slim(python_version=version)
        .apt_install("git")
        .pip_install("pytest>=8", "cloudpickle>=3", "python-dotenv>=1")
    )
    for name in ("python", "tests"):
        image = image.add_local_dir(name, f"/host/{name}", ignore=["**/__pycache__", "**/*.pyc"])
    for name in ("pyproject.toml", "crates/builder/src/steps/start_installer.py"):
        image = image.add_local_file(name, f"/host/{name}")
    return image


def run_tests() -> str:
    """Runs them; answers what pytest says at the end. A failed test ends it with an error."""
    # The tests are to see a machine, not a container of ours.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MODAL_")}
    environment["PYTHONPATH"] = "/host/python"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/python"]
    done = subprocess.run(command, cwd="/host", env=environment, text=True, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        print(done.stdout[-8000:])
        raise RuntimeError(f"the tests failed under Python {sys.version.split()[0]}")
    return f"Python {sys.version.split()[0]}: {done.stdout.strip().splitlines()[-1]}"


@app.function(image=host("3.9"), timeout=900)
def python_3_9() -> str:
    return run_tests()


@app.function(image=host("3.11"), timeout=900)
def python_3_11() -> str:
    return run_tests()


@app.function(image=host("3.13"), timeout=900)
def python_3_13() -> str:
    return run_tests()


@app.function(image=host("3.14"), timeout=900)
def python_3_14() -> str:
    return run_tests()


@app.local_entrypoint()
def main() -> None:
    for call in [function.spawn() for function in (python_3_9, python_3_11, python_3_13, python_3_14)]:
        print(call.get())
