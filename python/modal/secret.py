"""Secrets: environment variables for the processes that need them, and for nothing else."""

from __future__ import annotations

import os

from modal._shared.api import Explained, environment_or_default, explain_on_instance, in_thread
from modal.exception import InvalidError, NotFoundError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Any, ClassVar

    from modal._client.errands import SecretInfo


class Secret(metaclass=Explained):
    """Environment variables whose values never reach layers, logs or history.

    Made by a factory method such as `Secret.from_dict`, and given to an app, a function or a single build step.
    """

    _name: str
    #: The secrets that this machine keeps under names.
    objects: ClassVar[SecretObjects]
    #: Variables whose values are no secrets.
    _allowed: tuple[str, ...]
    #: Gives the variables, when an app starts.
    _read: Callable[[], dict[str, str]]
    #: The name that this machine keeps it under, its environment (None: the app's), and what it has to have.
    _kept: tuple[str, str | None, tuple[str, ...]] | None
    #: Its id, once it was looked up.
    _id: str | None

    if not TYPE_CHECKING:
        __getattr__ = explain_on_instance

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
            check_variable(name, value or "", "`Secret.from_dict`")
        values = {name: value for name, value in env_dict.items() if value is not None}
        return cls._make("from_dict({})".format(", ".join(sorted(values))), lambda: values)

    @classmethod
    def from_dotenv(
        cls, path: str | os.PathLike[str] | None = None, *, filename: str = ".env", client: object = None
    ) -> Secret:
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
        from modal import _in_container

        is_collection = not isinstance(env_keys, str) and hasattr(env_keys, "__iter__")
        if not is_collection or not all(isinstance(key, str) for key in env_keys):
            raise InvalidError(
                f"`Secret.from_local_environ` takes a list of names, not `{env_keys!r}`",
                hint='write `Secret.from_local_environ(["API_TOKEN"])`',
            )
        if _in_container():
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
        for key, value in values.items():
            check_variable(key, value, "`Secret.from_local_environ`")
        return cls._make("from_local_environ({})".format(", ".join(sorted(values))), lambda: values)

    @classmethod
    def from_name(
        cls,
        name: str,
        *,
        environment_name: str | None = None,
        required_keys: Collection[str] = (),
        client: object = None,
    ) -> Secret:
        """A secret that this machine keeps under a name: ``modal secret create huggingface HF_TOKEN=…`` makes it.

        ```python
        @app.function(secrets=[modal.Secret.from_name("huggingface", required_keys=["HF_TOKEN"])])
        def download(): ...
        ```

        It is read when an app starts. That it is missing, or lacks a variable of `required_keys`, is a
        `modal.exception.NotFoundError` then.
        """
        _check_name("Secret.from_name", name, environment_name)
        is_list = not isinstance(required_keys, str) and hasattr(required_keys, "__iter__")
        if not is_list or not all(isinstance(key, str) for key in required_keys):
            raise InvalidError(
                f"`required_keys` of `Secret.from_name` takes a list of names, not `{required_keys!r}`",
                hint='write `required_keys=["API_TOKEN"]`',
            )
        secret = cls._make(f"from_name({name})", dict)
        secret._kept = (name, environment_name, tuple(required_keys))
        return secret

    @property
    def name(self) -> str | None:
        """The name that it is kept under, if it is."""
        return None if self._kept is None else self._kept[0]

    @property
    def object_id(self) -> str:
        """Its id, `st-…`, known after `hydrate`; only secrets that are kept under names have one."""
        if self._id is None:
            raise AttributeError(f"`{self!r}` has no id before it is looked up: `hydrate()` does that")
        return self._id

    @in_thread
    def hydrate(self, client: object = None) -> Secret:
        """Looks now whether the secret is there, with the variables that are required."""
        if self._kept is None:
            self._read()
        else:
            self._find()
        return self

    @in_thread
    def info(self, *, refresh: bool = False) -> SecretInfo:
        """The name that it is kept under, and when it was made; always as it is now, whatever `refresh` says."""
        from datetime import datetime, timezone

        from modal._client.errands import SecretInfo

        if self._kept is None:
            raise InvalidError(f"`{self!r}` is not kept anywhere, so there is nothing to tell about it")
        found = self._find()
        return SecretInfo(found["name"], datetime.fromtimestamp(found["created"], timezone.utc), None)

    def _find(self) -> dict[str, Any]:
        from modal._client.errands import errand

        assert self._kept is not None
        name, environment, required = self._kept
        body = {"do": "find", "name": name, "required_keys": list(required)}
        found: dict[str, Any] = errand("secret", {**body, "environment": environment_or_default(environment)})
        self._id = found["id"]
        return found

    @in_thread
    def update(self, env_dict: dict[str, str]) -> None:
        """Adds variables to a secret that is kept under a name; those that it has get these values."""
        if self._kept is None:
            raise InvalidError(
                f"`{self!r}` is not kept anywhere, so there is nothing to update",
                hint="`update` is for secrets of `Secret.from_name`",
            )
        from modal._client.errands import errand

        name, environment, _ = self._kept
        body = {"do": "update", "name": name, "values": _strings("Secret.update", env_dict)}
        errand("secret", {**body, "environment": environment_or_default(environment)})

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
        secret._kept = self._kept
        secret._allowed = (*self._allowed, *names)
        return secret

    @classmethod
    def _make(cls, name: str, read: Callable[[], dict[str, str]]) -> Secret:
        secret = object.__new__(cls)
        secret._name = name
        secret._allowed = ()
        secret._read = read
        secret._kept = None
        secret._id = None
        return secret

    def __repr__(self) -> str:
        return f"Secret.{self._name}"


