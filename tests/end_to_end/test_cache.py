"""Caches that machines share: what one has built, the others fetch, and whatever is wrong with a cache, images come out right."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Modal, Result, UserModal, remove
from played_proxy import Proxy, proxying

APP = """
import modal

image = modal.Image.debian_slim(){steps}
app = modal.App("t", image=image)


@app.function()
def look():
    import glob

    installed = sorted(path.split("/")[-1] for path in glob.glob("/usr/local/lib/python3.11/dist-packages/*-info"))
    return installed, open("/made").read()


@app.local_entrypoint()
def main():
    print(look.remote())
"""
MADE = '.run_commands("echo made > /made")'


def run(modal: Modal, steps: str = MADE, **environment: str) -> Result:
    """Runs a function in an image with these steps, and waits until its layers are uploaded."""
    modal.write("app.py", APP.format(steps=steps))
    result = modal.events("app.py", **environment)
    if "MODAL_CACHE" in {**modal.environment, **environment}:
        modal("cache", "upload", check=False, **environment)
    return result


def built(result: Result) -> list[str]:
    """What was executed."""
    titles = {event["step"]: event["title"] for event in result.of("step_queued")}
    return [titles[event["step"]] for event in result.of("step_started")]


def warnings(result: Result) -> list[str]:
    return [event["message"] for event in result.of("warning")]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, shared_store: Path) -> Path:
    """A directory that has the base; every test has steps of its own."""
    directory = tmp_path_factory.mktemp("first")
    run(Modal(shared_store, directory), MADE, MODAL_CACHE=str(directory / "cache"))
    return directory / "cache"


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Iterator[list[Modal]]:
    """Other machines, whose stores have nothing but the base."""
    made = []
    for _ in range(2):
        directory = tmp_path_factory.mktemp("machine")
        made.append(Modal(directory / "store", directory))
        run(made[-1], MADE, MODAL_CACHE=f"{shared}:ro")
    yield made
    for modal in made:
        remove(modal.store)


@pytest.fixture
def proxy(real_registry: str) -> Iterator[Proxy]:
    with proxying(real_registry) as proxy:
        yield proxy


def entries(shared: Path) -> set[Path]:
    return set((shared / "v1/entries").glob("*/*"))


def test_what_one_has_built_another_fetches_from_a_directory(modal: Modal, fresh_store: Modal, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    steps = '.uv_pip_install("six==1.16.0", "idna==3.7").run_commands("echo made > /made; chown 1000:33 /made")'
    first = run(modal, steps, MODAL_CACHE=str(shared))
    assert len(entries(shared)) == 3 and warnings(first) == []
    second = run(fresh_store, steps, MODAL_CACHE=f"{shared}:ro")
    assert (built(second), warnings(second), second.stdout) == ([], [], first.stdout)
    assert [event["cached"] for event in second.of("image_built")] == [True]
    # It is in the store now.
    shutil.rmtree(shared)
    assert (built(run(fresh_store, steps)), run(fresh_store, steps).stdout) == ([], first.stdout)
    fresh_store("store", "verify")


def test_an_ordinary_user_gets_the_same(modal: Modal, user: UserModal) -> None:
    shared = Path(f"{user.directory}-cache")
    try:
        first = run(modal, MADE, MODAL_CACHE=str(shared))
        user.write("app.py", APP.format(steps=MADE))
        second = user.events("app.py", MODAL_CACHE=f"{shared}:ro")
        assert (built(second), warnings(second), second.stdout) == ([], [], first.stdout)
    finally:
        shutil.rmtree(shared, ignore_errors=True)


def test_bytes_move_by_file(modal: Modal, fresh_store: Modal, proxy: Proxy, tmp_path: Path) -> None:
    cache = f"oci://{proxy.address}/cache/{tmp_path.name.lower()}"
    image = '.uv_pip_install("six==1.16.0", "idna==3.7", "networkx=={}").run_commands("echo made > /made")'

    def sent() -> int:
        taken = sum(proxy.sent.get("PATCH", [])) + sum(proxy.sent.get("PUT", []))
        proxy.sent.clear()
        return taken

    first = run(modal, image.format("3.3"), MODAL_CACHE=cache)
    assert warnings(first) == []
    whole, proxy.given = sent(), 0
    second = run(fresh_store, image.format("3.3"), MODAL_CACHE=cache)
    assert (built(second), warnings(second), second.stdout) == ([], [], first.stdout)
    assert whole * 0.9 < proxy.given <= whole * 1.1
    assert sent() == 0
    # What the wheel takes by itself, in a repository that has only what is below it.
    alone = f"{cache}-alone"
    run(modal, MADE, MODAL_CACHE=alone)
    sent()
    run(modal, MADE + '.uv_pip_install("networkx==3.2.1")', MODAL_CACHE=alone)
    wheel = sent()
    changed = run(modal, image.format("3.2.1"), MODAL_CACHE=cache)
    assert 0 < sent() <= wheel * 1.1
    proxy.given = 0
    fetched = run(fresh_store, image.format("3.2.1"), MODAL_CACHE=cache)
    assert (built(fetched), fetched.stdout) == ([], changed.stdout)
    assert 0 < proxy.given <= wheel * 1.1


def test_what_the_store_has_is_not_fetched(modal: Modal, others: list[Modal], proxy: Proxy, tmp_path: Path) -> None:
    cache = f"oci://{proxy.address}/had/{tmp_path.name.lower()}"
    steps = '.run_commands("mkdir /data; {} seq 300000 > /data/{}; seq 20000 > /made")'
    run(modal, MADE, MODAL_CACHE=cache)
    proxy.sent.clear()
    first = run(modal, steps.format("", "numbers"), MODAL_CACHE=cache)
    whole = sum(proxy.sent["PATCH"])
    # The same bytes in another place, made by itself.
    run(others[0], steps.format(f"echo {tmp_path} > /other;", "others"))
    proxy.given = 0
    second = run(others[0], steps.format("", "numbers"), MODAL_CACHE=f"{cache}:ro")
    assert (built(second), second.stdout) == ([], first.stdout)
    assert 0 < proxy.given < 10_000 < whole / 10


def test_a_forced_step_replaces_what_the_cache_has(modal: Modal, others: list[Modal], shared: Path) -> None:
    steps = '.run_commands("cat /proc/sys/kernel/random/uuid > /made"{})'
    first = run(modal, steps.format(""), MODAL_CACHE=str(shared))
    forced = run(modal, steps.format(", force_build=True"), MODAL_CACHE=str(shared))
    assert len(built(forced)) == 1 and forced.stdout != first.stdout
    second = run(others[0], steps.format(""), MODAL_CACHE=str(shared))
    assert (built(second), second.stdout) == ([], forced.stdout)


def damage(shared: Path, entry: Path, how: str) -> None:
    manifest = json.loads(entry.read_text())
    blobs = [manifest["config"], *manifest["layers"]]
    record, pack = (
        shared / "v1/blobs" / blob["digest"][7:9] / blob["digest"][7:]
        for blob in (blobs[0], max(blobs[1:], key=lambda blob: blob["size"]))
    )
    if how == "a cut entry":
        entry.write_bytes(entry.read_bytes()[:-10])
    elif how == "a directory":
        entry.unlink()
        (entry / "deep").mkdir(parents=True)
    elif how == "a cut record":
        record.write_bytes(record.read_bytes()[:-10])
    elif how == "no pack":
        pack.unlink()
    elif how == "a cut pack":
        pack.write_bytes(pack.read_bytes()[: pack.stat().st_size // 2])
    elif how == "another pack":
        data = bytearray(pack.read_bytes())
        data[len(data) // 3] ^= 1
        pack.write_bytes(data)
    elif how == "another version":
        entry.write_text(entry.read_text().replace("lamina.cache.v1", "lamina.cache.v7"))
    elif how == "another key":
        other = next(other for other in entries(shared) if other != entry)
        entry.write_bytes(other.read_bytes())


@pytest.mark.parametrize(
    "how",
    [
        "a cut entry",
        "a directory",
        "a cut record",
        "no pack",
        "a cut pack",
        "another pack",
        "another version",
        "another key",
    ],
)
def test_what_is_damaged_is_passed_over_and_made_again(
    modal: Modal, others: list[Modal], shared: Path, how: str
) -> None:
    steps = f'.run_commands("seq 30000 > /made; echo {how} >> /made")'
    there = entries(shared)
    first = run(modal, steps, MODAL_CACHE=str(shared))
    [entry] = entries(shared) - there
    damage(shared, entry, how)
    second = run(others[0], steps, MODAL_CACHE=str(shared))
    assert len(built(second)) == 1 and second.stdout == first.stdout
    assert len(warnings(second)) == 1 and str(shared) in warnings(second)[0], warnings(second)
    # Who has made it again has mended the cache.
    third = run(others[1], steps, MODAL_CACHE=str(shared))
    assert (built(third), warnings(third), third.stdout) == ([], [], first.stdout)


def test_local_files_and_secrets_stay_at_home(modal: Modal, others: list[Modal], shared: Path) -> None:
    for machine in (modal, *others):
        machine.write("data.txt", "local")
    there = entries(shared)
    secret = 'secrets=[modal.Secret.from_dict({"TOKEN": "a-secret-token"})]'
    copied = '.add_local_file("data.txt", "/data", copy=True).run_commands("cp /data /copy")'
    for steps in (MADE + copied, f'.run_commands("echo made > /made", {secret}).run_commands("true")'):
        run(modal, steps, MODAL_CACHE=str(shared))
        assert entries(shared) == there
        run(modal, steps, MODAL_CACHE=str(shared), MODAL_CACHE_LOCAL="1")
        assert len(entries(shared)) == len(there) + 2
        # Who does not share such layers does not look for them either.
        assert len(built(run(others[0], steps, MODAL_CACHE=str(shared)))) >= 2
        assert built(run(others[1], steps, MODAL_CACHE=str(shared), MODAL_CACHE_LOCAL="1")) == []
        there = entries(shared)


def test_two_write_at_once(modal: Modal, others: list[Modal], shared: Path) -> None:
    results: list[Result] = []
    steps = '.run_commands("seq 5000 > /made; sleep 1")'
    threads = [
        threading.Thread(target=lambda one=one: results.append(run(one, steps, MODAL_CACHE=str(shared))))
        for one in others
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2 and results[0].stdout == results[1].stdout
    third = run(modal, steps, MODAL_CACHE=str(shared))
    assert (built(third), warnings(third), third.stdout) == ([], [], results[0].stdout)
    assert not list(shared.rglob(".new-*"))


def test_who_is_away_or_silent_is_one_warning(modal: Modal) -> None:
    with socket.socket() as silent, socket.socket() as closed:
        silent.bind(("127.0.0.1", 0))
        silent.listen(16)
        closed.bind(("127.0.0.1", 0))
        caches = [f"oci://127.0.0.1:{one.getsockname()[1]}/cache:ro" for one in (silent, closed)]
        steps = f'.run_commands("echo {caches} > /made").run_commands("true")'
        result = run(modal, steps, MODAL_CACHE=",".join([*caches, "/nowhere/at/all:ro"]))
    assert len(built(result)) == 2
    said = warnings(result)
    assert len(said) == 3 and all("is left aside" in one for one in said), said
    for cache in [*caches, "/nowhere/at/all:ro"]:
        assert sum(cache in one for one in said) == 1, said


@pytest.mark.parametrize(
    ("how", "reason"),
    [("trickles", "it is slow"), ("falls silent", "it "), ("breaks off", "")],
)
def test_who_fails_in_the_middle_is_one_warning(
    modal: Modal, others: list[Modal], proxy: Proxy, tmp_path: Path, how: str, reason: str
) -> None:
    cache = f"oci://{proxy.address}/slow/{tmp_path.name.lower()}"
    # None of the machines has these bytes.
    steps = f'.run_commands("seq -f \'%.0f {how}\' 300000 > /data; echo {tmp_path} > /made").run_commands("true")'
    first = run(modal, steps, MODAL_CACHE=cache)
    proxy.fails_beyond = (50_000, how)
    second = run(others[0], steps, MODAL_CACHE=f"{cache}:ro")
    proxy.fails_beyond = None
    assert (len(built(second)), second.stdout) == (2, first.stdout)
    assert len(warnings(second)) == 1 and f"is left aside: {reason}" in warnings(second)[0], warnings(second)


def test_an_interruption_ends_the_wait_for_a_cache(modal: Modal, tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(16)
        modal.environment["MODAL_CACHE"] = f"oci://127.0.0.1:{silent.getsockname()[1]}/cache:ro"
        modal.write("app.py", APP.format(steps=f'.run_commands("echo {tmp_path} > /made")'))
        process = modal.start("run", "--progress", "json", "app.py")
        connection, _ = silent.accept()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
        connection.close()
    assert process.returncode == 130, stderr
    assert "step_started" not in stderr


def test_a_cache_that_takes_nothing_is_one_warning_of_the_command_itself(
    modal: Modal, proxy: Proxy, tmp_path: Path
) -> None:
    closed = f"oci://{proxy.address}/closed/{tmp_path.name.lower()}"
    proxy.faults["POST"] = [403] * 1000
    for cache, reason in [(closed, "403"), ("/proc/self", "`/proc/self`")]:
        steps = f'.run_commands("echo {tmp_path} {reason[-4:-1]} > /made").run_commands("true")'
        first = run(modal, steps, MODAL_CACHE=cache)
        assert len(warnings(first)) == 1 and "were not uploaded" not in first.stderr, warnings(first)
        assert "are not uploaded" in warnings(first)[0] and reason in warnings(first)[0], warnings(first)
        assert f"`{cache}:ro`" in warnings(first)[0]
        assert warnings(run(modal, steps, MODAL_CACHE=f"{cache}:ro")) == []
    assert not [name for name in os.listdir(modal.store / "outbox") if len(name) == 64 or name.startswith("word-")]


def uploading(store: Path) -> list[int]:
    """The processes that upload for a store."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words, variables = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:
            continue
        if b"cache\0upload" in words and f"MODAL_STORE={store}\0".encode() in variables:
            found.append(int(process.name))
    return found


