"""Ignore patterns with the semantics of Docker's `.dockerignore`.

`tests/data/patterns.json` holds the cases that this module and the engine's implementation both pass.
"""

from __future__ import annotations

import os

from modal._shared.api import Explained, explain_on_instance

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from pathlib import Path
    from typing import Any, Union

    AnyPath = Union[str, "os.PathLike[str]"]

SPECIAL = frozenset(".+()|{}$^")


class FilePatternMatcher(metaclass=Explained):
    """Tells which files a list of patterns covers; use it as the `ignore` of the `add_local_*` methods.

    ```python
    ignore = FilePatternMatcher("**/*.pyc", "data/**", "!data/keep.csv")
    image.add_local_dir("src", "/root/src", ignore=ignore)
    image.add_local_dir("src", "/root/src", ignore=~FilePatternMatcher("**/*.py"))  # only Python files
    ```

    Patterns are relative to the added directory and anchored there: ``node_modules`` covers only the top-level one,
    ``**/node_modules`` all of them. ``*`` and ``?`` stop at ``/``, ``**`` does not, ``[a-z]`` is one character of a
    class, a backslash takes the next character as it is. A pattern that covers a directory covers everything in it. A
    pattern that starts with ``!`` takes files back in; the last pattern that applies wins.
    """

    if not TYPE_CHECKING:
        __getattr__ = explain_on_instance

    def __init__(self, *pattern: str) -> None:
        self._patterns: list[str] | None = list(pattern)
        self._file: AnyPath | None = None
        self._inverted = False
        self._rules: list[_Rule] | None = None

    @classmethod
    def from_file(cls, file_path: AnyPath) -> FilePatternMatcher:
        """A matcher with the lines of a file, such as a `.dockerignore`, which is read when it is first needed.

        As upstream, lines that start with ``#`` are patterns like others, but one that is no pattern is a comment.
        """
        matcher = cls()
        matcher._patterns = None
        matcher._file = file_path
        return matcher

    def __call__(self, path: Path) -> bool:
        """Whether the patterns cover `path`, which is relative to the added directory."""
        return _covers(self._compiled(), os.fspath(path)) != self._inverted

    def can_prune_directories(self) -> bool:
        """Whether nothing below a directory that is covered can be taken back in: then nobody need look into it."""
        return not self._inverted and not any(rule.includes for rule in self._compiled())

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
            # A byte order mark is no part of the first pattern, and names that are no UTF-8 are named byte by byte.
            path = os.path.expanduser(self._file or "")
            try:
                with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
                    lines = file.read().rstrip("\n").split("\n")
            except OSError as error:
                from modal._shared.errors import unreadable

                raise unreadable(f"the file of patterns `{path}`", error) from None
            self._patterns = [_from_line(line) for line in lines if not _is_comment(line)]
        return self._patterns

    def _compiled(self) -> list[_Rule]:
        if self._rules is None:
            self._rules = [rule for rule in map(_parse, self._loaded()) if rule is not None]
        return self._rules

    def _wire(self) -> dict[str, Any] | None:
        """The patterns as the engine reads them; None where one is no text.

        Those that cannot be understood are refused here already.
        """
        patterns = self._loaded()
        self._compiled()
        try:
            "".join(patterns).encode()
        except UnicodeEncodeError:
            return None
        return {"patterns": patterns, "invert": True} if self._inverted else {"patterns": patterns}


class _Rule:
    """One pattern, as a regular expression for exactly the paths that it names."""

    __slots__ = ("_compiled", "_expression", "includes")

    def __init__(self, text: str, body: str, includes: bool) -> None:
        self.includes = includes
        self._compiled: re.Pattern[str] | None = None
        try:
            self._expression = _translate(body)
        except _Unfinished:
            raise ValueError(f"`{text}` is no valid pattern: a `[` needs its `]`, a `\\` something after it") from None

    def matches(self, path: str) -> bool:
        """Whether the pattern names exactly this path."""
        if self._compiled is None:
            import re

            self._compiled = re.compile(self._expression, re.DOTALL)
        return self._compiled.fullmatch(path) is not None


class _Unfinished(Exception):
    """A class or an escape is not finished."""


def _is_comment(line: str) -> bool:
    """Whether a line that begins like a comment makes no sense as a pattern."""
    try:
        return line.startswith("#") and _parse(line) is None
    except ValueError:
        return True


def _from_line(line: str) -> str:
    """The pattern of a line: what is taken back may have spaces after its ``!``."""
    line = line.strip()
    return "!" + line[1:].strip() if line.startswith("!") else line


def _parse(pattern: str) -> _Rule | None:
    """Cleans a pattern up and compiles it; None for an empty one."""
    cleaned = _clean(pattern.strip())
    includes = cleaned.startswith("!")
    if includes:
        cleaned = cleaned[1:].lstrip("/")
        if not cleaned:
            raise ValueError('the pattern "!" takes nothing back in: write `!` and a pattern')
    if cleaned in ("", "."):
        return None
    return _Rule(pattern, cleaned, includes)


def _clean(path: str) -> str:
    """Removes ``.``, resolvable ``..``, doubled, leading and trailing slashes."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part not in ("", ".") and not (part == ".." and path.startswith("/")):
            parts.append(part)
    return "/".join(parts)


def _translate(pattern: str) -> str:
    """The regular expression of a pattern."""
    out, position = "", 0
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if char == "*" and pattern[position : position + 1] == "*":
            while pattern[position : position + 1] == "*":
                position += 1
            in_parts = pattern[position : position + 1] == "/"
            position += in_parts
            # In the middle, `**/` ends where a part of the path begins; at the end it takes everything.
            out += "(?:.*/)?" if in_parts and position < len(pattern) else ".*"
        elif char == "*":
            out += "[^/]*"
        elif char == "?":
            out += "[^/]"
        elif char == "[":
            expression, position = _class(pattern, position)
            out += expression
        elif char == "\\":
            character, position = _character(pattern, position - 1)
            out += _literal(character)
        else:
            out += _literal(char)
    return out


def _class(pattern: str, position: int) -> tuple[str, int]:
    """The rest of a class, after its ``[``, as an expression, and where it ends."""
    negated = pattern[position : position + 1] == "^"
    position += negated
    ranges = ""
    while not (ranges and pattern[position : position + 1] == "]"):
        low, position = _character(pattern, position)
        high = low
        if pattern[position : position + 1] == "-":
            high, position = _character(pattern, position + 1)
        # A range that ends before it begins has no characters.
        ranges += f"\\U{ord(low):08x}-\\U{ord(high):08x}" if low <= high else "\\U0000002f"
    # No class has the slash.
    return f"(?!/)[{'^' if negated else ''}{ranges}]", position + 1


def _character(pattern: str, position: int) -> tuple[str, int]:
    """A character, escaped or not, and what follows it."""
    position += pattern[position : position + 1] == "\\"
    if position >= len(pattern):
        raise _Unfinished
    return pattern[position], position + 1


def _literal(char: str) -> str:
    return "\\" + char if char in SPECIAL or char in "[]*?\\" else char


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
