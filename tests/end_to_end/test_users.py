"""The same as root and as an ordinary user, with and without subordinate ids."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Modal, Result, command

import modal as package

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can create users")

APP = """
import modal
base = modal.Image.debian_slim(python_version="3.11").apt_install("figlet").uv_pip_install("six==1.16.0")
image = base.run_commands(
    "install -o daemon -g mail -m 640 /dev/null /opt/owned", "echo x > /opt/mode && chmod 4755 /opt/mode"
)
app = modal.App("u", image=image)

@app.function()
def main():
    import os
    owned = os.stat("/opt/owned")
    return print(os.getuid(), owned.st_uid, owned.st_gid, oct(os.stat("/opt/mode").st_mode))
"""


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

    def __call__(self, *arguments: str, **options) -> Result:
        return self.run(
            ["setpriv", "--reuid", self.name, "--regid", self.name, "--init-groups", self.binary, *arguments], **options
        )


@pytest.fixture
def user(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[UserModal]:
    """A user made for one test; the parameter decides whether it gets subordinate ids."""
    name = f"lamina-{os.getpid()}"
    home = Path(f"/var/tmp/{name}")
    subprocess.run(["useradd", "--create-home", "--home-dir", home, name], check=True)
    subordinate = getattr(request, "param", True)
    for kind in ("uids", "gids"):
        flag = "--add-sub" if subordinate else "--del-sub"
        bounds = "1879048192-1879113727" if subordinate else "0-4294967294"
        subprocess.run(["usermod", f"{flag}{kind}", bounds, name], check=True)
    try:
        modal = UserModal(name, home)
        (home / "app.py").write_text(APP)
        subprocess.run(["chown", "-R", name, home], check=True)
        yield modal
        if modal.store.exists():
            modal("store", "remove", "--yes")
    finally:
        subprocess.run(["userdel", "--remove", "--force", name], check=False, capture_output=True)
        shutil.rmtree(home, ignore_errors=True)


def test_layers_of_root_and_of_a_user_have_the_same_digests(user: UserModal, modal: Modal) -> None:
    modal.write("app.py", APP)
    ours, theirs = modal.events("app.py", MODAL_IGNORE_CACHE="1"), user.events("app.py")
    assert ours.stdout == theirs.stdout == "0 1 8 0o104755\n"
    assert ours.of("image_built")[0]["image"] == theirs.of("image_built")[0]["image"]
    uid = pwd.getpwnam(user.name).pw_uid
    assert user.store.stat().st_uid == uid and user.store.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("user", [False], indirect=True)
def test_without_subordinate_ids_a_base_is_refused_with_the_command_that_adds_them(user: UserModal) -> None:
    result = user("run", "app.py", check=False)
    assert result.code == 1
    assert "usermod --add-subuids" in result.stderr and user.name in result.stderr


def test_the_doctor_names_what_is_missing(user: UserModal) -> None:
    result = user("doctor", check=False)
    assert "modal store remove" in result.stdout + result.stderr


def test_a_store_in_which_the_user_was_root_is_refused_with_the_way_out(user: UserModal, modal: Modal) -> None:
    account = pwd.getpwnam(user.name)

    def ranges(own: int) -> list[dict]:
        return [
            {"inside": 0, "outside": own, "count": 1},
            {"inside": 1, "outside": 1879048192, "count": 65535},
        ]

    user.store.mkdir(mode=0o700)
    shutil.copy(modal.store / "format.json", user.store)
    (user.store / "idmap.json").write_text(
        json.dumps({"uids": ranges(account.pw_uid), "gids": ranges(account.pw_gid)}),
    )
    subprocess.run(["chown", "-R", f"{account.pw_uid}:{account.pw_gid}", user.store], check=True)
    result = user("run", "app.py", check=False)
    assert result.code == 1
    assert "modal store remove" in result.stderr and "idmap.json" in result.stderr
    user("store", "remove", "--yes")
    assert not user.store.exists()
