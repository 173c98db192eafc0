"""How failures are shown: Lamina's own as an error and a hint, those of the user's code with their traceback."""

from __future__ import annotations

import os
import sys

from modal._cli import SelectionError, UsageError
from modal._shared.errors import format_trimmed, is_report, is_user_frame
from modal._shared.settings import is_on
from modal.exception import RemoteTraceback

EXIT_FAILURE = 1
EXIT_USAGE = 2


def report(error: BaseException) -> int:
    """Prints a failure to standard error; returns the exit code."""
    try:
        sys.stdout.flush()
    except OSError:
        pass
    if isinstance(error, (UsageError, SelectionError)):
        _print_report(str(error), error.hint)
        return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILURE
    if is_on("MODAL_TRACEBACK"):
        import traceback

        traceback.print_exception(type(error), error, error.__traceback__)
    elif getattr(error, "modal_shown", False):
        # The engine has reported the failed step, with all that is known.
        pass
    elif is_report(error) and not _has_remote_frames(error):
        _print_report(_message(error), getattr(error, "hint", None), _place(error))
    else:
        sys.stderr.write(_traceback(error))
        hint = _import_hint(error)
        if hint is not None:
            sys.stderr.write(_paint("hint:", "36") + " " + hint + "\n")
    return EXIT_FAILURE


def _message(error: BaseException) -> str:
    """What an error says. The text of a KeyError would be the representation of what it says."""
    said = getattr(error, "message", None) or (error.args[0] if isinstance(error, KeyError) and error.args else error)
    return str(said)


def _has_remote_frames(error: BaseException) -> bool:
    """Whether the user's code was running in a container when the failure came: its lines are worth seeing."""
    cause = error.__cause__
    return isinstance(cause, RemoteTraceback) and "Traceback (most recent call last):" in cause.text


def _import_hint(error: BaseException) -> str | None:
    """What to do about an import that failed."""
    if isinstance(error.__cause__, RemoteTraceback):
        return _missing_module_hint(error)
    if isinstance(error, ModuleNotFoundError):
        name = (error.name or "").split(".")[0]
        if not name or name == "modal":
            return None  # A part of this package that is not there says so itself.
        return (
            f"`{name}` was not found on this machine: if only the image has it, import it inside the function, "
            "or below `with image.imports():`"
        )
    if isinstance(error, ImportError) and "no known parent package" in str(error):
        return f"a file that is a part of a package is run as a module{_as_module()}"
    return None


def _as_module() -> str:
    """The command for the file that is run, if the working directory has its package."""
    from modal._cli import reference

    path, is_module = reference.program or ("", True)
    name, end = os.path.splitext(os.path.relpath(path) if path else "")
    parts = name.split(os.sep)
    if is_module or end != ".py" or len(parts) < 2 or not all(part.isidentifier() for part in parts):
        return ""
    return ": `-m {}` in place of `{}`".format(".".join(parts), path)


def _missing_module_hint(error: BaseException) -> str | None:
    """What to add to the image when a container misses a module: the commonest mistake of all."""
    if not isinstance(error, ModuleNotFoundError):
        return None
    name = (error.name or "").split(".")[0]
    if not name or name == "modal":
        return None
    if any(os.path.exists(os.path.join(folder or ".", name + end)) for folder in sys.path[:2] for end in ("", ".py")):
        return f"`{name}` was not found in the container: add `.add_local_python_source({name!r})` to its image"
    return f"`{name}` was not found in the container: add its package to the image, as with `.uv_pip_install({name!r})`"


def _traceback(error: BaseException) -> str:
    """The user's frames; for a failure in a container called by nobody's code here, the container's alone."""
    if isinstance(error.__cause__, RemoteTraceback) and _place(error) is None:
        return error.__cause__.text
    return format_trimmed(error)


def _print_report(message: str, hint: str | None, place: str | None = None) -> None:
    lines = [_paint("error:", "1;31") + " " + message]
    if place is not None:
        lines.append(f"  at {place}")
    if hint:
        lines.append(_paint("hint:", "36") + " " + hint)
    sys.stderr.write("\n".join(lines) + "\n")


def _paint(text: str, colour: str) -> str:
    if os.environ.get("NO_COLOR") or not sys.stderr.isatty():
        return text
    return f"\033[{colour}m{text}\033[0m"


def _place(error: BaseException) -> str | None:
    """The innermost line of the user's code that led to the failure."""
    place = None
    entry = error.__traceback__
    while entry is not None:
        filename = entry.tb_frame.f_code.co_filename
        if is_user_frame(filename):
            place = f"{os.path.relpath(filename)}:{entry.tb_lineno}"
        entry = entry.tb_next
    return place
