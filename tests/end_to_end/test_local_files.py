"""Local directories, files and modules."""

from __future__ import annotations

import os

from conftest import Modal

APP = """
import modal, os
image = modal.Image.debian_slim(python_version="3.11"){image}
app = modal.App("files", image=image)

@app.function()
def main():
    {body}
"""


def test_files_are_attached_and_follow_changes_without_a_build(modal: Modal) -> None:
    modal.write("data/a.txt", "one")
    modal.write("data/b/c.txt", "deep")
    modal.write("data/skip.log", "no")
    modal.write("settings.ini", "[x]")
    modal.write(
        "app.py",
        APP.format(
            image='.add_local_dir("data", "/data", ignore=["**/*.log"]).add_local_file("settings.ini", "/etc/app/")',
            body='print(sorted(os.path.join(d, f) for d, _, fs in os.walk("/data") for f in fs), open("/data/a.txt").read(), os.path.exists("/etc/app/settings.ini"))',
        ),
    )
    first = modal("run", "app.py").stdout
    assert first == "['/data/a.txt', '/data/b/c.txt'] one True\n"
    modal.write("data/a.txt", "two")
    (modal.directory / "data/b/c.txt").unlink()
    modal.write("data/d.txt", "new")
    second = modal.events("app.py")
    assert second.stdout == "['/data/a.txt', '/data/d.txt'] two True\n"
    assert not second.of("step_started")


def test_copied_files_are_a_layer_that_later_steps_see(modal: Modal) -> None:
    tag = os.urandom(8).hex()
    modal.write("tool/run.sh", f"#!/bin/sh\necho ran {tag}\n").chmod(0o755)
    modal.write(
        "app.py",
        APP.format(
            image='.add_local_dir("tool", "/opt/tool", copy=True).run_commands("/opt/tool/run.sh > /opt/out")',
            body='print(open("/opt/out").read())',
        ),
    )
    assert modal("run", "app.py").stdout == f"ran {tag}\n\n"
    again = modal.events("app.py")
    assert not again.of("step_started")
    modal.write("tool/run.sh", f"#!/bin/sh\necho changed {tag}\n")
    changed = modal.events("app.py")
    assert changed.stdout == f"changed {tag}\n\n"
    assert len(changed.of("step_started")) == 2


def test_python_source_is_importable_and_only_python_goes_along(modal: Modal) -> None:
    modal.write("helpers/__init__.py", "from .inner import value\n")
    modal.write("helpers/inner.py", "value = 7\n")
    modal.write("helpers/data.json", "{}")
    modal.write("single.py", "name = 'single'\n")
    modal.write(
        "app.py",
        APP.format(
            image='.add_local_python_source("helpers", "single")',
            body='import helpers, single; print(helpers.value, single.name, sorted(name for name in os.listdir("/root/helpers") if "cache" not in name))',
        ),
    )
    assert modal("run", "app.py").stdout == "7 single ['__init__.py', 'inner.py']\n"


def test_a_build_step_on_attached_files_is_refused_with_the_remedy(modal: Modal) -> None:
    modal.write("data/a.txt", "one")
    modal.write("app.py", APP.format(image='.add_local_dir("data", "/data").run_commands("true")', body="pass"))
    result = modal("run", "app.py", check=False)
    assert result.code == 1
    assert "copy=True" in result.stderr and "Traceback" not in result.stderr


def test_ten_thousand_files_arrive_whole(modal: Modal) -> None:
    root = modal.directory / "many"
    for group in range(100):
        (root / f"d{group}").mkdir(parents=True)
        for index in range(100):
            (root / f"d{group}" / f"f{index}.py").write_text(f"value = {group * 100 + index}\n")
    modal.write(
        "app.py",
        APP.format(
            image='.add_local_dir("many", "/root/many")',
            body='print(sum(len(fs) for _, _, fs in os.walk("/root/many")), open("/root/many/d7/f7.py").read())',
        ),
    )
    assert modal("run", "app.py").stdout == "10000 value = 707\n\n"
    (root / "d7/f7.py").write_text("value = 'changed'\n")
    (root / "d8/f8.py").unlink()
    assert modal("run", "app.py").stdout == "9999 value = 'changed'\n\n"


def test_what_is_no_file_is_left_out_with_a_warning_and_odd_names_work(modal: Modal) -> None:
    modal.write("data/a.txt", "one")
    os.mkfifo(modal.directory / "data/pipe")
    os.symlink("a.txt", modal.directory / "data/link")
    (modal.directory / os.fsdecode(b"data/\xff\xfe")).write_text("bytes")
    modal.write(
        "app.py",
        APP.format(
            image='.add_local_dir("data", "/data")',
            body='print(sorted(os.listdir(b"/data")), open("/data/link").read())',
        ),
    )
    result = modal("run", "app.py")
    assert result.stdout == "[b'a.txt', b'link', b'\\xff\\xfe'] one\n"
    assert "pipe" in result.stderr
