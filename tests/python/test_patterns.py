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


def test_unfinished_class_fails_when_used():
    with pytest.raises(ValueError, match=r"no valid pattern"):
        FilePatternMatcher("[a")(Path("a"))


def test_files_are_read_when_needed(tmp_path):
    matcher = FilePatternMatcher.from_file(tmp_path / "ignore")
    assert "from_file" in repr(matcher)
    (tmp_path / "ignore").write_text("*.log\n\n!keep.log\n")
    assert matcher(Path("a.log"))
    assert not matcher(Path("keep.log"))
    with pytest.raises(FileNotFoundError):
        FilePatternMatcher.from_file(tmp_path / "none")(Path("a"))


def test_non_python_files():
    assert not NON_PYTHON_FILES(Path("a/b.py"))
    assert not NON_PYTHON_FILES(Path(".hidden.py"))
    assert NON_PYTHON_FILES(Path("a/b.pyc"))
