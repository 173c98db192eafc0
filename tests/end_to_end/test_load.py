"""Much of everything, and containers that do their worst: results stay right, memory stays bounded, the rest goes on."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from conftest import Modal, command
from leftovers import clean

APP = """
import os, signal, sys, time
import modal

app = modal.App("load", image=modal.Image.debian_slim(python_version="3.11"))

def engine_megabytes():
    status = open(f"/proc/{os.getppid()}/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) >> 10

@app.function()
def add_one(x):
    return x + 1

@app.function(max_containers=64)
def container(_):
    time.sleep(0.5)
    return os.environ["MODAL_TASK_ID"]

@app.function()
def echo(data):
    return data

@app.function()
def zeros(size):
    return bytes(size)

@app.function()
def write_lines(count):
    line = b"x" * 65535 + b"\\n"
    for _ in range(count):
        os.write(1, line)

@app.function()
def write_without_newline(count):
    for _ in range(count):
        os.write(1, b"y" * 65536)

@app.function(timeout=120)
def fork_without_end():
    count = 0
    try:
        while True:
            if os.fork() == 0:
                signal.pause()
            count += 1
    except OSError as error:
        return count, error.strerror

@app.function(timeout=2)
def ignore_signals():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        time.sleep(1)

@app.function(memory=512)
def fill_disk(megabytes: int):
    with open("/opt/filled", "wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(1 << 20))
    return "filled"

@app.function()
def fill_memory_filesystem():
    try:
        with open("/opt/filled", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, 1 << 50)
    except OSError as error:
        return error.strerror

@app.function(memory=512)
def make_files(count: int):
    os.mkdir("/opt/files")
    for number in range(count):
        os.close(os.open(f"/opt/files/{number}", os.O_CREAT))
    return count

@app.function(memory=256)
def fill_memory():
    held = []
    while True:
        held.append(bytearray(os.urandom(1 << 20)))

@app.function()
def who_dies_first():
    print("asked")
    time.sleep(float(os.environ.get("PAUSE", "3")))
    return open("/proc/self/oom_score_adj").read().strip()

@app.local_entrypoint()
def many(n: int):
    import resource
    total = sum(add_one.map(range(n)))
    program = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(total == n * (n + 1) // 2, program < 200, engine_megabytes() < 200)

@app.local_entrypoint()
def containers(n: int):
    print(len(list(container.map(range(n)))))

@app.local_entrypoint()
def payloads():
    data = os.urandom(50 << 20)
    print(all(result == data for result in echo.map([data] * 4)), engine_megabytes() < 200)

@app.local_entrypoint()
def gigabyte():
    print(len(zeros.remote(1 << 30)), engine_megabytes() < 200)

@app.local_entrypoint()
def output(kind: str):
    (write_lines if kind == "lines" else write_without_newline).remote(1 << 14)
    print("engine", engine_megabytes() < 300, file=sys.stderr)

@app.local_entrypoint()
def forks():
    count, reason = fork_without_end.remote()
    print(count > 100, reason)
    print(add_one.remote(1))

@app.local_entrypoint()
def stubborn():
    try:
        ignore_signals.remote()
    except modal.exception.FunctionTimeoutError as error:
        print("timeout", "`ignore_signals`" in str(error))
    print(add_one.remote(1))
"""


@pytest.fixture
def load(modal: Modal) -> Modal:
    modal.write("app.py", APP)
    return modal


def test_a_hundred_thousand_inputs_in_bounded_memory(load: Modal) -> None:
    assert load("run", "-q", "app.py::many", "--n", "100000").stdout == "True True True\n"


def test_sixty_four_containers(load: Modal) -> None:
    result = load.events("app.py::containers", "--n", "64")
    assert result.stdout == "64\n"
    assert len(result.of("container_started")) == 64


def test_payloads_of_fifty_megabytes(load: Modal) -> None:
    assert load("run", "-q", "app.py::payloads").stdout == "True True\n"


def test_a_result_of_a_gigabyte(load: Modal) -> None:
    assert load("run", "-q", "app.py::gigabyte").stdout == f"{1 << 30} True\n"


@pytest.mark.parametrize("kind", ["lines", "one-line"])
def test_a_gigabyte_of_output_arrives_whole_in_bounded_memory(load: Modal, kind: str) -> None:
    run = [command(), "run", "-q", "app.py::output", "--kind", kind]
    with subprocess.Popen(
        run, cwd=load.directory, env=load.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        count = sum(len(chunk) for chunk in iter(lambda: process.stdout.read1(1 << 20), b""))
        errors = process.stderr.read().decode()
    assert (process.returncode, count) == (0, 1 << 30), errors
    assert errors == "engine True\n"


def test_fifty_runs_at_once_on_one_store(load: Modal) -> None:
    running = [load.start("run", "-q", "app.py::many", "--n", "10") for _ in range(50)]
    outcomes = [process.communicate(timeout=300) for process in running]
    assert outcomes == [("True True True\n", "")] * 50
    assert [process.returncode for process in running] == [0] * 50


def test_forking_without_end_meets_a_limit(load: Modal) -> None:
    first, second = load("run", "-q", "app.py::forks", timeout=200).stdout.splitlines()
    assert (first, second) == ("True Resource temporarily unavailable", "2")
    clean(load, patience=60)


def test_ignored_signals_keep_no_container_alive(load: Modal) -> None:
    assert load("run", "-q", "app.py::stubborn").stdout == "timeout True\n2\n"


def test_a_container_cannot_fill_the_disk(load: Modal) -> None:
    disk = os.statvfs(load.store)
    free = disk.f_bavail * disk.f_frsize >> 20
    outcome = load("run", "app.py::fill_disk", "--megabytes", "3000", check=False, MODAL_STORE_RESERVE=str(free - 200))
    assert outcome.code == 1
    assert "`fill_disk`" in outcome.stderr and f"less than `{free - 200}` MiB" in outcome.stderr, outcome.stderr
    assert "hint: free some space" in outcome.stderr and "Traceback" not in outcome.stderr
    clean(load)
    disk = os.statvfs(load.store)
    assert disk.f_bavail * disk.f_frsize >> 20 > free - 200, "the space comes back"
    assert load("run", "-q", "app.py::fill_disk", "--megabytes", "100").code == 0


def test_a_step_cannot_fill_the_disk(load: Modal) -> None:
    disk = os.statvfs(load.store)
    free = disk.f_bavail * disk.f_frsize >> 20
    step = "head -c 3000M /dev/urandom > /opt/filled"
    load.write(
        "step.py",
        'import modal\nimage = modal.Image.debian_slim(python_version="3.11")'
        f'.run_commands({step!r})\napp = modal.App("step", image=image)\n@app.function()\ndef f(): pass\n',
    )
    outcome = load("run", "step.py", check=False, MODAL_STORE_RESERVE=str(free - 200))
    assert outcome.code == 1 and f"less than `{free - 200}` MiB" in outcome.stderr, outcome.stderr
    clean(load)


def test_files_in_memory_are_limited(load: Modal) -> None:
    load.write(
        "space.py", APP + "\n@app.local_entrypoint()\ndef space():\n    print(fill_memory_filesystem.remote())\n"
    )
    assert load("run", "-q", "space.py::space").stdout == "No space left on device\n"


def test_many_files_are_no_trouble(load: Modal) -> None:
    assert load("run", "-q", "app.py::make_files", "--count", "20000").code == 0
    clean(load)


def test_a_container_that_fills_its_memory_is_the_one_to_die(load: Modal) -> None:
    outcome = load("run", "app.py::fill_memory", check=False)
    assert outcome.code == 1
    assert "`fill_memory` ran out of memory (limit: 256 MiB)" in outcome.stderr, outcome.stderr
    assert "raise `memory=`" in outcome.stderr and "Traceback" not in outcome.stderr


def test_a_container_without_a_limit_leaves_the_machine_some_memory(load: Modal) -> None:
    load.write("first.py", APP + "\n@app.local_entrypoint()\ndef first():\n    print(who_dies_first.remote())\n")
    running = load.start("run", "-q", "first.py::first")
    assert running.stdout is not None
    assert running.stdout.readline() == "asked\n"
    groups = Path("/sys/fs/cgroup").glob(f"**/lamina-{running.pid}-*/*/memory.*")
    limits = [int(path.read_text()) for path in groups if path.name in ("memory.max", "memory.limit_in_bytes")]
    output, errors = running.communicate(timeout=60)
    assert (output, errors) == ("1000\n", "")
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    # A machine without control groups that we may write has only the kernel's choice of whom to kill.
    assert all(total // 3 < limit < total for limit in limits)
