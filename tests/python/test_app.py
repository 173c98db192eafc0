"""Apps and functions: what is refused when, and what the engine is told."""

from __future__ import annotations

import sys
import types

import pytest

import modal
from modal._client.graph import app_graph
from modal.exception import ExecutionError, InvalidError


def work(x: int = 1) -> int:
    """Doubles."""
    return x * 2


def numbers():
    yield 1


class Box:
    def method(self):
        pass


@pytest.mark.parametrize(
    "call",
    [
        lambda: modal.App(3),
        lambda: modal.App("a", image="debian"),
        lambda: modal.App("a", secrets=["x"]),
        lambda: modal.App("a").function(image="debian"),
        lambda: modal.App("a").function(timeout=None),
        lambda: modal.App("a").function(timeout=0),
        lambda: modal.App("a").function(cpu="2"),
        lambda: modal.App("a").function(memory=1.5),
        lambda: modal.App("a").function(memory=-1),
        lambda: modal.App("a").function()(Box),
        lambda: modal.App("a").function()(Box.method),
        lambda: modal.App("a").function()(3),
        lambda: modal.App("a").local_entrypoint()(3),
    ],
)
def test_wrong_values_are_refused_at_once(call):
    with pytest.raises(InvalidError):
        call()


def test_decorators_need_parentheses():
    app = modal.App("a")
    with pytest.raises(InvalidError, match="without parentheses") as caught:
        app.function(work)
    assert caught.value.hint == "write `@app.function()`"
    with pytest.raises(InvalidError, match="without parentheses"):
        app.local_entrypoint(work)
    with pytest.raises(InvalidError, match="no positional"):
        app.function(modal.Image.debian_slim())


def test_nested_functions_are_refused():
    def nested():
        pass

    with pytest.raises(InvalidError, match="inside a function"):
        modal.App("a").function()(nested)
    with pytest.raises(InvalidError, match="inside a function"):
        modal.App("a").function()(lambda: 1)


def test_names_meet():
    app = modal.App("a")
    app.function()(work)
    with pytest.warns(UserWarning, match="two functions"):
        app.function()(work)
    app.local_entrypoint()(work)
    with pytest.raises(InvalidError, match="two local entrypoints"):
        app.local_entrypoint()(work)


def test_functions_are_not_called_without_saying_where():
    function = modal.App("a").function()(work)
    with pytest.raises(InvalidError, match="does not say where") as caught:
        function(1)
    assert isinstance(caught.value, TypeError)
    assert "work.remote" in str(caught.value)
    assert function.local(2) == 4
    assert function.__name__ == "work"
    assert function.__doc__ == "Doubles."
    assert function.get_raw_f() is work


def test_calls_need_a_running_app():
    app = modal.App("a")
    function = app.function()(work)
    with pytest.raises(ExecutionError, match="not running"):
        function.remote()
    lazy = function.map([1])
    with pytest.raises(ExecutionError, match="not running"):
        next(lazy)
    with pytest.raises(InvalidError, match="no inputs"):
        function.map()
    with pytest.raises(InvalidError, match="generator"):
        app.function()(numbers).remote()


def test_containers_do_not_call_or_run(monkeypatch):
    monkeypatch.setenv("MODAL_IS_REMOTE", "1")
    app = modal.App("a")
    assert modal.is_local()  # It is true for processes that a function has started.
    with pytest.raises(ExecutionError, match="inside a container"):
        app.function()(work).remote()
    with pytest.raises(InvalidError, match="inside a container"), app.run():
        pass


def test_the_graph():
    secret = modal.Secret.from_dict({"A": "1"})
    image = modal.Image.debian_slim("3.11").env({"L": "1"})
    app = modal.App("demo", image=image, secrets=[secret])
    app.function(
        secrets=[modal.Secret.from_dict({"B": "2"})], env={"C": "3", "D": None}, timeout=60, cpu=0.5, memory=512
    )(work)
    _, body = app_graph(app)
    assert body == {
        "app": {"name": "demo", "environment": "main"},
        "images": [
            {
                "id": "0",
                "inputs": [],
                "step": {
                    "kind": "debian_slim",
                    "python_version": "3.11",
                    "local_python": f"{sys.version_info[0]}.{sys.version_info[1]}",
                },
                "force_build": False,
                "title": 'debian_slim(python_version="3.11")',
                "environment": {},
                "secrets": [],
            },
            {
                "id": "1",
                "inputs": ["0"],
                "step": {"kind": "env", "variables": {"L": "1"}},
                "force_build": False,
                "title": 'env({"L":"1"})',
                "environment": {},
                "secrets": [],
            },
        ],
        "functions": [
            {
                "name": "work",
                "image": "1",
                "module": {"kind": "script", "name": "test_app", "path": "/root/test_app.py"},
                "source": {
                    "entries": [{"source": __file__, "target": "/root/test_app.py", "kind": "file", "ignore": None}]
                },
                "mounts": {"entries": []},
                "environment": {"C": "3"},
                "secrets": [
                    {"name": "from_dict(A)", "values": {"A": "1"}},
                    {"name": "from_dict(B)", "values": {"B": "2"}},
                ],
                "timeout": 60,
                "retries": None,
                "max_containers": None,
                "cpu": 0.5,
                "memory": 512,
                "is_generator": False,
            }
        ],
        "options": {"force_build": False, "ignore_cache": False},
    }


