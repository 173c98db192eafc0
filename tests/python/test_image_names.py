"""Images that were built: names, ids, builds without a function, logs."""

from __future__ import annotations

import pytest

import modal
from modal._client.images import read_name
from modal.exception import ExecutionError, InvalidError

BASE = modal.Image.debian_slim("3.11")


@pytest.mark.parametrize(
    ("name", "environment", "read"),
    [
        ("a", None, ("main", "a", "latest")),
        ("a.b-c_1:v1.2", None, ("main", "a.b-c_1", "v1.2")),
        ("staging/a", None, ("staging", "a", "latest")),
        ("me/staging/a:b", None, ("staging", "a", "b")),
        ("a", "staging", ("staging", "a", "latest")),
        ("a:im-1", None, ("main", "a", "im-1")),
        ("x" * 64, None, ("main", "x" * 64, "latest")),
    ],
)
def test_names_have_parts(name, environment, read, monkeypatch):
    monkeypatch.delenv("MODAL_ENVIRONMENT", raising=False)
    assert tuple(read_name("m", name, environment).values()) == read


@pytest.mark.parametrize(
    ("name", "environment"),
    [
        *[(name, None) for name in ("", ":", "a:", ":a", "/a", "a/", "a//b", "w/x/y/z", "a b", "a:b:c", "ä", "x" * 65)],
        *[(name, None) for name in ("im-1", "im-", "ap-" + "1" * 22, "a:ap-" + "1" * 22, "a:" + "x" * 65, 7, None)],
        ("staging/a", "other"),
        ("a", 7),
    ],
)
def test_other_names_are_refused_at_once(name, environment):
    with pytest.raises(InvalidError):
        modal.Image.from_name(name, environment_name=environment)
    with pytest.raises(InvalidError):
        BASE.publish(name, environment_name=environment)


def test_an_image_without_an_id_has_no_name_and_no_logs():
    with pytest.raises(InvalidError, match="was built"):
        BASE.publish("a")
    for look in (BASE.logs.fetch, BASE.logs.tail):
        with pytest.raises(InvalidError, match="before it is built"):
            look()
    with pytest.raises(ExecutionError, match="not built"):
        BASE.hydrate()
    with pytest.raises(AttributeError, match="no id yet"):
        BASE.object_id  # noqa: B018 - reading it is the test


def test_an_id_is_there_at_once():
    image = modal.Image.from_id("im-1a2b")
    assert image.object_id == "im-1a2b" and image.hydrate.__doc__
    with pytest.raises(AttributeError):
        image.env({"A": "1"}).object_id  # noqa: B018 - reading it is the test
    for other in ("ap-1", 7, None):
        with pytest.raises(InvalidError):
            modal.Image.from_id(other)


def test_builds_want_an_app_that_runs():
    with pytest.raises(InvalidError, match="does not run"):
        BASE.build(modal.App("a"))
    with pytest.raises(InvalidError, match=r"takes a `modal.App`"):
        BASE.build("a")


@pytest.mark.parametrize("count", [0, -1, "1", True, 1.5])
def test_counts_of_logs_are_positive(count):
    with pytest.raises(InvalidError):
        BASE.logs.fetch(count)
    with pytest.raises(InvalidError):
        BASE.logs.tail(count)
