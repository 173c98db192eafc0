"""The Python half of the `modal` command: imports the user's module and drives the engine that started this process."""

from __future__ import annotations


class UsageError(Exception):
    """The command line is wrong: exit code 2."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class SelectionError(Exception):
    """What to run cannot be decided: exit code 1."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint
