"""When functions of deployed apps run by themselves."""

from __future__ import annotations

from modal._shared.api import Explained
from modal.exception import InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


#: The largest number of a period that is passed on; it is longer than any that can be counted.
LARGEST = 10**12


class NoSchedule(InvalidError, AttributeError):
    """Something else stands in the place of a schedule: to Python, too, that is an error of this kind."""


class Schedule(metaclass=Explained):
    """When a function of a deployed app runs: a `modal.Period` or a `modal.Cron`."""

    def __init__(self, wire: dict[str, Any], shown: str) -> None:
        self._wire = wire
        self._shown = shown

    def _wired(self, owner: str) -> dict[str, Any]:
        """As the engine gets it."""
        for name, value in self._wire.get("period", {}).items():
            # What is no number at all is larger than nothing, and not smaller either.
            if not abs(value) <= LARGEST:
                raise InvalidError(
                    f"the schedule of `{owner}` makes no sense: `{name}={value!r}` of `modal.Period` cannot be counted"
                )
        return self._wire

    def __repr__(self) -> str:
        return f"modal.{self._shown}"


class Period(Schedule):
    """Again and again, after the same time, counted from the deployment.

    ```python
    @app.function(schedule=modal.Period(hours=4))
    def refresh(): ...
    ```

    Days and what is longer end at the same clock time, in this machine's time zone. Only `seconds` may have a fraction.
    """

    def __init__(
        self,
        *,
        years: int = 0,
        months: int = 0,
        weeks: int = 0,
        days: int = 0,
        hours: int = 0,
        minutes: int = 0,
        seconds: float = 0,
    ) -> None:
        parts = {"years": years, "months": months, "weeks": weeks, "days": days, "hours": hours, "minutes": minutes}
        for name, value in parts.items():
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"`{name}` of `modal.Period` is a whole number, not `{value!r}`")
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
            raise TypeError(f"`seconds` of `modal.Period` is a number, not `{seconds!r}`")
        parts["seconds"] = seconds  # type: ignore[assignment]
        given = ", ".join(f"{name}={value!r}" for name, value in parts.items() if value)
        super().__init__({"period": parts}, f"Period({given})")


class Cron(Schedule):
    """At the times of a cron line: minute, hour, day of the month, month, day of the week.

    ```python
    @app.function(schedule=modal.Cron("30 2 * * mon-fri", timezone="Europe/Berlin"))
    def report(): ...
    ```

    An hour that the clock leaves out in spring is taken to be later by as much, one that comes twice in autumn counts
    once; with ``*`` for the hour, runs follow the time that passes.
    """

    def __init__(self, cron_string: str, timezone: str = "UTC") -> None:
        wire = {"cron": {"cron_string": str(cron_string), "timezone": str(timezone)}}
        super().__init__(wire, f"Cron({cron_string!r}, timezone={timezone!r})")


def check_kind(schedule: object) -> None:
    """Refuses what is no schedule."""
    if not isinstance(schedule, Schedule):
        raise NoSchedule(
            f"`schedule` of `@app.function` takes a `modal.Period` or `modal.Cron`, not `{schedule!r}`",
            hint='write for example `schedule=modal.Cron("0 6 * * *")`',
        )


def check_callable(raw: Any, name: str) -> None:
    """Refuses a function with a schedule that cannot run without arguments."""
    code = raw.__code__
    wanted = code.co_argcount - len(raw.__defaults__ or ())
    missing = list(code.co_varnames[: max(wanted, 0)])
    keywords = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    missing += [each for each in keywords if each not in (raw.__kwdefaults__ or {})]
    if missing:
        raise InvalidError(
            f"`{name}` has a schedule, and cannot run without its arguments "
            + ", ".join(f"`{each}`" for each in missing),
            hint="give them defaults",
        )
