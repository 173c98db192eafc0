"""Ignore patterns with the semantics of Docker's `.dockerignore`.

`tests/data/patterns.json` holds the cases that this module and the engine's implementation both pass.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from pathlib import Path
    from typing import Any, Union

    AnyPath = Union[str, "os.PathLike[str]"]

SPECIAL = frozenset(".+()|{}$")


class FilePatternMatcher:
    """Tells which files a list of patterns covers; use it as the `ignore` of the `add_local_*` methods.

    ```python
    ignore = FilePatternMatcher("**/*.pyc", "data/**", "!data/keep.csv")
    image.add_local_dir("src", "/root/src", ignore=ignore)
    image.add_local_dir("src", "/root/src", ignore=~FilePatternMatcher("**/*.py"))  # only Python files
    ```

    Patterns are relative to the added directory and anchored there: ``node_modules`` covers only the top-level one,
    ``**/node_modules`` all of them. ``*`` and ``?`` stop at ``/``, ``**`` does not. A pattern that covers a directory
    covers everything in it. A pattern that starts with ``!`` takes files back in; the last pattern that applies wins.
    """

    def __init__(self, *pattern: str) -> None:
        self._patterns: list[str] | None = list(pattern)
        self._file: AnyPath | None = None
        self._inverted = False
        self._rules: list[_Rule] | None = None

    @classmethod
    def from_file(cls, file_path: AnyPath) -> FilePatternMatcher:
        """A matcher with the lines of a file, such as a `.dockerignore`, which is read when it is first needed."""
        matcher = cls()
        matcher._patterns = None
        matcher._file = file_path
        return matcher

    def __call__(self, path: Path) -> bool:
        """Whether the patterns cover `path`, which is relative to the added directory."""
        return _covers(self._compiled(), os.fspath(path)) != self._inverted

    def __invert__(self) -> FilePatternMatcher:
        """A matcher that covers exactly what this one does not."""
        inverse = FilePatternMatcher()
        inverse._patterns, inverse._file = self._patterns, self._file
        inverse._inverted = not self._inverted
        return inverse

    def __repr__(self) -> str:
        inner = (
            f"FilePatternMatcher.from_file({os.fspath(self._file)!r})"
            if self._file is not None
            else "FilePatternMatcher({})".format(", ".join(map(repr, self._patterns or ())))
        )
        return "~" + inner if self._inverted else inner

    def _loaded(self) -> list[str]:
        if self._patterns is None:
            with open(os.path.expanduser(self._file or ""), encoding="utf-8") as file:
                self._patterns = file.read().splitlines()
        return self._patterns

    def _compiled(self) -> list[_Rule]:
        if self._rules is None:
            self._rules = [rule for rule in map(_parse, self._loaded()) if rule is not None]
        return self._rules

    def _wire(self) -> dict[str, Any]:
        """The patterns as the engine reads them; a lone `!` is refused here already."""
        patterns = self._loaded()
        for pattern in patterns:
            _parse(pattern)
        return {"patterns": patterns, "invert": True} if self._inverted else {"patterns": patterns}


class _Rule:
    """One pattern: its kind decides how it is compared."""

    __slots__ = ("_expression", "_kind", "_text", "includes")

    def __init__(self, text: str, includes: bool) -> None:
        self._text = text
        self.includes = includes
        self._kind, expression = _translate(text)
        self._expression: re.Pattern[str] | str = expression

    def matches(self, path: str) -> bool:
        """Whether the pattern names exactly this path."""
        if self._kind == "exact":
            return path == self._text
        if self._kind == "prefix":
            return path.startswith(self._text[:-2])
        if self._kind == "suffix":
            suffix = self._text[2:]
            return path.endswith(suffix) or (suffix.startswith("/") and path == suffix[1:])
        if isinstance(self._expression, str):
            import re

            try:
                self._expression = re.compile(self._expression)
            except re.error as error:
                raise ValueError(f"`{self._text}` is no valid pattern: {error}") from None
        return self._expression.fullmatch(path) is not None


def _parse(pattern: str) -> _Rule | None:
    """Cleans a pattern up and compiles it; None for an empty one."""
    cleaned = pattern.strip().strip("/")
    if not cleaned:
        return None
    cleaned = os.path.normpath(cleaned)
    includes = cleaned.startswith("!")
    if includes:
        cleaned = cleaned[1:].lstrip("/")
        if not cleaned:
            raise ValueError('the pattern "!" takes nothing back in: write `!` and a pattern')
    return _Rule(cleaned, includes)


def _translate(pattern: str) -> tuple[str, str]:
    """How to compare (exact, prefix, suffix or expression), and the regular expression."""
    kind, out, position, length = "exact", "", 0, len(pattern)
    while position < length:
        char = pattern[position]
        at_start = position == 0
        position += 1
        if char == "*" and pattern[position : position + 1] == "*":
            position += 1
            if pattern[position : position + 1] == "/":
                position += 1
            if position >= length:
                if kind == "exact":
                    kind = "prefix"
                else:
                    out, kind = out + ".*", "expression"
            else:
                out, kind = out + "(.*/)?", "expression"
            if at_start:
                kind = "suffix"
        elif char == "*":
            out, kind = out + "[^/]*", "expression"
        elif char == "?":
            out, kind = out + "[^/]", "expression"
        elif char in SPECIAL:
            out += "\\" + char
        elif char == "\\" and position < length:
            out, kind = out + "\\" + pattern[position], "expression"
            position += 1
        elif char == "\\":
            out += "\\\\"
        else:
            out += char
            if char in "[]":
                kind = "expression"
    return kind, out


def _covers(rules: list[_Rule], path: str) -> bool:
    """Whether the last rule that applies to `path` or to a directory above it excludes it."""
    if path in ("", "."):
        return False  # Nobody means to leave out the directory itself.
    parts = path.split("/")
    parents = ["/".join(parts[:end]) for end in range(1, len(parts))]
    covered = False
    for rule in rules:
        # A rule can only change something if it says the opposite of what holds so far.
        if rule.includes == covered and (rule.matches(path) or any(map(rule.matches, parents))):
            covered = not rule.includes
    return covered


#: Everything but Python source files: the default `ignore` of `Image.add_local_python_source`.
NON_PYTHON_FILES = ~FilePatternMatcher("**/*.py")
