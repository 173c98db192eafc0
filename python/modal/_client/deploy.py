"""Deploying an app: from this process's declaration to a version that is kept."""

from __future__ import annotations

import os
from contextlib import contextmanager

from modal._shared.names import PLAIN, check_object_name
from modal.exception import ImageBuildError, InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from modal._client.engine import Engine
    from modal.app import App

STRATEGIES = ("rolling", "recreate")
LONGEST_TAG = 50


def deploy(
    engine: Engine, app: App, *, name: str | None, environment: str | None, tag: str, strategy: str
) -> dict[str, Any]:
    """Builds the app and makes it the version that calls get; what came of it."""
    from modal._client.graph import app_graph

    check(app, name, tag, strategy)
    with _environment(environment):
        graph, body = app_graph(app, name)
    body |= {"tag": tag, "strategy": strategy, "by": _user(), "commit": commit_of(os.getcwd())}
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


@contextmanager
def _environment(name: str | None) -> Iterator[None]:
    """What is named without an environment is looked for in that of the app."""
    before = os.environ.get("MODAL_ENVIRONMENT")
    if name is not None:
        os.environ["MODAL_ENVIRONMENT"] = name
    try:
        yield
    finally:
        if name is not None:
            if before is None:
                del os.environ["MODAL_ENVIRONMENT"]
            else:
                os.environ["MODAL_ENVIRONMENT"] = before


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def commit_of(directory: str) -> str | None:
    """The commit that a directory is at, with `*` if something there is changed; None outside of git repositories."""
    import subprocess

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", directory, *words], check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=10
        )
        return done.stdout.decode(errors="replace").strip()

    try:
        head = git("rev-parse", "--short=12", "HEAD")
        return head + ("*" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
