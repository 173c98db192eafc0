"""Two hundred deployments and rollbacks under one process of the app: nothing grows but what is kept on purpose."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from deployed_app import PATIENCE, Deployed

APP = """
import modal

app = modal.App({name!r}, image=modal.Image.debian_slim(python_version="3.11"))


@app.function(scaledown_window=2)
def number() -> int:
    return {number}
"""

#: Calls once for each line of its input, over one connection.
CALLER = """
import sys
import modal
number = modal.Function.from_name({name!r}, "number")
for _ in sys.stdin:
    print(number.remote(), flush=True)
"""

#: Versions that are kept.
KEPT = 50


class Growth:
    """An app that is deployed and rolled back while one client calls it."""

    def __init__(self, deployed: Deployed, caller: subprocess.Popen) -> None:
        self.deployed = deployed
        self.caller = caller
        self.versions: list[int] = []

    def called(self) -> int:
        assert self.caller.stdin is not None and self.caller.stdout is not None
        self.caller.stdin.write("\n")
        self.caller.stdin.flush()
        return int(self.caller.stdout.readline())

    def cycle(self) -> None:
        """A new version, and the one before it again."""
        modal, number = self.deployed.modal, len(self.versions)
        modal.write("app.py", APP.format(name=self.deployed.name, number=number))
        modal("deploy", "app.py")
        self.versions.append(number)
        assert self.called() == number
        if number:
            modal("app", "rollback", self.deployed.name)
            self.versions.append(self.versions[-2])
            assert self.called() == self.versions[-1]

    def alive(self) -> dict[str, int]:
        """What runs when the last call's container has gone."""
        host = self.deployed.host()
        until = time.monotonic() + PATIENCE
        while b"_runner" in b"".join(commands(host)):
            assert time.monotonic() < until, "its container does not end"
            time.sleep(0.1)
        return {
            "processes": len(commands(host)),
            "descriptors": len(list(Path(f"/proc/{host}/fd").iterdir())),
            "threads": len(list(Path(f"/proc/{host}/task").iterdir())),
        }

    def trees(self) -> int:
        """Layers that stay although nobody uses them now."""
        self.deployed.modal("image", "prune", "--yes")
        return len(list((self.deployed.modal.store / "content/trees").iterdir()))


def commands(process: int | None) -> list[bytes]:
    """The command lines of all processes below one."""
    found = []
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in (task / "children").read_text().split():
            try:
                found.append(Path(f"/proc/{child}/cmdline").read_bytes())
                found += commands(int(child))
            except OSError:
                pass  # It has ended.
    return found


def test_two_hundred_versions_leave_what_fifty_need(deployed: Deployed) -> None:
    deployed.modal.write("app.py", APP.format(name=deployed.name, number=0))
    deployed.modal("deploy", "app.py")
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER.format(name=deployed.name)],
        env=deployed.modal.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        growth = Growth(deployed, caller)
        trees = growth.trees()
        for _ in range(30):
            growth.cycle()
        before, host = growth.alive(), deployed.host()
        for _ in range(71):
            growth.cycle()
        assert len(growth.versions) == 201
        assert growth.alive() == before
        assert deployed.host() == host, "one process has served them all"
    finally:
        caller.kill()
        caller.wait()
    # What a process has made ready stays as long as it runs.
    until = time.monotonic() + PATIENCE
    while deployed.host() is not None:
        assert time.monotonic() < until, "the app's process does not end"
        time.sleep(0.1)
    own = deployed.modal.store / "deployments/main" / deployed.name
    assert len(list((own / "versions").iterdir())) == KEPT
    assert {path.name for path in own.iterdir()} == {"app.json", "calls", "host", "lock", "versions"}
    assert growth.trees() <= trees + KEPT
