"""What an app declares, in the form that the engine reads: images parents first, then functions."""

from __future__ import annotations

from functools import partial

from modal._client.source import locate, with_qualname
from modal._shared.api import environment_or_default
from modal._shared.declaration import is_generator
from modal._shared.errors import is_report
from modal._shared.settings import is_on, setting
from modal.exception import InvalidError, VersionError
from modal.image import Image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TypeVar

    from modal.app import App
    from modal.functions import Function
    from modal.secret import Secret

    T = TypeVar("T")


#: Releases of Debian by the versions of Modal's image builder.
RELEASES = {
    **dict.fromkeys(("2023.12", "2024.04", "2024.10", "2025.06"), "bookworm"),
    **dict.fromkeys(("2026.10", "PREVIEW"), "trixie"),
}


class Graph:
    """Collects images, each object once, and functions."""

    def __init__(self) -> None:
        self.images: list[dict[str, Any]] = []
        self.functions: list[dict[str, Any]] = []
        self._objects: list[Image] = []
        #: What this machine has not.
        self._problems: list[BaseException] = []
        self._ids: dict[int, str] = {}
        self._sources: dict[str, tuple[dict[str, str], list[dict[str, Any]]]] = {}

    def add_image(self, image: Image) -> str:
        """The id of an image in this graph; adds it and its parents where needed."""
        chain = []
        current: Image | None = image
        while current is not None and id(current) not in self._ids:
            chain.append(current)
            current = current._parent
        for member in reversed(chain):
            parent = member._parent
            if parent is not None and parent._step["kind"] == "attach_files" != member._step["kind"]:
                raise InvalidError(
                    f"the step `{member._title}` follows `{parent._title}`, "
                    "which attaches files only when a container starts",
                    hint="add the files last, or with `copy=True` to make them a layer that later steps can use",
                )
            identity = str(len(self.images))
            self.images.append(
                {
                    "id": identity,
                    "inputs": [] if parent is None else [self._ids[id(parent)]],
                    "step": self._step(member),
                    "force_build": member._force_build,
                    "title": member._title,
                    "environment": member._environment,
                    "secrets": [*self._wire_secrets(member._secrets), *self._wire_login(member)],
                    **({"gpu": member._gpu} if member._gpu else {}),
                }
            )
            self._objects.append(member)
            self._ids[id(member)] = identity
        return self._ids[id(image)]

    def _step(self, image: Image) -> dict[str, Any]:
        local = image._local
        if local is None and image._step["kind"] in ("debian_slim", "micromamba"):
            local = release_of_builder
        return image._step if local is None else {**image._step, **self._attempt(local, {})}

    def _wire_secrets(self, secrets: Sequence[Secret]) -> list[dict[str, Any]]:
        if not secrets:
            return []
        from modal.secret import wire_secrets

        wired: list[dict[str, Any]] = []
        for secret in secrets:
            wired += self._attempt(partial(wire_secrets, [secret]), [])
        return wired

    def _wire_login(self, image: Image) -> list[dict[str, Any]]:
        secret = image._registry_secret
        return [] if secret is None else [{**wired, "is_login": True} for wired in self._wire_secrets([secret])]

    @staticmethod
    def _secrets_of(function: Function[Any, Any, Any]) -> list[Secret]:
        secrets = function._settings.secrets
        if not secrets:
            return []
        from modal.secret import check_secrets

        return check_secrets(secrets, f"the function `{function._name}`")

    def check(self) -> None:
        """Raises what this machine lacks of what was added."""
        if self._problems:
            from modal._client.problems import raise_all

            sources = [entry for function in self.functions for entry in function["source"]["entries"]]
            raise_all(self._problems, [image["step"] for image in self.images], sources)

    def _attempt(self, look: Callable[[], T], otherwise: T) -> T:
        """What `look` gives; what it does not find is noted, to be reported with all the rest."""
        try:
            return look()
        except InvalidError:
            raise  # The program is wrong, whatever else is missing.
        except Exception as error:
            if not is_report(error):
                raise
            self._problems.append(error)
            return otherwise

    def add_function(self, function: Function[Any, Any, Any]) -> None:
        """Adds a function and the image it uses. One that was included has what its own app says."""
        app = function._app
        settings = function._settings
        module, source = self._source(app, function)
        self.functions.append(
            {
                "name": function._name,
                **self._class(function),
                **({} if function._schedule is None else {"schedule": function._schedule._wired(function._name)}),
                "image": self.add_image(settings.image or app._default_image()),
                "module": module,
                "source": {"entries": source},
                "mounts": {"entries": []},
                "environment": settings.env,
                "secrets": self._wire_secrets([*app._secrets, *self._secrets_of(function)]),
                **self._volumes(app, function),
                **({"gpu": settings.gpu} if settings.gpu else {}),
                "timeout": settings.timeout,
                "retries": None if settings.retries is None else settings.retries._wire(),
                "max_containers": settings.max_containers,
                **self._scaling(function),
                "cpu": settings.cpu,
                "memory": settings.memory,
                "is_generator": function._is_generator,
            }
        )

    @staticmethod
    def _scaling(function: Function[Any, Any, Any]) -> dict[str, Any]:
        """How many containers there are. Of a class with parameters, none is there before it is known with which."""
        scaling = function._settings.scaling
        if "concurrency" in scaling:
            from modal._shared.scaling import check_concurrency

            check_concurrency(scaling["concurrency"], function._name)
        if scaling and function._class is not None:
            from modal._shared.parameters import parameters_of

            if parameters_of(function._class._user_class):
                return {name: value for name, value in scaling.items() if name != "min_containers"}
        return scaling

    @staticmethod
    def _class(function: Function[Any, Any, Any]) -> dict[str, Any]:
        """What makes the service a class, if it is one."""
        cls = function._class
        if cls is None:
            return {}
        from modal._shared.parameters import described_parameters

        methods = cls._methods()
        described: dict[str, Any] = {"methods": list(methods)}
        generators = [name for name, partial in methods.items() if is_generator(partial.raw)]
        parameters = described_parameters(cls._user_class)
        if generators:
            described["generators"] = generators
        if parameters:
            described["parameters"] = parameters
        return {"class": described}

    @staticmethod
    def _volumes(app: App, function: Function[Any, Any, Any]) -> dict[str, Any]:
        """The volumes of a function; its own come before the app's."""
        volumes = {**app._volumes, **function._settings.volumes}
        if not volumes:
            return {}
        from modal.volume import wire_volumes

        return {"volumes": wire_volumes(volumes)}

    def _source(self, app: App, function: Function[Any, Any, Any]) -> tuple[dict[str, str], list[dict[str, Any]]]:
        """How the container finds the function, and the source to take along."""
        settings = function._settings
        if settings.serialized:
            from modal._shared.serialized import describe

            return describe(function), []
        name = function.__module__
        if name not in self._sources:
            self._sources[name] = locate(function.get_raw_f())
        module, entries = self._sources[name]
        include = app._include_source if settings.include_source is None else settings.include_source
        return with_qualname(module, function), entries if include else []

    def record_ids(self, ids: dict[str, str]) -> None:
        """Notes the ids that the engine gave to the images."""
        for identity, object_id in ids.items():
            image = self._objects[int(identity)]
            image._object_id, image._failed_log = object_id, None

    def record_failure(self, error: BaseException) -> None:
        """Notes where the log of a step that failed is, for the images that were not built because of it."""
        for image in self._objects:
            if image._object_id is None:
                image._failed_log = getattr(error, "modal_log", None)


def app_graph(app: App, name: str | None = None) -> tuple[Graph, dict[str, Any]]:
    """The graph of an app, and the body of the request that starts it, under another name if one is given."""
    graph = Graph()
    services = app._services()
    for service in services:
        graph.add_function(service)
    if not services and app._image is not None:
        graph.add_image(app._image)
    graph.check()
    return graph, {
        "app": {"name": name or app.name, "environment": environment_or_default(None)},
        "images": graph.images,
        "functions": graph.functions,
        "options": options(),
    }


def release_of_builder() -> dict[str, str]:
    """The part of a base that names the Debian of the wanted version of Modal's image builder, if one is wanted."""
    version = setting("MODAL_IMAGE_BUILDER_VERSION")
    if not version:
        return {}
    if version not in RELEASES:
        raise VersionError(
            f"`MODAL_IMAGE_BUILDER_VERSION={version}` is no version of the image builder",
            hint="take one of {}, or unset it".format(", ".join(f"`{known}`" for known in RELEASES)),
        )
    return {"release": RELEASES[version]}


def options() -> dict[str, bool]:
    """How images are built."""
    return {"force_build": is_on("MODAL_FORCE_BUILD"), "ignore_cache": is_on("MODAL_IGNORE_CACHE")}
