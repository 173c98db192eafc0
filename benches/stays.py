"""Rows of apps that stay: calls of a deployed app beside a web server and a pool of threads that do the same."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Callable

from lamina import Lamina
from machine import Failure, Machine, end
from measuring import Contestant, Goal, Row

#: How long a process may take to be there, or to be gone: seconds.
PATIENCE = 60

#: The first word of the command line of an app's process.
HOST = b"__deployed"


class Stays:
    """Makes rows."""

    def __init__(self, machine: Machine, lamina: Lamina) -> None:
        self.machine = machine
        self.lamina = lamina
        self.programs = lamina.programs
        self.web = WebServer(machine, lamina)
        self._deployed: set[str] = set()

    def rows(self) -> dict[str, Callable[[], list[Row]]]:
        """What can be asked for."""
        return {
            "A1": self.new_process,
            "A2": self.warm,
            "A3": self.first_call,
            "A4": lambda: self.throughput("A4", "beside", "`@modal.concurrent`: inputs that wait 10 ms, 32 at once"),
            "A5": lambda: self.throughput("A5", "together", "`@modal.batched`: 64 inputs that wait 10 ms together"),
            "A6": self.idle,
        }

    def new_process(self) -> list[Row]:
        """A1."""
        contestants = [
            Contestant("Lamina", lambda _number: 1e3 * self.called("once")[0], self.wake, peer=False),
            Contestant("requests.post", lambda _number: 1e3 * self.web.call("once")[0], self.web.start),
        ]
        return [Row("A1", "a call of a deployed function from a new process", "ms", 20, contestants, [], warm_up=2)]

    def warm(self) -> list[Row]:
        """A2."""
        contestants = [Contestant("Lamina", lambda _number: self.called("warm", "1000")[1], self.wake, peer=False)]
        for name, what in (("requests.post", "new-connections"), ("requests.Session", "session")):
            contestants.append(
                Contestant(name, lambda _number, what=what: self.web.call(what, "1000")[1], self.web.start)
            )
        for each in contestants:
            each.once = in_microseconds(each.once)
        return [Row("A2", "a call of a deployed function from a warm process", "µs", 3, contestants, [])]

    def first_call(self) -> list[Row]:
        """A3."""

        def ours(_number: int) -> float:
            self.sleep()
            return 1e3 * self.called("once")[0]

        def theirs(_number: int) -> float:
            self.web.stop()
            started = time.perf_counter()
            self.web.start()
            self.web.call("once")
            return 1e3 * (time.perf_counter() - started)

        contestants = [
            Contestant("Lamina", ours, self.wake, peer=False),
            Contestant("uvicorn and requests.post", theirs, self.web.start),
        ]
        return [Row("A3", "the first call of an app that sleeps", "ms", 10, contestants, [], warm_up=1)]

    def throughput(self, row: str, function: str, title: str) -> list[Row]:
        """A4 and A5."""
        count, threads = 5000, self.programs / "threads.py"

        def theirs(_number: int) -> list:
            return json.loads(self.machine.run([self.lamina.python, threads, function, count], peer=False)[1])

        contestants = [
            Contestant("Lamina", lambda _number: self.called("rate", function, str(count))[1], self.wake, peer=False),
            Contestant("ThreadPoolExecutor", theirs),
        ]
        return [Row(row, title, "/s", 5, contestants, [])]

    def idle(self) -> list[Row]:
        """A6."""
        contestants = [
            Contestant(
                "Lamina",
                lambda _number: mebibytes(family(self.process("bench-rests"))),
                lambda: self.deploy("bench-rests", "rests.py"),
                peer=False,
            ),
            Contestant("uvicorn and FastAPI", lambda _number: mebibytes(family(self.web.pid)), self.web.start),
        ]
        title = "memory of a deployed app without a container (its share, all processes)"
        return [Row("A6", title, "MiB", 3, contestants, [Goal(amount=15)])]

    def called(self, *words: str) -> tuple[float, list]:
        """What `stays_calls.py` took, and printed."""
        command = [self.lamina.python, self.programs / "stays_calls.py", *words]
        seconds, output, _ = self.machine.run(command, peer=False, env=self.environment())
        return seconds, json.loads(output)

    def environment(self) -> dict:
        """The store, and the `modal` that is measured."""
        return {**self.lamina.store("warm"), "MODAL_COMMAND": str(self.lamina.modal)}

    def deploy(self, name: str, program: str) -> None:
        """Deploys an app, which is stopped at the end."""
        if name not in self._deployed:
            self._deployed.add(name)
            self.lamina.store("warm")
            self.machine.at_end(lambda: self.lamina.command("app", "stop", "--yes", name))
            self.lamina.command("deploy", self.programs / program)

    def wake(self) -> None:
        """Deploys the app and calls it once."""
        self.deploy("bench-stays", "stays.py")
        self.called("once")

    def sleep(self) -> None:
        """Ends the app's process, as it ends by itself after a while."""
        process = self.process("bench-stays")
        if process is not None:
            os.kill(process, signal.SIGINT)
            wait_until(lambda: self.process("bench-stays") is None)

    def process(self, name: str) -> int | None:
        """The process of an app."""
        store = f"MODAL_STORE={self.lamina.store('warm')['MODAL_STORE']}".encode()
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                words = (directory / "cmdline").read_bytes().split(b"\0")
                is_app = words[1:4] == [HOST, b"main", name.encode()]
                if is_app and store in (directory / "environ").read_bytes().split(b"\0"):
                    return int(directory.name)
            except OSError:
                continue
        return None


