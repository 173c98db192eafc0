"""Steps that run something, and settings of everything that runs."""

from __future__ import annotations

from modal._shared.declaration import check_single_amount, check_timeout
from modal._shared.interpreter import encode_json
from modal.exception import InvalidError
from modal.image._step import Steps, check_text, flatten, instance_method, path_text, quote, string_list

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import PurePath
    from typing import Any

    from modal._shared.protocols import Volumes
    from modal.image import Image
    from modal.image._step import Environment, Secrets, Strings

#: The most bytes of the pickled arguments of `Image.run_function`; they are sent with every start of the app.
ARGUMENTS_LIMIT = 2 << 20


class CommandSteps(Steps):
    """Commands, variables, the working directory, entrypoint and shell."""

    @instance_method
    def run_commands(
        self,
        *commands: Strings,
        env: Environment = None,
        secrets: Secrets = None,
        volumes: Volumes | None = None,
        gpu: str | None = None,
        force_build: bool = False,
    ) -> Image:
        """Runs shell commands, one after the other, as one step.

        ```python
        image.run_commands("git clone https://example.com/project /opt/project", "make -C /opt/project install")
        ```

        `env` and `secrets` are environment variables of these commands only; use `Image.env` for lasting ones.
        A changed value in `env` rebuilds the step, one in `secrets` does not; values of secrets are neither shown nor
        stored. `volumes` are there meanwhile, at these paths; which they are is part of what the step is, and what they
        hold is not. With `gpu` they see GPUs, as functions of an app do.
        """
        lines = flatten("run_commands", commands)
        if not lines:
            return self._unchanged()
        step, local = {"kind": "run_commands", "commands": lines}, _wired_volumes(volumes, "`Image.run_commands`")
        return self._add(step, map(quote, lines), env, secrets, force_build, gpu=gpu, local=local)

    @instance_method
    def run_function(
        self,
        raw_f: Callable[..., Any],
        *,
        env: Environment = None,
        secrets: Secrets = None,
        volumes: Volumes | None = None,
        gpu: str | list[str] | None = None,
        cpu: float | None = None,
        memory: int | None = None,
        timeout: int = 3600,
        force_build: bool = False,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        include_source: bool = True,
    ) -> Image:
        """Runs a Python function in the image as far as it is, and keeps what that changes in its files.

        ```python
        def download():
            from huggingface_hub import snapshot_download

            snapshot_download("…", local_dir="/models")

        image = modal.Image.debian_slim().uv_pip_install("huggingface_hub").run_function(download)
        ```

        The function is at the top level of a module, which goes along as for functions of an app. What it returns is
        dropped; if it raises an exception, the image is not built.

        The step runs again when something changes that the function is made of: its text, the texts of local functions
        and classes that it uses, the values of globals that these name, `args`, `kwargs`, `env`, `gpu`, or the names
        of secrets and volumes. Other changes of its file do not count, nor do installed packages, of which the image
        has its own.
        """
        raw = getattr(raw_f, "get_raw_f", lambda: raw_f)()
        arguments = check_function(raw, args, kwargs or {}, cpu, memory, timeout)
        step = {
            "kind": "run_function",
            "arguments": arguments,
            "timeout": timeout,
            "milli_cpu": None if cpu is None else max(1, round(cpu * 1000)),
            "memory": memory,
        }

        wired = _wired_volumes(volumes, "`Image.run_function`")

        def local() -> dict[str, Any]:
            from modal._client.step_function import describe

            described = describe(raw, arguments, (tuple(args), dict(kwargs or {})), include_source)
            return described if wired is None else {**described, **wired()}

        return self._add(step, [raw.__name__], env, secrets, force_build, gpu=gpu, local=local)

    @instance_method
    def env(self, vars: dict[str, str]) -> Image:
        """Sets environment variables for later steps and for containers.

        Values are taken as they are; `$NAME` in them is not replaced.
        """
        if not isinstance(vars, dict):
            raise InvalidError(f"`Image.env` takes a dict, not `{type(vars).__name__}`")
        from modal.secret import check_variable

        for name, value in vars.items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise InvalidError(
                    f"`Image.env` takes strings; the value of `{name}` is of type `{type(value).__name__}`"
                )
            check_variable(name, value, "`Image.env`")
        variables = dict(vars)
        return self._add({"kind": "env", "variables": variables}, [encode_json(variables)])

    @instance_method
    def workdir(self, path: str | PurePath) -> Image:
        """Sets the working directory of later steps and of containers."""
        text = path_text(path, "`Image.workdir`")
        if not text:
            raise InvalidError("`Image.workdir` takes the path of a directory, not an empty string")
        check_text(text, "the path of `Image.workdir`")
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
        hint = 'write each argument as a string of its own, for example `["/bin/bash", "-c"]`'
        words = string_list(arguments, f"`{keyword}` of `Image.{method}`", hint)
        return self._add({"kind": method, "arguments": words}, [encode_json(words)])


def _wired_volumes(volumes: Volumes | None, owner: str) -> Callable[[], dict[str, Any]] | None:
    """Gives the part of a step that says which volumes it has; None if it has none."""
    if not volumes:
        return None
    from modal.volume import check_volumes, wire_volumes

    checked = check_volumes(volumes, owner)
    return lambda: {"volumes": wire_volumes(checked)}


def check_function(
    raw: Any, args: Sequence[Any], kwargs: Mapping[str, Any], cpu: object, memory: object, timeout: object
) -> str | None:
    """Refuses what `Image.run_function` cannot run; gives the pickled arguments in base64, or None without any."""
    qualified = getattr(raw, "__qualname__", None)
    if qualified is None or not callable(raw) or isinstance(raw, type):
        kind = type(raw).__name__
        raise InvalidError(f"`Image.run_function` takes a function, not `{raw!r}` of type `{kind}`")
    if raw.__name__ == "<lambda>":
        raise InvalidError("`Image.run_function` takes no lambda", hint="define the function with `def`")
    if "." in qualified:
        raise InvalidError(
            f"`{qualified}` is not at the top level of a module, where `Image.run_function` would find it in the image",
            hint="move it to the top level, and give it what it needs as `args` and `kwargs`",
        )
    check_single_amount("cpu", cpu, "`Image.run_function`")
    check_single_amount("memory", memory, "`Image.run_function`")
    check_timeout(timeout, "`timeout` of `Image.run_function`")
    if isinstance(args, str) or not hasattr(args, "__iter__") or not hasattr(kwargs, "keys"):
        raise InvalidError("`Image.run_function` takes `args` as a list or tuple, and `kwargs` as a dict")
    if not args and not kwargs:
        return None
    return _pack_arguments(raw.__name__, (tuple(args), dict(kwargs)))


def _pack_arguments(name: str, arguments: Any) -> str:
    from binascii import b2a_base64

    from modal._shared.payload import pack_any

    try:
        payload: Any = pack_any(arguments)
    except Exception as error:
        raise InvalidError(
            f"the arguments of `Image.run_function({name})` cannot be pickled: {error}", hint="pass plain data"
        ) from error
    if len(payload) > ARGUMENTS_LIMIT:
        raise InvalidError(
            f"the arguments of `Image.run_function({name})` are too large: {len(payload)} bytes, of at most "
            f"{ARGUMENTS_LIMIT}",
            hint="put the data into the image with `Image.add_local_file(..., copy=True)`",
        )
    parts = payload.parts if hasattr(payload, "parts") else [payload]
    return b2a_base64(b"".join(parts), newline=False).decode()
