"""What commands may leave behind, and that they do not."""

from __future__ import annotations

import os
import time
from pathlib import Path

from conftest import Modal

#: A word that processes of steps have in their command lines, where tests want them found whatever else they lose.
MARKER = f"marker-{os.getpid()}"


def processes(store: Path) -> list[str]:
    """Processes that work on this store: by their environment, or by what they have mounted."""
    found = []
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit() or int(directory.name) == os.getpid():
            continue
        try:
            environment = (directory / "environ").read_bytes().split(b"\0")
            mounts = (directory / "mountinfo").read_bytes()
            line = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if f"MODAL_STORE={store}".encode() in environment or str(store).encode() in mounts or MARKER in line:
            found.append(line)
    return found


def control_groups() -> list[str]:
    """Control groups of engines that are gone; a group's name begins with its engine's process id.

    Only where engines that the tests start make groups: beside or above our own. Another session's are its own concern.
    """
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        own = Path(line.split(":", 2)[2].lstrip("/"))
        for hierarchy in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*/")):
            for above in (own, *own.parents):
                found += (hierarchy / above).glob("lamina-*-*")
    engines = ((group, group.name.split("-")[1]) for group in found)
    # Benchmarks name a group of theirs in another way.
    return sorted({str(group) for group, engine in engines if engine.isdigit() and not Path("/proc", engine).exists()})


def leftovers(modal: Modal) -> dict[str, list[str]]:
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(modal.store) in line]
    work = modal.store / "content/work"
    return {
        "processes": processes(modal.store),
        "mounts": mounts,
        "work": [path.name for path in work.iterdir()] if work.exists() else [],
        "cgroups": control_groups(),
    }


def clean(modal: Modal, patience: float = 60) -> None:
    """Everything ends within moments, or a while where the machine is busy; what is left after that is left for good."""
    until = time.monotonic() + patience
    left = leftovers(modal)
    while any(left.values()) and time.monotonic() < until:
        time.sleep(0.1)
        left = leftovers(modal)
    assert not any(left.values()), left
