"""What the keywords of `@app.function` and `@app.cls` take, and what these decorators stand above."""

from __future__ import annotations

import sys

from modal.exception import InvalidError
from modal.functions import Function
from modal.image import Image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from modal._shared.declaration import Settings
    from modal.retries import Retries
    from modal.secret import Secret
    from modal.volume import Volume

# What most functions have none of costs no import.


def environment_of(env: object, owner: str) -> dict[str, str]:
    """The variables that `env` says."""
    if env is None:
        return {}
    from modal.secret import check_environment

    return check_environment(env, owner)


def secrets_of(secrets: object, owner: str) -> list[Secret]:
    """The secrets that `secrets` names."""
    if not secrets:
        return []
    from modal.secret import check_secrets

    return check_secrets(secrets, owner)


def volumes_of(volumes: Any, owner: str) -> dict[str, Volume]:
    """The volumes by the paths at which they are."""
    if not volumes and (volumes is None or isinstance(volumes, dict)):
        return {}
    from modal.volume import check_volumes

    return check_volumes(volumes, owner)


def tags_of(tags: object, owner: str) -> dict[str, str]:
    """The tags of an app."""
    if not tags and (tags is None or isinstance(tags, dict)):
        return {}
    from modal._client.deploy import check_tags

    return check_tags(tags, owner)


def gpu_of(gpu: object, owner: str) -> list[str]:
    """The kinds of GPU that will do."""
    if gpu in (None, "", []):
        return []
    from modal._shared.gpu import check_gpu

    return check_gpu(gpu, owner, takes_list=True)


def scaling_of(max_containers: int | None, **given: Any) -> dict[str, Any]:
    """What is said about how many containers there are, but for `max_containers`."""
    if not any(value is not None and value is not False for value in given.values()):
        return {}
    from modal._shared.scaling import checked_scaling

    return checked_scaling(max_containers, **given)


def retries_of(retries: object) -> Retries | None:
    """How often a failed input is tried again."""
    if retries is None:
        return None
    from modal.retries import check_retries

    return check_retries(retries)


def keywords_of(method: Callable[..., Any]) -> Iterable[str]:
    """The keywords that a method takes."""
    return method.__kwdefaults__ or ()


def check_name(decorator: str, name: object) -> None:
    """Refuses a name that is no string."""
    if name is not None and not (isinstance(name, str) and name):
        raise InvalidError(f"`name` of `{decorator}` takes a string, not `{name!r}`")


def check_image(image: object, owner: str) -> None:
    """Refuses an image that is none."""
    if image is not None and not isinstance(image, Image):
        raise InvalidError(f"`image` of {owner} takes a `modal.Image`, not `{type(image).__name__}`")


def refuse_positional(decorator: str, value: object, kind: type[InvalidError] = InvalidError) -> None:
    """Says what is wrong with a decorator that got something without a keyword."""
    if callable(value) and not isinstance(value, Image):
        raise kind(f"`@app.{decorator}` was used without parentheses", hint=f"write `@app.{decorator}()`")
    raise kind(
        f"`@app.{decorator}` takes no positional arguments",
        hint=f"write `@app.{decorator}(image=image)`" if isinstance(value, Image) else "name the argument",
    )


def check_target(decorator: str, raw: Any, serialized: bool) -> None:
    """Refuses to make a function of what containers could not find."""
    classes = sys.modules.get("modal.cls")
    if isinstance(raw, type) or (classes is not None and isinstance(raw, classes.Cls)):
        raise InvalidError(
            f"`@app.{decorator}()` stands above a function, not the class `{raw.__name__}`",
            hint="put `@app.cls()` above classes",
        )
    if isinstance(raw, Function):
        raise InvalidError(f"`{raw._name}` is already a function of an app")
    qualified = getattr(raw, "__qualname__", None)
    if qualified is None or not callable(raw):
        raise InvalidError(f"`@app.{decorator}()` stands above a function, not `{type(raw).__name__}`")
    if serialized:
        return
    if "<locals>" in qualified or qualified == "<lambda>":
        raise InvalidError(
            f"`{qualified}` is defined inside a function; "
            "containers can only find functions at the top level of a module",
            hint="move it to the top level, or send it by value: `@app.function(serialized=True)`",
        )
    if "." in qualified:
        raise InvalidError(f"`{qualified}` is a method; `@app.{decorator}()` stands above a function")


def check_generator(name: str, yields: bool, is_generator: bool | None, settings: Settings) -> None:
    """Refuses what a function that yields values, or one that does not, cannot have."""
    if is_generator is not None and is_generator != yields:
        raise InvalidError(
            f"`{name}` is {'a' if yields else 'no'} generator, unlike `is_generator={is_generator}` says",
            hint="leave `is_generator` away",
        )
    if settings.retries is not None and settings.retries.max_retries and yields:
        raise InvalidError(
            f"`{name}` is a generator, which cannot be retried: some of its values are out already",
            hint="leave `retries` away",
        )
