"""Exceptions of Modal's API that Lamina has no reason to raise: programs name them in ``except``."""

from __future__ import annotations

from modal.exception import Error, TimeoutError

__all__ = [
    "AsyncUsageWarning",
    "ClientClosed",
    "ConnectionError",
    "DataLossError",
    "ExecTimeoutError",
    "InteractiveTimeoutError",
    "InternalAPIWarning",
    "LogsFetchError",
    "MountUploadTimeoutError",
    "OutputExpiredError",
    "ResourceExhaustedError",
    "SandboxFilesystemDirectoryNotEmptyError",
    "SandboxFilesystemError",
    "SandboxFilesystemFileTooLargeError",
    "SandboxFilesystemIsADirectoryError",
    "SandboxFilesystemNotADirectoryError",
    "SandboxFilesystemNotFoundError",
    "SandboxFilesystemPathAlreadyExistsError",
    "SandboxFilesystemPermissionError",
    "SandboxTerminatedError",
    "SandboxTimeoutError",
    "ServerWarning",
    "SnapshotCreationError",
    "UnimplementedError",
    "VolumeUploadTimeoutError",
    "WorkspaceManagementError",
]


class ClientClosed(Error):
    """The connection to Modal was closed."""


class ConnectionError(Error):
    """Modal's servers cannot be reached."""


class DataLossError(Error):
    """Data was lost or is damaged."""


class LogsFetchError(Error):
    """More logs were asked for than can be had at once."""


class ResourceExhaustedError(Error):
    """A quota or a limit of requests is used up."""


class SandboxTerminatedError(Error):
    """A sandbox was ended from outside."""


class SnapshotCreationError(Error):
    """A snapshot could not be made."""


class UnimplementedError(Error):
    """The operation does not exist."""


class WorkspaceManagementError(Error):
    """A workspace could not be changed."""


class ExecTimeoutError(TimeoutError):
    """A process in a sandbox ran longer than it was allowed to."""


class InteractiveTimeoutError(TimeoutError):
    """A terminal could not be connected in time."""


class MountUploadTimeoutError(TimeoutError):
    """Local files could not be uploaded in time."""


class OutputExpiredError(TimeoutError):
    """A result is not kept any more."""


class SandboxTimeoutError(TimeoutError):
    """A sandbox ran longer than it was allowed to."""


class VolumeUploadTimeoutError(TimeoutError):
    """Files could not be uploaded to a volume in time."""


class SandboxFilesystemError(Error):
    """Base class of errors of files in sandboxes."""


class SandboxFilesystemDirectoryNotEmptyError(SandboxFilesystemError):
    """A directory is not empty."""


class SandboxFilesystemFileTooLargeError(SandboxFilesystemError):
    """A file is too large to be read at once."""


class SandboxFilesystemIsADirectoryError(SandboxFilesystemError):
    """There is a directory where a file is needed."""


class SandboxFilesystemNotADirectoryError(SandboxFilesystemError):
    """A part of a path is no directory."""


class SandboxFilesystemNotFoundError(SandboxFilesystemError):
    """There is nothing at a path."""


class SandboxFilesystemPathAlreadyExistsError(SandboxFilesystemError):
    """There is something at a path already."""


class SandboxFilesystemPermissionError(SandboxFilesystemError):
    """Permission was denied."""


class AsyncUsageWarning(UserWarning):
    """Warns of a blocking call in asynchronous code."""


class InternalAPIWarning(UserWarning):
    """Warns of the use of what is internal to Modal's client."""


class ServerWarning(UserWarning):
    """A warning of Modal's servers."""
