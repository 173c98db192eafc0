"""Attributes and arguments that do not exist: what there is instead."""

from __future__ import annotations

from modal.exception import InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

#: Parts of Modal's API that have a substitute here.
SUBSTITUTES = {
    "App.cls": "put `@app.function()` above functions of the module",
    "Function.from_name": "import the function from its module, and run its app",
    "Secret.from_name": "use `Secret.from_dict`",
    "pip_install_from_requirements": "use `uv_pip_install(requirements=[...])`",
    "spawn_map": "call `.spawn` for every input",
}


def explain(owner: type, name: str) -> AttributeError:
    """The error for an attribute that `owner` does not have."""
    text = f"`{owner.__name__}.{name}` is not part of this version"
    substitute = SUBSTITUTES.get(f"{owner.__name__}.{name}") or SUBSTITUTES.get(name)
    if substitute is not None:
        return AttributeError(f"{text}: {substitute}")
    import difflib

    known = [attribute for attribute in dir(owner) if not attribute.startswith("_")]
    close = difflib.get_close_matches(name, known, n=1)
    return AttributeError(f"{text}: did you mean `{close[0]}`?" if close else f"{text}; it has {', '.join(known)}")


def refuse_keywords(owner: str, given: dict[str, Any], known: Iterable[str]) -> None:
    """Raises an error that names the first keyword which `owner` does not take."""
    if not given:
        return
    import difflib

    name = next(iter(given))
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    raise InvalidError(
        f"`{owner}` does not take `{name}` in this version",
        hint=f"did you mean `{close[0]}`?" if close else "it takes {}".format(", ".join(f"`{each}`" for each in known)),
    )


class Explained(type):
    """A class that explains attributes which neither it nor its instances have."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"type object `{cls.__name__}` has no attribute `{name}`")
        raise explain(cls, name)


def explain_on_instance(self: object, name: str) -> Any:
    """`__getattr__` of such classes."""
    for base in type(self).__mro__:
        if name in base.__dict__:
            # A property that raised AttributeError itself: its own words are the better ones.
            return base.__dict__[name].__get__(self, type(self))
    if name.startswith("_"):
        raise AttributeError(f"`{type(self).__name__}` has no attribute `{name}`")
    raise explain(type(self), name)
