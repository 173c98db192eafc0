"""Local files of images: what is sent of them, what is refused, and when."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest
from test_image import BASE, last, steps

import modal
from modal.exception import InvalidError


@pytest.mark.parametrize(
    "call",
    [
        lambda path: BASE.add_local_file("a", path),
        lambda path: BASE.add_local_dir("a", remote_path=path),
        lambda path: BASE.add_local_dir("a", PurePosixPath(path), copy=True),
    ],
)
def test_remote_paths_are_absolute(call):
    with pytest.raises(InvalidError, match="must be absolute, not `relative/path`"):
        call("relative/path")


def test_files_and_directories(tmp_path):
    image = BASE.add_local_file("~/x.txt", "/etc/").add_local_dir(tmp_path, "/data", copy=False, ignore=["*.pyc"])
    assert steps(image)[1:] == [
        {
            "kind": "attach_files",
            "files": {
                "entries": [
                    {
                        "source": os.path.expanduser("~/x.txt"),
                        "target": "/etc/x.txt",
                        "kind": "file",
                        "ignore": None,
                    }
                ]
            },
        },
        {
            "kind": "attach_files",
            "files": {
                "entries": [
                    {
                        "source": str(tmp_path),
                        "target": "/data",
                        "kind": "directory",
                        "ignore": {"patterns": ["*.pyc"]},
                    }
                ]
            },
        },
    ]


def test_declaring_touches_no_disk():
    image = BASE.add_local_dir("/does/not/exist", "/x", copy=True).add_local_python_source("no_such_module")
    assert "add_local_dir" in repr(image)


@pytest.mark.parametrize("ignore", ["*.pyc", 3, [1], None])
def test_ignore_is_a_list_a_callable_or_a_matcher(ignore):
    with pytest.raises(InvalidError, match="`ignore` of"):
        BASE.add_local_dir("a", "/a", ignore=ignore)


def test_callable_ignore_is_evaluated_here(tmp_path):
    for name in ("a.py", "b.txt", "sub/c.py", "sub/deep/d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "link.txt").symlink_to("b.txt")
    (tmp_path / "loop").symlink_to(".")
    seen: list[Path] = []

    def only_text(path: Path) -> bool:
        seen.append(path)
        return path.suffix != ".txt"

    step = last(BASE.add_local_dir(tmp_path, "/x", ignore=only_text))
    assert step["files"]["entries"][0]["ignore"] == {"only": ["b.txt", "link.txt", "sub/deep/d.txt"]}
    assert all(not path.is_absolute() for path in seen)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        last(BASE.add_local_dir(tmp_path / "none", "/x", ignore=only_text))
    with pytest.raises(NotADirectoryError, match="is a file"):
        last(BASE.add_local_dir(tmp_path / "a.py", "/x", ignore=only_text))


def test_matchers_travel_as_patterns(tmp_path):
    (tmp_path / "ignored").write_text("# no comment\n*.log\n")
    matcher = ~modal.FilePatternMatcher.from_file(tmp_path / "ignored")
    entry = last(BASE.add_local_dir("x", "/x", ignore=matcher))["files"]["entries"][0]
    assert entry["ignore"] == {"patterns": ["# no comment", "*.log"], "invert": True}


def test_build_steps_after_attached_files_fail_when_built():
    attached = BASE.add_local_dir("x", "/x")
    for image in (
        attached.run_commands("true"),
        attached.env({"A": "1"}),
        attached.add_local_file("a", "/a", copy=True),
    ):
        with pytest.raises(InvalidError, match="copy=True"):
            steps(image)
    assert attached.pip_install() is attached
    steps(attached.add_local_file("a", "/a"))


def test_python_source_is_found_without_importing(tmp_path, monkeypatch):
    (tmp_path / "single_e.py").write_text("raise SystemExit('imported')")
    package = tmp_path / "package_e"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    entries = last(BASE.add_local_python_source("single_e", "package_e", copy=True))["files"]["entries"]
    assert entries == [
        {"source": str(tmp_path / "single_e.py"), "target": "/root/single_e.py", "kind": "file", "ignore": None},
        {
            "source": str(package),
            "target": "/root/package_e",
            "kind": "directory",
            "ignore": {"patterns": ["**/*.py"], "invert": True},
        },
    ]


def test_unmountable_modules(tmp_path, monkeypatch):
    with pytest.raises(InvalidError):
        BASE.add_local_python_source(os)
    site = tmp_path / "site-packages"
    (site / "compiled_e").mkdir(parents=True)
    (site / "compiled_e" / "__init__.py").write_text("")
    info = site / "compiled_e-1.dist-info"
    info.mkdir()
    (info / "RECORD").write_text("compiled_e/__init__.py,,\n_compiled_e.cpython-311.so,sha256=x,10\n")
    monkeypatch.syspath_prepend(str(site))
    for name, reason in {
        "no_such_module_e": "not found",
        "no_such_package_e.module": "cannot be added",
        "sys": "built into Python",
        "compiled_e": "compiled file `_compiled_e.cpython-311.so`",
    }.items():
        with pytest.raises(modal.exception.ModuleNotMountable, match=reason):
            last(BASE.add_local_python_source(name))
    assert not issubclass(modal.exception.ModuleNotMountable, modal.exception.Error)


def test_local_paths_that_are_no_text_are_refused():
    image = BASE.add_local_dir(os.fsdecode(b"d\xff"), "/x")
    with pytest.raises(modal.exception.InvalidError, match=r"d\\udcff' cannot be added"):
        last(image)


def test_a_callable_sees_every_place_once(tmp_path):
    (tmp_path / "a/inner").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    for name in ["a/x", "a/inner/y", os.fsdecode(b"b/\xff")]:
        (tmp_path / name).touch()
    for link, target in [("a/b", "../b"), ("b/a", "../a"), ("b/top", ".."), ("c", "a/inner")]:
        (tmp_path / link).symlink_to(target)
    seen = []
    image = BASE.add_local_dir(tmp_path, "/x", ignore=lambda path: seen.append(str(path)) or path.name == "x")
    only = last(image)["files"]["entries"][0]["ignore"]["only"]
    assert sorted(seen) == ["a/b", "a/inner/y", "a/x", "b/a", "b/top", "b/\udcff", "c"]
    assert sorted(only, key=str) == [[98, 47, 255], "a/b", "a/inner/y", "b/a", "b/top", "c"]
