"""Images that were built: names for them, building one without a function, what their steps have printed."""

from __future__ import annotations

from modal._client import engine as engines
from modal._client.errands import errand
from modal._client.graph import Graph, options
from modal._shared.api import environment_or_default, in_thread
from modal.exception import ImageBuildError, InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from modal.app import App
    from modal.image import Image

#: The most characters of a name or a tag.
LONGEST = 64
#: Characters of an app's id after `ap-`.
ID_LENGTH = 22


def read_name(method: str, name: object, environment: object) -> dict[str, str]:
    """The parts of ``[[workspace/]environment/]name[:tag]``, or an `InvalidError`."""
    if not isinstance(name, str):
        raise InvalidError(f"`{method}` takes the name of an image, not `{name!r}`")
    if environment is not None and not isinstance(environment, str):
        raise InvalidError(f"`environment_name` of `{method}` takes a string, not `{environment!r}`")
    *before, last = name.split("/")
    if before and environment is not None:
        raise InvalidError(f"`{name}` names its environment already", hint="leave `environment_name` away")
    plain, colon, tag = last.partition(":")
    parts = [*before, plain, *([tag] if colon else [])]
    if len(before) > 2 or not all(map(_is_plain, parts)) or plain.startswith("im-"):
        raise InvalidError(
            f"`{name}` cannot be the name of an image",
            hint="write `name` or `name:tag`, each of 1 to 64 letters, digits, `-`, `_` and `.`; "
            "a name is no id, and does not begin with `im-`",
        )
    chosen = before[-1] if before else environment
    return {"environment": environment_or_default(chosen), "name": plain, "tag": tag or "latest"}


def _is_plain(part: str) -> bool:
    rest = part.replace("-", "").replace("_", "").replace(".", "")
    is_id = part.startswith("ap-") and len(part) == ID_LENGTH + 3 and part[3:].isalnum()
    return 0 < len(part) <= LONGEST and (not rest or (rest.isalnum() and rest.isascii())) and not is_id


def build(image: Image, app: App | None) -> None:
    """Has an image built now."""
    from modal import _in_container
    from modal.app import App

    if _in_container():
        raise InvalidError(
            "an image cannot be built or looked up inside a container",
            hint="module-level code runs there too: put it below `if modal.is_local():`",
        )
    if app is not None and not isinstance(app, App):
        raise InvalidError(f"`Image.build` takes a `modal.App`, not `{type(app).__name__}`")
    if app is not None and app._engine is None and app._deployed is None:
        raise InvalidError(
            "the app that `Image.build` got does not run",
            hint="call it inside `with app.run():`, look the app up with `modal.App.lookup`, or leave it away",
        )
    graph = Graph()
    target = graph.add_image(image)
    graph.check()
    body = {
        "app": {"environment": environment_or_default(None)},
        "images": graph.images,
        "select": target,
        "options": options(),
    }
    engine = (app and app._engine) or engines.any_engine()
    try:
        built = engine.request("image.build", body)
    except ImageBuildError as error:
        graph.record_failure(error)
        raise
    graph.record_ids({target: built["value"]["image_id"]})


def publish(image: Image, name: str, environment: str | None, origin: dict[str, str]) -> None:
    """Gives an image a name, and notes what it comes from."""
    body = read_name("Image.publish", name, environment)
    if image._object_id is None:
        raise InvalidError("`Image.publish` names an image that was built", hint="call `image.build()` before")
    errand("image", {"do": "publish", "image": image._object_id, "origin": origin, **body})


class ImageLogs:
    """What the steps of an image have printed while they were built: `Image.logs`."""

    def __init__(self, image: Image) -> None:
        self._image = image

    @in_thread
    def fetch(self, layers: int | None = 1) -> list[str]:
        """The lines of the last `layers` layers, with None of all; of a build that failed, those of the failed step."""
        if layers is not None and (isinstance(layers, bool) or not isinstance(layers, int) or layers < 1):
            raise InvalidError(f"`layers` takes a positive whole number, or None for all, not `{layers!r}`")
        return self._lines(layers)

    @in_thread
    def tail(self, entries: int = 100) -> list[str]:
        """The last lines of all layers."""
        if isinstance(entries, bool) or not isinstance(entries, int) or entries < 1:
            raise InvalidError(f"`entries` takes a positive whole number, not `{entries!r}`")
        return self._lines(None)[-entries:]

    def _lines(self, layers: int | None) -> list[str]:
        image = self._image
        if image._failed_log is not None:
            with open(image._failed_log, encoding="utf-8", errors="replace") as file:
                return file.read().splitlines()
        if image._object_id is None:
            raise InvalidError("the image has no logs before it is built", hint="call `image.build()` before")
        logs: list[dict[str, Any]] = errand("image", {"do": "logs", "image": image._object_id})
        wanted = logs if layers is None else logs[-layers:]
        return [line for log in wanted for line in log["text"].splitlines()]
