"""What programs and containers do about containers: asking for numbers, ending them with a call, and their child processes."""

from __future__ import annotations

from conftest import Modal
from leftovers import clean

PROGRAM = """
import os
import subprocess
import sys
import time

import modal

app = modal.App("about", image=modal.Image.debian_slim(python_version="3.11"))


@app.cls(max_containers=1)
@modal.concurrent(max_inputs=2)
class Model:
    @modal.method()
    def wait(self, flag: str) -> str:
        store = modal.Dict.from_name("about-containers", create_if_missing=True)
        store[flag] = os.environ["MODAL_TASK_ID"]
        while not store.get("open-" + flag):
            time.sleep(0.05)
        return os.environ["MODAL_TASK_ID"]


@app.function()
def numbers() -> list:
    stats = numbers.get_current_stats()
    numbers.update_autoscaler(scaledown_window=77)
    Model().update_autoscaler(buffer_containers=0)
    return [stats.num_running_inputs, stats.num_total_runners, numbers.autoscaler.settings()["scaledown_window"]]


@app.function()
def children() -> list:
    child = "import modal; print(modal.is_local())"
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    words = [sys.executable, "-c", child]
    started = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, str(modal.is_local()).encode())
        os._exit(0)
    return [modal.is_local(), started.strip(), os.read(read, 10).decode()]


def appears(store, name: str, but=None) -> str:
    while (found := store.get(name)) in (None, but):
        time.sleep(0.05)
    return found


@app.local_entrypoint()
def main() -> None:
    print(numbers.remote())
    print(children.remote())
    store = modal.Dict.from_name("about-containers", create_if_missing=True)
    store.clear()
    beside, ended = Model().wait.spawn("beside"), Model().wait.spawn("ended")
    first = appears(store, "beside")
    assert appears(store, "ended") == first
    ended.cancel(terminate_containers=True)
    second = appears(store, "beside", but=first)
    store["open-beside"] = True
    assert beside.get() == second != first
    try:
        ended.get()
    except modal.exception.RemoteError as error:
        print(str(error).partition(chr(10))[0])
"""


def test_containers_ask_about_containers_and_end_with_calls(modal: Modal) -> None:
    modal.write("app.py", PROGRAM)
    assert modal("run", "app.py").stdout.splitlines() == [
        "[1, 1, 77]",
        "[False, 'True', 'True']",
        "the call of `Model.wait` was cancelled",
    ]
    modal("dict", "delete", "--yes", "about-containers")
    clean(modal)