@pytest.mark.parametrize(
    ("value", "on"), [("", False), ("0", False), ("False", False), ("1", True), ("no", True), ("true", True)]
)
def test_switches(monkeypatch, value, on):
    monkeypatch.setenv("MODAL_FORCE_BUILD", value)
    monkeypatch.setenv("MODAL_IGNORE_CACHE", value)
    assert app_graph(modal.App("a"))[1]["options"] == {"force_build": on, "ignore_cache": on}


def test_only_used_images_are_sent():
    app = modal.App("a", image=modal.Image.debian_slim("3.9"))
    app.function(image=modal.Image.debian_slim("3.13"))(work)
    _, body = app_graph(app)
    assert [image["step"]["python_version"] for image in body["images"]] == ["3.13"]


def test_secrets_of_a_function_are_checked_when_it_runs():
    app = modal.App("a")
    app.function(secrets=["x"])(work)
    with pytest.raises(InvalidError, match="function `work`"):
        app_graph(app)


def test_modules_of_packages_take_the_whole_package(tmp_path, monkeypatch):
    inner = tmp_path / "package_a" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "package_a" / "__init__.py").write_text("")
    (inner / "__init__.py").write_text("")
    (inner / "mod.py").write_text("import modal\napp = modal.App('a')\n@app.function()\ndef f(): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    from package_a.inner import mod

    function = app_graph(mod.app)[1]["functions"][0]
    assert function["module"] == {"kind": "module", "name": "package_a.inner.mod"}
    assert function["source"]["entries"] == [
        {
            "source": str(tmp_path / "package_a"),
            "target": "/root/package_a",
            "kind": "directory",
            "ignore": {"patterns": ["**/*.pyc", "**/__pycache__", "**/.*"]},
        }
    ]


def test_source_can_stay_here():
    app = modal.App("a", include_source=False)
    app.function()(work)
    assert app_graph(app)[1]["functions"][0]["source"] == {"entries": []}
    app = modal.App("a", include_source=False)
    app.function(include_source=True)(work)
    assert app_graph(app)[1]["functions"][0]["source"]["entries"]


def test_functions_without_a_file_are_refused(monkeypatch):
    module = types.ModuleType("typed_in")
    monkeypatch.setitem(sys.modules, "typed_in", module)
    exec("def f(): pass", vars(module))
    app = modal.App("a")
    app.function()(module.f)
    with pytest.raises(InvalidError, match="no source file"):
        app_graph(app)


def test_unknown_names_explain_themselves():
    with pytest.raises(AttributeError, match="not part of this version"):
        _ = modal.Proxy
    with pytest.raises(AttributeError, match=r"use `modal.App`"):
        _ = modal.Stub
    assert {"App", "Image", "is_local"} <= set(dir(modal))


@pytest.mark.parametrize(
    ("keywords", "message", "hint"),
    [
        ({"max_container": 1}, "`@app.function` does not take `max_container`", "did you mean `max_containers`?"),
        ({"schedule": 5}, "takes a `modal.Period` or `modal.Cron`, not `5`", "modal.Cron"),
    ],
)
def test_unknown_keywords_are_named(keywords, message, hint):
    with pytest.raises(InvalidError) as caught:
        modal.App("a").function(**keywords)
    assert message in str(caught.value)
    assert hint is None or hint in caught.value.hint


def test_unknown_keywords_of_apps_and_entrypoints():
    with pytest.raises(InvalidError, match=r"`modal.App` does not take `image_`"):
        modal.App("a", image_=None)
    with pytest.raises(InvalidError, match=r"`@app.local_entrypoint` does not take `nam`") as caught:
        modal.App("a").local_entrypoint(nam="x")
    assert caught.value.hint == "did you mean `name`?"


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"max_containers": 0}, "`max_containers` takes a positive whole number, not `0`"),
        ({"max_containers": True}, "`max_containers`"),
        ({"max_containers": 1.5}, "`max_containers`"),
        ({"name": ""}, "`name`"),
        ({"name": 3}, "`name`"),
        ({"env": {"A": 1}}, "`A`"),
        ({"env": ["A"]}, "`env` of `@app.function` takes a dict"),
        ({"timeout": None}, "`timeout`"),
        ({"timeout": 0}, "`timeout` takes a whole number of seconds from 1 to 86400 (24 hours), not `0`"),
        ({"timeout": 86_401}, "not `86401`"),
        ({"timeout": 0.5}, "not `0.5`"),
        ({"startup_timeout": 0}, "`startup_timeout` takes a whole number from 1 to 86400, not `0`"),
        ({"startup_timeout": 86_401}, "not `86401`"),
        ({"scaledown_window": 1}, "from 2 to 3600, not `1`"),
        ({"scaledown_window": 3601}, "from 2 to 3600, not `3601`"),
        ({"min_containers": 1.0}, "`min_containers` takes a whole number from 0 on, not `1.0`"),
        ({"min_containers": 2, "max_containers": 1}, "`min_containers=2` is more than `max_containers=1`"),
        ({"buffer_containers": -1}, "`buffer_containers`"),
        ({"min_containers": 1 << 32}, "`min_containers` takes a whole number from 0 on, not `4294967296`"),
        ({"max_containers": 1 << 32}, "not `4294967296`"),
        ({"retries": 10**20}, "`max_retries`"),
        ({"cpu": float("inf")}, "`cpu` takes a positive number of cores"),
        ({"cpu": (1, float("nan"))}, "`cpu` takes a positive number of cores"),
        ({"cpu": 10**9}, "`cpu` takes a positive number of cores"),
        ({"memory": 1 << 32}, "`memory` takes a positive whole number of MiB"),
        ({"retries": -1}, "`max_retries`"),
        ({"retries": 1.0}, "`retries`"),
        ({"max_inputs": 2}, "`max_inputs=2`"),
        ({"cpu": 0}, "`cpu`"),
        ({"memory": 1.5}, "`memory`"),
        ({"image": "debian"}, "`image`"),
    ],
)
def test_values_that_are_refused_at_once(keywords, message):
    app = modal.App("a")
    for decorator in (app.function, app.cls)[: 1 if "name" in keywords else 2]:
        with pytest.raises(InvalidError) as caught:
            decorator(**keywords)
        assert message.replace("@app.function", f"@app.{decorator.__name__}") in str(caught.value)


