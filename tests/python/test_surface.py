"""All names of Modal's client are here, or say why they are not."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Callable

import pytest

import modal
from modal._shared import absent

ROOT = Path(__file__).resolve().parents[2]
SURFACE = json.loads((ROOT / "tests/data/modal_surface.json").read_text())
CLASSES = [name for name in SURFACE["classes"] if hasattr(modal, name)]
MEMBERS = [(kind, member) for kind in CLASSES for member in SURFACE["classes"][kind] if member != "()"]


def unexplained(read: Callable[[], object]) -> str | None:
    """What is said of a name that is missing without a reason, be it only a list of what there is."""
    try:
        read()
    except (AttributeError, ImportError) as error:
        _, said, reason = str(error).partition(" is not part of this version")
        is_reason = ": " in reason and "did you mean" not in reason
        return None if said and is_reason else str(error)
    return None


@pytest.mark.parametrize("name", [*SURFACE["functions"], *SURFACE["classes"]])
def test_names_are_there_or_explained(name: str) -> None:
    assert unexplained(lambda: getattr(modal, name)) is None


@pytest.mark.parametrize(("kind", "member"), MEMBERS)
def test_attributes_are_there_or_explained(kind: str, member: str) -> None:
    assert unexplained(lambda: getattr(getattr(modal, kind), member)) is None


@pytest.mark.parametrize("module", SURFACE["modules"])
def test_modules_are_there_or_explained(module: str) -> None:
    assert unexplained(lambda: importlib.import_module(f"modal.{module}")) is None


@pytest.mark.parametrize("name", SURFACE["exceptions"])
def test_all_exceptions_can_be_caught(name: str) -> None:
    exception = getattr(modal.exception, name)
    assert issubclass(exception, BaseException)
    assert exception.__name__ == name


#: What Modal's exceptions derive from, by the names of `modal.exception`.
BASES = {
    "Error": (
        "ClientClosed",
        "InternalError",
        "InternalFailure",
        "InvalidError",
        "NotFoundError",
        "AlreadyExistsError",
        "AuthError",
        "PermissionDeniedError",
        "ExecutionError",
        "VersionError",
        "RemoteError",
        "SerializationError",
        "DeserializationError",
        "ServiceError",
        "TimeoutError",
        "ResourceExhaustedError",
        "RequestSizeError",
        "SandboxTerminatedError",
        "SandboxFilesystemError",
    ),
    "InvalidError": ("ConflictError",),
    "RemoteError": ("ImageBuildError",),
    "TimeoutError": (
        "FunctionTimeoutError",
        "SandboxTimeoutError",
        "ExecTimeoutError",
        "OutputExpiredError",
        "InteractiveTimeoutError",
        "VolumeUploadTimeoutError",
    ),
    "SandboxFilesystemError": tuple(name for name in SURFACE["exceptions"] if name.startswith("SandboxFilesystem")),
}


@pytest.mark.parametrize(("base", "name"), [(base, name) for base, names in BASES.items() for name in names])
def test_exceptions_are_kinds_of_one_another_as_in_modal(base: str, name: str) -> None:
    assert issubclass(getattr(modal.exception, name), getattr(modal.exception, base))


def test_some_are_no_errors_of_modal() -> None:
    of = modal.exception
    assert not issubclass(of.InputCancellation, Exception)
    assert not issubclass(of.ModuleNotMountable, of.Error)
    assert issubclass(of.DeprecationError, Warning)
    assert issubclass(of.ServerWarning, UserWarning)
    # `except TimeoutError` is what programs write around `FunctionCall.get`.
    assert issubclass(of.TimeoutError, TimeoutError)
    with pytest.raises(AttributeError):
        of.NoSuchError  # noqa: B018 - reading it is the test


def test_nothing_is_called_missing_that_is_there() -> None:
    for name in absent.SUBSTITUTES:
        kind, _, member = name.partition(".")
        assert not member or not hasattr(getattr(modal, kind, None), member), name
    assert not [name for name in absent.NAMES if hasattr(modal, name)]
