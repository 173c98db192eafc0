"""Warnings at the line of the user's code."""

from __future__ import annotations


def warn(text: str, kind: type[Warning] = UserWarning) -> None:
    """Warns at the line of the user's code that has led here."""
    import sys
    import warnings

    from modal._shared.errors import is_user_frame

    depth, frame = 1, sys._getframe()
    while frame.f_back is not None and not is_user_frame(frame.f_code.co_filename):
        depth, frame = depth + 1, frame.f_back
    warnings.warn(text, kind, stacklevel=depth)


def warn_of_former(text: str) -> None:
    """Warns of what works as it did, and is done otherwise by now."""
    from modal.exception import DeprecationError

    warn(text, DeprecationError)
