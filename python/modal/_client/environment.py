"""In which environment an app runs or is deployed."""

from __future__ import annotations

import os
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def in_environment(name: str | None) -> Iterator[None]:
    """What is named without an environment is looked for in that of the app."""
    before = os.environ.get("MODAL_ENVIRONMENT")
    if name is not None:
        os.environ["MODAL_ENVIRONMENT"] = name
    try:
        yield
    finally:
        if name is not None:
            if before is None:
                del os.environ["MODAL_ENVIRONMENT"]
            else:
                os.environ["MODAL_ENVIRONMENT"] = before
