"""Dictionaries and queues that programs and containers share."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

from conftest import Modal

APP = """
import queue
import modal

app = modal.App("sharing", image=modal.Image.debian_slim(python_version="3.11"))
results = modal.Dict.from_name("results", create_if_missing=True)
jobs = modal.Queue.from_name("jobs", create_if_missing=True)

@app.function(max_containers=4)
def work(shared, answers):
    done = 0
    while (job := jobs.get(timeout=60)) != "end":
        results[job] = {"square": job * job}
        if shared.put("first", job, skip_if_exists=True):
            answers.put("first")
        done += 1
    answers.put(done, partition="counts")
    return done

@app.function()
async def asynchronously(shared):
    await shared.update.aio({"a": 1}, b=2)
    popped = await shared.pop.aio("a")
    keys = [key async for key in shared.keys.aio()]
    try:
        await jobs.get.aio(timeout=0.1)
    except queue.Empty:
        return popped, sorted(keys)

@app.local_entrypoint()
def main():
    results.clear()
    jobs.clear(all=True)
    with modal.Dict.ephemeral() as shared, modal.Queue.ephemeral() as answers:
        calls = [work.spawn(shared, answers) for _ in range(4)]
        jobs.put_many(list(range(100)))
        jobs.put_many(["end"] * 4)
        assert sum(call.get() for call in calls) == 100
        assert sum(answers.get_many(10, partition="counts")) <= 100
        assert answers.len() == 1 and answers.get() == "first"
        assert answers.get(block=False) is None and answers.get_many(3, block=False) == []
        shared.clear()
        print(asynchronously.remote(shared))
        large = bytes(5 << 20)
        shared["large"] = large
        assert shared["large"] == large
    squares = {key: value["square"] for key, value in results.items()}
    assert squares == {number: number * number for number in range(100)}, squares
    print(results.len(), 7 in results, 200 in results, results.get(200, "none"))
"""

MISUSE = """
import queue
import modal
from modal.exception import InvalidError, NotFoundError, RequestSizeError

def fails(kind, action):
    try:
        action()
    except kind as error:
        print(type(error).__name__, *str(error).splitlines()[:1], sep=": ")
    else:
        raise AssertionError(f"no {kind}")

