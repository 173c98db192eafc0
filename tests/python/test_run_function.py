"""`Image.run_function`: what is refused when, and what decides about a step's key."""

from __future__ import annotations

import functools
import importlib
import os
import pickle
import subprocess
import sys
from base64 import b64decode
from pathlib import Path

import pytest
import run_function_programs as programs

import modal
from modal._client.graph import Graph
from modal._client.step_function import _Uses
from modal.exception import InvalidError

BASE = modal.Image.debian_slim("3.11")


def step(function, **options) -> dict:
    graph = Graph()
    graph.add_image(BASE.run_function(function, **options))
    return graph.images[-1]["step"]


def code(function, **options) -> dict:
    return step(function, **options)["code"]


def nested():
    def inner() -> None: ...

    return inner


@pytest.mark.parametrize(
    ("function", "options", "said"),
    [
        (lambda: None, {}, "no lambda"),
        (nested(), {}, "not at the top level"),
        (programs.Model.load, {}, "not at the top level"),
        (7, {}, "takes a function, not `7`"),
        (programs.Model, {}, "takes a function"),
        (functools.partial(programs.plain, 1), {}, "takes a function"),
        (programs.plain, {"args": ["x" * (3 << 20)]}, "too large"),
        (programs.plain, {"args": "text"}, "`args` as a list"),
        (programs.plain, {"args": [programs.LOCK]}, "cannot be pickled"),
        (programs.plain, {"cpu": 0}, "`cpu`"),
        (programs.plain, {"cpu": float("nan")}, "`cpu` of `Image.run_function` takes a positive number of cores"),
        (programs.plain, {"cpu": 10**9}, "`cpu`"),
        (programs.plain, {"cpu": (1, 2)}, "`cpu`"),
        (programs.plain, {"memory": "1"}, "`memory`"),
        (programs.plain, {"memory": 1 << 32}, "`memory` of `Image.run_function` takes a positive whole number of MiB"),
        (programs.plain, {"timeout": None}, "`timeout`"),
        (
            programs.plain,
            {"timeout": 86_401},
            "`timeout` of `Image.run_function` takes a whole number of seconds from 1",
        ),
        (programs.plain, {"secrets": ["s"]}, "Secret"),
        (programs.plain, {"env": {"A": 1}}, "strings"),
        (programs.plain, {"nonsense": 1}, "does not take `nonsense`"),
    ],
)
def test_misuse_is_an_error_of_the_call(function, options, said):
    with pytest.raises(InvalidError, match=said):
        BASE.run_function(function, **options)


def test_the_step_says_where_the_function_is_and_what_it_gets():
    sent = step(programs.plain, args=[1, "a"], kwargs={"key": None}, cpu=0.5, memory=100, timeout=5)
    assert (sent["function"], sent["module"]["kind"], sent["module"]["name"]) == ("plain", "script", programs.__name__)
    assert sent["source"]["entries"][0]["source"] == programs.__file__
    assert pickle.loads(b64decode(sent["arguments"])) == ((1, "a"), {"key": None})
    assert (sent["milli_cpu"], sent["memory"], sent["timeout"]) == (500, 100, 5)
    without = step(programs.plain, include_source=False)
    assert without["source"]["entries"] == [] and without["arguments"] is None


def test_a_function_of_an_app_is_taken_as_the_function_it_is():
    wrapped = modal.App("a").function()(programs.plain)
    assert step(wrapped)["function"] == "plain"


def test_bodies_of_local_helpers_and_named_globals_count():
    name = programs.__name__
    assert code(programs.uses_helper)["helpers"].keys() == {f"{name}.double"}
    assert code(programs.uses_helper)["globals"].keys() == {"LIMIT"}
    # A class with its bases, and what their methods use.
    assert code(programs.uses_class)["helpers"].keys() == {f"{name}.{each}" for each in ("Base", "Model", "double")}
    assert code(programs.uses_class)["globals"].keys() == {"LIMIT", "Model.size"}
    assert code(programs.plain)["globals"].keys() == {"plain(0)"}
    # What is no value of the program has no say.
    assert code(programs.uses_app)["globals"] == {} == code(programs.uses_app)["helpers"]


def test_what_changes_the_result_changes_the_code(monkeypatch):
    before = code(programs.uses_helper)
    assert before == code(programs.uses_helper)
    monkeypatch.setattr(programs, "LIMIT", 4)
    changed = code(programs.uses_helper)
    assert changed["globals"] != before["globals"] and changed["helpers"] == before["helpers"]
    arguments = [code(programs.plain, args=[value])["arguments"] for value in (1, True, "1", 1.0, [1], (1,), {1})]
    assert len(set(arguments)) == len(arguments)
    assert code(programs.plain, args=[{"a", "b"}], timeout=5, cpu=2) == code(programs.plain, args=({"b", "a"},))


