"""Attributes and arguments that do not exist: what there is instead."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


def explain(owner: type, name: str) -> AttributeError:
    """The error for an attribute that `owner` does not have."""
    from modal._absent import SUBSTITUTES

    text = f"`{owner.__name__}.{name}` is not part of this version"
    substitute = SUBSTITUTES.get(f"{owner.__name__}.{name}") or SUBSTITUTES.get(name)
    if substitute is not None:
        return AttributeError(f"{text}: {substitute}")
    import difflib

    known = [attribute for attribute in dir(owner) if not attribute.startswith("_")]
    close = difflib.get_close_matches(name, known, n=1)
    return AttributeError(f"{text}: did you mean `{close[0]}`?" if close else f"{text}; it has {', '.join(known)}")


def refuse_keywords(owner: str, given: dict[str, Any], known: Iterable[str] | None = None) -> None:
    """Raises an error that names the first keyword which `owner` does not take; None: the keywords of the method."""
    if given:
        from modal._absent import refuse

        refuse(owner, given, known)


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