fails(NotFoundError, lambda: modal.Dict.from_name("nowhere")["key"])
values = modal.Dict.from_name("misused", create_if_missing=True)
values.clear()
fails(KeyError, lambda: values["key"])
fails(KeyError, lambda: values.pop("key"))
fails(RequestSizeError, lambda: values.update({number: None for number in range(10_001)}))
waiting = modal.Queue.from_name("misused", create_if_missing=True)
waiting.clear(all=True)
fails(queue.Empty, lambda: waiting.get(timeout=0.05))
fails(InvalidError, lambda: waiting.put(1, partition="x" * 65))
fails(InvalidError, lambda: waiting.len(partition="a", total=True))
fails(RequestSizeError, lambda: waiting.put(bytes(2 << 20)))
waiting.put_many(list(range(5_000)))
fails(queue.Full, lambda: waiting.put(1, block=False))
fails(queue.Full, lambda: waiting.put(1, timeout=0.05))
assert list(waiting.iterate())[-1] == 4_999 and waiting.len() == 5_000
modal.Queue.objects.delete("misused")
fails(NotFoundError, lambda: waiting.len())
modal.Dict.objects.delete("misused")
modal.Dict.objects.delete("misused", allow_missing=True)
"""


def test_containers_and_programs_share_them(modal: Modal) -> None:
    modal.write("app.py", APP)
    result = modal("run", "-q", "app.py")
    assert result.stdout == "(1, ['b'])\n100 True False none\n", result.stdout
    # What was ephemeral is gone, what has a name stays.
    assert [each["name"] for each in json.loads(modal("dict", "list", "--json").stdout)] == ["results"]
    assert modal("dict", "get", "results", "7", check=False).code == 1, "its keys are numbers, not texts"
    items = json.loads(modal("dict", "items", "results", "--all", "--json").stdout)
    assert {"key": "7", "value": "{'square': 49}"} in items and len(items) == 100


def test_misuse_says_what_is_wrong(modal: Modal) -> None:
    modal.write("misuse.py", MISUSE)
    *lines, last = modal.python("misuse.py").stdout.splitlines()
    assert last.startswith("NotFoundError: the queue `qu-") and last.endswith("` does not exist any more")
    assert lines == [
        "NotFoundError: there is no dict `nowhere`",
        "KeyError: 'key'",
        "KeyError: 'key'",
        "RequestSizeError: the update is too large: it has 10001 entries, and at most 10000 are possible",
        "Empty",
        f"InvalidError: `partition` takes a text of 1 to 64 bytes, not `'{'x' * 65}'`",
        "InvalidError: `Queue.len` counts one `partition` or the `total`, not both",
        f"RequestSizeError: a value is too large: it has {len(pickle.dumps(bytes(2 << 20), 4))} bytes, and at most 1048576 are possible",
        "Full",
        "Full",
    ]


def test_what_a_killed_program_has_put_is_there(modal: Modal) -> None:
    modal.write(
        "killed.py",
        """
        import os, signal, modal
        values = modal.Dict.from_name("kept", create_if_missing=True)
        with modal.Dict.ephemeral() as lost:
            lost["a"] = 1
            values["id"] = lost.object_id
            values["done"] = True
            os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    assert modal.python("killed.py", check=False).code == -signal.SIGKILL
    modal.write(
        "after.py",
        """
        import modal
        from modal.exception import NotFoundError
        values = modal.Dict.from_name("kept")
        print(values["done"])
        with modal.Dict.ephemeral():
            pass
        try:
            print(modal.Dict.from_id(values["id"]).len())
        except NotFoundError:
            print("gone")
        """,
    )
    assert modal.python("after.py").stdout == "True\ngone\n"
    modal("dict", "delete", "-y", "kept")


def test_an_interrupted_wait_ends(modal: Modal) -> None:
    program = """
        import modal
        jobs = modal.Queue.from_name("interrupted", create_if_missing=True).hydrate()
        print("waiting", flush=True)
        jobs.get()
    """
    modal.write("wait.py", program)
    waiting = subprocess.Popen(
        [sys.executable, "wait.py"],
        cwd=modal.directory,
        env=modal.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert waiting.stdout is not None and waiting.stdout.readline() == "waiting\n"
        # Python sees a signal that comes right before a system call only after it: it has to be in that call.
        asleep = 0
        while asleep < 10:
            state = Path(f"/proc/{waiting.pid}/stat").read_text().rpartition(")")[2].split()[0]
            asleep = asleep + 1 if state == "S" else 0
            time.sleep(0.02)
        os.kill(waiting.pid, signal.SIGINT)
        _, errors = waiting.communicate(timeout=60)
    finally:
        waiting.kill()
    assert "KeyboardInterrupt" in errors


def test_the_commands(modal: Modal) -> None:
    modal("queue", "create", "of-command")
    modal.write(
        "fill.py",
        """
        import modal
        queue = modal.Queue.from_name("of-command")
        queue.put_many(["one", "two", 3])
        queue.put("other", partition="p")
        """,
    )
    modal.python("fill.py")
    assert modal("queue", "peek", "of-command", "2").stdout == "one\ntwo\n"
    assert modal("queue", "len", "of-command").stdout == "3\n"
    assert modal("queue", "len", "of-command", "--total").stdout == "4\n"
    modal("queue", "clear", "of-command", "-y")
    assert modal("queue", "len", "of-command", "--total").stdout == "1\n"
    modal("queue", "delete", "of-command", "-y")
    missing = modal("queue", "len", "of-command", check=False)
    assert missing.code == 1 and "there is no queue `of-command`" in missing.stderr
    assert modal("dict", "create", "a/b", check=False).code == 1
    nothing = modal("dict", "get", "nowhere", "key", check=False)
    assert "there is no dict `nowhere`" in nothing.stderr and "Traceback" not in nothing.stderr
