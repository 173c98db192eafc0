"""The command line's words as arguments."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Literal, Optional, Union

import pytest

from modal._cli import UsageError
from modal._cli.arguments import bind, help_text, wants_help
from modal._cli.signature import read_signature
from modal.exception import InvalidError


def parse(function, *words: str):
    args, kwargs = bind("modal run app.py", read_signature(function), list(words))
    return function(*args, **kwargs)


def everything(
    text: str,
    count: int = 3,
    ratio: float = 0.5,
    verbose: bool = False,
    colour: bool = True,
    when: Optional[datetime] = None,  # noqa: UP045 - both spellings are tested
    mode: Literal["fast", "slow"] = "fast",
    level: Literal[1, 2] = 1,
    long_name: str | None = None,
    bare="x",
    bare_number=1,
    nothing=None,
):
    """Does everything.

    And more.
    """
    return locals()


DEFAULTS = {
    "text": "t",
    "count": 3,
    "ratio": 0.5,
    "verbose": False,
    "colour": True,
    "when": None,
    "mode": "fast",
    "level": 1,
    "long_name": None,
    "bare": "x",
    "bare_number": 1,
    "nothing": None,
}


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ([], {}),
        (["--count", "5"], {"count": 5}),
        (["--count=-5"], {"count": -5}),
        (["--count", "-5"], {"count": -5}),
        (["--count", "1", "--count", "2"], {"count": 2}),
        (["--ratio", "1e3"], {"ratio": 1000.0}),
        (["--verbose"], {"verbose": True}),
        (["--no-verbose"], {"verbose": False}),
        (["--no-colour"], {"colour": False}),
        (["--when", "2026-01-02"], {"when": datetime(2026, 1, 2)}),
        (["--when", "2026-01-02T03:04:05"], {"when": datetime(2026, 1, 2, 3, 4, 5)}),
        (["--when", "2026-01-02 03:04:05"], {"when": datetime(2026, 1, 2, 3, 4, 5)}),
        (["--mode", "slow"], {"mode": "slow"}),
        (["--level", "2"], {"level": 2}),
        (["--long-name", "--x"], {"long_name": "--x"}),
        (["--long-name="], {"long_name": ""}),
        (["--bare", "1", "--bare-number", "2", "--nothing", "3"], {"bare": "1", "bare_number": 2, "nothing": "3"}),
    ],
)
def test_words_become_arguments(words, changes):
    assert parse(everything, "--text", "t", *words) == {**DEFAULTS, **changes}


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ([], "missing option `--text`", "--help"),
        (["--text"], "`--text` needs a value", "--text TEXT"),
        (["word"], "`word` is not an option", "--NAME VALUE"),
        (["--", "word"], "`--` is not an option", "--NAME VALUE"),
        (["-x", "1"], "`-x` is not an option", "--NAME VALUE"),
        (["-w", "x"], "`-w` is not an option", "before the program: `modal run -w …`"),
        (["--detach"], "there is no option `--detach`", "before the program: `modal run --detach …`"),
        (["--cuont", "1"], "there is no option `--cuont`", "did you mean `--count`?"),
        (["--zzz"], "there is no option `--zzz`", "`modal run app.py --help` lists the options"),
        (["--long_name", "1"], "there is no option `--long_name`", "did you mean `--long-name`?"),
        (["--count", "many"], "`--count` takes an integer, not `many`", None),
        (["--ratio", "x"], "`--ratio` takes a number, not `x`", None),
        (["--when", "today"], "`--when` takes an ISO date or date-time, not `today`", "2031-05-01"),
        (["--mode", "x"], "`--mode` does not take `x`", "choose one of: `fast`, `slow`"),
        (["--verbose=1"], "`--verbose` takes no value", "write `--verbose` or `--no-verbose`"),
    ],
)
def test_usage_errors_name_option_and_remedy(words, message, hint):
    with pytest.raises(UsageError) as caught:
        parse(everything, *words)
    assert str(caught.value) == message
    assert (caught.value.hint is None) == (hint is None)
    assert hint is None or hint in caught.value.hint


def test_flags_without_default_are_required():
    def function(flag: bool, other: int):
        return flag, other

    assert parse(function, "--no-flag", "--other", "1") == (False, 1)
    with pytest.raises(UsageError, match="missing options `--flag` or `--no-flag`, `--other`"):
        parse(function)


def test_words_alone():
    def function(*args):
        return args

    assert parse(function, "a", "--b", "-c", "--") == ("a", "--b", "-c", "--")
    assert parse(function) == ()

    def mixed(first: int, *args):
        pass

    def keywords(**kwargs):
        pass

    for bad in (mixed, keywords):
        with pytest.raises(InvalidError):
            read_signature(bad)


def test_positional_and_keyword_only():
    def function(a: int, /, b: int = 2, *, c: int, d: int = 4):
        return a, b, c, d

    assert parse(function, "--a", "1", "--c", "3") == (1, 2, 3, 4)
    assert parse(function, "--c", "3", "--b", "5", "--a", "1", "--d", "6") == (1, 5, 3, 6)


def test_annotations_that_cannot_be_given():
    def tuples(rows: tuple):
        pass

    def union(x: Union[int, str]):  # noqa: UP007 - both spellings are tested
        pass

    def mixed(x: Literal["a", 1]):
        pass

    def unknown(x: NoSuchName):  # noqa: F821
        pass

    for function in (tuples, union, mixed):
        with pytest.raises(InvalidError, match="which the command line cannot give"):
            read_signature(function)
    with pytest.raises(InvalidError, match="cannot be evaluated"):
        read_signature(unknown)


def test_lists_and_dictionaries_are_given_as_json():
    def function(rows: list[dict], options: Optional[dict] = None):  # noqa: UP045 - Python 3.9 has no other spelling
        return rows, options

    assert parse(function, "--rows", '[{"x": 1}]') == ([{"x": 1}], None)
    assert parse(function, "--rows", "[]", "--options", '{"a": null}') == ([], {"a": None})
    for bad in ("nonsense", '{"x": 1}'):
        with pytest.raises(UsageError, match="takes a JSON array"):
            parse(function, "--rows", bad)


def test_annotations_that_are_no_text():
    namespace: dict = {}
    code = (
        "import typing, datetime\n"
        "def function(a: int, b: typing.Optional[float] = None, c: typing.Literal[1, 2] = 1,\n"
        "             d: datetime.datetime = None): return a, b, c, d\n"
    )
    exec(compile(code, "x", "exec", dont_inherit=True), namespace)
    function = namespace["function"]
    assert [parameter.kind for parameter in read_signature(function)] == ["int", "float", "choice", "datetime"]
    if sys.version_info >= (3, 10):
        exec(compile("def function(a: int | None = None): return a", "x", "exec", dont_inherit=True), namespace)
        assert parse(namespace["function"], "--a", "1") == 1


def test_decorated_functions():
    import functools

    def decorator(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs)

        return wrapper

    @decorator
    def function(n: int = 1):
        return n

    assert parse(function, "--n", "2") == 2
    with pytest.raises(InvalidError, match="no plain function"):
        read_signature(functools.partial(function, 1))


def test_help():
    assert wants_help(["--text", "a", "--help"], read_signature(everything))
    assert help_text("modal run app.py", everything, read_signature(everything)) == "\n".join(
        [
            "Usage: modal run app.py [OPTIONS]",
            "",
            "  Does everything.",
            "",
            "  And more.",
            "",
            "Options:",
            "  --text TEXT                   [required]",
            "  --count INTEGER               [default: 3]",
            "  --ratio FLOAT                 [default: 0.5]",
            "  --verbose / --no-verbose      [default: no-verbose]",
            "  --colour / --no-colour        [default: colour]",
            "  --when YYYY-MM-DD[THH:MM:SS]",
            "  --mode [fast|slow]            [default: fast]",
            "  --level [1|2]                 [default: 1]",
            "  --long-name TEXT",
            "  --bare TEXT                   [default: x]",
            "  --bare-number INTEGER         [default: 1]",
            "  --nothing TEXT",
            "  --help                        Show this message",
        ]
    )
