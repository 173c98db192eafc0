"""Bases and apt do what they do in Docker, and nothing makes anybody wait who has interrupted."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import Modal
from leftovers import clean

BASE = 'modal.Image.debian_slim(python_version="3.11")'


def program(image: str, body: str = "pass") -> str:
    return (
        f"import modal\nimage = {image}\napp = modal.App('b', image=image)\n@app.function()\ndef main():\n    {body}\n"
    )


# A repository of one package, `sl` in a version that Debian will not have, as commands of a step.
REPOSITORY = """
mkdir -p /repository/sl/DEBIAN && cd /repository
printf 'Package: sl\\nVersion: 99\\nArchitecture: all\\nMaintainer: x\\nDescription: x\\n' > sl/DEBIAN/control
dpkg-deb --build sl sl_99_all.deb
(cat sl/DEBIAN/control; echo Filename: ./sl_99_all.deb; echo Size: $(stat -c %s sl_99_all.deb)
 echo SHA256: $(sha256sum sl_99_all.deb | cut -d' ' -f1)) > Packages
echo 'deb [trusted=yes] file:/repository ./' > /etc/apt/sources.list.d/own.list
"""
PIN = "printf 'Package: sl\\nPin: version 99\\nPin-Priority: -1\\n' > /etc/apt/preferences.d/own"
VERSION = "import subprocess; print(subprocess.check_output(['dpkg-query', '-W', '-f', '${Version}', 'sl'], text=True))"


def test_a_source_and_a_pin_of_a_step_count_for_the_next(modal: Modal) -> None:
    # Lists of the untouched sources are there, and young.
    modal("run", "-q", str(modal.write("untouched.py", program(f"{BASE}.apt_install('sl')", VERSION))))
    source = f"{BASE}.run_commands({REPOSITORY!r})"
    modal.write("source.py", program(f"{source}.apt_install('sl')", VERSION))
    assert modal("run", "-q", "source.py").stdout == "99\n"
    modal.write("pin.py", program(f"{source}.run_commands({PIN!r}).apt_install('sl')", VERSION))
    assert modal("run", "-q", "pin.py").stdout.startswith("5.")
    # And the others are as they were.
    modal.write("again.py", program(f"{BASE}.run_commands('echo {os.urandom(8).hex()}').apt_install('sl')", VERSION))
    result = modal("run", "--progress", "plain", "again.py")
    assert result.stdout.startswith("5.")
    assert "InRelease" not in result.stderr, "the mirror was asked although nothing has changed"


def test_editors_of_sources_work_and_the_mirror_stays(modal: Modal) -> None:
    modal.write(
        "app.py",
        program(
            f"{BASE}.run_commands('apt-get update', "
            "'apt-get install -y --no-install-recommends software-properties-common', 'apt-add-repository -y non-free', "
            "'apt-get install -y unrar', 'add-apt-repository -y -r non-free', "
            "'sed -i \"s/ main$/ main contrib/\" /etc/apt/sources.list').apt_install('b43-fwcutter')",
            "print(open('/etc/apt/sources.list').read(), end='')",
        ),
    )
    lines = modal("run", "-q", "app.py").stdout.splitlines()
    assert len(lines) == 3
    for line in lines:
        kind, address, _, *components = line.split()
        assert kind == "deb" and address.startswith("http") and components == ["main", "contrib"], line


def test_what_a_larger_base_would_have_is_there(modal: Modal) -> None:
    modal.write(
        "app.py",
        """
        import modal

        image = (
            modal.Image.debian_slim(python_version="3.11")
            .run_commands("uv pip install --system humanize==4.12.3", "cp $(command -v uv) /opt/uv")
            .run_commands("pip install --quiet uv==0.4.0", "test \\"$(uv --version)\\" = 'uv 0.4.0'")
        )
        app = modal.App("b", image=image)

        @app.function()
        def main():
            import ctypes, importlib.metadata, os, site
            import humanize

            for name in ("libgomp.so.1", "libatomic.so.1", "libgfortran.so.5", "libstdc++.so.6"):
                ctypes.CDLL(name)
            found = [one.name for one in importlib.metadata.distributions()]
            print(found.count("humanize"), os.access("/opt/uv", os.X_OK))
            print(os.path.samefile("/usr/local/lib/python3.11/site-packages/humanize/__init__.py", humanize.__file__))
            print([path for path in site.getsitepackages() if "site-packages" in path])
        """,
    )
    assert modal("run", "-q", "app.py").stdout == "1 True\nTrue\n[]\n"


def test_a_package_of_another_release_is_named_with_its_successor(modal: Modal) -> None:
    modal.write("app.py", program(f"{BASE}.apt_install('libtiff5')"))
    result = modal("run", "app.py", check=False)
    assert result.code == 1 and "`libtiff6`" in result.stderr and 'python_version="3.9"' in result.stderr


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (PIN.replace("version 99", "release *"), "`apt-cache policy sl` shows"),
        ("rm -f /etc/apt/sources.list", "has removed the sources of apt"),
    ],
)
def test_a_package_that_the_image_itself_hides_is_no_misspelling(modal: Modal, command: str, words: str) -> None:
    modal.write("app.py", program(f"{BASE}.run_commands({command!r}).apt_install('sl')"))
    result = modal("run", "app.py", check=False)
    assert result.code == 1 and words in " ".join(result.stderr.split()), result.stderr
    assert "check its spelling" not in result.stderr


class Endless(BaseHTTPRequestHandler):
    """An index with one wheel, which begins and never ends."""

    wheel = "slow_package-1.0-py3-none-any.whl"
    metadata = b"Metadata-Version: 2.1\nName: slow-package\nVersion: 1.0\n"

    def do_GET(self) -> None:
        if self.path.endswith(".whl"):
            self.send_response(200)
            self.send_header("Content-Length", str(1 << 30))
            self.end_headers()
            self.wfile.write(b"PK\3\4")
            self.server.ended.wait()
            return
        digest = hashlib.sha256(self.metadata).hexdigest()
        page = f'<a href="/{self.wheel}#sha256={"0" * 64}" data-core-metadata="sha256={digest}">{self.wheel}</a>'
        body = self.metadata if self.path.endswith(".metadata") else page.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def endless_index() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    server.daemon_threads = True
    server.ended = threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/simple"
    server.ended.set()
    server.shutdown()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_download_ends(modal: Modal, endless_index: str, number: signal.Signals, code: int) -> None:
    modal.write("app.py", program(f"{BASE}.uv_pip_install('slow-package', index_url={endless_index!r})"))
    process = modal.start("run", "--progress", "json", "app.py")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("{") and json.loads(line).get("done") == len(b"PK\3\4"):
            break
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in errors and "panicked" not in errors and "failed" not in errors
    clean(modal)
    assert not list((modal.store / "downloads").glob(".partial-*"))
