"""Classes of an app and how many inputs they run: what is wrong with them is said at its moment."""

import dataclasses
import types
import typing

import pytest

import modal
from modal._client.graph import app_graph
from modal._shared.variants import wire_options
from modal.exception import ExecutionError, InvalidError

app = modal.App("classes")


@app.cls()
class Model:
    name: str = modal.parameter()
    size: int = modal.parameter(default=7)
    note: str = modal.parameter(init=False)

    @modal.enter()
    def load(self):
        self.loads = getattr(self, "loads", 0) + 1

    @modal.method()
    def describe(self, more=0):
        return self.name, self.size, self.loads, more

    @modal.method()
    async def later(self):
        return getattr(self, "loads", None)

    @staticmethod
    def twice(x):
        return 2 * x

    @property
    def label(self):
        return f"{self.name}-{self.size}"


def make(body="    pass", decorator="@app.cls()", bases="", **names):
    """Declares a class by its text."""
    namespace = {"modal": modal, "app": modal.App("made"), "__name__": "made", **names}
    exec(f"{decorator}\nclass Made{bases}:\n{body}\n", namespace)
    return namespace["Made"]


def method(decorators):
    return "".join(f"    {each}\n" for each in decorators) + "    def run(self): pass"


@pytest.mark.parametrize(
    ("decorators", "kind", "words"),
    [
        (["@modal.method"], TypeError, "without parentheses"),
        (["@modal.enter"], TypeError, "without parentheses"),
        (["@modal.exit"], TypeError, "without parentheses"),
        (["@modal.method(1)"], TypeError, "no positional arguments"),
        (["@modal.method()", "@modal.enter()"], InvalidError, "`@modal.enter` and `@modal.method`"),
        (["@modal.exit()", "@modal.method()"], InvalidError, "`@modal.method` and `@modal.exit`"),
        (["@modal.method()", "@modal.method()"], InvalidError, "`@modal.method` and `@modal.method`"),
        (["@modal.enter(snap=True)"], InvalidError, "enable_memory_snapshot=True"),
        (["@modal.concurrent(max_inputs=2)", "@modal.method()"], InvalidError, "above the method `run`"),
        (["@modal.method()", "@modal.concurrent(max_inputs=2)"], InvalidError, "above the method `run`"),
        (["@modal.method(is_generator=True)"], InvalidError, "no generator"),
        (["@modal.batched(max_batch_size=0, wait_ms=1)"], InvalidError, "`max_batch_size` takes"),
        (["@modal.batched(max_batch_size=1, wait_ms=600001)"], InvalidError, "`wait_ms` takes"),
        (["@modal.batched(max_batch_size=1, wait_ms=1)", "@modal.enter()"], InvalidError, "`@modal.batched`"),
    ],
)
def test_decorators_of_methods(decorators, kind, words):
    with pytest.raises(kind, match=words):
        make(method(decorators))


def test_what_may_stand_together():
    make(method(["@modal.enter()", "@modal.exit()"]))
    make(method(["@modal.enter(snap=True)"]), "@app.cls(enable_memory_snapshot=True)")
    make(method(["@modal.method()", "@modal.batched(max_batch_size=1, wait_ms=1)"]))
    make(method(["@modal.batched(max_batch_size=1, wait_ms=1)", "@modal.method()"]))
    make(decorator="@app.cls()\n@modal.concurrent(max_inputs=3)")


@pytest.mark.parametrize(
    ("decorator", "kind", "words"),
    [
        ("@app.cls", TypeError, "without parentheses"),
        ("@app.cls(1)", TypeError, "no positional arguments"),
        ("@app.cls()\n@app.cls()", TypeError, "which is a class of an app already"),
        ("@app.cls(mounts=[1])", TypeError, "mounts"),
        ("@app.cls(min_containers=3, max_containers=2)", InvalidError, "`min_containers=3` is more than"),
        ("@app.cls(max_inputs=2)", InvalidError, "`max_inputs=2`"),
        ("@app.cls()\n@modal.concurrent()", TypeError, "misses `max_inputs`"),
        ("@app.cls()\n@modal.concurrent(max_inputs=1, target_inputs=2)", InvalidError, "more than `max_inputs=1`"),
        ("@modal.concurrent(max_inputs=1)\n@app.cls()", InvalidError, "above the app's decorator"),
        ("@app.cls()\n@modal.concurrent(max_inputs=1)\n@modal.concurrent(max_inputs=1)", InvalidError, "twice"),
    ],
)
def test_decorators_of_classes(decorator, kind, words):
    with pytest.raises(kind, match=words):
        make(decorator=decorator)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("    def __init__(self): pass", "has a constructor"),
        ("    x = modal.parameter()", "has no annotation"),
        ("    x: list = modal.parameter()", "annotated `list`"),
        (
            "    @modal.batched(max_batch_size=1, wait_ms=1)\n    def run(self, xs): pass\n"
            "    @modal.method()\n    def other(self): pass",
            "runs in batches",
        ),
    ],
)
def test_bodies(body, words):
    with pytest.raises((InvalidError, TypeError), match=words):
        make(body)


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        ("'float'", "annotated `'float'`, a text and no type"),
        ("'int | None'", r"annotated `'int \| None'`, a text and no type"),
        ("' int'", "annotated `' int'`, a text and no type"),
        ("typing.Optional[int]", r"annotated `typing\.Optional\[int\]`|annotated `int \| None`"),
        ("types.GenericAlias(list, int)", r"annotated `list\[int\]`"),
    ],
)
def test_annotations_that_are_no_types(annotation, words):
    for kind in (AttributeError, InvalidError):
        with pytest.raises(kind, match=words):
            make(f"    x: {annotation} = modal.parameter()", typing=typing, types=types)