class WebServer:
    """FastAPI under uvicorn, in an environment of its own."""

    def __init__(self, machine: Machine, lamina: Lamina) -> None:
        self.machine = machine
        self.lamina = lamina
        self.programs = lamina.programs
        self._process: subprocess.Popen | None = None
        self._port = 0

    @property
    def python(self) -> Path:
        """An interpreter with FastAPI, uvicorn and requests, which are installed once."""
        environment = self.machine.work / "web"
        if not environment.exists():
            made = self.machine.work / "web-new"
            self.machine.run([self.lamina.uv, "venv", "--quiet", "--python", self.lamina.python, made], peer=False)
            packages = ["fastapi", "uvicorn[standard]", "requests"]
            install = [self.lamina.uv, "pip", "install", "--quiet", "--python", made / "bin/python", *packages]
            self.machine.run(install, peer=False)
            made.rename(environment)
        return environment / "bin/python"

    @property
    def pid(self) -> int | None:
        """The server's process."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Starts it, if it does not run, and waits until it listens."""
        if self._process is not None:
            return
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        command = [self.python, "-m", "uvicorn", "--app-dir", self.programs, "--port", self._port, "web:app"]
        output = subprocess.DEVNULL
        process = self._process = self.machine.start(command, peer=False, stdout=output, stderr=output)
        self.machine.at_end(lambda: end(process))
        wait_until(self.listens)

    def listens(self) -> bool:
        """Whether it takes connections."""
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self._port)) == 0

    def stop(self) -> None:
        """Ends it."""
        if self._process is not None:
            end(self._process)
            self._process = None

    def call(self, what: str, *words: str) -> tuple[float, list]:
        """What `web_calls.py` took, and printed."""
        address = f"http://127.0.0.1:{self._port}/nothing"
        command = [self.python, self.programs / "web_calls.py", what, address, *words]
        seconds, output, _ = self.machine.run(command, peer=False)
        return seconds, json.loads(output)


def in_microseconds(once: Callable[[int], list]) -> Callable[[int], list]:
    """The same values in microseconds instead of seconds."""
    return lambda number: [1e6 * value for value in once(number)]


def wait_until(condition: Callable[[], bool]) -> None:
    """Waits for something that another process does."""
    until = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > until:
            raise Failure(f"something that is waited for has not happened for {PATIENCE} seconds")
        time.sleep(0.002)


def family(process: int | None) -> list[int]:
    """A process and all below it."""
    if process is None:
        raise Failure("the process whose memory is measured does not run")
    found = [process]
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += family(int(child))
    return found


def mebibytes(processes: list[int]) -> float:
    """Memory of processes: what is theirs, and their share of what they have in common with others."""
    total = 0
    for process in processes:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024
