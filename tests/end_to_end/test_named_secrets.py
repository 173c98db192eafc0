"""Secrets that the machine keeps under names."""

from __future__ import annotations

import json
import os
import signal
import subprocess

from conftest import Modal, command

APP = """
import os
import modal

image = modal.Image.debian_slim(python_version="3.11").run_commands(
    'test "${#TOKEN}" = 16 && echo the token is $TOKEN',
    secrets=[modal.Secret.from_name("named-step", required_keys=["TOKEN"])],
    force_build=True,
)
app = modal.App("named", image=image, secrets=[modal.Secret.from_name("named-app")])

@app.function(secrets=[modal.Secret.from_name("named-function")])
def read():
    return [os.environ.get(name) for name in ("SHARED", "OF_APP", "OF_FUNCTION", "TOKEN")]

@app.function()
def outer():
    return read.remote()

@app.local_entrypoint()
def main():
    print(read.remote(), outer.remote())
"""

DO = """
import asyncio
import modal
from modal.exception import AlreadyExistsError, NotFoundError

modal.Secret.objects.create("of-python", {"A": "1"})
modal.Secret.objects.create("of-python", {"A": "2"}, allow_existing=True)
try:
    modal.Secret.objects.create("of-python", {"A": "3"})
except AlreadyExistsError as error:
    print(str(error).splitlines()[0])
modal.Secret.from_name("of-python").update({"B": "2"})
secret = modal.Secret.from_name("of-python", required_keys=["B"]).hydrate()
print(secret.object_id[:3], secret.info().name, secret.info().created_at.tzinfo)
print("of-python" in [secret.name for secret in asyncio.run(modal.Secret.objects.list.aio())])
modal.Secret.objects.delete("of-python")
modal.Secret.objects.delete("of-python", allow_missing=True)
try:
    modal.Secret.objects.delete("of-python")
except NotFoundError as error:
    print(str(error).splitlines()[0])
"""


def test_steps_apps_and_functions_get_named_secrets(modal: Modal) -> None:
    modal.write("app.py", APP)
    missing = modal("run", "app.py", check=False)
    assert missing.code == 1 and "Traceback" not in missing.stderr
    assert "there is no secret `named-step`" in missing.stderr
    assert "`modal secret create named-step TOKEN=VALUE`" in missing.stderr
    modal("secret", "create", "named-step", "OTHER=x")
    lacking = modal("run", "app.py", check=False)
    assert "the secret `named-step` has no variable `TOKEN`: it has `OTHER`" in lacking.stderr
    modal("secret", "create", "--force", "named-step", "TOKEN=0123456789abcdef")
    modal("secret", "create", "--force", "named-app", "SHARED=app", "OF_APP=1")
    modal("secret", "create", "--force", "named-function", "SHARED=function", "OF_FUNCTION=2")
    result = modal("run", "--progress", "plain", "app.py")
    expected = ["function", "1", "2", None]
    assert result.stdout == f"{expected} {expected}\n"
    assert "the token is ***" in result.stderr and "0123456789abcdef" not in result.stderr
    for name in ("named-step", "named-app", "named-function"):
        modal("secret", "delete", "--yes", name)


def test_a_step_that_keeps_a_named_secret_is_refused(modal: Modal) -> None:
    modal("secret", "create", "leaked", "TOKEN=fedcba9876543210")
    modal.write(
        "app.py",
        """
        import modal
        image = modal.Image.debian_slim(python_version="3.11").run_commands(
            "echo $TOKEN > /root/token", secrets=[modal.Secret.from_name("leaked")]
        )
        app = modal.App(image=image)
        @app.function()
        def f(): ...
        """,
    )
    result = modal("run", "app.py", check=False)
    assert result.code == 1 and "`TOKEN`" in result.stderr and "/root/token" in result.stderr
    modal("secret", "delete", "-y", "leaked")


