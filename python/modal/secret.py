"""Secrets: environment variables for the processes that need them, and for nothing else."""

from __future__ import annotations

import os

from modal._shared.api import Explained
from modal.exception import InvalidError, NotFoundError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Any


class Secret(metaclass=Explained):
    """Environment variables whose values never reach layers, logs or history.

    Made by a factory method such as `Secret.from_dict`, and given to a function or to a single build step.
    """

    _name: str
    #: Variables whose values are no secrets.
    _allowed: tuple[str, ...]
    #: Gives the variables, when an app starts.
    _read: Callable[[], dict[str, str]]

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
        values = {name: value for name, value in env_dict.items() if value is not None}
        return cls._make("from_dict({})".format(", ".join(sorted(values))), lambda: values)

    @classmethod
    def from_dotenv(cls, path: str | os.PathLike[str] | None = None, *, filename: str = ".env") -> Secret:
        """A secret with the variables of a dotenv file, which is read when an app starts.

        ```python
        modal.Secret.from_dotenv(__file__)  # the `.env` beside this script, or in a directory above it
        ```

        The file is looked for in the directory `path` (default: the working directory) or that of the file `path`,
        then in those above it.
        """
        start = os.path.abspath(os.path.expanduser(path if path is not None else os.curdir))
        return cls._make(f"from_dotenv({filename})", lambda: _read_dotenv(start, filename))

    @classmethod
    def from_local_environ(cls, env_keys: Collection[str]) -> Secret:
        """A secret with variables of this process's environment.

        ```python
        modal.Secret.from_local_environ(["API_TOKEN"])
        ```
        """
        from modal import is_local

        is_collection = not isinstance(env_keys, str) and hasattr(env_keys, "__iter__")
        if not is_collection or not all(isinstance(key, str) for key in env_keys):
            raise InvalidError(
                f"`Secret.from_local_environ` takes a list of names, not `{env_keys!r}`",
                hint='write `Secret.from_local_environ(["API_TOKEN"])`',
            )
        if not is_local():
            # Containers import the module as well, and have the variables that the secret stands for already.
            return cls.from_dict({})
        missing = [key for key in env_keys if key not in os.environ]
        if missing:
            raise InvalidError(
                "`Secret.from_local_environ` did not find {} in the environment".format(
                    ", ".join(f"`{key}`" for key in missing)
                ),
                hint=f"set it before the program starts: `export {missing[0]}=…`",
            )
        values = {key: os.environ[key] for key in env_keys}
        return cls._make("from_local_environ({})".format(", ".join(sorted(values))), lambda: values)

    def allow(self, *names: str) -> Secret:
        """The same secret, with variables named whose values are none: they may be shown, and stay in layers.

        ```python
        modal.Secret.from_dotenv().allow("AWS_REGION", "BUCKET")
        ```

        A build step whose result contains the value of a secret is refused; this is how to say that it may.
        """
        for name in names:
            if not isinstance(name, str):
                raise InvalidError(f"`Secret.allow` takes names of variables, not `{type(name).__name__}`")
        secret = Secret._make(self._name, self._read)
        secret._allowed = (*self._allowed, *names)
        return secret

    @classmethod
    def _make(cls, name: str, read: Callable[[], dict[str, str]]) -> Secret:
        secret = object.__new__(cls)
        secret._name = name
        secret._allowed = ()
        secret._read = read
        return secret

    def __repr__(self) -> str:
        return f"Secret.{self._name}"


def check_secrets(secrets: Any, owner: str) -> list[Secret]:
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


def check_environment(env: object, owner: str) -> dict[str, str]:
    """The variables of `env` but those whose value is None, or an `InvalidError` that names who got something else."""
    if env is None:
        return {}
    if not isinstance(env, dict):
        raise InvalidError(f"`env` of {owner} takes a dict of strings, not `{type(env).__name__}`")
    for name, value in env.items():
        if not isinstance(name, str) or not (value is None or isinstance(value, str)):
            raise InvalidError(
                f"`env` of {owner} takes strings; the value of `{name}` is of type `{type(value).__name__}`"
            )
    return {name: value for name, value in env.items() if value is not None}


def wire_secrets(secrets: Collection[Secret]) -> list[dict[str, Any]]:
    """The secrets as the engine reads them."""
    return [_wire(secret) for secret in secrets]


def _wire(secret: Secret) -> dict[str, Any]:
    values = secret._read()
    missing = [name for name in secret._allowed if name not in values]
    if missing:
        raise InvalidError(f"`Secret.allow` names `{missing[0]}`, which `{secret!r}` has no variable of")
    allowed = {"allowed": list(secret._allowed)} if secret._allowed else {}
    return {"name": secret._name, "values": values, **allowed}


def _read_dotenv(start: str, filename: str) -> dict[str, str]:
    """The variables of the first file of this name in a directory or those above it."""
    directory = os.path.dirname(start) if os.path.isfile(start) else start
    while not os.path.isfile(os.path.join(directory, filename)):
        parent = os.path.dirname(directory)
        if parent == directory:
            raise NotFoundError(
                f"`Secret.from_dotenv` found no `{filename}` in `{start}` or the directories above it",
                hint="make the file, with lines such as `API_TOKEN=…`, or say where it is: "
                f"`Secret.from_dotenv(path, filename={filename!r})`",
            )
        directory = parent
    from dotenv import dotenv_values

    values = dotenv_values(os.path.join(directory, filename))
    return {name: value for name, value in values.items() if value is not None}
