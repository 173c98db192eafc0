"""What becomes of deployed apps when something goes wrong: each fault has a clear outcome, and the app goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from deployed_app import PATIENCE, PROGRAM, Deployed
from leftovers import clean

#: What plays the process of an app that runs with another version of `modal`.
STRANGER = """
import fcntl, os, socket, sys
sys.path.insert(0, {package!r})
from modal._shared.wire import Connection, encode_json
os.chdir({directory!r})
state = open("state", "r+")
fcntl.flock(state, fcntl.LOCK_EX)
state.write(f"running {{os.getpid()}}".ljust(63) + "\\n")
state.flush()
listener = socket.socket(socket.AF_UNIX)
if os.path.exists("socket"):
    os.unlink("socket")
listener.bind("socket")
listener.listen()
print("listens", flush=True)
refusal = {{
    "type": "error", "error": "VersionError", "message": "the app's process runs with `modal` 9.9", "hint": "deploy it again"
}}
while True:
    client = listener.accept()[0]
    Connection(client).send(encode_json(refusal).encode())
    client.close()
"""


def test_the_process_of_another_version_is_explained_and_replaced_by_a_deployment(deployed: Deployed) -> None:
    import modal as package

    deployed.deploy()
    assert deployed.call("double", "1") == ["2"]
    deployed.kill_host()
    directory = deployed.modal.store / "deployments/main" / deployed.name / "host"
    stranger = STRANGER.format(package=str(Path(package.__file__).parents[1]), directory=str(directory))
    deployed.modal.write("__deployed", stranger)
    process = subprocess.Popen(
        ["modal", "__deployed", "main", deployed.name],
        executable=getattr(sys, "_base_executable", sys.executable),
        cwd=deployed.modal.directory,
        env={"PATH": "/nowhere", "PYTHONHOME": sys.base_prefix},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "listens\n"
        assert deployed.call("double", "1") == ["VersionError the app's process runs with `modal` 9.9"]
        done = deployed.deploy(factor=3)
        assert "ran with another version of `modal`, and was ended" in done.stderr
        assert process.wait(PATIENCE) == -signal.SIGINT
    finally:
        process.kill()
        process.wait()
    assert deployed.call("double", "1") == ["3"]


def test_a_socket_that_may_not_be_used_is_named(deployed: Deployed) -> None:
    deployed.deploy()
    assert deployed.call("double", "1") == ["2"]
    directory = deployed.modal.store / "deployments/main" / deployed.name / "host"
    deployed.kill_host()
    # As whatever has put something else there.
    (directory / "socket").unlink()
    (directory / "socket").mkdir()
    (failed,) = deployed.call("double", "1")
    assert failed.startswith(f"ExecutionError the process of the app `{deployed.name}` ended as soon as it was started")
    assert "doubling" not in failed, "that was another process"
    assert str(directory / "socket") in failed, failed
    (directory / "socket").rmdir()
    assert deployed.call("double", "1") == ["2"]


def test_a_damaged_record_is_named_and_hides_no_other_app(deployed: Deployed) -> None:
    deployed.deploy()
    record = deployed.modal.store / "deployments/main/spoiled/app.json"
    record.parent.mkdir(mode=0o700)
    record.write_text("{")
    try:
        done = deployed.modal("app", "list", "--json")
        assert deployed.name in done.stdout and "spoiled" not in done.stdout
        assert f"warning: the record of the app `spoiled`, `{record}`, is damaged: " in done.stderr, done.stderr
        assert "hint: put a copy of the file back, or move it away" in done.stderr, done.stderr
        # Whoever asks for that one is told, and the other is called, asked for its calls and deployed again.
        refused = deployed.modal("app", "history", "spoiled", check=False)
        assert refused.code == 1 and "the record of the app `spoiled`" in refused.stderr, refused.stderr
        assert deployed.fetch(deployed.spawn("double", "4")) == "8"
        deployed.deploy(factor=3)
        watcher = deployed.modal.start("app", "autostart", "--watch")
        try:
            assert watcher.stderr and "the record of the app `spoiled`" in watcher.stderr.readline()
        finally:
            watcher.kill()
            watcher.wait()
    finally:
        record.unlink()
        record.parent.rmdir()


HANGING = """
import sys
import time

import modal

app = modal.App({name!r}, image=modal.Image.debian_slim(python_version="3.11"))


class Loading:
    @modal.enter()
    def load(self):
        print("loads for ever", file=sys.stderr, flush=True)
        time.sleep(1000)

    @modal.method()
    def run(self, n):
        return n


@app.cls()
class Patient(Loading):
    pass


@app.cls(startup_timeout=1)
class Impatient(Loading):
    pass
