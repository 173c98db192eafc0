"""How exceptions travel between a container and the caller, and how they are shown."""

from __future__ import annotations

import os

from modal._shared.interpreter import dumps, loads
from modal._shared.payload import PICKLE_PROTOCOL, pack, unpack
from modal.exception import RemoteTraceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from modal._shared.payload import Payload

PACKAGE_DIRECTORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def is_user_frame(filename: str) -> bool:
    """Whether a frame belongs to the user, not to this package or to the import machinery."""
    return not filename.startswith(("<frozen importlib", "<frozen runpy")) and not (
        os.path.abspath(filename).startswith(PACKAGE_DIRECTORY + os.sep)
    )


def format_trimmed(error: BaseException) -> str:
    """The traceback as Python prints it, with only the user's frames, also in causes and contexts."""
    import traceback

    whole = traceback.TracebackException(type(error), error, error.__traceback__)
    waiting, seen = [whole], set()
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        part.stack[:] = [entry for entry in part.stack if is_user_frame(entry.filename)]
        waiting += [linked for linked in (part.__cause__, part.__context__) if linked is not None]
        waiting += getattr(part, "exceptions", None) or []
    return "".join(whole.format())


def trim_traceback(error: BaseException) -> None:
    """Cuts this package's frames off both ends of an exception's traceback, in place."""
    entry = error.__traceback__
    while entry is not None and not is_user_frame(entry.tb_frame.f_code.co_filename):
        entry = entry.tb_next
    last, first = None, entry
    while entry is not None:
        if is_user_frame(entry.tb_frame.f_code.co_filename):
            last = entry
        entry = entry.tb_next
    if first is not None and last is not None:
        last.tb_next = None
        error.__traceback__ = first


def type_name(error: BaseException) -> str:
    """The full name of an exception's class."""
    return f"{type(error).__module__}.{type(error).__qualname__}"


def safe_message(error: BaseException) -> str:
    """`str(error)`, whatever the class makes of it."""
    try:
        return str(error)
    except Exception as failure:
        return f"<no message: `__str__` raised {type_name(failure)}>"


def pack_exception(error: BaseException) -> Payload:
    """What a container sends for an exception: the exception if it can travel, and its description in any case."""
    try:
        text = format_trimmed(error)
    except Exception as failure:
        text = (
            f"{type_name(error)}: {safe_message(error)}\n(the traceback could not be formatted: {type_name(failure)})\n"
        )
    return pack(
        {
            "exception": _pickle_exception(error),
            "type": type_name(error),
            "message": safe_message(error),
            "traceback": text,
        }
    )


def unpack_exception(payload: Any) -> BaseException:
    """The exception that `pack_exception` described, with the remote traceback as its cause."""
    try:
        described = unpack(payload)
        parts = [described[key] for key in ("type", "message", "traceback")]
    except Exception as failure:
        return _not_described(f"{type(failure).__name__}: {safe_message(failure)}")
    if not all(isinstance(part, str) for part in parts):
        return _not_described("its type, message and traceback are no texts")
    name, message, traceback = parts
    error = _unpickle_exception(described.get("exception"), name, message)
    error.__cause__ = RemoteTraceback(traceback)
    return error


def _not_described(reason: str) -> BaseException:
    from modal.exception import DeserializationError

    return DeserializationError(
        f"the function failed, and what its container says about the failure cannot be read: {reason}",
        hint="code in the container has written to the runner's socket; see what the function prints",
    )


def _unpickle_exception(pickled: Any, name: str, message: str) -> BaseException:
    from modal.exception import ExecutionError

    if pickled is None:
        return _unpicklable(name, message)
    try:
        error = loads(pickled)
    except Exception as failure:
        return ExecutionError(
            f"the function raised `{name}`: {message}",
            hint=f"this process cannot rebuild the exception ({type(failure).__name__}: {safe_message(failure)}); "
            "make its class importable here to receive it as itself",
        )
    if not isinstance(error, BaseException):
        return ExecutionError(f"the function raised `{name}`: {message}")
    return error


