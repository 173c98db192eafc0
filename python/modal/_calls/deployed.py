"""Functions of deployed apps: what `Function.from_name` makes."""

from __future__ import annotations

from modal._shared.api import environment_or_default
from modal._shared.interpreter import encode_json
from modal._shared.names import check_object_name
from modal.exception import ExecutionError, InvalidError
from modal.functions import Function, _packer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from modal._calls.conversation import Conversation


class DeployedFunction(Function[..., "Any", "Any"]):
    """A function of a deployed app, which is looked for when it is called first."""

    def __init__(self, app: str, name: str, version: int | None, environment: str) -> None:
        self._app_name = app
        self._name = name
        self._version = version
        self._environment = environment
        self._packer = _packer("", False)
        self._engine = None
        self._is_generator = False
        self._wire_name = _wire_name(self)
        self.__name__ = self.__qualname__ = name
        self.__doc__ = None

    def local(self, /, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuses: the function is not here."""
        raise ExecutionError(
            f"`{self._name}` of the app `{self._app_name}` cannot be called here: only its app has its source",
            hint="call it with `.remote`, or import it from its module",
        )

    def get_raw_f(self) -> NoReturn:
        """Refuses: the function is not here."""
        self.local()

    def __repr__(self) -> str:
        return f"<modal.Function `{self._name}` of the deployed app `{self._app_name}`>"

    def __reduce__(self) -> Any:
        return DeployedFunction, (self._app_name, self._name, self._version, self._environment)

    def _running(self, generator: bool = False) -> Conversation:
        from modal import is_local

        if not is_local():
            from modal._runner.client import reach_any

            return reach_any(self._name)
        from modal._client.deployed import missing_function, reach

        host = reach(self._environment, self._app_name, self._version)
        about = host.functions.get(self._name)
        if about is None:
            raise missing_function(host, self._app_name, self._name)
        self._is_generator = about.get("generator", False)
        self._check_kind(generator)
        return host


def _wire_name(function: DeployedFunction) -> bytes:
    """The function's name as it stands in control messages: in a container, the app follows it."""
    from modal import is_local

    name = encode_json(function._name)
    if is_local():
        return name.encode()
    app = {"name": function._app_name, "environment": function._environment, "version": function._version}
    return f'{name},"app":{encode_json(app)}'.encode()


def from_name(app_name: str, name: str, version: int | None, environment_name: str | None) -> DeployedFunction:
    """The function `name` of a deployed app."""
    check_object_name(app_name, "an app")
    if not isinstance(name, str) or not name:
        raise InvalidError(f"the name of a function is a string, not `{name!r}`")
    if "." in name:
        raise InvalidError(
            f"`{name}` has a dot: `Function.from_name` takes the name of a function",
            hint="methods are reached by their class: `modal.Cls.from_name`",
        )
    if version is not None and (isinstance(version, bool) or not isinstance(version, int) or version < 1):
        raise InvalidError(f"`version` takes the number of a version, not `{version!r}`")
    return DeployedFunction(app_name, name, version, environment_or_default(environment_name))
