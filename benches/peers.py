"""The neighbours, each started privately: BuildKit in Debian's dockerd, buildah, crun and mmdebstrap."""

from __future__ import annotations

import abc
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Callable

from lamina import Lamina, certificates
from machine import Failure, Machine, apt_sources, debian_mirror, end
from measuring import Contestant

SEARCH_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
CONTAINER_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BASE_PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"

#: What a slim image leaves out, as in Lamina's base.
LEFT_OUT = ("doc", "groff", "info", "linda", "lintian/overrides", "locale", "man")

#: System calls that the OCI bundle's filter refuses: what Lamina's refuses, in short.
REFUSED = (
    "mount", "umount2", "pivot_root", "fsopen", "fsmount", "fsconfig", "move_mount", "open_tree", "mount_setattr",
    "bpf", "perf_event_open", "userfaultfd", "keyctl", "add_key", "request_key", "init_module", "finit_module",
    "delete_module", "kexec_load", "reboot", "swapon", "swapoff", "setns", "open_by_handle_at", "io_uring_setup",
)  # fmt: skip
CAPABILITIES = ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_SETGID", "CAP_SETUID")


#: Lines that make an image of an archive.
IMPORT = (
    "FROM scratch",
    "ADD base.tar /",
    "COPY uv /usr/local/bin/uv",
    "COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt",
    "COPY sources.list /etc/apt/sources.list",
    f"ENV PATH={CONTAINER_PATH} SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt",
    "ENV UV_BREAK_SYSTEM_PACKAGES=1 UV_LINK_MODE=copy",
)


class Peer:
    """A program of somebody else."""

    name = ""
    programs: tuple = ()
    package = ""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def missing(self) -> str | None:
        """Why it cannot take part, and what to do about it."""
        for program in self.programs:
            if shutil.which(program, path=SEARCH_PATH) is None:
                return f"`{program}` is not installed: `apt-get install {self.package}`"
        return None if os.geteuid() == 0 else "it is measured as root only"


def program(name: str) -> str:
    """Where Debian's own version of a program is; another one may stand before it on PATH."""
    return shutil.which(name, path=SEARCH_PATH) or name


def host_arguments() -> dict:
    """The host's proxies and package index, for builds that know nothing of them."""
    wanted = ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"]
    arguments = {name: os.environ[name] for name in wanted if os.environ.get(name)}
    index = os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("UV_INDEX_URL") or os.environ.get("PIP_INDEX_URL")
    if not index and shutil.which("pip"):
        answer = subprocess.run(
            ["pip", "config", "get", "global.index-url"], capture_output=True, text=True, check=False
        )
        index = answer.stdout.strip()
    if index:
        arguments["UV_DEFAULT_INDEX"] = index
    return arguments


def import_files(lamina: Lamina, archive: Path, context: Path) -> None:
    """Puts what `IMPORT` copies into a context."""
    for source, name in ((archive, "base.tar"), (lamina.uv, "uv"), (certificates(), "ca-certificates.crt")):
        (context / name).unlink(missing_ok=True)
        try:
            os.link(source, context / name)
        except OSError:
            shutil.copy(source, context / name)
    (context / "sources.list").write_text(apt_sources())


def as_peer(
    name: str,
    tools: list[Peer],
    once: Callable[[int], object],
    prepare: Callable[[], object] = lambda: None,
    verify: Callable[[], object] = lambda: None,
) -> Contestant:
    """A contestant that uses these programs, which may be missing."""
    missing = next((reason for reason in (tool.missing() for tool in tools) if reason), None)
    return Contestant(name, once, prepare, verify, failure=missing)


def remove_groups(name: str) -> None:
    """Removes the empty control groups of this name, which dockerd leaves behind."""
    root = Path("/sys/fs/cgroup")
    for group in [*root.glob(name), *root.glob(f"*/{name}")]:
        for directory, _, _ in os.walk(group, topdown=False):
            os.rmdir(directory)


class Builder(Peer, abc.ABC):
    """What builds images from a Dockerfile."""

    def __init__(self, machine: Machine, lamina: Lamina) -> None:
        super().__init__(machine)
        self.lamina = lamina
        self.arguments = [word for item in host_arguments().items() for word in ("--build-arg", "=".join(item))]
        self._state: Failure | bool | None = None

    def ready(self) -> None:
        """Starts what must run, and imports Lamina's base as the image `base`; once."""
        if self._state is None:
            try:
                self.start()
                self.import_base("base", self.lamina.base_archive())
                self._state = True
            except Failure as failure:
                self._state = failure
        if isinstance(self._state, Failure):
            raise self._state

    def start(self) -> None:
        """Starts what must run beside the command."""

    def import_base(self, tag: str, archive: Path) -> None:
        """Makes an image of an archive, with `uv` and the host's certificates and mirrors in it."""
        context = self.machine.directory(f"import-{tag}")
        import_files(self.lamina, archive, context)
        self.build(tag, self.recipe(f"import-{tag}", *IMPORT), context)

    def recipe(self, name: str, *lines: str) -> Path:
        """A Dockerfile; the host's package index is known to its commands."""
        first, *rest = lines
        index = ["ARG UV_DEFAULT_INDEX"] if any("UV_DEFAULT_INDEX" in word for word in self.arguments) else []
        path = self.machine.directory("recipes") / name
        path.write_text("\n".join([first, *index, *rest]) + "\n")
        return path

    @abc.abstractmethod
    def base(self, tag: str) -> str:
        """How a Dockerfile names an image of this builder."""

    @abc.abstractmethod
    def build(self, tag: str, recipe: Path, context: Path, *, cached: bool = True) -> float:
        """Builds an image: the wall time in seconds. Work that others left to the disk is done before."""

    @abc.abstractmethod
    def inside(self, tag: str, script: str) -> str:
        """What a shell script prints in a container of an image."""


