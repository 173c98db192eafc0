"""What an app needs of this machine and cannot have: all of it is said at once, before anything is built."""

from __future__ import annotations

import os

from modal._shared.errors import mark
from modal.exception import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


def raise_all(problems: list[BaseException], steps: list[dict[str, Any]], sources: list[dict[str, Any]]) -> NoReturn:
    """Raises what was not found, together with the local files of steps and functions that are missing.

    Where all was found, the engine looks for those.
    """
    found = list(problems)
    entries = [entry for step in steps for entry in step.get("files", {}).get("entries", ())]
    missing = [f"local path `{entry['source']}`" for entry in [*entries, *sources] if _is_missing(entry["source"])]
    files = [path for step in steps for path in step.get("requirements") or ()]
    missing += [f"requirements file `{path}`" for path in files if _is_missing(path)]
    found += [FileNotFoundError(f"{what} does not exist") for what in dict.fromkeys(missing)]
    raise combined(found)


def _is_missing(path: str) -> bool:
    return not os.path.exists(path)


def combined(errors: list[BaseException]) -> BaseException:
    """One error for all; its kind is that of the first."""
    parts = {part: None for error in errors for part in getattr(error, "parts", [_text(error)])}
    if len(parts) == 1:
        return errors[0]
    message = f"{len(parts)} things on this machine cannot be used:" + "".join(f"\n  {part}" for part in parts)
    kind = type(errors[0])
    error = kind(message, getattr(errors[0], "hint", None)) if issubclass(kind, Error) else mark(kind(message))
    error.parts = list(parts)  # type: ignore[attr-defined]
    return error


def _text(error: BaseException) -> str:
    return error.message if isinstance(error, Error) else str(error)