def _unpicklable(name: str, message: str) -> BaseException:
    from modal.exception import SerializationError

    return SerializationError(
        f"the function raised `{name}`, which cannot be pickled: {message}",
        hint="define its class at the top level of a module, and keep only plain data in it",
    )


def _pickle_exception(error: BaseException) -> bytes | None:
    """Pickles an exception such that it also unpickles, or gives None."""
    ways = [_itself, _ByParts, _by_value, _parts_by_value]
    if _members(error):
        # What the caller cannot read is then one member, and not the group.
        ways.sort(key=lambda way: way in (_itself, _by_value))
    for way in ways:
        try:
            pickled = dumps(way(error), PICKLE_PROTOCOL)
            if type(loads(pickled)) is type(error):
                return pickled
        except Exception:
            continue
    return None


def _members(error: BaseException) -> tuple[BaseException, ...]:
    """The exceptions of a group."""
    members = getattr(error, "exceptions", None)
    return members if isinstance(members, tuple) and len(error.args) == 2 else ()


def _itself(error: BaseException) -> Any:
    return error


def _by_value(error: Any) -> Any:
    from modal._shared.serialized import ByValue

    return ByValue(error)


def _parts_by_value(error: BaseException) -> Any:
    return _by_value(_ByParts(error))


class _ByParts:
    """Pickles an exception without its `__init__`, which many classes define with other parameters than `args`.

    The members of a group travel each as it can, the others as errors that describe them.
    """

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        # All of it, or the caller would get an exception that is not what was raised.
        state = dict(self.error.__dict__)
        args = self.error.args
        members = _members(self.error)
        if members:
            args = (args[0], [_Member(member) for member in members])
        return rebuild_exception, (type(self.error), args, state)


class _Member:
    """Pickles an exception of a group, which arrives as an error that describes it if it cannot be read there."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        pickled = _pickle_exception(self.error)
        return _unpickle_exception, (pickled, type_name(self.error), safe_message(self.error))


def rebuild_exception(kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    """The inverse of `_ByParts`."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def engine_error(control: dict[str, Any]) -> BaseException:
    """The exception for an error that the engine reports."""
    from modal import exception

    name = control.get("error") or "ExecutionError"
    message = control.get("message") or "the engine reported an error without a message"
    hint = control.get("hint")
    if name == "KeyboardInterrupt":
        return KeyboardInterrupt()
    kind = getattr(exception, name, None) if name in exception.__all__ else None
    error: BaseException
    if kind is exception.ImageBuildError:
        error = exception.ImageBuildError(message, control.get("image_id"), hint)
        error.modal_shown = bool(control.get("shown"))  # type: ignore[attr-defined]
        error.modal_log = control.get("log")  # type: ignore[attr-defined]
    elif isinstance(kind, type) and issubclass(kind, exception.Error):
        error = kind(message, hint)
    else:
        import builtins

        kind = kind or getattr(builtins, name, None)
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            kind = exception.ExecutionError
        error = kind(message if not hint else f"{message}\nhint: {hint}")
    return mark(error)


def mark(error: BaseException) -> BaseException:
    """Notes that an exception is Lamina's own report, so that the command line shows it without a traceback."""
    error.modal_report = True  # type: ignore[attr-defined]
    return error


def unreadable(what: str, error: OSError) -> BaseException:
    """That a local file cannot be read, as a report of the same class."""
    return mark(type(error)(f"{what} cannot be read: {error.strerror}"))


def is_report(error: BaseException) -> bool:
    """Whether an exception is Lamina's own report rather than a failure of the user's code."""
    from modal.exception import Error, ModuleNotMountable

    return isinstance(error, (Error, ModuleNotMountable)) or getattr(error, "modal_report", False)
