"""Secrets: dictionaries, dotenv files, this process's environment."""

from __future__ import annotations

import pytest

import modal
from modal.exception import ExecutionError, InvalidError, NotFoundError
from modal.secret import wire_secrets


def values(secret):
    return wire_secrets([secret])[0]["values"]


def test_dictionaries():
    assert values(modal.Secret.from_dict({"A": "1", "B": None})) == {"A": "1"}
    for wrong in ({"A": 1}, {1: "A"}, ["A"]):
        with pytest.raises(InvalidError, match="from_dict"):
            modal.Secret.from_dict(wrong)


def test_dotenv_files_are_found_upwards_from_the_working_directory(tmp_path, monkeypatch):
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (tmp_path / ".env").write_text("# comment\nTOKEN=abc\nexport QUOTED='with space'\nEMPTY=\nBARE\n")
    monkeypatch.chdir(deep)
    secret = modal.Secret.from_dotenv()
    assert values(secret) == {"TOKEN": "abc", "QUOTED": "with space", "EMPTY": ""}
    (tmp_path / "a" / ".env").write_text("NEARER=1\n")
    assert values(secret) == {"NEARER": "1"}
    monkeypatch.chdir("/")
    assert values(secret) == {"NEARER": "1"}


def test_dotenv_files_beside_a_file_and_of_another_name(tmp_path):
    script = tmp_path / "app.py"
    script.touch()
    (tmp_path / ".env").write_text("A=1\n")
    (tmp_path / "other.env").write_text("B=2\n")
    assert values(modal.Secret.from_dotenv(str(script))) == {"A": "1"}
    assert values(modal.Secret.from_dotenv(tmp_path)) == {"A": "1"}
    assert values(modal.Secret.from_dotenv(tmp_path, filename="other.env")) == {"B": "2"}


def test_a_missing_dotenv_file_is_an_error_when_it_is_read(tmp_path):
    secret = modal.Secret.from_dotenv(tmp_path, filename="nowhere.env")
    with pytest.raises(NotFoundError, match=r"found no `nowhere.env` in `.*` or the directories above") as caught:
        wire_secrets([secret])
    assert "say where it is" in caught.value.hint


def test_dotenv_files_are_not_needed_in_containers(tmp_path, monkeypatch):
    monkeypatch.setenv("MODAL_IS_REMOTE", "1")
    app = modal.App("a", secrets=[modal.Secret.from_dotenv(tmp_path, filename="nowhere.env")])
    assert "from_dotenv(nowhere.env)" in repr(app._secrets[0])


def test_variables_of_this_process(monkeypatch):
    monkeypatch.setenv("FIRST", "1")
    monkeypatch.setenv("SECOND", "2")
    secret = modal.Secret.from_local_environ(["FIRST", "SECOND"])
    monkeypatch.setenv("FIRST", "changed")
    assert values(secret) == {"FIRST": "1", "SECOND": "2"}
    assert "1" not in repr(secret)
    assert values(modal.Secret.from_local_environ([])) == {}


def test_missing_variables_are_named(monkeypatch):
    monkeypatch.setenv("FIRST", "1")
    with pytest.raises(InvalidError, match="did not find `GONE`, `LOST` in the environment") as caught:
        modal.Secret.from_local_environ(["FIRST", "GONE", "LOST"])
    assert "export GONE=" in caught.value.hint


def test_containers_do_not_look_at_their_environment(monkeypatch):
    monkeypatch.setenv("MODAL_IS_REMOTE", "1")
    assert values(modal.Secret.from_local_environ(["GONE"])) == {}


@pytest.mark.parametrize("wrong", ["FIRST", [1], None, 5])
def test_names_are_a_list_of_strings(wrong):
    with pytest.raises(InvalidError, match="takes a list of names"):
        modal.Secret.from_local_environ(wrong)


def test_secrets_are_made_by_factories():
    with pytest.raises(InvalidError, match="factory"):
        modal.Secret()


