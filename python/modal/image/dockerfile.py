"""Images from Dockerfiles, and lines of them as steps."""

from __future__ import annotations

import os

from modal.exception import InvalidError
from modal.image._step import Steps, factory_method, flatten, instance_method, make, quote, title, with_python

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Any, Union

    from modal.file_pattern_matcher import FilePatternMatcher
    from modal.image import Image
    from modal.image._step import Environment, Secrets, Strings
    from modal.secret import Secret

    AnyPath = Union[str, os.PathLike[str]]
    Ignore = Union[Sequence[str], Callable[[Path], bool], FilePatternMatcher]


class _Auto:
    """The ignore rules that a `.dockerignore` says."""

    def __repr__(self) -> str:
        return "AUTO"


AUTO: Any = _Auto()


class DockerfileSteps(Steps):
    """Dockerfiles."""

    @factory_method
    @classmethod
    def from_dockerfile(
        cls,
        path: AnyPath,
        *,
        force_build: bool = False,
        context_dir: AnyPath | None = None,
        env: Environment = None,
        secrets: Secrets = None,
        gpu: str | None = None,
        add_python: str | None = None,
        build_args: dict[str, str] | None = None,
        registry_secret: Secret | None = None,
        ignore: Ignore = AUTO,
    ) -> Image:
        """The image that a local Dockerfile describes.

        ```python
        image = modal.Image.from_dockerfile("Dockerfile", build_args={"VERSION": "1.2"})
        ```

        The file and what it copies are read when the image is built; `context_dir`, by default the working directory,
        is where ``COPY`` takes files from. `ignore` says what it never takes: as `Image.add_local_dir` has it, or else
        what ``<Dockerfile>.dockerignore`` or ``.dockerignore`` says. `env` and `secrets` are variables of its ``RUN``
        instructions; ``--mount=type=secret,id=NAME`` gives the secret's variable ``NAME``.

        ``FROM`` takes stages, ``scratch``, images of registries as `Image.from_registry` does, and
        ``localhost/NAME:TAG``: the image that `Image.publish` gave this name.
        Each instruction that changes files is a layer with a key of its own, stages build at the same time, and those
        that nothing uses are not built. `force_build` executes all that are needed anew, and no step of other calls.
        `registry_secret` is the login for the registry that its images are from, as `secret` of `Image.from_registry`.
        ``USER`` is the user of later instructions; functions run as root. `add_python` is as in `Image.from_registry`.
        """
        owner = "Image.from_dockerfile"
        if not isinstance(path, (str, os.PathLike)):
            raise InvalidError(f"`path` of `{owner}` takes a path, not `{type(path).__name__}`")
        _check(owner, context_dir, build_args, ignore)
        text = os.fspath(path)

        def local() -> dict[str, Any]:
            from modal._client.dockerfile import read_dockerfile

            return read_dockerfile(text, context_dir, ignore)

        image = make(
            cls,
            None,
            {"kind": "from_dockerfile", "build_args": dict(build_args or {})},
            title("from_dockerfile", [quote(text)]),
            force_build=force_build,
            local=local,
        )
        if env is not None or secrets is not None:
            from modal.secret import check_environment, check_secrets

            image._environment = check_environment(env, f"`{owner}`")
            image._secrets = check_secrets(secrets or (), f"`{owner}`")
        if registry_secret is not None:
            from modal.secret import check_secrets

            image._registry_secret = check_secrets([registry_secret], f"`registry_secret` of `{owner}`")[0]
        if gpu not in (None, ""):
            from modal._shared.gpu import check_gpu

            image._gpu = check_gpu(gpu, f"`{owner}`")
        return image if add_python is None else with_python(cls, image, add_python, owner, force_build)

    @instance_method
    def dockerfile_commands(
        self,
        *dockerfile_commands: Strings,
        context_files: dict[str, AnyPath] | None = None,
        env: Environment = None,
        secrets: Secrets = None,
        gpu: str | None = None,
        force_build: bool = False,
        context_dir: AnyPath | None = None,
        build_args: dict[str, str] | None = None,
        ignore: Ignore = AUTO,
    ) -> Image:
        """Adds lines of a Dockerfile.

        ```python
        image.dockerfile_commands("ARG VERSION=1", "COPY setup.sh /opt/", "RUN sh /opt/setup.sh $VERSION")
        ```

        They follow the image as if it stood in a ``FROM`` above them. `context_files` gives ``COPY`` further files:
        the keys are their paths in the context, the values where they are here. The other options are explained at
        `Image.from_dockerfile`.
        """
        owner = "Image.dockerfile_commands"
        lines = flatten("dockerfile_commands", dockerfile_commands)
        _check(owner, context_dir, build_args, ignore)
        files: dict[str, AnyPath] = dict(_strings(owner, "context_files", context_files, (str, os.PathLike)))
        if not lines:
            return self._unchanged()

        def local() -> dict[str, Any]:
            from modal._client.dockerfile import read_lines

            return read_lines(context_dir, ignore, files)

        step = {
            "kind": "dockerfile_commands",
            "name": "dockerfile_commands",
            "text": "\n".join(lines),
            "build_args": dict(build_args or {}),
        }
        return self._add(step, map(quote, lines), env, secrets, force_build, gpu=gpu, local=local)


def _check(owner: str, context_dir: object, build_args: object, ignore: object) -> None:
    if context_dir is not None and not isinstance(context_dir, (str, os.PathLike)):
        raise InvalidError(f"`context_dir` of `{owner}` takes a path, not `{type(context_dir).__name__}`")
    _strings(owner, "build_args", build_args, str)
    is_list = isinstance(ignore, (list, tuple)) and all(isinstance(pattern, str) for pattern in ignore)
    if ignore is not AUTO and not callable(ignore) and not is_list:
        raise InvalidError(
            f"`ignore` of `{owner}` takes a list of patterns, a function or a `FilePatternMatcher`, "
            f"not `{type(ignore).__name__}`"
        )


def _strings(owner: str, name: str, given: Any, values: type | tuple[type, ...]) -> dict[str, Any]:
    pairs = {} if given is None else given
    if not isinstance(pairs, dict) or not all(isinstance(k, str) and isinstance(v, values) for k, v in pairs.items()):
        raise InvalidError(f"`{name}` of `{owner}` takes a dict of strings, not `{given!r}`")
    return pairs