class BuildKit(Builder):
    """`docker build` with BuildKit, in a dockerd of its own."""

    name = "BuildKit"
    programs = ("dockerd", "docker", "runc")
    package = "docker.io"

    def __init__(self, machine: Machine, lamina: Lamina, place: str = "docker") -> None:
        super().__init__(machine, lamina)
        self._place = place

    def elsewhere(self, place: str) -> BuildKit:
        """Another dockerd, which has no images."""
        other = BuildKit(self.machine, self.lamina, place)
        other.start()
        return other

    def start(self) -> None:
        """Starts dockerd; its network settings leave the host's alone."""
        directory = self.machine.directory(self._place)
        self._environment = {
            "DOCKER_HOST": f"unix://{directory}/socket",
            "DOCKER_CONFIG": str(directory / "configuration"),
            "DOCKER_BUILDKIT": "1",
            "PATH": SEARCH_PATH,
        }
        group = self.machine.work.name
        log = directory / "log"
        with log.open("wb") as output:
            daemon = self.machine.start(
                [
                    program("dockerd"),
                    *("--data-root", directory / "data", "--exec-root", directory / "run"),
                    *("--pidfile", directory / "pid", "--host", f"unix://{directory}/socket"),
                    *("--iptables=false", "--ip-forward=false", "--ip-masq=false", "--bridge=none"),
                    *("--cgroup-parent", f"/{group}"),
                ],
                peer=True,
                env={"PATH": SEARCH_PATH},
                stdout=output,
                stderr=output,
            )
        self.machine.at_end(lambda: remove_groups(group))
        self.machine.at_end(lambda: end(daemon, patience=30))
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and daemon.poll() is None:
            try:
                self._docker("version")
                return
            except Failure:
                time.sleep(0.2)
        last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-2:]
        raise Failure(f"dockerd does not answer: {' / '.join(last)}")

    def _docker(self, *words: object) -> tuple[float, str, str]:
        return self.machine.run([program("docker"), *words], peer=True, env=self._environment)

    def base(self, tag: str) -> str:
        """See `Builder`."""
        return tag

    def build(self, tag: str, recipe: Path, context: Path, *, cached: bool = True) -> float:
        """See `Builder`."""
        os.sync()
        options = [] if cached else ["--no-cache"]
        return self._docker(
            "build", "--network=host", *options, *self.arguments, "--tag", tag, "--file", recipe, context
        )[0]

    def inside(self, tag: str, script: str) -> str:
        """See `Builder`."""
        return self._docker("run", "--rm", "--network=host", tag, "sh", "-c", script)[1].strip()

    def push(self, tag: str, target: str) -> float:
        """`docker push`: the wall time in seconds."""
        self._docker("tag", tag, target)
        return self._docker("push", "--quiet", target)[0]

    def pull(self, source: str) -> float:
        """`docker pull`: the wall time in seconds."""
        os.sync()
        return self._docker("pull", "--quiet", source)[0]

    def save(self, tag: str, target: Path) -> float:
        """`docker save`: the wall time in seconds."""
        return self._docker("save", "--output", target, tag)[0]

    def hello(self, file: Path) -> float:
        """`docker run … python3 hello.py`: the wall time in seconds."""
        mount = f"{file}:/root/hello.py:ro"
        seconds, output, _ = self._docker(
            "run", "--rm", "--network=host", "--volume", mount, "base", "python3", "/root/hello.py"
        )
        if output.strip() != "hello":
            raise Failure(f"`docker run` printed `{output.strip()}`")
        return seconds


