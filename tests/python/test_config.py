"""Settings of `~/.modal.toml`, as programs ask for them."""

from __future__ import annotations

import json
import os
import sys

import pytest

import modal
from modal._shared import settings
from modal._shared.api import environment_or_default

SHOWN = {
    "environment": {"value": "staging", "source": "profile"},
    "force_build": {"value": "true", "source": "profile"},
    "loglevel": {"value": "WARNING", "source": "default"},
    "token_id": {"value": "***", "source": "variable"},
}

#: Stands for `modal`: says what it was asked, and fails where the file is malformed.
PROGRAM = """#!{python}
import json, os, sys
with open(os.environ["MODAL_CONFIG_PATH"]) as file:
    text = file.read()
if "malformed" in text:
    sys.exit("error: the file is malformed\\nhint: mend it")
if sys.argv[1:] == ["profile", "current"]:
    print(os.environ.get("MODAL_PROFILE", "work"))
else:
    shown = json.loads(text)
    if os.environ.get("MODAL_PROFILE") == "home":
        shown["environment"]["value"] = "at home"
    assert "MODAL_ENVIRONMENT" not in os.environ
    print(json.dumps(shown))
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("MODAL_")]:
        monkeypatch.delenv(name)
    program = tmp_path / "modal"
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    file = tmp_path / "profiles"
    file.write_text(json.dumps(SHOWN))
    monkeypatch.setenv("MODAL_COMMAND", str(program))
    monkeypatch.setenv("MODAL_CONFIG_PATH", str(file))
    monkeypatch.setattr(settings, "_read", {})
    monkeypatch.setattr(settings, "_is_filled", False)
    return file


def test_variables_come_before_the_profile_and_that_before_the_default(file, monkeypatch):
    config = modal.config.config
    assert (config["environment"], config["force_build"], config["ignore_cache"]) == ("staging", True, False)
    assert (config.get("loglevel"), config["image_builder_version"]) == ("WARNING", None)
    monkeypatch.setenv("MODAL_ENVIRONMENT", "dev")
    monkeypatch.setenv("MODAL_FORCE_BUILD", "0")
    assert (config["environment"], config["force_build"]) == ("dev", False)
    assert config.get("environment", use_env=False) == "staging"
    assert config.get("environment", profile="home", use_env=False) == "at home"
    assert config.to_dict()["environment"] == "dev"
    assert modal.config._profile == "work"
    monkeypatch.setenv("MODAL_PROFILE", "home")
    assert modal.config._profile == "home"
    with pytest.raises(KeyError, match="environments"):
        config["environments"]


def test_apps_run_in_the_environment_of_the_profile(file, monkeypatch):
    assert environment_or_default(None) == "staging"
    assert environment_or_default("named") == "named"
    assert settings.is_on("MODAL_FORCE_BUILD")
    monkeypatch.setenv("MODAL_ENVIRONMENT", "")
    assert environment_or_default(None) == "main"


def test_tokens_are_not_read(file, monkeypatch):
    assert modal.config.config["token_id"] is None
    monkeypatch.setenv("MODAL_TOKEN_ID", "ak-1")
    assert modal.config.config["token_id"] == "ak-1"


def test_overrides_hold_for_this_process(file, monkeypatch):
    monkeypatch.setenv("MODAL_ENVIRONMENT", "dev")
    modal.config.config.override_locally("environment", "other")
    assert modal.config.config["environment"] == "other"


def test_nobody_is_asked_without_a_file_nor_below_the_command(file, monkeypatch):
    file.write_text("malformed")
    monkeypatch.setattr(settings, "_is_filled", True)
    assert environment_or_default(None) == "main"
    monkeypatch.setattr(settings, "_is_filled", False)
    monkeypatch.setenv("MODAL_IS_REMOTE", "1")
    assert environment_or_default(None) == "main"
    monkeypatch.delenv("MODAL_IS_REMOTE")
    settings._read.clear()
    with pytest.raises(modal.exception.InvalidError) as caught:
        environment_or_default(None)
    assert (caught.value.message, caught.value.hint) == ("the file is malformed", "mend it")
    file.unlink()
    assert environment_or_default(None) == "main"
    assert modal.config._profile == "default"
