"""The exceptions of Modal's API.

Everything that Lamina itself reports derives from `Error`, so one ``except modal.exception.Error`` catches it.
Exceptions raised by your own functions are not wrapped: they arrive as themselves, with the traceback from the
container attached.
"""

from __future__ import annotations

import builtins

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from modal._shared.unraised import *  # noqa: F403 - as they are

__all__ = [
    "AlreadyExistsError",
    "AuthError",
    "ConflictError",
    "DeprecationError",
    "DeserializationError",
    "Error",
    "ExecutionError",
    "FunctionTimeoutError",
    "ImageBuildError",
    "InputCancellation",
    "InternalError",
    "InternalFailure",
    "InvalidError",
    "ModuleNotMountable",
    "NotFoundError",
    "PermissionDeniedError",
    "RemoteError",
    "RequestSizeError",
    "SerializationError",
    "ServiceError",
    "TimeoutError",
    "VersionError",
]


class Error(Exception):
    """Base class of everything that Lamina reports.

    `message` says what happened; `hint`, where there is one, says what to do about it.
    """

    def __init__(self, message: str = "", hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    @property
    def message(self) -> str:
        """What happened, without the hint."""
        return str(self.args[0]) if self.args else ""

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class InvalidError(Error):
    """A method was used in a way that cannot work, or got a value that it does not accept."""


class ConflictError(InvalidError):
    """The request contradicts the present state of an object."""


class NotFoundError(Error):
    """Something that was named does not exist."""


class AlreadyExistsError(Error):
    """Something of this name exists already."""


class AuthError(Error):
    """Credentials are missing or were refused."""


class PermissionDeniedError(Error):
    """The operation is not allowed."""


class ExecutionError(Error):
    """Something went wrong while an app was running."""


class VersionError(Error):
    """Two parts that speak with each other are of versions that do not fit."""


class RemoteError(Error):
    """Something failed outside of this process."""


class RequestSizeError(Error):
    """What was asked for is larger than possible."""


class ImageBuildError(RemoteError):
    """A step of an image failed; `image_id` is the image it was making, where that is known."""

    def __init__(self, message: str = "", image_id: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.image_id = image_id


class SerializationError(Error):
    """An argument or a result cannot be pickled."""


class DeserializationError(Error):
    """A pickled argument or result cannot be read on the other side."""


class ServiceError(Error):
    """The engine could not be started, or it ended while it was needed."""


class InternalError(Error):
    """Lamina itself is at fault."""


class InternalFailure(Error):
    """A container was lost: it ran out of memory, exited, or was killed."""


class TimeoutError(Error, builtins.TimeoutError):
    """Something took longer than it was allowed to; ``except TimeoutError`` catches it, too."""


class FunctionTimeoutError(TimeoutError):
    """A function ran longer than its `timeout`."""


class InputCancellation(BaseException):
    """Raised in an input that was cancelled, or whose time is up, while it runs. ``except Exception`` lets it pass."""


class ModuleNotMountable(Exception):
    """A Python module cannot be added to an image: it was not found, or it contains compiled code."""


class DeprecationError(UserWarning):
    """Warns of a feature that will go away."""


class RemoteTraceback(Exception):
    """The text of a traceback from a container: the `__cause__` of an exception that was raised there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """What programs may name in ``except`` although nothing here raises it: made when it is asked for."""
        if not name.startswith("_"):
            from modal._shared import unraised

            if name in unraised.__all__:
                return getattr(unraised, name)
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
