"""The machine under the measurements: a work directory, commands with clean failures, a mount namespace for peers."""

from __future__ import annotations

import copy
import ctypes
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

CLONE_NEWNS = 0x20000
HYBRID = Path("/sys/fs/cgroup/unified")
HOST_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")

#: How long a single command may take.
PATIENCE = 1800

_libc = ctypes.CDLL(None, use_errno=True)


class Failure(Exception):
    """Why a measurement cannot be made; without addresses of servers, because it goes into the table."""

    def __init__(self, message: str) -> None:
        super().__init__(re.sub(r"(https?://)[^\s/\"']+", r"\1…", message))


class Machine:
    """Everything that a run makes is below `work`, and gone when the `with` block ends, however it ends."""

    def __init__(self, parent: str | None) -> None:
        self._parent = parent
        self._endings: list = []
        self._namespaces: dict[str, int] = {}
        self.work = Path()

    def __enter__(self) -> Machine:
        if self._parent is not None:
            os.makedirs(self._parent, exist_ok=True)
        self.work = Path(tempfile.mkdtemp(prefix="lamina-benches-", dir=self._parent)).resolve()
        for name in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, lambda number, _frame: (_ for _ in ()).throw(SystemExit(128 + number)))
        self.directory("temporary")
        self.at_end(lambda: shutil.rmtree(self.work))
        return self

    def __exit__(self, *_raised: object) -> None:
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, signal.SIG_IGN)  # A second Ctrl-C must not leave half of it behind.
        for ending in reversed(self._endings):
            try:
                ending()
            except (Failure, OSError) as error:
                print(f"cleaning up: {error}")

    def at_end(self, ending) -> None:
        """Registers what is to be undone; the last comes first."""
        self._endings.append(ending)

    def part(self, name: str) -> Machine:
        """The same machine with a work directory of its own, below this one's."""
        part = copy.copy(self)
        part.work = self.directory(name)
        part.directory("temporary")
        return part

    def directory(self, name: str) -> Path:
        """A directory of this name in the work directory, made if it is missing."""
        path = self.work / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def namespace_of_peers(self) -> int:
        """A mount namespace in which peers run.

        Their mounts end with it. Where version 2 of cgroups is mounted beside version 1, which older crun refuses, it
        is hidden there.
        """
        if "peers" not in self._namespaces:
            hide = f"umount {HYBRID}; " if os.path.ismount(HYBRID) else ""
            holder = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", f"{hide}echo ready; exec sleep infinity"],
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
            self.at_end(lambda: end(holder))
            if holder.stdout is None or holder.stdout.readline() != b"ready\n":
                raise Failure("`unshare --mount` made no mount namespace; peers need root")
            self._namespaces["peers"] = os.open(f"/proc/{holder.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        return self._namespaces["peers"]

    def own_namespace(self) -> int:
        """The mount namespace of this program."""
        if "own" not in self._namespaces:
            self._namespaces["own"] = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        return self._namespaces["own"]

    def start(self, command: list, *, peer: bool, env: dict | None = None, **options: object) -> subprocess.Popen:
        """Starts a program: peers in their mount namespace, Lamina in ours by the same steps, which cost the same."""
        is_root = os.geteuid() == 0
        namespace = self.namespace_of_peers() if peer else self.own_namespace()

        def enter() -> None:
            if is_root and _libc.setns(namespace, CLONE_NEWNS) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            os.chdir(self.work)

        environment = {**os.environ, "TMPDIR": str(self.work / "temporary"), **(env or {})}
        # Nobody's every start compiles Python's sources anew, unless this is set.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        # Not /dev/null: crun gives its standard input to root of the container, for the whole machine and for good.
        nothing, end_of_nothing = os.pipe()
        os.close(end_of_nothing)
        try:
            return subprocess.Popen(
                [str(word) for word in command],
                stdin=nothing,
                env=environment,
                preexec_fn=enter,  # noqa: PLW1509 - there are no threads.
                start_new_session=True,
                **options,
            )
        finally:
            os.close(nothing)

    def run(self, command: list, *, peer: bool, env: dict | None = None) -> tuple[float, str, str]:
        """Runs a program to its end and returns its wall time in seconds, its output and its standard error."""
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            started = time.perf_counter()
            process = self.start(command, peer=peer, env=env, stdout=output, stderr=errors)
            # `wait` with a time limit looks up to 50 ms apart, which is what would be measured.
            late = threading.Event()
            limit = threading.Timer(PATIENCE, lambda: (late.set(), end(process, group=True)))
            limit.start()
            try:
                status = process.wait()
            except BaseException:
                end(process, group=True)
                raise
            finally:
                limit.cancel()
                # A program is started by forking, which wants a single thread.
                limit.join()
            if late.is_set():
                name = os.path.basename(str(command[0]))
                raise Failure(f"`{name}` did not end within {PATIENCE // 60} minutes")
            seconds = time.perf_counter() - started
            texts = []
            for file in (output, errors):
                file.seek(0)
                texts.append(file.read().decode(errors="replace"))
        if status != 0:
            last = [line.strip() for line in "\n".join(texts).splitlines() if line.strip()][-3:]
            raise Failure(f"`{os.path.basename(str(command[0]))}` exited with {status}: {' / '.join(last)}")
        return seconds, texts[0], texts[1]


def end(process: subprocess.Popen, *, group: bool = False, patience: float = 15) -> None:
    """Ends a program that this one started, politely first."""
    if process.poll() is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number) if group else process.send_signal(number)
            process.wait(patience)
            return
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return


def debian_mirror(archive: str = "debian") -> str:
    """The mirror of an archive of Debian's that this machine's own apt uses."""
    directory = Path("/etc/apt")
    words: list[str] = []
    for file in sorted(directory.glob("sources.list.d/*.sources")):
        lines = file.read_text().splitlines()
        words += [word for line in lines if line.startswith("URIs:") for word in line.split()]
    for file in [directory / "sources.list", *sorted(directory.glob("sources.list.d/*.list"))]:
        lines = file.read_text().splitlines() if file.is_file() else []
        words += [word for line in lines if line.startswith("deb ") for word in line.split()]
    for word in words:
        if word.startswith("http") and word.rstrip("/").endswith(f"/{archive}"):
            return word.rstrip("/")
    raise Failure(f"this machine's apt sources name no mirror that ends with `/{archive}`")


def apt_sources() -> str:
    """The sources of Debian 12 at this machine's mirrors."""
    signed = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
    main, security = debian_mirror(), debian_mirror("debian-security")
    places = ((main, "bookworm"), (main, "bookworm-updates"), (security, "bookworm-security"))
    return "".join(f"deb {signed} {mirror} {suite} main\n" for mirror, suite in places)


def describe() -> str:
    """What the figures were measured on."""
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    system = re.search(r'PRETTY_NAME="(.+)"', Path("/etc/os-release").read_text())
    kernel = os.uname()
    parts = [
        f"{os.cpu_count()} cores ({cpu[1] if cpu else kernel.machine})",
        f"{int(memory[1]) / 2**20:.0f} GiB of memory" if memory else "",
        system[1] if system else kernel.sysname,
        f"Linux {kernel.release.split('-')[0]}",
        "as root" if os.geteuid() == 0 else "as an ordinary user",
    ]
    return ", ".join(part for part in parts if part)


def load() -> float:
    """How many programs wanted a processor in the last minute."""
    return os.getloadavg()[0]