"""


def test_a_class_that_never_enters_fails_in_time_and_leaves_nothing(deployed: Deployed) -> None:
    modal = deployed.modal
    modal.write("app.py", HANGING.format(name=deployed.name))
    modal("deploy", "app.py")
    program = textwrap.dedent(f"""
        import modal
        Class = modal.Cls.from_name({deployed.name!r}, "Impatient")
        try:
            Class().run.remote(1)
        except modal.exception.FunctionTimeoutError as error:
            print(error)
        modal.Cls.from_name({deployed.name!r}, "Patient")().run.remote(2)
    """)
    caller = subprocess.Popen(
        [sys.executable, "-c", program],
        env=modal.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + PATIENCE
    while modal("app", "logs", deployed.name).stderr.count("loads for ever") < 2:
        assert time.monotonic() < until
        time.sleep(0.1)
    caller.send_signal(signal.SIGINT)
    output, error = caller.communicate(timeout=PATIENCE)
    assert "was not ready within `1` seconds" in output and "`startup_timeout=`" in output
    assert "loads for ever" in output, "the end of what it printed is quoted"
    assert error.rstrip().endswith("KeyboardInterrupt")
    modal("app", "stop", "--yes", deployed.name)
    clean(modal)


def test_a_process_whose_store_worker_was_killed_gives_way_to_the_next_one(deployed: Deployed) -> None:
    deployed.deploy()
    assert deployed.call("double", "1") == ["2"]
    host = deployed.host()
    (helper,) = children(host)
    # The store worker is the first one that it has forked; the others are containers.
    os.kill(min(children(helper)), signal.SIGKILL)
    assert deployed.call("double", "1") == ["2"], "what runs goes on"
    done = deployed.deploy(factor=3, check=False)
    assert done.code == 1 and "the store worker ended" in done.stderr
    until = time.monotonic() + PATIENCE
    while deployed.host() == host:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert deployed.call("double", "1") == ["3"]


def children(pid: int | None) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_whoever_waits_for_a_process_that_was_stopped_is_told_so(deployed: Deployed) -> None:
    deployed.deploy()
    assert deployed.call("double", "1") == ["2"]
    host = deployed.host()
    assert host is not None
    os.kill(host, signal.SIGSTOP)
    caller = subprocess.Popen(
        [sys.executable, "-c", deployed.program("double"), "2"],
        env=deployed.modal.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert caller.stderr is not None
        said = caller.stderr.readline()
        assert f"the process `{host}` of the deployed app `{deployed.name}` has not answered" in said
        assert f"it is stopped. `kill -CONT {host}`" in said
    finally:
        os.kill(host, signal.SIGCONT)
    assert caller.communicate(timeout=PATIENCE)[0] == "4\n"


def test_what_another_boot_has_left_hinders_nobody(deployed: Deployed) -> None:
    deployed.deploy()
    assert deployed.call("double", "1") == ["2"]
    deployed.kill_host()
    # After a restart of the machine the number is that of another program, and nobody listens at the socket.
    directory = deployed.modal.store / "deployments/main" / deployed.name / "host"
    bystander = subprocess.Popen(["sleep", "1000"])
    try:
        (directory / "state").write_text(f"running {bystander.pid}".ljust(63) + "\n")
        assert (directory / "socket").is_socket()
        assert not deployed.listed()["running"]
        assert deployed.call("double", "1") == ["2"]
        deployed.kill_host()
        (directory / "state").write_text(f"running {bystander.pid}".ljust(63) + "\n")
        deployed.modal("app", "stop", "--yes", deployed.name)
        assert bystander.poll() is None, "it is nobody's process"
    finally:
        bystander.kill()
        bystander.wait()


def test_a_deployment_that_is_killed_at_any_time_leaves_the_former_version_or_the_new_one(deployed: Deployed) -> None:
    modal = deployed.modal
    deployed.deploy(factor=2)
    factors = {2}
    for number in range(12):
        factors.add(number + 3)
        modal.write("app.py", PROGRAM.format(name=deployed.name, factor=number + 3))
        process = modal.start("deploy", "app.py")
        time.sleep(0.02 * number)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        (result,) = deployed.call("double", "1")
        assert int(result) in factors
    deployed.deploy(factor=100)
    assert deployed.call("double", "1") == ["100"]
    modal("app", "stop", "--yes", deployed.name)
    clean(modal)


#: Spawns calls and says their ids, also while the app's process is killed.
SPAWNER = """
import modal
function = modal.Function.from_name({name!r}, {function!r})
for number in range(40):
    while True:
        try:
            print(function.spawn(*{arguments!r} or [number]).object_id, flush=True)
            break
        except modal.exception.ServiceError:
            pass
"""


@pytest.mark.parametrize("function", ["double", "wait_again"])
def test_no_spawned_call_is_forgotten_whenever_the_process_is_killed(deployed: Deployed, function: str) -> None:
    deployed.deploy()
    deployed.open_gate("open")
    arguments, kills = (["open"], {17}) if function == "wait_again" else ([], {5, 17, 30})
    spawner = subprocess.Popen(
        [sys.executable, "-c", SPAWNER.format(name=deployed.name, function=function, arguments=arguments)],
        env=deployed.modal.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert spawner.stdout is not None
    calls = []
    for line in spawner.stdout:
        calls.append(line.strip())
        if len(calls) in kills:
            host = deployed.host()
            if host is not None:
                os.kill(host, signal.SIGKILL)
    assert spawner.wait() == 0 and len(set(calls)) == 40
    program = textwrap.dedent(f"""
        import modal
        for call in {calls!r}:
            try:
                print(modal.FunctionCall.from_id(call).get(timeout={PATIENCE}))
            except modal.exception.InternalFailure as error:
                print("lost" if "is lost" in str(error) else error)
    """)
    results = deployed.modal.python("-c", program).stdout.splitlines()
    if function == "wait_again":
        assert results == ["2"] * 40, "what was interrupted once runs once more"
    else:
        assert len(results) == 40
        assert [result for number, result in enumerate(results) if result not in (str(2 * number), "lost")] == []
