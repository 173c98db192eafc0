"""Attributes that do not exist explain themselves."""

from __future__ import annotations

import pytest

import modal
from modal._shared import absent


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (
            lambda: modal.Image.conda,
            "`Image.conda` is not part of this version: Modal has removed it",
        ),
        (lambda: modal.Image.debian_slim().uv_pip_instal, "did you mean `uv_pip_install`?"),
        (lambda: modal.Secret.keys, "`Secret.keys` is not part of this version; it has"),
        (lambda: modal.Secret.from_nam, "did you mean `from_name`?"),
    ],
)
def test_missing_attributes_name_what_there_is(read, words):
    with pytest.raises(AttributeError) as caught:
        read()
    assert words in str(caught.value)


def test_attributes_can_still_be_probed():
    assert not hasattr(modal.Image, "conda")
    assert not hasattr(modal.Image.debian_slim(), "__deepcopy__")


@pytest.mark.parametrize(
    "statement",
    ["from modal import Proxy", "from modal import App, Proxy", "import modal; modal.Proxy"],
)
def test_missing_names_say_so_however_they_are_asked_for(statement):
    with pytest.raises((ImportError, AttributeError)) as caught:
        exec(statement, {})
    assert str(caught.value).startswith(f"`modal.Proxy` is not part of this version ({modal.__version__}): containers")
    assert not hasattr(modal, "Proxy")


def test_unknown_names_say_what_there_is():
    with pytest.raises(ImportError, match=r"`modal.Vollume` is not part .*; it has `App`"):
        exec("from modal import Vollume", {})


@pytest.mark.parametrize(
    "statement",
    ["import modal.experimental", "from modal.proxy import Proxy", "import modal.gpu", "import modal.cli.app"],
)
def test_missing_modules_say_so(statement):
    with pytest.raises(ModuleNotFoundError, match="is not part of this version: "):
        exec(statement, {})


def test_modules_that_modal_has_not_either_are_simply_missing():
    import importlib.util

    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'modal.nonsense'$"):
        exec("import modal.nonsense", {})
    assert importlib.util.find_spec("modal.nonsense") is None


def test_modules_are_attributes_without_being_imported():
    assert modal.volume.FileEntryType.FILE == 1
    assert modal.functions.FunctionCall is modal.FunctionCall
    with pytest.raises(AttributeError, match=r"`modal.proxy` is not part of this version.*: containers"):
        _ = modal.proxy


def test_names_are_also_where_modal_has_them():
    from modal.functions import FunctionCall

    assert FunctionCall is modal.FunctionCall


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda: modal.Function.lookup("a", "f"), "Modal has removed it: use `from_name`"),
        (lambda: modal.Volume.persisted("x"), "Modal has removed it: use `from_name`"),
        (lambda: modal.Image.debian_slim().copy_local_dir("x"), "with `copy=True` for a layer"),
        (lambda: modal.Image.conda, "`micromamba_install`"),
        (lambda: modal.Volume.delete("x"), "`Volume.objects.delete`"),
        (lambda: modal.Dict.delete("x"), "`Dict.objects.delete`"),
        (lambda: modal.Queue.lookup("x"), "Modal has removed it: use `from_name`"),
        (lambda: modal.Cls.lookup("a", "C"), "Modal has removed it: use `from_name`"),
    ],
)
def test_lookups_say_what_to_do(read, words):
    with pytest.raises(AttributeError) as caught:
        read()
    assert words in str(caught.value)


def test_values_that_ask_for_nothing_are_taken():
    app = modal.App("a", volumes={}, tags=None, secrets=None)
    nothing = dict.fromkeys(absent.KEYWORDS["@app.function"])
    nothing |= dict.fromkeys(absent.DEPRECATED)
    nothing |= {"min_containers": 0, "volumes": {}, "network_file_systems": {}, "enable_memory_snapshot": False}

    @app.function(serialized=True, image=None, secrets=None, env=None, retries=None, is_generator=False, **nothing)
    def f():
        pass

    @app.function(serialized=True, is_generator=True)
    def values():
        yield 1

    app.run(detach=False, environment_name=None, client=None)
    image = modal.Image.debian_slim()
    image.pip_install("x", gpu=None, secrets=None, env=None).apt_install("y", gpu=None)
    image.uv_pip_install("x", gpu=None, uv_version=None).run_commands("true", gpu=None, volumes={})


def test_values_that_cannot_matter_here_are_taken_and_said_once(monkeypatch, recwarn):
    monkeypatch.setattr(absent, "_said", set())
    settings = {"region": "us-east", "experimental_options": {"x": True}, "ephemeral_disk": 1}
    for name in ("a", "b"):
        modal.App(name, tags={"a": "b"}).function(**settings)
    assert [str(warning.message) for warning in recwarn] == [
        "`@app.function` is given what changes nothing here: `region` (everything runs on this machine), "
        "`experimental_options` (they are about Modal's own service), "
        "`ephemeral_disk` (containers write to the disk that the store is on)",
    ]
    assert {warning.filename for warning in recwarn} == {__file__}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("keep_warm", "min_containers"),
        ("concurrency_limit", "max_containers"),
        ("container_idle_timeout", "scaledown_window"),
        ("allow_concurrent_inputs", "@modal.concurrent"),
    ],
)
@pytest.mark.parametrize("decorator", ["function", "cls"])
def test_renamed_keywords_are_named(decorator, old, new):
    with pytest.raises(modal.exception.DeprecationError, match=f"`{old}` of `@app.{decorator}` is gone: .*{new}"):
        getattr(modal.App("a"), decorator)(**{old: 1})
    getattr(modal.App("a"), decorator)(**{old: None})


@pytest.mark.parametrize("keywords", [{"scaledown_window": 1}, {"min_containers": "1"}, {"buffer_containers": -1}])
def test_what_is_taken_is_checked_all_the_same(keywords):
    with pytest.raises(modal.exception.InvalidError, match=rf"^`{next(iter(keywords))}` takes a whole number from"):
        modal.App("a").function(**keywords)


def test_containers_do_not_repeat_what_was_said(monkeypatch, recwarn):
    monkeypatch.setattr(absent, "_said", set())
    monkeypatch.setenv("MODAL_IS_REMOTE", "1")
    modal.App("a").function(region="us-east")
    assert not recwarn.list


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda: modal.App("a").function(kep_warm=None), ("@app.function", "kep_warm", "it takes `image`")),
        (
            lambda: modal.Image.debian_slim().run_commands("x", nv=1),
            ("Image.run_commands", "nv", "did you mean `env`?"),
        ),
    ],
)
def test_values_that_ask_for_something_are_refused(use, words):
    owner, name, hint = words
    with pytest.raises(
        modal.exception.InvalidError, match=f"^`{owner}` does not take `{name}` in this version"
    ) as caught:
        use()
    assert hint in caught.value.hint


def test_is_generator_is_believed_only_where_it_is_true():
    with pytest.raises(modal.exception.InvalidError, match="`f` is no generator, unlike"):

        @modal.App("a").function(serialized=True, is_generator=True)
        def f():
            pass
