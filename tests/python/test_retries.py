"""`retries`: what is accepted, how it is sent, that failed inputs run again."""

from __future__ import annotations

import pytest

import modal
from modal._client.graph import app_graph
from modal.exception import InvalidError

app = modal.App("retries")


@app.function(retries=2)
def flaky(path, failures):
    with open(path, "a") as file:
        file.write("x")
    with open(path) as file:
        attempts = len(file.read())
    if attempts <= failures:
        raise ValueError(f"attempt {attempts}")
    return attempts


def work():
    pass


def wire(**settings):
    app = modal.App("a")
    app.function(**settings)(work)
    return app_graph(app)[1]["functions"][0]["retries"]


def test_what_is_sent():
    assert wire() is None
    assert wire(retries=0) is None
    assert wire(retries=3) == {
        "max_retries": 3,
        "backoff_coefficient": 1.0,
        "initial_delay": 1.0,
        "max_delay": 60.0,
    }
    assert wire(retries=modal.Retries(max_retries=2, backoff_coefficient=3, initial_delay=0, max_delay=10)) == {
        "max_retries": 2,
        "backoff_coefficient": 3,
        "initial_delay": 0,
        "max_delay": 10,
    }
    assert wire(retries=modal.Retries(max_retries=1))["backoff_coefficient"] == 2.0


@pytest.mark.parametrize("value", [True, -1, 1.5, "3", [1]])
def test_numbers_that_are_refused(value):
    with pytest.raises(InvalidError, match=r"`retries` takes|`max_retries` takes") as caught:
        modal.App("a").function(retries=value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_retries": -1}, "`max_retries` takes a whole number, 0 or more, not `-1`"),
        ({"max_retries": 1.0}, "`max_retries`"),
        ({"max_retries": True}, "`max_retries`"),
        (
            {"max_retries": 1, "backoff_coefficient": 0.5},
            "`backoff_coefficient` takes a number from 1 to 10, not `0.5`",
        ),
        ({"max_retries": 1, "backoff_coefficient": float("nan")}, "not `nan`"),
        ({"max_retries": 1, "initial_delay": 61}, "`initial_delay` takes a number from 0 to 60, not `61`"),
        ({"max_retries": 1, "initial_delay": "1"}, "`initial_delay`"),
        ({"max_retries": 1, "max_delay": 0.5}, "`max_delay` takes a number from 1 to 60, not `0.5`"),
        ({"max_retries": 1, "max_delay": False}, "`max_delay`"),
    ],
)
def test_retries_that_are_refused(settings, message):
    with pytest.raises(InvalidError) as caught:
        modal.Retries(**settings)
    assert message in str(caught.value)


def test_their_text():
    assert repr(modal.Retries(max_retries=3)) == (
        "Retries(max_retries=3, max_delay=60.0, initial_delay=1.0, backoff_coefficient=2.0)"
    )


def test_failed_inputs_run_again(start, tmp_path):
    with start(app) as fake:
        assert flaky.remote(str(tmp_path / "a"), 0) == 1
        assert fake.retried == []
        assert flaky.remote(str(tmp_path / "b"), 2) == 3
        assert fake.retried == [1, 2]
        with pytest.raises(ValueError, match="attempt 3"):
            flaky.remote(str(tmp_path / "c"), 9)
