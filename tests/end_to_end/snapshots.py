"""Complete outputs, kept as files. ``MODAL_UPDATE_SNAPSHOTS=1`` writes them anew; what changed is then seen in git."""

from __future__ import annotations

import os
import re
from pathlib import Path

from conftest import Modal, Result

DIRECTORY = Path(__file__).parent / "snapshots"


def normalised(modal: Modal, text: str) -> str:
    """The text without what differs between runs and machines."""
    for path, name in ((modal.directory, "DIRECTORY"), (modal.store, "STORE")):
        text = text.replace(str(path), name)
    text = re.sub(r"\b(im|ta|ap|fu)-[0-9A-Za-z]{22}\b", r"\1-ID", text)
    # Python underlines the part of a line that failed from 3.11 on, with details that change with every release.
    return "".join(line for line in text.splitlines(keepends=True) if not re.fullmatch(r"\s*[~^]+\s*", line))


def check(modal: Modal, name: str, result: Result) -> None:
    """Compares the exit code and both outputs with the file of this name."""
    shown = f"exit code {result.code}\n"
    for stream, text in (("stdout", result.stdout), ("stderr", result.stderr)):
        if text:
            shown += f"--- {stream}\n{normalised(modal, text)}"
    file = DIRECTORY / f"{name}.txt"
    if os.environ.get("MODAL_UPDATE_SNAPSHOTS"):
        DIRECTORY.mkdir(exist_ok=True)
        file.write_text(shown)
    assert shown == file.read_text()
