"""Settings, as programs ask for them.

```python
from modal.config import config

config["environment"]  # MODAL_ENVIRONMENT, or else what the profile in use of `~/.modal.toml` says
```
"""

from __future__ import annotations

import os

from modal._shared import settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Config", "config"]

#: What settings are where nobody says otherwise. Of Modal's account, which there is none of here, only variables count.
_DEFAULTS: dict[str, Any] = {
    "environment": None,
    "force_build": False,
    "ignore_cache": False,
    "image_builder_version": None,
    "image_id": None,
    "loglevel": "WARNING",
    "server_url": None,
    "task_id": None,
    "token_id": None,
    "token_secret": None,
    "traceback": False,
}


class Config:
    """The settings: an environment variable, or else the profile in use of `~/.modal.toml`, or else the default."""

    def get(self, key: str, profile: str | None = None, use_env: bool = True) -> Any:
        """The value of a setting, from another `profile` if one is named, and without variables if not `use_env`."""
        if key not in _DEFAULTS:
            raise KeyError(f"`{key}` is no setting; there are {', '.join(_DEFAULTS)}")
        default = _DEFAULTS[key]
        variable = os.environ.get(f"MODAL_{key.upper()}") if use_env else None
        value = settings.of_profile(profile).get(key) if variable is None else variable
        if value is None:
            return default
        if isinstance(default, bool):
            return value.lower() not in ("", "0", "false")
        return value.upper() if key == "loglevel" else value

    def __getitem__(self, key: str) -> Any:
        """The value of a setting."""
        return self.get(key)

    def override_locally(self, key: str, value: str) -> None:
        """Sets the variable of a setting, in this process and those that it starts."""
        self.get(key)
        os.environ[f"MODAL_{key.upper()}"] = value

    def to_dict(self) -> dict[str, Any]:
        """All settings with their values."""
        return {key: self.get(key) for key in _DEFAULTS}

    def __repr__(self) -> str:
        return "modal.config.config"


#: The settings of this process.
config = Config()

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """The name of the profile in use, which programs show."""
        if name == "_profile":
            return settings.name_in_use()
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
