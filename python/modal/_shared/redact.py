"""Texts that are shown: credentials in addresses are not. The engine's `redact` has the same rule."""

from __future__ import annotations

MASK = "***"


def redact(text: str) -> str:
    """The text with the credentials of every address in it masked: ``https://***@host/``.

    The user name of SSH, as in ``git+ssh://git@host``, is none.
    """
    if "://" not in text or "@" not in text:
        return text
    import re

    return re.sub(r"([A-Za-z0-9+.-]*)://([^\s/?#\"'<>`|]*)@", _mask, text)


def _mask(match: object) -> str:
    scheme, credentials = match.groups()  # type: ignore[attr-defined]
    is_name = scheme.lower().endswith("ssh") and ":" not in credentials
    return f"{scheme}://{credentials if is_name else MASK}@"
