"""What a plain script shows of a build."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

_depth = 0


class enable_output:  # noqa: N801 - a context manager is used like a function
    """Shows build progress and logs when an app is run from a plain script.

    ```python
    with modal.enable_output():
        with app.run():
            f.remote()
    ```

    ``modal run`` always shows them.
    """

    def __enter__(self) -> None:
        global _depth
        _depth += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        global _depth
        _depth -= 1


def is_output_enabled() -> bool:
    """Whether an `enable_output` block is open."""
    return _depth > 0