class Buildah(Builder):
    """`buildah build` with layers, with crun below it."""

    name = "buildah"
    programs = ("buildah", "crun")
    package = "buildah crun"

    def _buildah(self, *words: object, directory: Path | None = None) -> tuple[float, str, str]:
        directory = directory or self.machine.directory("buildah")
        return self.machine.run(
            [program("buildah"), "--root", directory / "storage", "--runroot", directory / "run", *words],
            peer=True,
            env={"PATH": SEARCH_PATH, "BUILDAH_RUNTIME": program("crun")},
        )

    def base(self, tag: str) -> str:
        """See `Builder`."""
        return f"localhost/{tag}:latest"

    def build(self, tag: str, recipe: Path, context: Path, *, cached: bool = True) -> float:
        """See `Builder`."""
        os.sync()
        options = ["--layers"] if cached else ["--layers", "--no-cache"]
        return self._buildah("bud", "--network=host", *options, *self.arguments, "-t", tag, "-f", recipe, context)[0]

    def inside(self, tag: str, script: str) -> str:
        """See `Builder`."""
        container = self._buildah("from", "--pull-never", self.base(tag))[1].strip()
        try:
            return self._buildah("run", "--network=host", container, "--", "sh", "-c", script)[1].strip()
        finally:
            self._buildah("rm", container)

    def push(self, tag: str, target: str, compression: str) -> float:
        """`buildah push`: the wall time in seconds."""
        options = ("--quiet", "--tls-verify=false", "--compression-format", compression)
        return self._buildah("push", *options, self.base(tag), f"docker://{target}")[0]

    def pull(self, source: str, directory: Path) -> float:
        """`buildah pull` into a storage of its own: the wall time in seconds."""
        return self._buildah("pull", "--quiet", "--tls-verify=false", f"docker://{source}", directory=directory)[0]

    def write(self, tag: str, target: Path) -> float:
        """`buildah push` to an OCI archive: the wall time in seconds."""
        return self._buildah("push", "--quiet", self.base(tag), f"oci-archive:{target}")[0]


class Crun(Peer):
    """`crun run` of a bundle that has what a Lamina sandbox has, as far as OCI can say it."""

    name = "crun"
    programs = ("crun",)
    package = "crun"

    def __init__(self, machine: Machine, lamina: Lamina) -> None:
        super().__init__(machine)
        self.lamina = lamina
        self._count = 0

    def bundle(self, name: str, argv: list, *, limits: bool) -> Path:
        """A bundle on the base's files: user namespace, host's network, filter, few capabilities, read-only root."""
        root = self.lamina.root_filesystem()
        outside, count = self.lamina.id_map()
        mapping = [{"containerID": 0, "hostID": outside, "size": count}]
        architecture = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}.get(os.uname().machine)
        if architecture is None:
            raise Failure(f"the bundle's filter knows no `{os.uname().machine}`")
        capabilities = {kind: list(CAPABILITIES) for kind in ("bounding", "effective", "permitted")}
        system = {"type": "bind", "source": "/sys", "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]}
        private = ["nosuid", "noexec", "nodev"]
        bundle = {
            "ociVersion": "1.0.0",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": argv,
                "env": [f"PATH={CONTAINER_PATH}"],
                "cwd": "/",
                "capabilities": capabilities,
                "noNewPrivileges": True,
            },
            "root": {"path": str(root), "readonly": True},
            "hostname": "bench",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": [*private, "mode=1777"]},
                {"destination": "/tmp", "type": "tmpfs", "source": "tmp", "options": ["nosuid", "nodev", "mode=1777"]},
                {"destination": "/sys", **system},
            ],
            "linux": {
                "uidMappings": mapping,
                "gidMappings": mapping,
                "namespaces": [{"type": kind} for kind in ("user", "pid", "mount", "ipc", "uts")],
                "seccomp": {
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "architectures": [architecture],
                    "syscalls": [{"names": list(REFUSED), "action": "SCMP_ACT_ERRNO"}],
                },
                "resources": {"memory": {"limit": 512 << 20}, "pids": {"limit": 100}} if limits else {},
            },
        }
        directory = self.machine.directory(f"bundles/{name}")
        (directory / "config.json").write_text(json.dumps(bundle))
        self.machine.work.chmod(0o711)  # The container's root must reach its files.
        return directory

    def run(self, bundle: Path, *, limits: bool) -> float:
        """`crun run`: the wall time in seconds."""
        self._count += 1
        manager = "cgroupfs" if limits else "disabled"
        return self.machine.run(
            [
                program("crun"),
                *("--root", self.machine.directory("crun"), "--cgroup-manager", manager),
                *("run", "--bundle", bundle, f"bench-{os.getpid()}-{self._count}"),
            ],
            peer=True,
        )[0]


class Mmdebstrap(Peer):
    """`mmdebstrap` of the base: the same packages, the same paths left out."""

    name = "mmdebstrap"
    programs = ("mmdebstrap",)
    package = "mmdebstrap"

    def archive(self, target: Path) -> float:
        """Makes an archive of the base: the wall time in seconds."""
        target.unlink(missing_ok=True)
        mirror = debian_mirror()
        left_out = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT]
        os.sync()
        seconds, _, _ = self.machine.run(
            [
                program("mmdebstrap"),
                *("--variant=minbase", f"--include={BASE_PACKAGES}", "--format=tar"),
                *('--aptopt=APT::Install-Recommends "false"', *left_out),
                *("bookworm", target, mirror),
            ],
            peer=True,
            env={"PATH": SEARCH_PATH},
        )
        return seconds
