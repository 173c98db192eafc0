"""Values as payloads."""

import enum
import pickle

import pytest

from modal._shared.payload import SHORT, is_plain, pack, pack_plain


class Number(int):
    """A number that is more than one."""


class Colour(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize("value", [1, -(1 << 80), 1.5, True, None, "é", b"", "x" * SHORT, b"x" * SHORT])
def test_plain_values_are_pickled_at_once(value):
    assert is_plain(value)
    assert pickle.loads(pack(value)) == value
    assert pickle.loads(pack_plain((value,), {"key": value})) == ((value,), {"key": value})


@pytest.mark.parametrize("value", [[], (), {}, "x" * (SHORT + 1), Number(1), Colour.RED, object, int])
def test_others_are_not_plain(value):
    assert not is_plain(value)
    assert pack_plain((1, value), {}) is None
    assert pack_plain((1,), {"key": value}) is None
    assert pickle.loads(pack(value)) == value


def test_no_arguments_are_plain():
    assert pickle.loads(pack_plain((), {})) == ((), {})