def test_named_secrets_travel_by_name(monkeypatch):
    monkeypatch.delenv("MODAL_ENVIRONMENT", raising=False)
    secret = modal.Secret.from_name("hf", required_keys=["TOKEN"])
    kept = {"name": "hf", "environment": "main", "required_keys": ["TOKEN"]}
    assert wire_secrets([secret]) == [{"name": "from_name(hf)", "kept": kept}]
    assert (secret.name, repr(secret)) == ("hf", "Secret.from_name(hf)")
    assert wire_secrets([secret.allow("REGION")])[0] == {"name": "from_name(hf)", "kept": kept, "allowed": ["REGION"]}
    monkeypatch.setenv("MODAL_ENVIRONMENT", "staging")
    assert wire_secrets([secret])[0]["kept"]["environment"] == "staging"
    named = modal.Secret.from_name("hf", environment_name="dev")
    assert wire_secrets([named])[0]["kept"] == {"name": "hf", "environment": "dev", "required_keys": []}


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: modal.Secret.from_name(""),
        lambda: modal.Secret.from_name(5),
        lambda: modal.Secret.from_name("x", environment_name=5),
        lambda: modal.Secret.from_name("x", required_keys="TOKEN"),
        lambda: modal.Secret.from_name("x", required_keys=[1]),
        lambda: modal.Secret.from_name("x", required_keys=None),
        lambda: modal.Secret.from_name("x", required_keys=5),
        lambda: modal.Secret.from_name("x").update({"A": None}),
        lambda: modal.Secret.from_name("x").update(["A"]),
        lambda: modal.Secret.from_dict({}).update({"A": "1"}),
        lambda: modal.Secret.objects.create("x", {"A": 1}),
        lambda: modal.Secret.objects.create("", {}),
        lambda: modal.Secret.objects.delete(None),
    ],
)
def test_misuse_of_named_secrets_is_an_error_at_once(wrong):
    with pytest.raises(InvalidError):
        wrong()


@pytest.mark.parametrize("objects", [modal.Secret.objects, modal.Volume.objects])
@pytest.mark.parametrize(
    "options",
    [
        {"max_objects": -1},
        {"max_objects": "3"},
        {"max_objects": True},
        {"created_before": "yesterday"},
        {"created_before": 5},
    ],
)
def test_lists_say_what_they_cannot_do(objects, options):
    with pytest.raises(InvalidError, match=f"`{next(iter(options))}` takes"):
        objects.list(**options)


def test_secrets_of_programs_have_no_id():
    secret = modal.Secret.from_dict({"A": "1"})
    assert secret.hydrate() is secret
    with pytest.raises(AttributeError, match="has no id"):
        _ = secret.object_id
    with pytest.raises(InvalidError, match="not kept anywhere"):
        secret.info()


def test_options_of_named_secrets_are_given_by_name():
    with pytest.raises(TypeError):
        modal.Secret.from_name("x", "main")


def test_containers_do_not_ask_for_what_is_kept(monkeypatch):
    monkeypatch.setenv("MODAL_IS_REMOTE", "1")
    modal.Secret.from_name("x", required_keys=["A"])
    with pytest.raises(ExecutionError, match="a container cannot ask"):
        modal.Secret.objects.list()


@pytest.mark.parametrize(
    ("name", "value"), [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0hidden"), ("A", "\udc80hidden")]
)
@pytest.mark.parametrize(
    "use",
    [
        modal.Secret.from_dict,
        lambda values: modal.Secret.from_name("x").update(values),
        lambda values: modal.Secret.objects.create("x", values),
        lambda values: modal.Image.debian_slim("3.11").run_commands("true", env=values),
    ],
)
def test_what_no_environment_can_hold_is_refused(use, name, value):
    with pytest.raises(InvalidError) as raised:
        use({name: value})
    assert "hidden" not in str(raised.value)


def test_local_variables_are_text(monkeypatch):
    monkeypatch.setenv("NO_TEXT", "\udcff")
    with pytest.raises(InvalidError, match="no text in UTF-8"):
        modal.Secret.from_local_environ(["NO_TEXT"])


def test_a_dotenv_file_is_text(tmp_path):
    (tmp_path / ".env").write_bytes(b"A=\xff\n")
    with pytest.raises(InvalidError, match="no text in UTF-8"):
        modal.Secret.from_dotenv(tmp_path)._read()