def test_the_longest_times_are_taken():
    app = modal.App("a")
    handle = app.function(timeout=86_400, startup_timeout=86_400, scaledown_window=3600)(work)
    for method in (handle.with_options, app.cls()(type("A", (), {})).with_options):
        method(timeout=86_400)
        with pytest.raises(InvalidError, match="not `86401`"):
            method(timeout=86_401)


def test_settings_are_sent():
    app = modal.App("a")
    app.function(max_containers=3, cpu=(0.5, 2), memory=(64, 128), retries=1, name="other", include_source=False)(work)
    function = app_graph(app)[1]["functions"][0]
    assert function["max_containers"] == 3
    assert function["cpu"] == (0.5, 2)
    assert function["memory"] == (64, 128)
    assert function["name"] == "other"
    assert function["source"] == {"entries": []}


def test_run_names_a_keyword_that_it_does_not_take():
    with pytest.raises(InvalidError, match=r"`app.run` does not take `detach` in this version"):
        modal.App().run(detach=True)
    with pytest.raises(InvalidError, match=r"`app.run` does not take `detach` in this version"):
        modal.App().run.aio(detach=True)
    with pytest.raises(InvalidError, match=r"`name` of `app.run` takes a string"):
        modal.App().run(name=3)


def test_an_app_runs_under_another_name():
    app = modal.App("a")
    assert app_graph(app)[1]["app"]["name"] == "a"
    running = app.run(name="other")
    assert app_graph(app, running._name)[1]["app"]["name"] == "other"
    assert app.name == "a"


def test_generators_may_say_that_they_are_not_retried():
    def values():
        yield 1

    app = modal.App("a")
    app.function(retries=0, serialized=True)(values)
    with pytest.raises(InvalidError, match="which cannot be retried"):
        app.function(retries=1, serialized=True)(values)


def test_former_names_are_told_with_a_warning() -> None:
    function = modal.App("a").function()(work)
    for method in (function.map, function.map.aio):
        with pytest.warns(modal.exception.DeprecationError, match="exceptions are never wrapped") as told:
            method([1], return_exceptions=True, wrap_returned_exceptions=False)
        assert told[0].filename == __file__
    with pytest.warns(modal.exception.DeprecationError, match="exceptions are never wrapped"):
        function.starmap([(1,)], wrap_returned_exceptions=True)


def test_what_is_registered_is_told_with_a_warning() -> None:
    app = modal.App("t")
    plain = app.function(name="plain")(work)
    thing = app.cls(serialized=True)(type("Thing", (), {}))

    @app.local_entrypoint()
    def main() -> None: ...

    with pytest.warns(modal.exception.DeprecationError, match="`app.registered_functions` will go away") as told:
        functions = app.registered_functions
    assert told[0].filename == __file__
    assert functions["plain"] is plain and list(functions) == ["plain", "Thing.*"]
    with pytest.warns(modal.exception.DeprecationError):
        assert app.registered_classes == {"Thing": thing}
    with pytest.warns(modal.exception.DeprecationError):
        assert app.registered_entrypoints == {"main": main}
    with pytest.warns(modal.exception.DeprecationError):
        assert app.registered_web_endpoints == []
