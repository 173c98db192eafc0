"""Ignore patterns, held to the same table as the engine's implementation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modal import FilePatternMatcher
from modal.file_pattern_matcher import NON_PYTHON_FILES

CASES = json.loads((Path(__file__).parents[1] / "data" / "patterns.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['patterns']} {case['path']}")
def test_table(case):
    matcher = FilePatternMatcher(*case["patterns"])
    assert matcher(Path(case["path"])) is case["ignored"]
    assert (~matcher)(Path(case["path"])) is not case["ignored"]


def test_lone_exclamation_mark_fails_when_used():
    matcher = FilePatternMatcher("a", "!")
    with pytest.raises(ValueError, match="!"):
        matcher(Path("a"))
    with pytest.raises(ValueError, match="!"):
        matcher._wire()


@pytest.mark.parametrize("pattern", ["[a", "a\\", "[", "[]", "[a-", "x/[b/c"])
def test_unfinished_patterns_fail_when_used(pattern):
    with pytest.raises(ValueError, match=r"no valid pattern"):
        FilePatternMatcher(pattern)(Path("a"))
    with pytest.raises(ValueError, match=r"no valid pattern"):
        FilePatternMatcher("a", pattern)._wire()


def test_files_are_read_when_needed(tmp_path):
    matcher = FilePatternMatcher.from_file(tmp_path / "ignore")
    assert "from_file" in repr(matcher)
    (tmp_path / "ignore").write_text("*.log\n\n!keep.log\n")
    assert matcher(Path("a.log"))
    assert not matcher(Path("keep.log"))
    with pytest.raises(FileNotFoundError):
        FilePatternMatcher.from_file(tmp_path / "none")(Path("a"))


def test_lines_of_files_are_what_editors_write(tmp_path):
    file = tmp_path / "ignore"
    file.write_bytes(b"\xef\xbb\xbf# [unfinished\r\n*.log\r\n ! keep.log \n#a\n  #b\na\x0cb\n\xff*\n")
    matcher = FilePatternMatcher.from_file(file)
    for path, ignored in [
        ("a.log", True),
        ("keep.log", False),
        ("#a", True),
        ("#b", True),
        ("a\x0cb", True),
        ("b", False),
        ("\udcffx", True),
        ("x", False),
    ]:
        assert matcher(path) is ignored, path
    assert matcher._wire() is None  # The engine takes text only.
    file.write_bytes(b"\xef\xbb\xbf*.log\n")
    assert FilePatternMatcher.from_file(file)._wire() == {"patterns": ["*.log"]}


def test_non_python_files():
    assert not NON_PYTHON_FILES(Path("a/b.py"))
    assert not NON_PYTHON_FILES(Path(".hidden.py"))
    assert NON_PYTHON_FILES(Path("a/b.pyc"))
