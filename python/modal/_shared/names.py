"""Names that users give to what is kept."""

from __future__ import annotations

from modal.exception import InvalidError

PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")
#: Characters behind `ap-` in an app's id.
ID_LENGTH = 22


def is_app_id(name: object) -> bool:
    """Whether this looks like the id of an app."""
    return isinstance(name, str) and name.startswith("ap-") and len(name) == 3 + ID_LENGTH and name[3:].isalnum()


def check_object_name(name: object, what: str) -> str:
    """Refuses what cannot be the name of `what` is kept."""
    if not isinstance(name, str):
        raise InvalidError(f"the name of {what} is a string, not `{name!r}`")
    is_id = is_app_id(name)
    if not 1 <= len(name) <= 64 or not PLAIN.issuperset(name) or not name.strip(".") or is_id:
        raise InvalidError(
            f"`{name}` is no usable name of {what}",
            hint="take 1 to 64 letters, digits, `-`, `_` and `.`" + (", and not an app's id" if is_id else ""),
        )
    return name
