"""End-to-end tests: the real command and package, real package mirrors, real namespaces.

One store serves the whole session, so that the base is made once; tests that must start from nothing ask for
``fresh_store``.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from deployed_app import Deployed
from played_registry import Registry, lowest, serving

import modal as package

TIMEOUT = 600


def command() -> str:
    """The ``modal`` command under test: ``MODAL_COMMAND``, or the one beside this interpreter."""
    beside = Path(sys.executable).parent / "modal"
    found = os.environ.get("MODAL_COMMAND") or (str(beside) if beside.exists() else shutil.which("modal"))
    if not found:
        pytest.fail("the `modal` command is not installed: run scripts/test")
    return found


@dataclass
class Result:
    """What a command did."""

    code: int
    stdout: str
    stderr: str
    events: list[dict] = field(default_factory=list)

    def of(self, kind: str) -> list[dict]:
        """The events of one kind."""
        return [event for event in self.events if event["event"] == kind]


class Modal:
    """Runs ``modal`` and Python programs in one directory, on one store."""

    def __init__(self, store: Path, directory: Path) -> None:
        self.store = store
        self.directory = directory
        self.environment = {**os.environ, "MODAL_STORE": str(store), "NO_COLOR": "1", "MODAL_PYTHON": sys.executable}
        # Not the profiles of whoever tests.
        self.environment["MODAL_CONFIG_PATH"] = str(directory / "no-profiles.toml")
        for name in ("MODAL_FORCE_BUILD", "MODAL_IGNORE_CACHE", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE"):
            self.environment.pop(name, None)

    def write(self, name: str, text: str) -> Path:
        """Writes a file of the program under test."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    def __call__(self, *arguments: str, **options) -> Result:
        return self.run([command(), *arguments], **options)

    def events(self, *arguments: str, **options) -> Result:
        """``modal run`` with its events as data."""
        result = self("run", "--progress", "json", *arguments, **options)
        lines = [line for line in result.stderr.splitlines() if line.startswith("{")]
        result.events = [json.loads(line) for line in lines]
        return result

    def python(self, *arguments: str, **options) -> Result:
        """Plain Python, as in ``python app.py``."""
        return self.run([sys.executable, *arguments], **options)

    def run(
        self,
        argv: list[str],
        *,
        check: bool = True,
        timeout: int = TIMEOUT,
        input: str | None = None,
        **environment: str,
    ) -> Result:
        completed = subprocess.run(
            argv,
            cwd=self.directory,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            input=input,
            stdin=None if input is not None else subprocess.DEVNULL,
            check=False,
        )
        result = Result(completed.returncode, completed.stdout, completed.stderr)
        if check:
            assert result.code == 0, f"{argv} ended with {result.code}\n{result.stdout}\n{result.stderr}"
        return result

    def start(self, *arguments: str, **options) -> subprocess.Popen:
        """Starts ``modal`` in a process group of its own and leaves it running."""
        return subprocess.Popen(
            [command(), *arguments],
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            **options,
        )


