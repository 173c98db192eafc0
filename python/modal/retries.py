"""How often, and after which pauses, a function's failed inputs run again."""

from __future__ import annotations

from modal._shared.declaration import LARGEST
from modal.exception import InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Pause before an input runs again where only a number of retries is given, in seconds.
FIXED_DELAY = 1.0


class Retries:
    """Runs failed inputs again, with growing pauses.

    ```python
    @app.function(retries=modal.Retries(max_retries=3, initial_delay=0.5))
    def fetch(url: str): ...
    ```

    The first pause takes `initial_delay` seconds, each further one `backoff_coefficient` times as long as the one
    before, none longer than `max_delay`. ``retries=3`` is short for three retries after a pause of a second each.
    """

    __slots__ = ("backoff_coefficient", "initial_delay", "max_delay", "max_retries")

    def __init__(
        self,
        *,
        max_retries: int,
        backoff_coefficient: float = 2.0,
        initial_delay: float = 1.0,
        max_delay: float = 60.0,
    ) -> None:
        if isinstance(max_retries, bool) or not isinstance(max_retries, int) or not 0 <= max_retries <= LARGEST:
            raise InvalidError(f"`max_retries` takes a whole number, 0 or more, not `{max_retries!r}`")
        _check_number("backoff_coefficient", backoff_coefficient, 1, 10)
        _check_number("initial_delay", initial_delay, 0, 60)
        _check_number("max_delay", max_delay, 1, 60)
        self.max_retries = max_retries
        self.backoff_coefficient = backoff_coefficient
        self.initial_delay = initial_delay
        self.max_delay = max_delay

    def _wire(self) -> dict[str, Any] | None:
        """As the engine reads them."""
        return {name: getattr(self, name) for name in self.__slots__} if self.max_retries else None

    def __repr__(self) -> str:
        return "Retries({})".format(", ".join(f"{name}={getattr(self, name)!r}" for name in reversed(self.__slots__)))


def check_retries(retries: object) -> Retries | None:
    """What a function's `retries` mean, or an `InvalidError`."""
    if retries is None or isinstance(retries, Retries):
        return retries
    if isinstance(retries, bool) or not isinstance(retries, int):
        raise InvalidError(
            f"`retries` takes a whole number or `modal.Retries`, not `{retries!r}`",
            hint="write `retries=3`, or `retries=modal.Retries(max_retries=3)`",
        )
    return Retries(max_retries=retries, backoff_coefficient=1.0, initial_delay=FIXED_DELAY)


def _check_number(name: str, value: object, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise InvalidError(f"`{name}` takes a number from {least} to {most}, not `{value!r}`")
