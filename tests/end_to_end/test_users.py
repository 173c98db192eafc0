"""The same as root and as an ordinary user, with and without subordinate ids."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess

import pytest
from conftest import Modal, UserModal

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


@pytest.fixture(autouse=True)
def app(user: UserModal) -> None:
    user.write("app.py", APP)


def test_layers_of_root_and_of_a_user_have_the_same_digests(user: UserModal, modal: Modal, real_registry: str) -> None:
    modal.write("app.py", APP)
    ours, theirs = modal.events("app.py", MODAL_IGNORE_CACHE="1"), user.events("app.py")
    assert ours.stdout == theirs.stdout == "0 1 8 0o104755\n"
    assert ours.of("image_built")[0]["image"] == theirs.of("image_built")[0]["image"]
    # The same image, built by two users, has the same bytes outside.
    outside = []
    for each, image in ((modal, ours), (user, theirs)):
        each("image", "export", image.of("image_built")[0]["image"], "--format", "oci-archive", "-o", "image.tar")
        outside.append((each.directory / "image.tar").read_bytes())
    assert outside[0] == outside[1]
    # So it has in a registry, where one of them brings it, and the other finds it.
    reference = f"{real_registry}/users/{os.urandom(4).hex()}:v1"
    theirs_pushed = user("image", "push", theirs.of("image_built")[0]["image"], reference)
    ours_pushed = modal("image", "push", ours.of("image_built")[0]["image"], reference)
    assert ours_pushed.stdout == theirs_pushed.stdout and "sent 0 of" in ours_pushed.stderr, theirs_pushed
    # And it comes back as one image.
    assert modal("image", "import", "image.tar").stdout == user("image", "import", "image.tar").stdout
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


def test_the_doctor_refuses_a_store_of_other_ids_as_every_command_does(user: UserModal) -> None:
    def give(*ranges: str) -> None:
        added = [argument for each in ranges for argument in ("--add-subuids", each)]
        subprocess.run(["usermod", "--del-subuids", "0-4294967294", user.name], check=True)
        subprocess.run(["usermod", *added, user.name], check=True)

    def refusal(*arguments: str) -> str:
        result = user(*arguments, check=False)
        assert result.code == 1
        return " ".join((result.stdout + result.stderr).split())

    former, other = "1879048192-1879113727", "1900000000-1900065535"
    give(former)
    user("image", "list")
    give(other)
    for arguments in (["image", "list"], ["doctor"]):
        said = refusal(*arguments)
        assert f"made with the user ids `{former}`" in said and f"yours are `{other}` now" in said, said
        assert "in `/etc/subuid` and `/etc/subgid`, or set `MODAL_STORE`" in said
    (user.store / "idmap.json").write_text("{")
    for arguments in (["image", "list"], ["doctor"]):
        said = refusal(*arguments)
        assert "is damaged (EOF" in said and "belong to the user id `1879048192`" in said, said
    give(former)
    user("doctor")
    user("image", "list")


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


def test_files_of_a_volume_belong_to_ids_of_containers_and_are_within_reach(user: UserModal) -> None:
    user.write(
        "volumes.py",
        """
        import os
        import modal

        volume = modal.Volume.from_name("data", create_if_missing=True)
        app = modal.App(image=modal.Image.debian_slim(python_version="3.11"))

        @app.function(volumes={"/data": volume})
        def write():
            with open("/data/private", "w") as file:
                file.write("private")
            os.chown("/data/private", 33, 33)
            os.chmod("/data/private", 0o600)
            return [os.stat(f"/data/{name}").st_uid for name in ("private", "put")]
        @app.local_entrypoint()
        def main():
            print(write.remote(), b"".join(volume.read_file("private")))
        """,
    )
    user("volume", "create", "data")
    user.write("put", "put")
    user("volume", "put", "data", "put")
    assert user("run", "-q", "volumes.py").stdout == "[33, 0] b'private'\n"
    assert user("volume", "get", "data", "private", "-").stdout == "private"
    user("volume", "rm", "data", "private")
    assert user("volume", "ls", "data").stdout == "put\n"
    user("secret", "create", "kept", "A=1")
    file = user.store / "secrets" / "main" / "kept.json"
    assert file.stat().st_uid == pwd.getpwnam(user.name).pw_uid and file.stat().st_mode & 0o777 == 0o600
