"""Deployed apps on a disk that is full: results are not forgotten, and what cannot be done is said."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Modal, remove
from deployed_app import Deployed
from gates import WAIT_AT, Gate
from test_as_docker_does_disk import ext4, fill_bytes

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("mkfs.ext4"), reason="root alone mounts file systems, which mkfs.ext4 makes"
)

APP = (
    """
import modal

app = modal.App({name!r}, image=modal.Image.debian_slim(python_version="3.11"))
"""
    + WAIT_AT
    + """

@app.function()
def waits(port: int) -> int:
    wait_at(port)
    return {factor}


@app.function()
def double(n: int) -> int:
    return {factor} * n
"""
)

REFUSED = """
import modal
try:
    modal.Function.from_name({name!r}, "double").spawn(1)
except modal.exception.ExecutionError as error:
    print(error)
"""


@pytest.fixture
def full(tmp_path: Path) -> Iterator[tuple[Deployed, Path]]:
    """An app on a small disk, and the directory of what fills that."""
    with ext4(tmp_path) as disk:
        modal = Modal(disk / "store", tmp_path)
        filler = disk / "filler"
        filler.mkdir()
        deployed = Deployed(modal)
        try:
            yield deployed, filler
        finally:
            shutil.rmtree(filler)
            modal("app", "stop", "--yes", deployed.name, check=False)
            remove(modal.store)


def test_results_outlive_a_disk_that_is_full_for_a_while(full: tuple[Deployed, Path]) -> None:
    deployed, filler = full
    modal = deployed.modal
    modal.write("app.py", APP.format(name=deployed.name, factor=2))
    modal("deploy", "app.py")
    with Gate() as gate:
        call = deployed.spawn("waits", str(gate.port))
        gate.wait_for(1)
        fill_bytes(filler)
        gate.open()
        assert deployed.fetch(call) == "2"
    assert deployed.fetch(call) == "2", "whoever asks gets it, although it is on no disk"
    assert deployed.call("double", "4") == ["8"], "what is to be kept nowhere needs no disk"
    refused = modal.python("-c", REFUSED.format(name=deployed.name)).stdout
    assert "No space left on device" in refused and "free some space" in refused, refused
    modal.write("app.py", APP.format(name=deployed.name, factor=3))
    failed = modal("deploy", "app.py", check=False)
    assert failed.code == 1 and "No space left on device" in failed.stderr and "free some space" in failed.stderr
    assert deployed.call("double", "4") == ["8"]
    (filler / "file").unlink()
    assert len(json.loads(modal("app", "history", "--json", deployed.name).stdout)) == 1
    assert deployed.fetch(call) == "2"
    deployed.kill_host()
    assert deployed.fetch(call) == "2", "it is kept by now"
    modal("deploy", "app.py")
    assert deployed.call("double", "4") == ["12"]
