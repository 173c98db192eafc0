"""Attributes that do not exist explain themselves."""

from __future__ import annotations

import pytest

import modal


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda: modal.Image.from_registry, "`Image.from_registry` is not part of this version; it has"),
        (lambda: modal.Image.debian_slim().uv_pip_instal, "did you mean `uv_pip_install`?"),
        (lambda: modal.Image.debian_slim().pip_install_from_requirements, "uv_pip_install(requirements=[...])"),
        (lambda: modal.Secret.from_name, "use `Secret.from_dict`"),
    ],
)
def test_missing_attributes_name_what_there_is(read, words):
    with pytest.raises(AttributeError) as caught:
        read()
    assert words in str(caught.value)


def test_attributes_can_still_be_probed():
    assert not hasattr(modal.Image, "from_registry")
    assert not hasattr(modal.Image.debian_slim(), "__deepcopy__")