def test_an_upload_that_was_killed_is_finished_by_the_next(
    modal: Modal, others: list[Modal], proxy: Proxy, tmp_path: Path
) -> None:
    cache = f"oci://{proxy.address}/killed/{tmp_path.name.lower()}"
    modal.write("app.py", APP.format(steps=f'.run_commands("echo {tmp_path} > /made")'))
    proxy.gate = threading.Event()
    # The command does not wait for it.
    first = modal.events("app.py", MODAL_CACHE=cache)
    assert proxy.has_come.wait(60)
    killed = uploading(modal.store)
    assert killed
    for process in killed:
        os.kill(process, signal.SIGKILL)
    proxy.gate.set()
    assert not [path for path in proxy.requests if path.startswith("PUT") and "/manifests/" in path]
    finished = modal("cache", "upload")
    assert "Uploaded the layers of 2 steps" in finished.stderr, finished
    second = run(others[0], f'.run_commands("echo {tmp_path} > /made")', MODAL_CACHE=cache)
    assert (built(second), second.stdout) == ([], first.stdout)


def test_what_is_no_cache_is_said(modal: Modal) -> None:
    modal.write("app.py", APP.format(steps=MADE))
    refused = modal("run", "app.py", check=False, MODAL_CACHE="ghcr.io/team/cache")
    assert refused.code == 1 and "`MODAL_CACHE` has `ghcr.io/team/cache`, which is neither" in refused.stderr