@pytest.mark.parametrize("known", ["int", "str", "bytes", "bool"])
@pytest.mark.parametrize("quoted", [True, False])
def test_annotations_that_are_texts_of_known_types(known, quoted):
    future, annotation = ("", f"'{known}'") if quoted else ("from __future__ import annotations", known)
    value = {"int": 1, "str": "a", "bytes": b"a", "bool": True}[known]
    made = declared(future, annotation)
    assert made(x=value)._wire_parameters() == declared("", known)(x=value)._wire_parameters()
    with pytest.raises(TypeError, match="`x`"):
        made(x=1.5)._wire_parameters()


def test_annotations_of_the_future():
    future = "from __future__ import annotations"
    with pytest.raises(AttributeError, match=r"annotated `'int \| None'`, a text and no type") as caught:
        declared(future, "int | None")
    assert "`int`, `str`, `bytes` or `bool`" in caught.value.hint
    # A class whose annotations are not asked for may have any.
    declared(future, "int | None", "3")


def declared(future, annotation, value="modal.parameter()"):
    """A class of a module that starts with `future`, with one parameter."""
    names = {"modal": modal, "app": modal.App("made"), "__name__": "made"}
    exec(f"{future}\n@app.cls()\nclass Made:\n    x: {annotation} = {value}\n", names)
    return names["Made"]


def test_constructors_of_bases_count():
    with pytest.raises(InvalidError, match="has a constructor"):
        make(bases="(dict)")
    with pytest.raises(InvalidError, match="has a constructor"):
        app.cls()(dataclasses.make_dataclass("Data", ["x"]))


def test_a_function_is_no_class_and_a_class_no_function():
    with pytest.raises(TypeError, match="stands above a class"):
        app.cls()(len)
    with pytest.raises(InvalidError):
        app.function()(Model)
    with pytest.raises(InvalidError, match="belongs into a class"):
        app.function()(modal.method()(lambda self: None))
    with pytest.raises(InvalidError, match="cannot be derived from `Model`"):

        class Derived(Model): ...


def test_batched_functions():
    with pytest.raises(InvalidError, match="generator"):

        @modal.batched(max_batch_size=1, wait_ms=1)
        def values(xs):
            yield xs

    with pytest.raises(InvalidError, match="arguments with defaults"):

        @app.function(serialized=True)
        @modal.batched(max_batch_size=1, wait_ms=1)
        def default(xs, ys=1): ...

    with pytest.raises(InvalidError, match="arguments with defaults"):

        @app.function(serialized=True)
        @modal.batched(max_batch_size=1, wait_ms=1)
        def default_of_keyword(xs, *, ys=1): ...


@pytest.mark.parametrize(
    "given", [{"max_inputs": "3", "target_inputs": 2}, {"max_inputs": 0}, {"max_inputs": 2.5}, {"max_inputs": 1 << 32}]
)
def test_numbers_of_inputs_are_looked_at_when_the_app_starts(given):
    counted = modal.App("counted", image=modal.Image.debian_slim())

    @counted.function(serialized=True)
    @modal.concurrent(**given)
    def several(): ...

    with pytest.raises(InvalidError, match=r"`max_inputs` of `@modal.concurrent` at `several` takes a whole number"):
        app_graph(counted)
    with pytest.raises(InvalidError, match=r"`max_inputs` of `@modal.concurrent` at `Model` takes a whole number"):
        wire_options(Model.with_concurrency(**given)._options, "Model")


