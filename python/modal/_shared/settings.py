"""Settings: an environment variable, or else the profile in use of Modal's file, `~/.modal.toml`."""

from __future__ import annotations

import os

#: What was read from the file, by profile (None: the one in use).
_read: dict[str | None, dict[str, str]] = {}
#: Whether the `modal` command, which has started this process, has made variables of what the profile in use says.
_is_filled = False


def setting(variable: str) -> str:
    """The value of a setting, by the variable that may say it; empty if nobody says anything."""
    value = os.environ.get(variable)
    if value is None:
        return "" if _is_filled else of_profile(None).get(variable[len("MODAL_") :].lower(), "")
    return value


def is_on(variable: str) -> bool:
    """Whether a switch among the settings is on."""
    return setting(variable).lower() not in ("", "0", "false")


def take_variables_alone() -> None:
    """Notes that no file has to be read for what is set."""
    global _is_filled
    _is_filled = True


def of_profile(name: str | None) -> dict[str, str]:
    """What a profile says, by default the one in use, whatever variables say."""
    if name not in _read:
        _read[name] = _ask(name) if _is_there() else {}
    return _read[name]


def _is_there() -> bool:
    """Whether there is a file, so that the command has something to read; none is looked for in containers."""
    if os.environ.get("MODAL_IS_REMOTE") == "1":
        return False
    return os.path.isfile(os.path.expanduser(os.environ.get("MODAL_CONFIG_PATH") or "~/.modal.toml"))


def _ask(name: str | None) -> dict[str, str]:
    """Has the `modal` command read the file: Python can read TOML only from 3.11 on."""
    import json

    shown = json.loads(_command({} if name is None else {"MODAL_PROFILE": name}, "config", "show", "--json"))
    return {name: about["value"] for name, about in shown.items() if about["source"] == "profile"}


def name_in_use() -> str:
    """The name of the profile in use."""
    return _command({}, "profile", "current").rstrip("\n") if _is_there() else "default"


def _command(changes: dict[str, str], *words: str) -> str:
    """What a command prints; how it fails is raised."""
    import subprocess

    from modal._client.engine import command
    from modal.exception import InvalidError

    kept = ("MODAL_CONFIG_PATH", "MODAL_PROFILE", "MODAL_STORE")
    variables = {name: value for name, value in os.environ.items() if name in kept or not name.startswith("MODAL_")}
    done = subprocess.run(
        [command(), *words], check=False, env={**variables, **changes}, capture_output=True, text=True
    )
    if done.returncode != 0:
        said, _, hint = done.stderr.strip().removeprefix("error: ").partition("\nhint: ")
        raise InvalidError(said, hint=hint or None)
    return done.stdout
