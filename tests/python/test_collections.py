"""Dictionaries and queues: handles, names, and what is asked of the engine."""

from __future__ import annotations

import pickle

import pytest

import modal
from modal._calls import collections
from modal._shared.payload import MEMORY_THRESHOLD, Large
from modal.exception import InvalidError


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    monkeypatch.delenv("MODAL_ENVIRONMENT", raising=False)


class Played:
    """An engine that answers in turn what it is told to, and notes what was asked."""

    _failure = None

    def __init__(self, *answers) -> None:
        self.answers = list(answers)
        self.asked = []

    def receiver(self):
        from modal._calls.conversation import Receiver

        return Receiver()

    def start_errand(self, receiver, body, payload):
        self.asked.append((body, b"".join(payload.parts) if isinstance(payload, Large) else payload))
        value, data = self.answers.pop(0)
        receiver.arrived.append((1, {"status": "ok", "value": value}, data))
        return 1

    def wait(self, receiver): ...


def played(handle, *answers):
    handle._conversation = Played(({"id": "di-1"}, b""), *answers)
    return handle


def pickled(*values) -> bytes:
    return b"".join(pickle.dumps(value, 4) for value in values)


@pytest.mark.parametrize("kind", [modal.Dict, modal.Queue])
def test_a_handle_is_looked_up_once_when_it_is_first_used(kind):
    handle = played(kind.from_name("shared", create_if_missing=True), (3, b""), (4, b""))
    with pytest.raises(AttributeError, match="before it is first used"):
        _ = handle.object_id
    assert (handle.len(), handle.len(), handle.object_id) == (3, 4, "di-1")
    of = {"environment": "main", "name": "shared", "create": True}
    first, second, third = (body for body, _ in handle._conversation.asked)
    assert first == {"do": "find", "kind": kind._KIND, "of": of}
    assert second == third and second["id"] == "di-1"


@pytest.mark.parametrize("kind", [modal.Dict, modal.Queue])
def test_handles_travel(kind, monkeypatch):
    handle = kind.from_name("shared")
    monkeypatch.setenv("MODAL_ENVIRONMENT", "dev")
    copied = pickle.loads(pickle.dumps(handle))
    assert (type(copied), copied.name, copied._environment) == (kind, "shared", "dev")
    assert pickle.loads(pickle.dumps(kind.from_id("xx-1"))).object_id == "xx-1"


@pytest.mark.parametrize("kind", [modal.Dict, modal.Queue])
def test_names_are_checked_at_once(kind):
    for name in ("", "a/b", "a b", "ü", "x" * 65, "ap-" + "a" * 22):
        with pytest.raises(InvalidError, match="cannot be the name"):
            kind.from_name(name)
    with pytest.raises(InvalidError, match="takes the name"):
        kind.from_name(3)
    with pytest.raises(RuntimeError, match=f"{kind.__name__}.from_name"):
        kind()
    with pytest.raises(TypeError):
        kind.from_name("a", "main")
    with pytest.raises(AttributeError, match="is not part of this version"):
        _ = kind.lookup


def test_values_of_a_dict():
    values = played(
        modal.Dict.from_name("d"),
        (True, pickled([1])),
        (False, b""),
        (False, b""),
        (False, b""),
        (True, b""),
    )
    assert values["a"] == [1]
    assert values.get("b", 5) == 5
    with pytest.raises(KeyError, match="c"):
        values.pop("c")
    with pytest.raises(KeyError, match="d"):
        _ = values["d"]
    assert values.put("e", 1) is True
    asked = values._conversation.asked[1:]
    assert [body["do"] for body, _ in asked] == ["get", "get", "pop", "get", "put"]
    assert asked[0][1] == pickled("a")
    assert asked[-1] == (
        {"do": "put", "parts": [len(pickled("e")), len(pickled(1))], "if_missing": False, "id": "di-1"},
        pickled("e", 1),
    )


def test_entries_come_in_portions():
    first = [[1, len(pickled("a")), len(pickled(1))], [2, len(pickled("b")), len(pickled(2))]]
    second = [[7, len(pickled("c")), len(pickled(3))]]
    values = played(modal.Dict.from_name("d"), (first, pickled("a", 1, "b", 2)), (second, pickled("c", 3)), ([], b""))
    assert dict(values.items()) == {"a": 1, "b": 2, "c": 3}
    assert [body["after"] for body, _ in values._conversation.asked[1:]] == [0, 2, 7]


def test_waiting_is_said_in_seconds():
    jobs = played(modal.Queue.from_name("q"), *[([len(pickled(1))], pickled(1))] * 4)
    assert (jobs.get(), jobs.get(timeout=2), jobs.get(False, 5), jobs.get_many(3)) == (1, 1, 1, [1])
    asked = [(body["timeout"], body["most"], body["partition"]) for body, _ in jobs._conversation.asked[1:]]
    assert asked == [(None, 1, ""), (2, 1, ""), (0, 1, ""), (None, 3, "")]


@pytest.mark.parametrize(
    "misuse",
    [
        lambda jobs: jobs.get(timeout=-1),
        lambda jobs: jobs.get(timeout="1"),
        lambda jobs: jobs.get_many(-1),
        lambda jobs: jobs.get_many("3"),
        lambda jobs: jobs.put(1, partition=""),
        lambda jobs: jobs.put(1, partition="é" * 33),
        lambda jobs: jobs.put(1, partition=3),
        lambda jobs: jobs.put(1, partition_ttl=0),
        lambda jobs: jobs.len(partition="a", total=True),
        lambda jobs: jobs.clear(partition="a", all=True),
    ],
)
def test_misuse_is_refused_before_anything_is_asked(misuse):
    with pytest.raises(InvalidError):
        misuse(modal.Queue.from_name("q"))


def test_large_values_are_not_copied_together():
    lengths, payload = collections.join(["key", bytes(MEMORY_THRESHOLD)])
    assert isinstance(payload, Large) and len(payload) == sum(lengths)
    lengths, payload = collections.join(["key", b"value"])
    assert collections.split(payload, lengths) == [pickled("key"), pickled(b"value")]


def test_what_cannot_be_read_says_whose_it_is():
    values = played(modal.Dict.from_name("d"), (True, b"\x80"))
    with pytest.raises(modal.exception.DeserializationError, match=r"a value of Dict.from_name\('d'\) cannot be read"):
        _ = values["a"]