def test_the_commands(modal: Modal) -> None:
    assert modal("secret", "create", "kept", check=False).code == 2
    assert modal("secret", "create", "kept", "NOVALUE", check=False).code == 2
    modal.write(".env", "A=1\nexport B='two words'\n")
    modal.write("s.json", '{"C": "3"}')
    modal.write("wrong.json", '{"C": 3}')
    assert modal("secret", "create", "kept", "--from-json", "wrong.json", check=False).code == 2
    modal("secret", "create", "kept", "--from-dotenv", ".env", "--from-json", "s.json", "D=-", EDITOR="printf edited >")
    again = modal("secret", "create", "kept", "A=1", check=False)
    assert again.code == 1 and "there is a secret `kept` already" in again.stderr and "--force" in again.stderr
    listed = json.loads(modal("secret", "list", "--json").stdout)
    assert [secret["name"] for secret in listed if secret["name"] == "kept"] == ["kept"]
    assert "A, B, C, D" in modal("secret", "list").stdout
    assert "kept" not in modal("secret", "list", "--env", "staging").stdout
    file = modal.store / "secrets" / "main" / "kept.json"
    assert json.loads(file.read_text())["values"] == {"A": "1", "B": "two words", "C": "3", "D": "edited"}
    modes = {oct(path.stat().st_mode & 0o777) for path in (file.parent, file.parent.parent)}
    assert (oct(file.stat().st_mode & 0o777), modes) == ("0o600", {"0o700"})
    assert "nobody to ask" in modal("secret", "delete", "kept", check=False).stderr
    modal("secret", "delete", "kept", "-y")
    assert "there is no secret `kept`" in modal("secret", "delete", "kept", "-y", check=False).stderr
    modal("secret", "delete", "kept", "--allow-missing")
    assert modal("secret", "create", "a/b", "A=1", check=False).code == 1


def test_an_interrupted_editor_leaves_no_value_behind(modal: Modal) -> None:
    places = modal.directory / "places"
    places.mkdir()
    editor = modal.write("editor", "#!/bin/sh\necho typed > $1; echo ready; exec sleep 60\n")
    editor.chmod(0o755)
    environment = {**modal.environment, "EDITOR": str(editor), "TMPDIR": str(places)}
    asking = subprocess.Popen(
        [command(), "secret", "create", "typed", "A=-"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert asking.stdout is not None and asking.stdout.readline() == b"ready\n"
    os.killpg(asking.pid, signal.SIGINT)
    assert asking.wait(60) == 1 and list(places.iterdir()) == []
    asking.stdout.close()
    without = modal("secret", "create", "typed", "A=-", check=False, EDITOR="", VISUAL="")
    assert without.code == 1 and "there is no terminal to edit it in" in without.stderr


def test_python_makes_changes_and_removes_them(modal: Modal) -> None:
    modal.write("do.py", DO)
    result = modal.python("do.py")
    lines = ["there is a secret `of-python` already", "st- of-python UTC", "True", "there is no secret `of-python`"]
    assert [line for line in result.stdout.splitlines() if line] == lines


def test_values_are_nowhere_but_in_their_file(modal: Modal) -> None:
    modal.write("app.py", APP)
    value = "q8Zt4mW1xR7vK2pL"
    before = modal.write("before", "")
    modal("secret", "create", "--force", "named-step", f"TOKEN={value}")
    modal("secret", "create", "--force", "named-app", "OF_APP=1")
    modal("secret", "create", "--force", "named-function", "OF_FUNCTION=2")
    modal("run", "-vv", "app.py")
    # The value was nowhere before.
    search = ["find", modal.store, "-type", "f", "-cnewer", before, "-exec", "grep", "-laF", value, "{}", "+"]
    found = subprocess.run(search, capture_output=True, text=True, check=False)
    assert found.stdout.split() == [str(modal.store / "secrets" / "main" / "named-step.json")]
    for name in ("named-step", "named-app", "named-function"):
        modal("secret", "delete", "--yes", name)
