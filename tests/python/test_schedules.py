"""Schedules: what is refused where they are declared, and what the engine gets."""

from __future__ import annotations

import pytest

import modal
from modal._client.graph import app_graph
from modal.exception import InvalidError


def test_the_engine_gets_schedules():
    app = modal.App("scheduled", image=modal.Image.debian_slim())

    @app.function(serialized=True, schedule=modal.Period(hours=4, seconds=0.5))
    def often(x=1, *, y=2):
        pass

    @app.function(serialized=True, schedule=modal.Cron("0 6 * * *", timezone="Europe/Berlin"))
    def daily():
        pass

    wired = [function["schedule"] for function in app_graph(app)[1]["functions"]]
    parts = {"years": 0, "months": 0, "weeks": 0, "days": 0, "hours": 4, "minutes": 0, "seconds": 0.5}
    assert wired == [
        {"period": parts},
        {"cron": {"cron_string": "0 6 * * *", "timezone": "Europe/Berlin"}},
    ]
    assert repr(modal.Period(hours=4)) == "modal.Period(hours=4)"
    assert repr(modal.Cron("* * * * *")) == "modal.Cron('* * * * *', timezone='UTC')"


def test_only_seconds_have_fractions():
    with pytest.raises(TypeError, match=r"`hours` of `modal\.Period` is a whole number, not `0\.5`"):
        modal.Period(hours=0.5)
    with pytest.raises(TypeError, match=r"`seconds` of `modal\.Period` is a number, not `'1'`"):
        modal.Period(seconds="1")
    with pytest.raises(TypeError, match="positional"):
        modal.Period(4)  # type: ignore[misc]


@pytest.mark.parametrize("parts", [{"seconds": float("nan")}, {"seconds": float("inf")}, {"years": 10**30}])
def test_what_cannot_be_counted_is_refused_when_the_app_starts(parts):
    app = modal.App("scheduled", image=modal.Image.debian_slim())

    @app.function(serialized=True, schedule=modal.Period(**parts))
    def often():
        pass

    with pytest.raises(InvalidError, match=f"the schedule of `often` makes no sense: `{next(iter(parts))}="):
        app_graph(app)


@pytest.mark.parametrize("wrong", [[modal.Period(days=1)], "* * * * *"])
def test_something_else_is_no_schedule(wrong):
    for kind in (InvalidError, AttributeError):
        with pytest.raises(kind, match=r"takes a `modal\.Period` or `modal\.Cron`"):
            modal.App("scheduled").function(schedule=wrong)


def test_a_function_that_needs_arguments_has_no_schedule():
    app = modal.App("scheduled")

    def needs(a, b=1, *, c):
        pass

    with pytest.raises(InvalidError, match=r"cannot run without its arguments `a`, `c`"):
        app.function(serialized=True, schedule=modal.Period(days=1))(needs)
