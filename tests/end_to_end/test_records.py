"""The record of a run: what is in it, what is not, and that a run with nothing to tell leaves none."""

from __future__ import annotations

from pathlib import Path

from conftest import Modal
from private_index import PASSWORD, private_index

APP = """
import modal

app = modal.App("recorded")
base = modal.Image.debian_slim(python_version="3.11")
image = {image}
secret = modal.Secret.from_dict({{"TOKEN": "s3same-street"}})

@app.function(image=image, secrets=[secret])
def f(fail):
    import os
    print("the token is", os.environ["TOKEN"])
    if fail:
        raise ValueError(os.environ["TOKEN"])

@app.local_entrypoint()
def main(fail: bool = False):
    f.remote(fail)
"""


class Records:
    """The records that come from now on."""

    def __init__(self, modal: Modal) -> None:
        self.modal = modal
        self.known = set(self.all())

    def all(self) -> list[Path]:
        return [Path(line) for line in self.modal("store", "record", "--list").stdout.splitlines()]

    def new(self) -> list[Path]:
        found = [path for path in self.all() if path not in self.known]
        self.known.update(found)
        return found

    def text(self) -> str:
        """That of the only new one."""
        (path,) = self.new()
        return path.read_text()


def test_a_build_leaves_a_record_and_a_warm_run_leaves_none(modal: Modal) -> None:
    modal.write("app.py", APP.format(image=f'base.run_commands("echo {modal.directory}")'))
    records = Records(modal)
    modal("run", "app.py")
    text = records.text()
    assert ' INFO modal::diagnostics: run version="' in text
    assert '"event":"step_started"' in text and '"miss":{"reason":' in text
    assert "INFO lamina_sandbox::client: sandbox pid=" in text and "limits=Limits" in text and "user=None" in text
    assert "exit=Exit { status: Exited(0)" in text
    assert '"event":"container_finished"' in text
    # These are other processes.
    assert " INFO lamina_sandbox::enter: launcher pid=" in text
    assert " INFO lamina_sandbox::enter: store worker pid=" in text
    assert "s3same-street" not in text
    assert modal("store", "record").stdout.startswith("2")
    modal("run", "app.py")
    assert records.new() == []


def test_a_failed_run_and_one_that_is_asked_leave_a_record(modal: Modal) -> None:
    modal.write("app.py", APP.format(image="base"))
    modal("run", "app.py")
    records = Records(modal)
    assert "record" not in modal("run", "app.py", "--fail", check=False).stderr
    text = records.text()
    assert "status=Exception" in text and '"exit_code":1' in text
    assert "s3same-street" not in text
    said = modal("-v", "run", "app.py").stderr
    (path,) = records.new()
    assert said.endswith(f"The record of this run is `{path}`.\n")


def test_an_error_that_a_program_gets_names_the_record(modal: Modal) -> None:
    modal.write(
        "app.py",
        """
import os, time
import modal

app = modal.App("broken")

@app.function()
def breaks_off():
    os.closerange(3, 256)
    time.sleep(600)

@app.local_entrypoint()
def main():
    try:
        breaks_off.remote()
    except modal.exception.ExecutionError as error:
        print(error)
""",
    )
    records = Records(modal)
    said = modal("run", "app.py").stdout
    (path,) = records.new()
    assert f"closed its connection to the engine\nthe record of this run is `{path}`" in said
    assert "a request failed" in path.read_text()


def test_credentials_do_not_get_into_a_record(modal: Modal) -> None:
    records = Records(modal)
    with private_index() as index:
        step = f'base.run_commands("echo $TOKEN; false", secrets=[modal.Secret.from_dict({{"TOKEN": "{PASSWORD}"}})])'
        modal.write("app.py", APP.format(image=step))
        modal("run", "app.py", check=False)
        failed = records.text()
        modal.write("app.py", APP.format(image=f'base.pip_install("no-such-demo", index_url="{index.url}")'))
        modal("run", "app.py", check=False)
        refused = records.text()
    assert '"event":"step_failed"' in failed and PASSWORD not in failed
    assert "resolver command=" in refused and "http://***@127.0.0.1" in refused and PASSWORD not in refused
