"""Modal's file of profiles: what is read of it, and the commands for it."""

from __future__ import annotations

import json
import os
import stat

FILE = """\
# mine
[work]
token_id = "ak-hunter2"
token_secret = "as-hunter2"
environment = "staging"

[home] # at home
active = true
environment = "attic"
"""


def with_file(modal, text: str):
    """A file of profiles for what `modal` runs."""
    path = modal.write("profiles.toml", text)
    path.chmod(0o600)
    for name in ("MODAL_ENVIRONMENT", "MODAL_PROFILE"):
        modal.environment.pop(name, None)
    modal.environment["MODAL_CONFIG_PATH"] = str(path)
    return path


def test_profiles_are_listed_and_activated(modal):
    path = with_file(modal, FILE)
    assert modal("profile", "list").stdout == "  profile  environment\n* home     attic\n  work     staging\n"
    assert modal("profile", "current").stdout == "home\n"
    assert modal("profile", "activate", "work").code == 0
    assert modal("profile", "current").stdout == "work\n"
    assert path.read_text() == FILE.replace("active = true\n", "").replace("[work]\n", "[work]\nactive = true\n")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    listed = json.loads(modal("profile", "list", "--json").stdout)
    assert [row["name"] for row in listed if row["active"]] == ["work"]
    missing = modal("profile", "activate", "works", check=False)
    assert missing.code == 1
    assert f"there is no profile `works` in `{path}`" in missing.stderr


def test_settings_are_shown_without_tokens(modal):
    with_file(modal, FILE)
    modal.environment["MODAL_PROFILE"] = "work"
    modal.environment["MODAL_TRACEBACK"] = "1"
    for shown in (modal("config", "show"), modal("config", "show", "--json")):
        assert shown.code == 0
        assert "hunter2" not in shown.stdout + shown.stderr
    assert json.loads(shown.stdout)["environment"] == {"value": "staging", "source": "profile"}
    assert json.loads(shown.stdout)["traceback"] == {"value": "1", "source": "variable"}
    assert json.loads(shown.stdout)["token_secret"] == {"value": "***", "source": "profile"}
    assert modal("config", "set-environment", "dev").code == 0
    assert json.loads(modal("config", "show", "--json").stdout)["environment"]["value"] == "dev"


def test_objects_belong_to_the_environment_of_the_profile(modal):
    with_file(modal, FILE)
    program = modal.write("program.py", "import modal\nprint([each.name for each in modal.Secret.objects.list()])\n")
    modal("secret", "create", "profiled", "KEY=value")
    try:
        assert "profiled" in modal("secret", "list", "--env", "attic").stdout
        assert modal.python(str(program)).stdout == "['profiled']\n"
        modal.environment["MODAL_PROFILE"] = "work"
        assert modal.python(str(program)).stdout == "[]\n"
        modal.environment["MODAL_ENVIRONMENT"] = "attic"
        assert modal.python(str(program)).stdout == "['profiled']\n"
    finally:
        modal("secret", "delete", "profiled", "--env", "attic", "--yes")


def test_what_is_malformed_is_said_with_its_line(modal):
    path = with_file(modal, "[work]\ntoken_secret = as-hunter2\n")
    program = modal.write("program.py", "import modal\nmodal.Secret.objects.list()\n")
    for failed in (
        modal("image", "list", check=False),
        modal("run", "program.py", check=False),
        modal.python(str(program), check=False),
    ):
        assert failed.code == 1
        assert f"`{path}` is not TOML: line 2" in failed.stderr
        assert "hunter2" not in failed.stderr
    assert modal("--help").code == 0
    path.write_text("[a]\n[b]\n")
    assert f"no profile of `{path}` is active" in modal("image", "list", check=False).stderr
    assert modal("profile", "activate", "b").code == 0
    assert modal("image", "list").code == 0