@pytest.mark.parametrize(
    ("function", "helpers"),
    [
        (programs.uses_decorated, ["traced.<locals>.wrapper", "decorated"]),
        (programs.uses_wrapped, ["wrapped", "double"]),
        (programs.uses_property, ["Lazy", "double"]),
        (programs.uses_nested, ["Outer", "double"]),
        (programs.uses_list, ["double"]),
        (programs.uses_partial, ["double"]),
        (programs.uses_instance, ["Lazy", "double"]),
        (programs.uses_cached, ["cached", "double"]),
        (programs.uses_function_of_app, ["of_app"]),
        (programs.decorated, ["decorated", "double"]),
        (programs.wrapped, ["wrapped", "double"]),
    ],
)
def test_code_counts_in_whatever_it_is_wrapped(function, helpers):
    uses = _Uses(function)
    assert set(uses.texts) >= {f"{programs.__name__}.{helper}" for helper in helpers}


def test_a_decorator_counts_beside_what_it_decorates():
    for function in (programs.uses_wrapped, programs.wrapped):
        uses = _Uses(function)
        assert "range(times)" in uses.texts[f"{programs.__name__}.wrapped"]
        assert uses.values["wrapped.times"] == "int:3"


def test_functions_among_the_arguments_count():
    assert code(programs.plain, args=[programs.double])["helpers"].keys() == {f"{programs.__name__}.double"}
    partial = functools.partial(programs.uses_helper)
    assert "LIMIT" in code(programs.plain, args=[{"how": partial}])["globals"]


def test_values_of_one_name_all_count(tmp_path, monkeypatch):
    """Globals of two modules that have one name, and modules that import each other."""
    (tmp_path / "first_helper.py").write_text("import second_helper\nLIMIT = 1\ndef f(): return LIMIT\n")
    (tmp_path / "second_helper.py").write_text("import first_helper\nLIMIT = 2\ndef g(): return LIMIT\n")
    (tmp_path / "main_helper.py").write_text(
        "import first_helper, second_helper\nLIMIT = 3\n"
        "def step(a=LIMIT + 1, b=LIMIT + 2): first_helper.f(); second_helper.g(); print(LIMIT)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    main = importlib.import_module("main_helper")
    seen = [code(main.step)["globals"]]
    assert len(seen[0]) == 5
    for module in ("first_helper", "second_helper", "main_helper"):
        monkeypatch.setattr(sys.modules[module], "LIMIT", 9)
        seen.append(code(main.step)["globals"])
    main.step.__defaults__ = (9, main.step.__defaults__[1])
    seen.append(code(main.step)["globals"])
    assert len({str(each) for each in seen}) == 5


def test_attributes_of_classes_count(monkeypatch):
    before = code(programs.uses_property)
    monkeypatch.setattr(programs.Lazy, "SIZE", 4)
    assert code(programs.uses_property)["globals"] != before["globals"]


def test_what_is_beside_a_virtual_environment_is_local(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path], check=True)
    (tmp_path / "program_in_prefix.py").write_text("def helper(): pass\ndef step(): helper()\n")
    text = (
        "import program_in_prefix as p; from modal._client.step_function import _Uses; print(list(_Uses(p.step).texts))"
    )
    package = str(Path(__file__).parents[2] / "python")
    ran = subprocess.run(
        [tmp_path / "bin" / "python", "-c", text],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": package},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "['program_in_prefix.helper']\n"


def test_values_without_a_lasting_form_are_warned_about():
    with pytest.warns(UserWarning, match=r"run_function\(uses_lock\)` uses `LOCK`"):
        assert code(programs.uses_lock)["globals"] == {}


def test_the_code_is_the_same_in_every_process():
    text = (
        "import modal, run_function_programs as p; from test_run_function import code; "
        "print([code(f, args=[{'x', 'y', 'z'}]) for f in (p.uses_set, p.uses_class, p.uses_helper, p.uses_instance)])"
    )

    def run(seed: int) -> str:
        directory = Path(__file__).parent
        package = str(directory.parents[1] / "python")
        environment = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": package}
        command = [sys.executable, "-c", text]
        return subprocess.run(
            command, cwd=directory, env=environment, capture_output=True, text=True, check=True
        ).stdout

    assert run(1) == run(2)
