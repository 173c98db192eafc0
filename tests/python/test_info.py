"""What programs are told of their apps: `App.info`, `Function.info`, `App.logs`."""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path

import pytest

import modal
from modal.exception import ExecutionError, InvalidError

IMAGE = modal.Image.debian_slim(python_version="3.11")


def declared() -> modal.App:
    app = modal.App(
        "demo",
        image=IMAGE,
        tags={"team": "a"},
        secrets=[modal.Secret.from_name("kept"), modal.Secret.from_dict({"A": "hidden"})],
        volumes={"/shared": modal.Volume.from_name("shared")},
    )

    @app.function(
        serialized=True,
        cpu=(1.0, 2.0),
        memory=512,
        timeout=60,
        retries=3,
        gpu=["H100", "A100:2"],
        schedule=modal.Cron("0 4 * * *", timezone="Europe/Berlin"),
        single_use_containers=True,
        volumes={"/data": modal.Volume.from_name("data").with_mount_options(read_only=True, sub_path="in")},
    )
    def work() -> None: ...

    @app.function(serialized=True, startup_timeout=7)
    @modal.concurrent(max_inputs=4, target_inputs=2)
    def plain() -> None: ...

    return app


def test_a_function_tells_what_it_was_declared_with(start) -> None:
    app = declared()
    work, plain = app._functions["work"], app._functions["plain"]
    with pytest.raises(ExecutionError, match="its app is not running"):
        work.info()
    with start(app):
        info = work.info(refresh=True)
        other = plain.info()
    assert (info.cpu, info.memory_mib, info.timeout, info.startup_timeout, info.max_retries) == ((1, 2), 512, 60, 60, 3)
    assert (info.gpus, info.single_use_containers, info.block_network) == (["H100", "A100:2"], True, False)
    assert repr(info.schedule) == "modal.Cron('0 4 * * *', timezone='Europe/Berlin')"
    assert info.secrets == ["kept"] and "hidden" not in repr(info)
    mounts = {path: (mount.name, mount.read_only, mount.sub_path) for path, mount in info.volumes.items()}
    assert mounts == {"/data": ("data", True, "in"), "/shared": ("shared", False, None)}
    assert (info.method_names, info.web_info, info.concurrency_info, info.batching_info) == (None, None, None, None)
    assert (other.cpu, other.timeout, other.startup_timeout, other.max_retries, other.schedule) == (
        None,
        300,
        7,
        None,
        None,
    )
    assert other.concurrency_info is not None
    assert (other.concurrency_info.max_inputs, other.concurrency_info.target_inputs) == (4, 2)


def test_an_app_tells_what_it_is(start) -> None:
    app = declared()
    for ask in (app.info, lambda: app.logs, app._functions["work"].logs.tail):
        with pytest.raises(InvalidError, match="neither runs nor was deployed"):
            ask()
    with start(app):
        info = app.info()
    assert (info.app_id, info.name, info.state, info.version) == ("ap-1", "demo", "ephemeral", None)
    assert (info.tags, info.created_at, info.environment_name) == ({"team": "a"}, None, None)


PROGRAM = """#!{python}
import json, sys
print(json.dumps(sys.argv[1:]), file=open({told!r}, "w"))
entry = {{"source": "stdout", "function": "f"}}
for container, time in (("ta-1", "2026-11-30T10:00:00.000001Z"), (None, None)):
    more = {{"container": container, "timestamp": time, "function_call": container and "fc-1"}}
    print(json.dumps({{**entry, **more, "message": "hello\\n"}}))
if "--search=wrong" in sys.argv:
    print("error: it is damaged\\nhint: mend it", file=sys.stderr)
    sys.exit(1)
"""


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What `modal` was told last."""
    program, told = tmp_path / "modal", tmp_path / "told"
    program.write_text(PROGRAM.format(python=sys.executable, told=str(told)))
    program.chmod(0o755)
    monkeypatch.setenv("MODAL_COMMAND", str(program))
    return lambda: json.loads(told.read_text())


def test_logs_are_what_the_command_shows(told, start) -> None:
    app = declared()
    app._app_id, app._deployed = "ap-1", ("staging", "demo")
    time = datetime.datetime(2026, 11, 30, 10, tzinfo=datetime.timezone.utc)
    first, second = app.logs.fetch(time, source="stderr")
    words = ["app", "logs", "demo", "--env=staging", "--json"]
    assert told() == [*words, f"--since={time.astimezone().isoformat()}", "--source=stderr"]
    assert (first.timestamp, first.source, first.message) == (time.replace(microsecond=1), "stdout", "hello\n")
    assert (first.object_id, first.context_ids) == ("ta-1", ["ap-1", "fc-1"])
    assert (second.timestamp, second.object_id, second.context_ids) == (None, "ap-1", [])
    assert len(app.logs.fetch()) == 2
    app._functions["work"].logs.tail(1)
    assert told() == [*words[:4], "--function=work", "--json", "--tail=1"]
    app.logs.tail(3, search="x")
    assert told() == [*words, "--tail=3", "--search=x"]
    assert [entry.message for entry in app.logs.stream()] == ["hello\n"] * 2
    assert told() == [*words, "--follow"]
    next(app.logs.stream())
    with pytest.raises(ExecutionError, match="it is damaged") as failed:
        app.logs.fetch(search="wrong")
    assert failed.value.hint == "mend it"
    wrong = (
        lambda: app.logs.fetch("2h"),  # type: ignore[arg-type]
        lambda: app.logs.tail(0),
        lambda: app.logs.stream(source="nowhere"),
    )
    for ask in wrong:
        with pytest.raises(InvalidError):
            ask()


def test_logs_are_streamed_to_event_loops(told) -> None:
    import asyncio

    app = declared()
    app._app_id, app._deployed = "ap-1", ("main", "demo")

    async def read() -> list[str]:
        entries = [entry.message async for entry in app.logs.stream.aio()]
        return entries + [entry.message for entry in await app.logs.tail.aio(1)]

    assert asyncio.run(read()) == ["hello\n"] * 4
