"""The program that starts pip and uv in build sandboxes: no login is in what it starts."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "crates/builder/src/steps/start_installer.py"
specification = importlib.util.spec_from_file_location("start_installer", SOURCE)
start = importlib.util.module_from_spec(specification)
specification.loader.exec_module(start)


@pytest.mark.parametrize(
    ("words", "kept", "variables"),
    [
        ("--index-url https://host/simple x", "--index-url https://host/simple x", {}),
        ("--index-url https://t@host/simple x", "x", {"UV_INDEX_URL": "https://t@host/simple"}),
        ("-ihttps://t@a/ -i=https://t@b/ x", "x", {"UV_INDEX_URL": "https://t@b/"}),
        ("--index=own=https://t@a/ --index https://b/", "", {"UV_INDEX": "own=https://t@a/ https://b/"}),
        ("-f https://t@a/ --find-links ./b", "", {"UV_FIND_LINKS": "https://t@a/,./b"}),
        (
            "--extra-index-url https://a/ -i https://t@b/",
            "--extra-index-url https://a/",
            {"UV_INDEX_URL": "https://t@b/"},
        ),
        ("x @ https://t@host/x.whl --index-url", "x @ https://t@host/x.whl --index-url", {}),
    ],
)
def test_indexes_with_logins_become_variables(words: str, kept: str, variables: dict[str, str]) -> None:
    assert start.without_indexes(words.split(), "UV") == (kept.split(), variables)


def test_addresses_with_logins_go_to_a_file(tmp_path: Path) -> None:
    words = ["--no-deps", "x @ https://u:p@h/x.whl", "y", "-r", "https://t@h/r.txt", "-r", "z.txt", "-ehttps://h/e"]
    kept = ["--no-deps", "y", "-r", "z.txt", "-ehttps://h/e", "-r", str(tmp_path / "addresses.txt")]
    assert start.without_addresses(words, tmp_path) == kept
    assert (tmp_path / "addresses.txt").read_text() == "x @ https://u:p@h/x.whl\n-r https://t@h/r.txt"
    assert start.without_addresses(["y"], tmp_path) == ["y"]


def test_git_is_led_to_the_logins(tmp_path: Path) -> None:
    git = start.Git(str(tmp_path))
    text = (
        "a @ git+https://user:p%40ss@host/org/a.git@v1#egg=a\n"
        "git+https://${TOKEN}@host/org/b.git\n"
        "git+https://${UNKNOWN}@host/c git+ssh://git@host/d git+https://host/e@f https://u:p@host/g\n"
    )
    assert git.without_logins(text, {"TOKEN": "word"}) == (
        "a @ git+https://host/org/a.git@v1#egg=a\n"
        "git+https://host/org/b.git\n"
        "git+https://${UNKNOWN}@host/c git+ssh://git@host/d git+https://host/e@f https://u:p@host/g\n"
    )
    settings = git.variables({"GIT_CONFIG_PARAMETERS": "'user.name=me'"})

    def told(path: str) -> str:
        given = f"protocol=https\nhost=host\npath={path}\n\n"
        command = ["git", "credential", "fill"]
        return subprocess.run(command, input=given, env=settings, stdout=subprocess.PIPE, text=True, check=True).stdout

    assert "username=user\npassword=p@ss\n" in told("org/a.git")
    assert "username=word\npassword=\n" in told("org/b.git")
    assert "username=user\n" in told("org/submodule.git")
    assert start.Git(str(tmp_path)).variables({}) == {}


def test_processes_of_pip_get_variables() -> None:
    script = "import os, sys; print(sys.argv[1:], os.environ.get('PIP_EXTRA_INDEX_URL'))"
    command = [sys.executable, "-c", script, "-i", "https://a/", "--extra-index-url", "https://t@b/", "x"]
    with start.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.read() == "['-i', 'https://a/', 'x'] https://t@b/\n"