class UserModal(Modal):
    """``modal`` as another user. Everything it needs is copied to where that user can read it."""

    def __init__(self, name: str, home: Path) -> None:
        super().__init__(home / "store", home)
        self.name = name
        tools = home / "tools"
        tools.mkdir()
        shutil.copy(command(), tools / "modal")
        shutil.copy(shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"), tools / "uv")
        shutil.copytree(
            Path(package.__file__).parent, tools / "python/modal", ignore=shutil.ignore_patterns("__pycache__")
        )
        self.binary = str(tools / "modal")
        keep = {key: value for key, value in os.environ.items() if key.lower().endswith("_proxy") or "SSL" in key}
        self.environment = {
            **keep,
            "HOME": str(home),
            "PATH": f"{tools}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": str(tools / "python"),
            "MODAL_PYTHON": "/usr/bin/python3",
            "MODAL_STORE": str(self.store),
            "NO_COLOR": "1",
        }

    def use_store(self, store: Path) -> None:
        """Takes another store than the one in the home directory."""
        self.store = store
        self.environment["MODAL_STORE"] = str(store)

    def __call__(self, *arguments: str, **options) -> Result:
        return self.run(
            ["setpriv", "--reuid", self.name, "--regid", self.name, "--init-groups", self.binary, *arguments], **options
        )


def remove(store: Path) -> None:
    """Removes a store the way users do."""
    if store.exists():
        subprocess.run(
            [command(), "store", "remove", "--yes"], env={**os.environ, "MODAL_STORE": str(store)}, check=True
        )


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    kept = os.environ.get("MODAL_TEST_STORE")
    if kept and (worker := os.environ.get("PYTEST_XDIST_WORKER")):
        kept += f"-{worker}"
    store = Path(kept) if kept else tmp_path_factory.mktemp("store") / "store"
    yield store
    if not kept:
        remove(store)


@contextmanager
def accounts() -> Iterator[None]:
    """Their files are changed by one at a time: programs that find them locked fail."""
    with open("/var/tmp/lamina-accounts", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def remove_user(name: str, home: Path) -> None:
    with accounts():
        subprocess.run(["userdel", "--remove", "--force", name], check=False, capture_output=True)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def user(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[UserModal]:
    """A user made for one test; the parameter decides whether it gets subordinate ids."""
    for account in pwd.getpwall():
        owner = re.fullmatch(r"lamina-(\d+)", account.pw_name)
        if owner and not Path("/proc", owner[1]).exists():
            # Its run was killed.
            remove_user(account.pw_name, Path(account.pw_dir))
    name = f"lamina-{os.getpid()}"
    home = Path(f"/var/tmp/{name}")
    try:
        with accounts():
            subprocess.run(["useradd", "--create-home", "--home-dir", home, name], check=True)
            subordinate = getattr(request, "param", True)
            for kind in ("uids", "gids"):
                flag = "--add-sub" if subordinate else "--del-sub"
                bounds = "1879048192-1879113727" if subordinate else "0-4294967294"
                subprocess.run(["usermod", f"{flag}{kind}", bounds, name], check=True)
        modal = UserModal(name, home)
        subprocess.run(["chown", "-R", name, home], check=True)
        yield modal
        if modal.store.exists():
            modal("store", "remove", "--yes")
    finally:
        remove_user(name, home)


@pytest.fixture
def modal(shared_store: Path, tmp_path: Path) -> Modal:
    return Modal(shared_store, tmp_path)


@pytest.fixture
def deployed(modal: Modal) -> Iterator[Deployed]:
    app = Deployed(modal)
    yield app
    modal("app", "stop", "--yes", app.name, check=False)
    modal("volume", "delete", "--yes", app.name, check=False)


@pytest.fixture
def fresh_store(tmp_path: Path) -> Iterator[Modal]:
    directory = tmp_path / "program"
    directory.mkdir()
    store = tmp_path / "fresh-store"
    yield Modal(store, directory)
    remove(store)


@pytest.fixture(scope="session")
def real_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Debian's registry on a free port of this machine."""
    for program in ("docker-registry", "buildah", "skopeo", "umoci"):
        if shutil.which(program) is None:
            pytest.skip(f"`{program}` is not installed; scripts/test installs it as root")
    with serving_images(tmp_path_factory.mktemp("registry")) as address:
        yield address


@contextmanager
def serving_images(directory: Path, **http: object) -> Iterator[str]:
    """A registry whose files are in a directory, with further settings of how it speaks HTTP."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    settings = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
        "http": {"addr": address, **http},
    }
    (directory / "config.yml").write_text(json.dumps(settings))
    with open(directory / "log", "w") as log:
        process = subprocess.Popen(["docker-registry", "serve", directory / "config.yml"], stdout=log, stderr=log)
    try:
        for _ in range(100):
            try:
                socket.create_connection(tuple(address.split(":"))).close()
                break
            except OSError:
                assert process.poll() is None, (directory / "log").read_text()
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def registry() -> Iterator[Registry]:
    """A registry that is played."""
    with serving() as registry:
        yield registry


@pytest.fixture
def reference(registry: Registry) -> str:
    """An image of it."""
    registry.put("v1", lowest(registry), Env=["A=b"])
    return f"{registry.address}/team/app:v1"


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """An authority, and what it has signed: a server on this machine, and a client."""
    directory = tmp_path / "certificates"
    directory.mkdir()

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=directory, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=authority")
    for name in ("server", "client"):
        signed = ("-CA", "ca.crt", "-CAkey", "ca.key", "-addext", "subjectAltName=IP:127.0.0.1")
        plain = ("-addext", "basicConstraints=critical,CA:FALSE", "-subj", f"/CN={name}")
        openssl("req", "-x509", *key, *signed, *plain, "-keyout", f"{name}.key", "-out", f"{name}.crt")
    return directory