class SecretObjects:
    """The secrets that this machine keeps under names: `Secret.objects`."""

    @in_thread
    def create(
        self,
        name: str,
        env_dict: dict[str, str],
        *,
        allow_existing: bool = False,
        environment_name: str | None = None,
        client: object = None,
    ) -> None:
        """Keeps variables under a name; one that is taken is a `modal.exception.AlreadyExistsError`.

        With `allow_existing` a secret of that name is fine, and stays as it is.
        """
        from modal._client.errands import errand

        _check_name("Secret.objects.create", name, environment_name)
        values = _strings("Secret.objects.create", env_dict)
        body = {"do": "create", "name": name, "values": values, "allow_existing": bool(allow_existing)}
        errand("secret", {**body, "environment": environment_or_default(environment_name)})

    @in_thread
    def list(
        self,
        *,
        max_objects: int | None = None,
        created_before: Any = None,
        environment_name: str | None = None,
        client: object = None,
    ) -> list[Secret]:
        """The secrets, the newest first."""
        from modal._client.errands import listed

        chosen = listed("secret", environment_name, max_objects, created_before)
        return [Secret.from_name(each["name"], environment_name=environment_name) for each in chosen]

    @in_thread
    def delete(
        self,
        name: str,
        *,
        allow_missing: bool = False,
        environment_name: str | None = None,
        client: object = None,
    ) -> None:
        """Removes a secret; none of that name is a `modal.exception.NotFoundError`, unless `allow_missing` says so."""
        from modal._client.errands import errand

        _check_name("Secret.objects.delete", name, environment_name)
        try:
            body = {"do": "delete", "name": name, "environment": environment_or_default(environment_name)}
            errand("secret", body)
        except NotFoundError:
            if not allow_missing:
                raise


#: What is kept, as a namespace of the class.
Secret.objects = SecretObjects()


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
        check_variable(name, value or "", f"`env` of {owner}")
    return {name: value for name, value in env.items() if value is not None}


def wire_secrets(secrets: Collection[Secret]) -> list[dict[str, Any]]:
    """The secrets as the engine reads them."""
    return [_wire(secret) for secret in secrets]


def _wire(secret: Secret) -> dict[str, Any]:
    allowed = {"allowed": list(secret._allowed)} if secret._allowed else {}
    if secret._kept is not None:
        name, environment, required = secret._kept
        kept = {"name": name, "environment": environment_or_default(environment), "required_keys": list(required)}
        return {"name": secret._name, "kept": kept, **allowed}
    values = secret._read()
    missing = [name for name in secret._allowed if name not in values]
    if missing:
        raise InvalidError(f"`Secret.allow` names `{missing[0]}`, which `{secret!r}` has no variable of")
    return {"name": secret._name, "values": values, **allowed}


def _check_name(method: str, name: object, environment: object) -> None:
    if not isinstance(name, str) or not name:
        raise InvalidError(f"`{method}` takes the name of a secret, not `{name!r}`")
    if environment is not None and not isinstance(environment, str):
        raise InvalidError(f"`environment_name` of `{method}` takes a string, not `{environment!r}`")


def _strings(method: str, env_dict: object) -> dict[str, str]:
    if not isinstance(env_dict, dict):
        raise InvalidError(f"`{method}` takes a dict, not `{type(env_dict).__name__}`")
    for name, value in env_dict.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InvalidError(f"`{method}` takes strings; the value of `{name}` is of type `{type(value).__name__}`")
        check_variable(name, value, f"`{method}`")
    return env_dict


def check_variable(name: str, value: str, owner: str) -> None:
    """Refuses what no process can have in its environment, or is no text."""
    if not name or "=" in name or "\0" in name:
        raise InvalidError(
            f"{owner} has a variable `{name!r}`, and no environment can: a name needs at least one character, "
            "and neither `=` nor a zero byte"
        )
    if "\0" in value:
        raise InvalidError(f"the value of `{name}` in {owner} has a zero byte, which no environment variable can hold")
    try:
        f"{name}{value}".encode()
    except UnicodeEncodeError:
        raise InvalidError(
            f"`{name!r}` in {owner} is no text in UTF-8", hint="encode its value, for example with base64"
        ) from None


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

    path = os.path.join(directory, filename)
    try:
        values = dotenv_values(path)
    except UnicodeDecodeError:
        raise InvalidError(f"`{path}` is no text in UTF-8", hint="save it in UTF-8") from None
    given = {name: value for name, value in values.items() if value is not None}
    for name, value in given.items():
        check_variable(name, value, f"`{path}`")
    return given