def test_instances_here():
    model = Model(name="a")
    assert model.describe.local(3) == ("a", 7, 1, 3)
    assert model.describe.local() == ("a", 7, 1, 0), "it enters once"
    assert (model.label, model.name, Model.twice(2), model.twice(3)) == ("a-7", "a", 4, 6)
    assert Model("b", 3).describe.local() == ("b", 3, 1, 0)
    with pytest.raises(AttributeError, match="`note`"):
        _ = model.note
    model.note = "handle"
    assert model.note == "handle"
    with pytest.raises(TypeError):
        model.describe()
    with pytest.raises(TypeError, match="misses its parameter `name`"):
        Model().describe.local()
    with pytest.raises(TypeError, match="has no parameter `weight`"):
        Model(name="a", weight=1).describe.local()
    with pytest.raises(ValueError, match="cannot be pickled"):
        Model(name=open)(lambda: 1) if False else Model(name=(each for each in ()))


def test_asynchronous_methods_here_enter_no_hooks():
    import asyncio

    assert asyncio.run(Model(name="a").later.local()) is None


def test_methods_of_the_class_need_an_instance():
    with pytest.raises(AttributeError, match=r"write `Model\(\).describe.remote`"):
        Model.describe.remote()
    with pytest.raises(ExecutionError, match="was called on the class"):
        Model.describe.local()
    with pytest.raises(ExecutionError, match="its app is not running"):
        Model(name="a").describe.remote()


def test_methods_have_no_containers_of_their_own():
    with pytest.raises(InvalidError, match="has no containers of its own"):
        Model(name="a").describe.update_autoscaler(min_containers=1)
    with pytest.raises(InvalidError, match="which has no containers of its own"):
        Model(name="a").describe.autoscaler.update(min_containers=1)
    with pytest.raises(InvalidError, match="`scaledown_window` takes a whole number from 2 to 3600"):
        Model(name="a").update_autoscaler(scaledown_window=1)


def test_a_parameter_with_a_default_comes_last():
    wrong = make("    a: int = modal.parameter(default=1)\n    b: int = modal.parameter()\n    def f(self): pass")
    with pytest.raises(ValueError, match="`b` of `Made` has no default and follows `a`"):
        wrong(b=1).f()


def test_parameters_of_bases_count_beside_own_ones_only():
    base = type("Base", (), {"__annotations__": {"a": int}, "a": modal.parameter(default=1), "f": lambda self: self.a})
    with pytest.raises(TypeError, match=r"takes 0 parameters|has no parameter `a`"):
        make(bases="(Base)", Base=base)(a=2).f()
    assert make("    b: int = modal.parameter(default=2)", bases="(Base)", Base=base)(a=3).f() == 3


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({}, InvalidError, "misses its parameter `name`"),
        ({"name": "a", "x": 1}, InvalidError, "has no parameter `x`"),
        ({"name": 1}, TypeError, "is of type `str`, not `int`"),
        ({"name": "x" * (17 << 10)}, InvalidError, "take up"),
        ({"name": "\ud800"}, InvalidError, "encoding"),
    ],
)
def test_values_are_checked_when_a_method_is_called(given, kind, words):
    with pytest.raises(kind, match=words):
        Model(**given)._wire_parameters()


def test_values_travel_as_text():
    from modal._shared.parameters import from_wire

    wired = Model(name="é", size=True)._wire_parameters()
    assert wired == [
        {"name": "name", "type": "str", "value": "é"},
        {"name": "size", "type": "int", "value": "true"},
    ]
    assert from_wire(wired) == {"name": "é", "size": True}
    every = make("".join(f"    {kind}_: {kind} = modal.parameter()\n" for kind in ("int", "str", "bytes", "bool")))
    values = {"int_": -(1 << 70), "str_": "true", "bytes_": b"\0\xff", "bool_": False}
    assert from_wire(every(**values)._wire_parameters()) == values


def test_options_say_something_or_change_nothing():
    changed = Model.with_options(cpu=2, gpu=None, volumes={}).with_options(memory=64, env={"A": "1"})
    assert changed._options == {"cpu": 2, "memory": 64, "secrets": [], "environment": {"A": "1"}}
    with pytest.raises(TypeError, match=r"`Cls\.with_options` does not take `image`"):
        Model.with_options(image=modal.Image.debian_slim())
    with pytest.raises(TypeError, match="does not take `min_containers`"):
        Model.with_options(min_containers=1)
    with pytest.raises(InvalidError, match="more than `max_inputs=1`"):
        Model.with_concurrency(max_inputs=1, target_inputs=2)
