"""Deployed apps belong to their user: nobody else calls, reads or lists anything of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import UserModal
from leftovers import processes

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can create users")

APP = """
import modal

app = modal.App("private", image=modal.Image.debian_slim(python_version="3.11"))


@app.function(min_containers=1, secrets=[modal.Secret.from_dict({"TOKEN": "a-secret-of-its-user"})])
def double(n: int) -> int:
    print("the number is", n)
    return 2 * n
"""

USING = """
import modal
double = modal.Function.from_name("private", "double")
print(double.remote(1), double.spawn(2).get())
modal.Dict.from_name("private", create_if_missing=True)["key"] = "value"
modal.Queue.from_name("private", create_if_missing=True).put("value")
"""

CALLING = 'import modal; print(modal.Function.from_name("private", "double").remote(1))'

#: Tries to open what another user might leave open, and prints what it could.
SPY = """
import os, socket, sys
store, *processes = sys.argv[1:]

def read(path):
    with open(path, "rb") as file:
        file.read(1)

def connect(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(path)

names = ["", "deployments", "deployments/main/private/app.json", "collections/collections.sqlite", "index.db", "logs"]
attempts = [(os.stat, os.path.join(store, name)) for name in names if name]
attempts += [(os.listdir, store), (connect, store + "/deployments/main/private/host/socket")]
for process in processes:
    os.stat("/proc/" + process)
    attempts += [(read, f"/proc/{process}/{name}") for name in ("environ", "maps", "mem", "exe")]
    attempts += [(os.listdir, f"/proc/{process}/{name}") for name in ("root", "cwd", "fd")]
    attempts += [(lambda process: os.kill(int(process), 0), process)]
for action, target in attempts:
    try:
        action(target)
    except OSError:
        continue
    print(target)
"""


def as_user(user: str, *argv: str, **environment: str) -> subprocess.CompletedProcess:
    group = "nogroup" if user == "nobody" else user
    return subprocess.run(
        ["setpriv", "--reuid", user, "--regid", group, "--clear-groups", *argv],
        env=environment,
        capture_output=True,
        text=True,
        cwd="/",
    )


def processes_of(user: UserModal) -> list[str]:
    """The app's process, its helpers and its containers."""
    found = []
    for directory in Path("/proc").iterdir():
        try:
            mounts, line = (directory / "mountinfo").read_bytes(), (directory / "cmdline").read_bytes()
        except OSError:
            continue
        if str(user.store).encode() in mounts or b"__deployed\0main\0private\0" in line:
            found.append(directory.name)
    return found


def test_nobody_else_calls_reads_or_lists_anything(user: UserModal) -> None:
    user.write("app.py", APP)
    user("deploy", "app.py")
    user("secret", "create", "private", "KEY=a-secret-of-its-user")
    python = user.environment["MODAL_PYTHON"]
    used = as_user(user.name, python, "-c", USING, **user.environment)
    assert used.stdout == "2 4\n", used.stderr
    # Everything that other users need is theirs to read.
    user.directory.chmod(0o755)
    theirs = processes_of(user)
    assert len(theirs) > 2, "the app's process, and a container"
    spied = as_user("nobody", sys.executable, "-c", SPY, str(user.store), *theirs)
    assert (spied.returncode, spied.stdout) == (0, ""), spied
    environment = {**user.environment, "HOME": "/nonexistent"}
    for words in (["app", "list"], ["dict", "list"], ["queue", "list"], ["secret", "list"], ["app", "logs", "private"]):
        refused = as_user("nobody", user.binary, *words, **environment)
        assert refused.returncode == 1 and "a-secret" not in refused.stdout and "private" not in refused.stdout
        assert str(user.store) in refused.stderr, refused
    refused = as_user("nobody", python, "-c", CALLING, **environment)
    assert refused.returncode == 1 and str(user.store) in refused.stderr, refused
    # What was snapshotted, what was printed and what was kept is nobody else's either.
    for directory, _, files in os.walk(user.store / "deployments"):
        assert os.stat(directory).st_mode & 0o77 == 0
        assert all(os.stat(os.path.join(directory, name)).st_mode & 0o77 == 0 for name in files)
    user("app", "stop", "--yes", "private")
    until = time.monotonic() + 20
    while processes(user.store) and time.monotonic() < until:
        time.sleep(0.1)
    assert not processes(user.store)


def test_a_directory_that_its_own_user_may_not_enter_is_named(user: UserModal) -> None:
    user.write("app.py", APP.replace("min_containers=1, ", ""))
    user("deploy", "app.py")
    python, directory = user.environment["MODAL_PYTHON"], user.store / "deployments/main/private/host"
    assert as_user(user.name, python, "-c", CALLING, **user.environment).stdout == "2\n"
    directory.chmod(0)
    refused = as_user(user.name, python, "-c", CALLING, **user.environment)
    assert refused.returncode == 1 and f"`{directory}/socket`" in refused.stderr, refused.stderr
    assert "Permission denied" in refused.stderr
    directory.chmod(0o700)
    assert as_user(user.name, python, "-c", CALLING, **user.environment).stdout == "2\n"
    assert json.loads(user("app", "list", "--json").stdout)[0]["running"]
    user("app", "stop", "--yes", "private")
