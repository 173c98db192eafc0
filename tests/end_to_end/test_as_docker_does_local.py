"""Local files meet the image as Docker's COPY has it, copied into it or attached to it."""

from __future__ import annotations

import os

import pytest
from conftest import Modal

APP = """
import modal, os, subprocess
image = (
    modal.Image.debian_slim(python_version="3.11")
    .run_commands(
        "mkdir -p /srv/p /v1 /config/inner && chown 1000:1000 /srv/p && chmod 0700 /srv/p && ln -s v1 /current",
        "ln -s round /about && ln -s about /round && ln -s /etc/passwd/x /through",
    )
    {files}
)
app = modal.App("files", image=image)

@app.function()
def main():
    print(subprocess.run({command!r}, shell=True, capture_output=True, text=True).stdout)
"""

COPY = pytest.mark.parametrize("copy", [True, False], ids=["copied", "attached"])


def run(modal: Modal, files: str, command: str) -> str:
    modal.write("app.py", APP.format(files=files, command=command))
    return modal("run", "app.py").stdout.strip()


@COPY
def test_what_the_image_has_stays_and_links_lead_on(modal: Modal, copy: bool) -> None:
    modal.write("tree/bin/own-tool", "#!/bin/sh\necho tool\n").chmod(0o755)
    modal.write("tree/srv/p/note.txt", "note")
    modal.write("data.txt", "data")
    files = f"""
        .add_local_dir("tree", "/", copy={copy})
        .add_local_file("data.txt", "/current/", copy={copy})
        .add_local_file("data.txt", "/var/run/own/data.txt", copy={copy})
        .add_local_file("data.txt", "/config/inner/", copy={copy})
    """
    command = (
        "stat -c '%u %a' /srv/p; stat -c %u /srv/p/note.txt; readlink /bin /current /var/run; own-tool;"
        " ls /v1 /run/own /config/inner; stat -c '%u %a' / /usr/bin"
    )
    there = "/config/inner: data.txt /run/own: data.txt /v1: data.txt"
    assert " ".join(run(modal, files, command).split()) == f"1000 700 0 usr/bin v1 /run tool {there} 0 755 0 755"


@COPY
def test_what_cannot_be_where_it_should_is_named(modal: Modal, copy: bool) -> None:
    modal.write("config", "x")
    modal.write("tree/passwd/x", "x")
    for call, words in [
        ('add_local_file("config", "/config"', "the image has a directory there; write `/config/`"),
        ('add_local_file("config", "/about/x"', "the link `/about` of the image leads in a circle"),
        ('add_local_file("config", "/through"', "`/etc/passwd` is a file in the image, not a directory"),
        ('add_local_dir("tree", "/etc"', "`/etc/passwd` is a file in the image, not a directory"),
    ]:
        modal.write("app.py", APP.format(files=f".{call}, copy={copy})", command="true"))
        result = modal("run", "app.py", check=False)
        assert result.code == 1 and "Traceback" not in result.stderr
        assert words in " ".join(result.stderr.split()), result.stderr


def test_sources_meet_what_was_attached_before(modal: Modal) -> None:
    modal.write("one/x", "x")
    modal.write("two", "two")
    files = '.add_local_dir("one", "/app").add_local_file("two", "/app")'
    modal.write("app.py", APP.format(files=files, command="true"))
    result = modal("run", "app.py", check=False)
    assert result.code == 1 and "has a directory there" in result.stderr


def test_directories_that_link_to_each_other_arrive_once(modal: Modal) -> None:
    """Also where a function decides what is left out, and of names that are no text."""
    for package in range(14):
        for file in range(3):
            modal.write(f"packages/p{package}/{file}.js", str(package))
        modules = modal.directory / f"packages/p{package}/modules"
        modules.mkdir()
        for other in range(14):
            (modules / f"p{other}").symlink_to(f"../../p{other}")
    (modal.directory / os.fsdecode(b"packages/p0/\xff.js")).write_text("bytes")
    modal.write("ignore", "").write_bytes(b"\xef\xbb\xbf**/2.js\n# [a comment\n")
    files = """
        .add_local_dir("packages", "/all")
        .add_local_dir("packages", "/some", ignore=lambda path: path.name == "2.js")
        .add_local_dir("packages", "/same", ignore=modal.FilePatternMatcher.from_file("ignore"))
    """
    command = "for d in all some same; do find /$d -type f | wc -l; find /$d -type l | wc -l; cat /$d/p3/modules/p4/modules/p5/0.js; echo; done"
    found = run(modal, files, command).split()
    assert found == ["43", "196", "5", "29", "196", "5", "29", "196", "5"]
