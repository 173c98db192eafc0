"""Stand-ins for the parts of `typing` that are needed while running.

The real module takes longer to import than this package. Type checkers read the real ones (`if TYPE_CHECKING`).
"""

from __future__ import annotations


class Generic:
    """A base class that accepts subscription and ignores it."""

    __slots__ = ()

    def __class_getitem__(cls, _parameters: object) -> type:
        return cls


P = R = None
