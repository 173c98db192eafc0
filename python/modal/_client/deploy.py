"""Deploying an app: from this process's declaration to a version that is kept."""

from __future__ import annotations

import os

from modal._client.environment import in_environment
from modal._client.errands import errand
from modal._shared.api import environment_or_default
from modal._shared.names import PLAIN, check_object_name, is_app_id
from modal.exception import ImageBuildError, InvalidError, NotFoundError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from modal._client.engine import Engine
    from modal.app import App

    T = TypeVar("T")

#: Most characters of a tag's key or value.
LONGEST_PART = 63
STRATEGIES = ("rolling", "recreate")
LONGEST_TAG = 50


def deploy(
    engine: Engine, app: App, *, name: str | None, environment: str | None, tag: str, strategy: str
) -> dict[str, Any]:
    """Builds the app and makes it the version that calls get; what came of it."""
    from modal._client.graph import app_graph
    from modal._client.origin import commit_of

    check(app, name, tag, strategy)
    with in_environment(environment):
        graph, body = app_graph(app, name)
    if app._tags:
        body["tags"] = app._tags
    body |= {"tag": tag, "strategy": strategy, "by": _user(), "commit": commit_of(os.getcwd(), "*")}
    try:
        deployed: dict[str, Any] = engine.request("app.deploy", body)["value"]
    except ImageBuildError as error:
        graph.record_failure(error)
        raise
    app._app_id = deployed["app_id"]
    app._deployed = deployed["environment"], deployed["name"]
    return deployed


def check(app: App, name: str | None, tag: str, strategy: str) -> None:
    """Refuses what cannot be deployed."""
    if name is None and app.name is None:
        raise InvalidError(
            "an app that is deployed needs a name", hint='give one: `modal.App("name")`, or `--name` of `modal deploy`'
        )
    check_object_name(name or app.name, "an app")
    if not isinstance(tag, str) or len(tag) > LONGEST_TAG or not PLAIN.issuperset(tag):
        raise InvalidError(
            f"`{tag}` is no usable tag of a version", hint=f"take at most {LONGEST_TAG} letters, digits, `-`, `_`, `.`"
        )
    if strategy not in STRATEGIES:
        raise InvalidError(f"`strategy` is `rolling` or `recreate`, not `{strategy}`")


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def check_tags(tags: object, owner: str) -> dict[str, str]:
    """Tags as they are kept."""
    if not isinstance(tags, dict):
        raise InvalidError(f"`tags` of {owner} takes a dictionary of strings, not `{tags!r}`")
    for part in (*tags.keys(), *tags.values()):
        if not isinstance(part, str) or not 1 <= len(part) <= LONGEST_PART or not PLAIN.issuperset(part):
            raise InvalidError(
                f"`{part!r}` in `tags` of {owner} is no usable key or value",
                hint=f"take 1 to {LONGEST_PART} letters, digits, `-`, `_` and `.`",
            )
    return dict(tags)


async def in_executor(function: Callable[..., T], *args: Any) -> T:
    """What a function that waits gives, for event loops."""
    import asyncio

    return await asyncio.get_running_loop().run_in_executor(None, function, *args)


def lookup(name: str, environment: str | None, create: bool) -> App:
    """The app that is deployed under a name, or has an id."""
    from modal.app import App

    is_id = is_app_id(name)
    if not is_id:
        check_object_name(name, "an app")
    elif create:
        raise InvalidError(f"`{name}` is the id of an app: with `create_if_missing` a name is wanted")
    chosen = environment_or_default(environment)
    try:
        found = errand("deployment", {"do": "find", "environment": chosen, "app": name})
    except NotFoundError:
        if not create:
            raise
        return App(name)._deploy(None, environment, "", "rolling")
    app = App(found["name"])
    app._app_id, app._tags = found["app_id"], found["tags"]
    app._deployed = found["environment"], found["name"]
    return app


def stop(app: App) -> None:
    """Stops an app that runs or was deployed."""
    if app._engine is not None:
        app._engine.stop()
    elif app._deployed is not None:
        _ask(app, "stop")


def get_tags(app: App) -> dict[str, str]:
    """The tags of an app that runs or was deployed."""
    if app._engine is None and app._deployed is not None:
        app._tags = _ask(app, "find")["tags"]
    return dict(app._tags)


def set_tags(app: App, tags: dict[str, str]) -> None:
    """Replaces the tags of an app that runs or was deployed."""
    if app._engine is None and app._deployed is not None:
        _ask(app, "set_tags", tags=tags)
    app._tags = tags


def find(app: App) -> dict[str, Any]:
    """What is known of an app that was deployed."""
    found: dict[str, Any] = _ask(app, "find")
    return found


def _ask(app: App, what: str, **more: Any) -> Any:
    environment, name = app._deployed or ("", "")
    return errand("deployment", {"do": what, "environment": environment, "app": name, **more})
