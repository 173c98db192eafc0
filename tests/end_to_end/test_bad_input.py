"""Bad input: each a clear error that names the value and the remedy, and the store as before."""

from __future__ import annotations

import pytest
from conftest import Modal

HEAD = 'import modal\nbase = modal.Image.debian_slim(python_version="3.11")\n'
TAIL = '\napp = modal.App("bad", image=image)\n@app.function()\ndef main(): print("ran")\n'


def attempt(modal: Modal, image: str, **environment: str):
    modal.write("app.py", f"{HEAD}image = {image}{TAIL}")
    return modal("run", "app.py", check=False, **environment)


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        ('base.apt_install("no-such-package-anywhere")', ["`no-such-package-anywhere`", "spelling"]),
        ('base.apt_install("git=1.2.3")', ["have `git` as ", "(bookworm/main)"]),
        ('base.uv_pip_install("no-such-package-anywhere-9")', ["no-such-package-anywhere-9"]),
        (
            'base.pip_install("x @ hg+http://me:horse@127.0.0.1:9/x")',
            ["`hg+http://***@127.0.0.1:9/x`", "`run_commands`"],
        ),
        ('base.pip_install("pandas==0.0.0.1")', ["pandas"]),
        ('base.uv_pip_install("pandas===>1")', ["pandas===>1"]),
        ('base.run_commands("echo before; exit 7")', ["exit code 7", "before", "modal shell im-"]),
        ('base.run_commands("nonesuch --help")', ["`nonesuch`", "apt_install"]),
        ('base.add_local_dir("missing", "/x")', ["missing", "does not exist"]),
        ('base.add_local_dir("app.py", "/x")', ["app.py", "directory"]),
        ('base.add_local_file("missing.txt", "/x", copy=True)', ["missing.txt", "does not exist"]),
        ('base.add_local_dir(".", "relative")', ["`relative`", "absolute"]),
        ("base.apt_install(7)", ["7"]),
        ('base.env({"A": 1})', ["A"]),
        ('base.uv_pip_install(requirements=["missing.txt"])', ["missing.txt"]),
        ('modal.Image.debian_slim(python_version="2.7")', ["`2.7`", "3.11"]),
        ('modal.Image.debian_slim(python_version="3.12")', ["3.12", "UV_PYTHON_INSTALL_MIRROR"]),
        ('base.workdir("/proc/self/fd/7").run_commands("pwd")', ["/proc/self/fd/7"]),
    ],
)
def test_images(modal: Modal, image: str, parts: list[str]) -> None:
    result = attempt(modal, image)
    assert result.code == 1, result.stdout + result.stderr
    for part in parts:
        assert part in result.stderr, result.stderr
    assert "Traceback" not in result.stderr or "app.py" in result.stderr
    assert "panicked" not in result.stderr
    assert "ran" not in result.stdout


def test_a_failed_step_can_be_entered_and_mended(modal: Modal) -> None:
    result = attempt(modal, 'base.run_commands("touch /opt/kept").run_commands("touch /opt/lost; exit 3")')
    shell = next(line for line in result.stderr.splitlines() if "modal shell im-" in line)
    image = next(word.strip("`.,") for word in shell.split() if word.strip("`").startswith("im-"))
    listing = modal("shell", image, "--no-pty", "-c", "ls /opt")
    assert listing.stdout.split() == ["kept"]
    mended = attempt(modal, 'base.run_commands("touch /opt/kept").run_commands("touch /opt/lost")')
    assert mended.code == 0 and mended.stdout == "ran\n"


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (("run", "missing.py"), 1, "missing.py"),
        (("run", "app.py::nothing"), 1, "nothing"),
        (("run", "app.py:main"), 1, "::"),
        (("run", "pkg.mod"), 1, "-m"),
        (("run",), 2, "REF"),
        (("run", "app.py", "--nope"), 2, "--nope"),
        (("frobnicate",), 2, "frobnicate"),
        (("run", "--progress", "loud", "app.py"), 2, "loud"),
        (("shell", "im-doesnotexist"), 1, "im-doesnotexist"),
        (("image", "logs", "nonsense"), 1, "nonsense"),
    ],
)
def test_commands(modal: Modal, arguments: tuple[str, ...], code: int, part: str) -> None:
    modal.write("app.py", f"{HEAD}image = base{TAIL}")
    result = modal(*arguments, check=False)
    assert result.code == code, result.stderr
    assert part in result.stderr
    assert "Traceback" not in result.stderr


def test_no_network(fresh_store: Modal) -> None:
    nowhere = {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    result = attempt(fresh_store, "base", **nowhere)
    assert result.code == 1
    assert "network" in result.stderr and "panicked" not in result.stderr


def test_an_unwritable_and_a_foreign_store(modal: Modal) -> None:
    modal.write("app.py", f"{HEAD}image = base{TAIL}")
    file = modal.write("file", "")
    result = modal("run", "app.py", check=False, MODAL_STORE=str(file / "store"))
    assert result.code == 1 and str(file) in result.stderr and "Traceback" not in result.stderr
    open_store = modal.directory / "open"
    open_store.mkdir(mode=0o755)
    result = modal("run", "app.py", check=False, MODAL_STORE=str(open_store))
    assert result.code == 1 and "chmod 700" in result.stderr
