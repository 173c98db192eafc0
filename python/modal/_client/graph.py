"""What an app declares, in the form that the engine reads: images parents first, then functions."""

from __future__ import annotations

import os

from modal._client.source import locate, with_qualname
from modal.exception import InvalidError
from modal.image import Image
from modal.retries import wire_retries
from modal.secret import check_environment, check_secrets, wire_secrets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from modal.app import App
    from modal.functions import Function


class Graph:
    """Collects images, each object once, and functions."""

    def __init__(self) -> None:
        self.images: list[dict[str, Any]] = []
        self.functions: list[dict[str, Any]] = []
        self._objects: list[Image] = []
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
            if parent is not None and parent._kind == "attach_files" and member._kind != "attach_files":
                raise InvalidError(
                    f"the step `{member._title}` follows `{parent._title}`, "
                    "which attaches files only when a container starts",
                    hint="add the files last, or with `copy=True` to make them a layer that later steps can use",
                )
            identity = str(len(self.images))
            self.images.append(
                {
                    "id": identity,
                    "parent": None if parent is None else self._ids[id(parent)],
                    "step": member._step(),
                    "force_build": member._force_build,
                    "title": member._title,
                    "environment": member._environment,
                    "secrets": wire_secrets(member._secrets),
                }
            )
            self._objects.append(member)
            self._ids[id(member)] = identity
        return self._ids[id(image)]

    def add_function(self, app: App, function: Function[Any, Any, Any]) -> None:
        """Adds a function and the image it uses."""
        settings = function._settings
        owner = f"the function `{function._name}`"
        module, source = self._source(app, function)
        self.functions.append(
            {
                "name": function._name,
                "image": self.add_image(settings.image or app._default_image()),
                "module": module,
                "source": {"entries": source},
                "mounts": {"entries": []},
                "environment": check_environment(settings.env, owner),
                "secrets": wire_secrets([*app._secrets, *check_secrets(settings.secrets, owner)]),
                "timeout": settings.timeout,
                "retries": wire_retries(settings.retries),
                "max_containers": settings.max_containers,
                "cpu": settings.cpu,
                "memory": settings.memory,
                "is_generator": function._is_generator,
            }
        )

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
            self._objects[int(identity)]._object_id = object_id


def app_graph(app: App) -> tuple[Graph, dict[str, Any]]:
    """The graph of an app, and the body of the request that starts it."""
    graph = Graph()
    for function in app._functions.values():
        graph.add_function(app, function)
    if not app._functions and app._image is not None:
        graph.add_image(app._image)
    return graph, {
        "app": {"name": app.name, "environment": os.environ.get("MODAL_ENVIRONMENT") or "main"},
        "images": graph.images,
        "functions": graph.functions,
        "options": {
            "force_build": is_set("MODAL_FORCE_BUILD"),
            "ignore_cache": is_set("MODAL_IGNORE_CACHE"),
        },
    }


def is_set(variable: str) -> bool:
    """Whether a switch among the environment variables is on."""
    return os.environ.get(variable, "").lower() not in ("", "0", "false")
