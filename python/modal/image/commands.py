"""Steps that run something, and settings of everything that runs."""

from __future__ import annotations

import os

from modal._shared.interpreter import encode_json
from modal.exception import InvalidError
from modal.image._step import Steps, flatten, instance_method, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import PurePosixPath
    from typing import Union

    from modal.image import Image
    from modal.image._step import Environment, Secrets, Strings
    from modal.volume import Place, Volume

    Volumes = Union[Mapping[str, Volume], Mapping[Place, Volume], None]


class CommandSteps(Steps):
    """Commands, variables, the working directory, entrypoint and shell."""

    @instance_method
    def run_commands(
        self,
        *commands: Strings,
        env: Environment = None,
        secrets: Secrets = None,
        volumes: Volumes = None,
        force_build: bool = False,
    ) -> Image:
        """Runs shell commands, one after the other, as one step.

        ```python
        image.run_commands("git clone https://example.com/project /opt/project", "make -C /opt/project install")
        ```

        `env` and `secrets` are environment variables of these commands only; use `Image.env` for lasting ones.
        A changed value in `env` rebuilds the step, one in `secrets` does not; values of secrets are neither shown nor
        stored. `volumes` are there meanwhile, at these paths; which they are is part of what the step is, and what they
        hold is not.
        """
        lines = flatten("run_commands", commands)
        if not lines:
            return self._unchanged()
        step, local = {"kind": "run_commands", "commands": lines}, None
        if volumes:
            from modal.volume import check_volumes, wire_volumes

            checked = check_volumes(volumes, "`Image.run_commands`")

            def local() -> dict[str, object]:
                return {"volumes": wire_volumes(checked)}

        return self._add(step, map(quote, lines), env, secrets, force_build, local=local)

    @instance_method
    def env(self, vars: dict[str, str]) -> Image:
        """Sets environment variables for later steps and for containers.

        Values are taken as they are; `$NAME` in them is not replaced.
        """
        if not isinstance(vars, dict):
            raise InvalidError(f"`Image.env` takes a dict, not `{type(vars).__name__}`")
        for name, value in vars.items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise InvalidError(
                    f"`Image.env` takes strings; the value of `{name}` is of type `{type(value).__name__}`"
                )
        variables = dict(vars)
        return self._add({"kind": "env", "variables": variables}, [encode_json(variables)])

    @instance_method
    def workdir(self, path: str | PurePosixPath) -> Image:
        """Sets the working directory of later steps and of containers."""
        if not isinstance(path, (str, os.PathLike)):
            raise InvalidError(f"`Image.workdir` takes a path, not `{type(path).__name__}`")
        text = os.fspath(path)
        return self._add({"kind": "workdir", "path": text}, [quote(text)])

    @instance_method
    def entrypoint(self, entrypoint_commands: list[str]) -> Image:
        """Sets the program that a function's container is started through.

        ```python
        image.entrypoint(["/usr/bin/tini", "--"])
        ```

        It is given the container's own command as further arguments, and has to execute it: a shell script ends with
        ``exec "$@"``. An empty list takes away what the image has brought. Steps and `modal shell` do not use it.
        """
        return self._set("entrypoint", "entrypoint_commands", entrypoint_commands)

    @instance_method
    def shell(self, shell_commands: list[str]) -> Image:
        """Sets the program that runs the commands of later steps; each command is its last argument.

        ```python
        image.shell(["/bin/bash", "-c"]).run_commands("source /opt/settings && make")
        ```

        An empty list brings back the usual one, ``["/bin/sh", "-c"]``.
        """
        return self._set("shell", "shell_commands", shell_commands)

    @instance_method
    def cmd(self, cmd: list[str]) -> Image:
        """Sets the command of a container that is told no other. Functions are always told one."""
        return self._set("cmd", "cmd", cmd)

    def _set(self, method: str, keyword: str, arguments: object) -> Image:
        """A step of the kind `method`, of a list of strings."""
        if not isinstance(arguments, list) or not all(isinstance(argument, str) for argument in arguments):
            raise InvalidError(
                f"`{keyword}` of `Image.{method}` takes a list of strings, not `{arguments!r}`",
                hint='write each argument as a string of its own, for example `["/bin/bash", "-c"]`',
            )
        return self._add({"kind": method, "arguments": list(arguments)}, [encode_json(arguments)])
