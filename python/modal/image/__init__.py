"""Images: immutable, lazy declarations of what a container starts from.

A module of this package has the methods of one family; what becomes of them is the engine's business.
"""

from __future__ import annotations

import sys

from modal._shared.api import Explained, explain_on_instance, in_thread
from modal.exception import ExecutionError, InvalidError
from modal.image._step import factory_method, instance_method, make, quote, title, warn_if_ended, with_python
from modal.image.commands import CommandSteps
from modal.image.dockerfile import DockerfileSteps
from modal.image.local import LocalSteps
from modal.image.packages import PackageSteps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, Concatenate, ParamSpec, TypeVar

    from modal._client.images import ImageLogs
    from modal.app import App
    from modal.image._step import Secrets
    from modal.secret import Secret

    P = ParamSpec("P")
    T = TypeVar("T")


class Image(PackageSteps, CommandSteps, LocalSteps, DockerfileSteps, metaclass=Explained):
    """A base and a chain of steps; every method returns a new image and leaves its own unchanged.

    ```python
    image = (
        modal.Image.debian_slim(python_version="3.11")
        .apt_install("git")
        .uv_pip_install("pandas==2.2.3", "pydantic>=2")
        .env({"LOG_LEVEL": "INFO"})
        .add_local_dir("src", remote_path="/root/src")
    )
    ```

    Declaring an image touches neither disk nor network. It is built when an app that uses it runs, step by step, and
    every step that was built before is reused. Put what changes often last.
    """

    if not TYPE_CHECKING:
        __getattr__ = explain_on_instance

    def __init__(self) -> None:
        raise InvalidError(
            "`Image()` makes no image", hint="start from a factory method such as `modal.Image.debian_slim()`"
        )

    @factory_method
    @classmethod
    def debian_slim(cls, python_version: str | None = None, force_build: bool = False) -> Image:
        """A minimal Debian with Python and pip.

        `python_version` is a series such as ``"3.11"`` (or an exact version); None takes the series of the Python that
        runs this script, so that the image then differs between machines.
        """
        if python_version is not None and not isinstance(python_version, str):
            raise TypeError(
                f'`python_version` takes a string such as "3.11", not `{python_version!r}`: as a number, 3.10 is 3.1'
            )
        shown = [] if python_version is None else ["python_version=" + quote(python_version)]
        warn_if_ended(python_version)
        step = {
            "kind": "debian_slim",
            "python_version": python_version,
            "local_python": ".".join(map(str, sys.version_info[:2])),
        }
        return make(cls, None, step, title("debian_slim", shown), force_build=force_build)

    @factory_method
    @classmethod
    def micromamba(cls, python_version: str | None = None, force_build: bool = False) -> Image:
        """A minimal Debian with an active environment of conda packages, `/opt/conda`, that has Python and pip.

        ```python
        image = modal.Image.micromamba(python_version="3.11").micromamba_install("numpy", channels=["conda-forge"])
        ```

        `python_version` is as for `Image.debian_slim`. The packages are from conda-forge.
        Commands have `micromamba` and `conda` inside, if the channel has the package `micromamba`.
        """
        shown = [] if python_version is None else ["python_version=" + quote(str(python_version))]
        warn_if_ended(python_version)
        step = {
            "kind": "micromamba",
            "python_version": python_version,
            "local_python": ".".join(map(str, sys.version_info[:2])),
        }

        def refuse() -> dict[str, object]:
            raise InvalidError(
                f"`python_version` of `Image.micromamba` is `{python_version!r}`, which is no string",
                hint='write it as in `python_version="3.11"`: as a number, 3.10 is 3.1',
            )

        # When the image is built, as with Modal.
        local = None if python_version is None or isinstance(python_version, str) else refuse
        return make(cls, None, step, title("micromamba", shown), force_build=force_build, local=local)

    @factory_method
    @classmethod
    def from_scratch(cls, force_build: bool = False) -> Image:
        """An image without any files.

        It has neither a shell nor a Python: files come with ``add_local_*(copy=True)`` or `Image.dockerfile_commands`.
        `force_build` changes nothing, because there is nothing to build.
        """
        return make(cls, None, {"kind": "from_scratch"}, title("from_scratch", ()), force_build=force_build)

    @factory_method
    @classmethod
    def from_registry(
        cls,
        tag: str,
        secret: Secret | None = None,
        *,
        setup_dockerfile_commands: list[str] | None = None,
        force_build: bool = False,
        add_python: str | None = None,
        **kwargs: Any,
    ) -> Image:
        """An image of a registry, by its name with a tag or a digest.

        ```python
        image = modal.Image.from_registry("nvidia/cuda:12.4.1-devel-ubuntu22.04")
        ```

        `secret` holds the login: ``REGISTRY_USERNAME`` and ``REGISTRY_PASSWORD``, or the keys that `Image.from_aws_ecr`
        and `Image.from_gcp_artifact_registry` take; without it those of ``docker login`` and ``podman login`` count.
        `setup_dockerfile_commands` are lines of a Dockerfile that follow, with the variables of `secrets`, if that is
        given as well. What a tag stands for is looked up once, and
        again with `force_build`. Images of this machine are named by a transport, as for podman: ``oci:DIR``,
        ``oci-archive:FILE`` and ``docker-archive:FILE``, with ``:NAME`` behind where there are several,
        ``docker-daemon:NAME`` and ``containers-storage:NAME``; they are taken as they are now.

        The image needs a Python for functions, as ``python3`` or ``python`` on its PATH: `add_python`, a series from
        ``3.10`` to ``3.15``, ``3.14t`` or ``3.15t``, puts one into ``/usr/local``, before the lines.
        """
        method = "from_registry"
        secrets = kwargs.pop("secrets", None)
        if kwargs:
            from modal._shared.absent import refuse

            refuse(f"Image.{method}", kwargs, ["secret", "setup_dockerfile_commands", "secrets", "add_python"])
        return _from_registry(cls, method, tag, secret, setup_dockerfile_commands, force_build, add_python, secrets)

    @factory_method
    @classmethod
    def from_aws_ecr(
        cls,
        tag: str,
        secret: Secret | None = None,
        *,
        setup_dockerfile_commands: list[str] | None = None,
        force_build: bool = False,
        add_python: str | None = None,
    ) -> Image:
        """An image of Amazon's Elastic Container Registry, as `Image.from_registry`.

        `secret` holds ``AWS_REGION``, and ``AWS_ACCESS_KEY_ID`` with ``AWS_SECRET_ACCESS_KEY``, or ``AWS_ROLE_ARN``. A
        role is given to these keys, or else to the token in the file that ``AWS_WEB_IDENTITY_TOKEN_FILE`` names here.
        """
        return _from_registry(
            cls,
            "from_aws_ecr",
            tag,
            secret,
            setup_dockerfile_commands,
            force_build,
            add_python,
            provider="aws",
        )

    @factory_method
    @classmethod
    def from_gcp_artifact_registry(
        cls,
        tag: str,
        secret: Secret | None = None,
        *,
        setup_dockerfile_commands: list[str] | None = None,
        force_build: bool = False,
        add_python: str | None = None,
    ) -> Image:
        """An image of Google's Artifact Registry, as `Image.from_registry`.

        `secret` holds ``SERVICE_ACCOUNT_JSON``, the text of a service account's key file.
        """
        return _from_registry(
            cls,
            "from_gcp_artifact_registry",
            tag,
            secret,
            setup_dockerfile_commands,
            force_build,
            add_python,
            provider="gcp",
        )

    @factory_method
    @classmethod
    def from_id(cls, image_id: str, client: object = None) -> Image:
        """An image that was built before, by its id (`im-…`)."""
        if not isinstance(image_id, str) or not image_id.startswith("im-"):
            raise InvalidError(f"`Image.from_id` takes an id such as `im-…`, not `{image_id!r}`")
        image = make(cls, None, {"kind": "existing_image", "id": image_id}, title("from_id", [quote(image_id)]))
        image._object_id = image_id
        return image

    @factory_method
    @classmethod
    def from_name(cls, name: str, *, environment_name: str | None = None, client: object = None) -> Image:
        """The image that `Image.publish` gave this name to, when an app starts. It is not built.

        ```python
        image = modal.Image.from_name("trainer:v1").add_local_python_source("train")
        ```
        """
        from modal._client.images import read_name

        step = {"kind": "existing_image", **read_name("Image.from_name", name, environment_name)}
        return make(cls, None, step, title("from_name", [quote(name)]))

    @in_thread
    def build(self, app: App | None = None) -> Image:
        """Builds the image now, and returns it; it has an `object_id` then. An app that is given runs or is deployed.

        ```python
        image = modal.Image.debian_slim().uv_pip_install("torch").build()
        image.publish("trainer:v1")
        ```
        """
        from modal._client.images import build

        build(self, app)
        return self

    @in_thread
    def publish(
        self,
        name: str,
        *,
        environment_name: str | None = None,
        experimental_options: object = None,
        client: object = None,
    ) -> None:
        """Gives an image that was built a name, ``name`` or ``name:tag``, which another image may have had.

        An image with a name stays when others are removed because they are not used. `modal image names` shows and
        removes names.
        """
        from modal._client.images import publish
        from modal._client.origin import origin

        publish(self, name, environment_name, origin())

    @in_thread
    def hydrate(self, client: object = None) -> Image:
        """Returns the image, which has to be built already; one that has a name is looked up."""
        if self._step["kind"] == "existing_image":
            from modal._client.images import build

            build(self, None)
        if self._object_id is None:
            raise ExecutionError("this image is not built", hint="call `image.build()`, or run an app that uses it")
        return self

    @property
    def logs(self) -> ImageLogs:
        """What its steps have printed while it was built: ``logs.fetch(layers=1)``, ``logs.tail(entries=100)``."""
        from modal._client.images import ImageLogs

        return ImageLogs(self)

    @instance_method
    def pipe(self, func: Callable[Concatenate[Image, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Returns ``func(image, *args, **kwargs)``: keeps a chain of methods readable when a function extends it."""
        return func(self, *args, **kwargs)

    @instance_method
    def imports(self) -> _Imports:
        """A block for imports that only work in this image.

        ```python
        with image.imports():
            import pandas
        ```

        Here, where the package may be missing, an error is passed over; in a container of this image it is raised.
        """
        return _Imports(self)

    @property
    def object_id(self) -> str:
        """The image's id (`im-…`), once it was built."""
        if self._object_id is None:
            raise AttributeError("this image has no id yet: it gets one when an app that uses it runs")
        return self._object_id

    def __repr__(self) -> str:
        chain: list[str] = []
        image: Image | None = self
        while image is not None:
            chain.append(image._title)
            image = image._parent
        return "Image.{}".format(".".join(reversed(chain)))


class _Imports:
    """The context manager of `Image.imports`."""

    def __init__(self, image: Image) -> None:
        self._image = image

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self._image._import_errors.append(error)
        if not isinstance(error, ImportError):
            import warnings

            warnings.warn(f"an import for an image failed: {type(error).__name__}: {error}", stacklevel=2)
        return True


#: What stands in front of paths of images.
PATH_TRANSPORTS = ("oci", "oci-archive", "docker-archive", "any-archive")


def _from_registry(
    cls: type[Image],
    method: str,
    tag: str,
    secret: Secret | None,
    setup_dockerfile_commands: list[str] | None,
    force_build: bool,
    add_python: str | None,
    setup_secrets: Secrets = None,
    **provider: str,
) -> Image:
    if not isinstance(tag, str):
        raise InvalidError(f'`Image.{method}` takes a name such as "python:3.11-slim", not `{tag!r}`')
    secrets: list[Secret] = []
    if secret is not None or setup_secrets is not None:
        from modal.secret import check_secrets

        secrets = check_secrets([] if secret is None else [secret], f"`Image.{method}`")
        setup_secrets = check_secrets(setup_secrets or (), f"`Image.{method}`")
    step = {"kind": "from_registry", "reference": tag, **provider}
    transport, _, path = tag.partition(":")

    def absolute_path() -> dict[str, str]:
        from modal._client.files import absolute

        return {"reference": f"{transport}:{absolute(path)}"}

    local = absolute_path if transport in PATH_TRANSPORTS and path else None
    name = title(method, [quote(tag)])
    image = make(cls, None, step, name, secrets=secrets, force_build=force_build, local=local)
    if add_python is not None:
        image = with_python(cls, image, add_python, f"Image.{method}", force_build)
    if not setup_dockerfile_commands:
        return image
    return image.dockerfile_commands(setup_dockerfile_commands, secrets=setup_secrets, force_build=force_build)
