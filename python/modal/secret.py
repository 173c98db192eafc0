"""Secrets: environment variables for the processes that need them, and for nothing else."""

from __future__ import annotations

from modal._missing import Explained
from modal.exception import InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any


class Secret(metaclass=Explained):
    """Environment variables whose values never reach layers, logs or history.

    Made by a factory method such as `Secret.from_dict`, and given to a function or to a single build step.
    """

    _name: str
    _values: dict[str, str]

    def __init__(self) -> None:
        raise InvalidError("`Secret()` makes no secret", hint="use a factory method such as `modal.Secret.from_dict`")

    @classmethod
    def from_dict(cls, env_dict: dict[str, str | None]) -> Secret:
        """A secret with the variables of `env_dict`; those whose value is None are left out.

        ```python
        modal.Secret.from_dict({"API_TOKEN": os.environ["API_TOKEN"]})
        ```
        """
        if not isinstance(env_dict, dict):
            raise InvalidError(f"`Secret.from_dict` takes a dict, not `{type(env_dict).__name__}`")
        for name, value in env_dict.items():
            if not isinstance(name, str) or not (value is None or isinstance(value, str)):
                raise InvalidError(
                    f"`Secret.from_dict` takes strings; the value of `{name}` is of type `{type(value).__name__}`"
                )
        secret = object.__new__(cls)
        secret._values = {name: value for name, value in env_dict.items() if value is not None}
        secret._name = "from_dict({})".format(", ".join(sorted(secret._values)))
        return secret

    def __repr__(self) -> str:
        return f"Secret.{self._name}"


def check_secrets(secrets: object, owner: str) -> list[Secret]:
    """The secrets as a list, or an `InvalidError` that names who got something else."""
    if isinstance(secrets, (str, Secret, dict)) or not hasattr(secrets, "__iter__"):
        raise InvalidError(f"`secrets` of {owner} takes a list of `modal.Secret`, not `{type(secrets).__name__}`")
    checked = list(secrets)
    for secret in checked:
        if not isinstance(secret, Secret):
            raise InvalidError(
                f"`secrets` of {owner} takes `modal.Secret` objects; `{type(secret).__name__}` was given",
                hint="make one with `modal.Secret.from_dict({...})`",
            )
    return checked


def with_environment(secrets: Collection[Secret], env: dict[str, str | None] | None) -> list[Secret]:
    """The secrets of a build step; `env` is one more, after the others, so that it wins."""
    if env is not None and not isinstance(env, dict):
        raise InvalidError(f"`env` takes a dict of strings, not `{type(env).__name__}`")
    return [*secrets, Secret.from_dict(env)] if env else list(secrets)


def wire_secrets(secrets: Collection[Secret]) -> list[dict[str, Any]]:
    """The secrets as the engine reads them."""
    return [{"name": secret._name, "values": secret._values} for secret in secrets]
