"""What of this machine a Dockerfile needs: its text, and which directory `COPY` takes files from."""

from __future__ import annotations

import os
import sys

from modal._client.files import absolute, directory_entry
from modal._shared.api import environment_or_default
from modal._shared.errors import mark, unreadable
from modal.image.dockerfile import AUTO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from modal.image.dockerfile import AnyPath, Ignore


def read_dockerfile(path: AnyPath, context_dir: AnyPath | None, ignore: Ignore) -> dict[str, Any]:
    """The text of a Dockerfile, and its context."""
    full = absolute(path)
    try:
        with open(full, encoding="utf-8", newline="") as file:
            text = file.read()
    except FileNotFoundError:
        raise mark(FileNotFoundError(f"the Dockerfile `{full}` does not exist")) from None
    except IsADirectoryError:
        raise mark(IsADirectoryError(f"the Dockerfile `{full}` is a directory: name the file in it")) from None
    except UnicodeDecodeError as error:
        raise mark(ValueError(f"the Dockerfile `{full}` is no UTF-8 text: {error}")) from None
    except OSError as error:
        raise unreadable(f"the Dockerfile `{full}`", error) from None
    return _step(os.path.basename(full), text, read_context(context_dir, full, ignore))


def read_standard_input(context_dir: AnyPath) -> dict[str, Any]:
    """The Dockerfile that is on standard input, and its context."""
    try:
        text = sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise mark(ValueError(f"the Dockerfile on standard input is no UTF-8 text: {error}")) from None
    return _step("Dockerfile", text, read_context(context_dir, None, AUTO))


def read_lines(context_dir: AnyPath | None, ignore: Ignore, files: dict[str, AnyPath]) -> dict[str, Any]:
    """What lines of a Dockerfile need beside their text."""
    context = read_context(context_dir, None, ignore, files)
    return {"environment": environment_or_default(None), "context": context}


def _step(name: str, text: str, context: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "text": text, "environment": environment_or_default(None), "context": context}


def read_context(
    context_dir: AnyPath | None, dockerfile: str | None, ignore: Ignore, files: dict[str, AnyPath] | None = None
) -> dict[str, Any]:
    """The directory, what is never taken of it, and files that are given beside it."""
    root = absolute(os.getcwd() if context_dir is None else context_dir)
    if ignore is AUTO:
        ignore = _patterns(root, dockerfile)
    entry = directory_entry(root, "/", ignore)
    context = {"source": entry["source"], "ignore": entry["ignore"]}
    if files:
        context["files"] = {name: _file(path) for name, path in files.items()}
    return context


def _file(path: AnyPath) -> str:
    full = absolute(path)
    if os.path.isdir(full):
        raise mark(IsADirectoryError(f"`{full}` of `context_files` is a directory: name files"))
    if not os.path.exists(full):
        raise mark(FileNotFoundError(f"`{full}` of `context_files` does not exist"))
    return full


def _patterns(root: str, dockerfile: str | None) -> list[str]:
    """The patterns of the first ignore file that there is: that of the Dockerfile, beside it, or of the context."""
    places = [os.path.join(root, ".dockerignore")]
    if dockerfile is not None:
        places = [dockerfile + ".dockerignore", os.path.join(os.path.dirname(dockerfile), ".dockerignore"), *places]
    for place in places:
        try:
            with open(place, encoding="utf-8-sig", errors="surrogateescape") as file:
                lines = file.read().splitlines()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise unreadable(f"the ignore file `{place}`", error) from None
        stripped = (line.strip() for line in lines if not line.startswith("#"))
        return [_clean(line) for line in stripped if line]
    return []


def _clean(pattern: str) -> str:
    """A pattern as Docker reads it: relative to the context, whatever slashes are around it."""
    exclamation, path = ("!", pattern[1:].strip()) if pattern.startswith("!") else ("", pattern)
    return exclamation + (os.path.normpath(path).lstrip("/") if path else "")
