"""Volumes: handles, mounts, uploads, and the same in a container."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import PurePosixPath
from types import SimpleNamespace

import pytest

import modal
from modal._client.graph import app_graph
from modal._client.volumes import BatchUpload
from modal._runner import runner
from modal._runner.volumes import _Staging
from modal.exception import ExecutionError, InvalidError, NotFoundError
from modal.volume import FileEntry, FileEntryType, check_volumes, wire_volumes

DATA = {"name": "data", "environment": "main"}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    monkeypatch.delenv("MODAL_ENVIRONMENT", raising=False)


def work(): ...


def test_volumes_travel_by_name():
    volume = modal.Volume.from_name("data")
    assert wire_volumes({"/b": volume, "/a": modal.Volume.from_id("vo-1")}) == [
        {"path": "/a", "volume": {"id": "vo-1"}},
        {"path": "/b", "volume": DATA},
    ]
    made = modal.Volume.from_name("data", create_if_missing=True, environment_name="dev")
    assert made._reference() == {"name": "data", "environment": "dev", "create": True}
    part = volume.with_mount_options(sub_path="a/b", read_only=True)
    assert wire_volumes({"/a": part}) == [{"path": "/a", "volume": DATA, "read_only": True, "sub_path": "a/b"}]
    assert wire_volumes({"/a": volume}) == [{"path": "/a", "volume": DATA}]
    assert (volume.name, repr(volume)) == ("data", "Volume.from_name('data')")


def test_a_version_is_looked_at_when_it_is_used():
    assert modal.Volume.from_name("data", version=2)._reference() == DATA
    volume = modal.Volume.from_name("data", version=3)
    with pytest.raises(InvalidError, match="1 or 2"):
        volume._reference()


def test_an_id_is_known_after_the_first_use():
    with pytest.raises(AttributeError, match="before it is first used"):
        _ = modal.Volume.from_name("data").object_id
    assert modal.Volume.from_id("vo-1").object_id == "vo-1"


def test_handles_travel_as_arguments(monkeypatch):
    monkeypatch.setenv("MODAL_ENVIRONMENT", "dev")
    packed = pickle.dumps(modal.Volume.from_name("data").read_only())
    monkeypatch.setenv("MODAL_ENVIRONMENT", "other")
    volume = pickle.loads(packed)
    assert volume._reference() == {"name": "data", "environment": "dev"} and volume._read_only


@pytest.mark.parametrize(
    "wrong",
    [
        modal.Volume,
        lambda: modal.Volume.from_name(5),
        lambda: modal.Volume.from_name(""),
        lambda: modal.Volume.from_name("a/b"),
        lambda: modal.Volume.from_name(".."),
        lambda: modal.Volume.from_name("x" * 65),
        lambda: modal.Volume.from_name("ap-0123456789abcdefABCDEF"),
        lambda: modal.Volume.from_name("a", environment_name=1),
        lambda: modal.Volume.from_id("im-1"),
        lambda: modal.Volume.from_name("a").with_mount_options(read_only=1),
        lambda: modal.Volume.from_name("a").with_mount_options(sub_path="../b"),
        lambda: modal.Volume.from_name("a").with_mount_options(sub_path="b").read_only(),
        lambda: modal.Volume.from_name("a").read_only().with_mount_options(sub_path="b"),
        lambda: modal.Volume.from_name("a").read_only().remove_file("b"),
        lambda: modal.Volume.from_name("a").read_only().copy_files(["b"], "c"),
        lambda: modal.Volume.from_name("a").read_only().batch_upload(),
        lambda: modal.Volume.from_name("a").copy_files("b", "c"),
        lambda: modal.Volume.from_name("a").listdir("b/*"),
        lambda: next(modal.Volume.from_name("a").read_file("b/*")),
    ],
)
def test_misuse_is_an_error_at_once(wrong):
    with pytest.raises(InvalidError):
        wrong()


def test_options_are_given_by_name():
    with pytest.raises(TypeError):
        modal.Volume.from_name("x", "main")
    for gone in ("lookup", "persisted", "delete"):
        assert not hasattr(modal.Volume, gone)


def test_paths_of_volumes():
    one, other = modal.Volume.from_name("one"), modal.Volume.from_name("other")
    given = {"/data/": one, PurePosixPath("/root/.cache"): other}
    assert check_volumes(given, "x") == {"/data": one, "/root/.cache": other}
    for path in ("data", "/", "/root", "/tmp", "/tmp/", "//data", "/a/../b", "", 5, b"/data"):
        with pytest.raises(InvalidError):
            check_volumes({path: one}, "x")


@pytest.mark.parametrize(
    "give",
    [
        lambda volumes: modal.App(volumes=volumes),
        lambda volumes: modal.App().function(volumes=volumes),
        lambda volumes: modal.Image.debian_slim().run_commands("true", volumes=volumes),
    ],
)
def test_what_takes_volumes_checks_them_at_once(give):
    volume = modal.Volume.from_name("a")
    for wrong in ({"/data": "a"}, {"/data": None}, [volume], "a", {"/a": volume, "/b": volume}, {"/tmp": volume}):
        with pytest.raises(InvalidError):
            give(wrong)
    give({})
    give(None)
    give({"/data": volume})


def test_a_function_has_its_own_volumes_and_the_apps():
    one, other = modal.Volume.from_name("one"), modal.Volume.from_name("other")
    app = modal.App(volumes={"/a": one, "/b": one.read_only()})
    app.function(volumes={"/a": other})(work)
    graph, _ = app_graph(app)
    volumes = [(each["path"], each["volume"]["name"]) for each in graph.functions[0]["volumes"]]
    assert volumes == [("/a", "other"), ("/b", "one")]
    plain = modal.App()
    plain.function()(work)
    assert "volumes" not in app_graph(plain)[0].functions[0]


def test_a_step_names_its_volumes():
    volume = modal.Volume.from_name("data")
    image = modal.Image.debian_slim().run_commands("true", volumes={"/data": volume})
    app = modal.App(image=image)
    app.function()(work)
    step = app_graph(app)[0].images[-1]["step"]
    assert step == {"kind": "run_commands", "commands": ["true"], "volumes": [{"path": "/data", "volume": DATA}]}


class Taken:
    """Where uploads go in these tests."""

    def __init__(self) -> None:
        self.staged, self.published, self.forgotten = [], [], []

    def stage(self, fd):
        with open(fd, "rb", closefd=False) as file:
            self.staged.append(file.read())
        return {"name": str(len(self.staged))}

    def publish(self, uploads, force):
        self.published.append(([(upload["path"], oct(upload["mode"])) for upload in uploads], force))

    def forget(self, staged):
        self.forgotten += staged


def test_uploads_happen_at_the_end(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a").write_text("1")
    (tmp_path / "deep" / "a").chmod(0o644)
    (tmp_path / "b").write_text("2")
    (tmp_path / "b").chmod(0o755)
    taken = Taken()
    with BatchUpload(taken, force=True) as batch:
        batch.put_directory(tmp_path, "/to")
        batch.put_directory(tmp_path, "/flat", recursive=False)
        batch.put_file(io.BytesIO(b"3"), "/c")
        batch.put_file(tmp_path / "b", "d", mode=0o600)
        assert taken.staged == []
    files = [("/to/b", "0o755"), ("/to/deep/a", "0o644"), ("/flat/b", "0o755"), ("/c", "0o644"), ("d", "0o600")]
    assert taken.published == [(files, True)]
    assert taken.staged == [b"2", b"1", b"2", b"3", b"2"]


def test_nothing_is_uploaded_after_an_error(tmp_path):
    taken = Taken()
    with pytest.raises(KeyError), BatchUpload(taken, force=False) as batch:
        batch.put_file(io.BytesIO(b"1"), "/a")
        raise KeyError
    assert (taken.staged, taken.published) == ([], [])
    with pytest.raises(FileNotFoundError), BatchUpload(taken, force=False) as batch:
        batch.put_file(io.BytesIO(b"1"), "/a")
        batch.put_file(tmp_path / "nothing", "/b")
    assert (taken.published, taken.forgotten) == ([], [{"name": "1"}])
    (tmp_path / os.fsdecode(b"caf\xe9")).touch()
    with pytest.raises(InvalidError, match="no name in UTF-8"), BatchUpload(taken, force=False) as batch:
        batch.put_directory(tmp_path, "/to")
    assert taken.published == []
    with pytest.raises(ValueError, match="path of a directory"):
        BatchUpload(taken, force=False).put_file(io.BytesIO(b""), "/a/")
    with pytest.raises(AssertionError):
        BatchUpload(taken, force=False).put_directory(tmp_path / "nothing", "/a")
    with pytest.raises(InvalidError), BatchUpload(taken, force=False) as batch:
        batch.put_file(io.StringIO("text"), "/a")


def test_nothing_of_a_directory_is_left_out_without_a_word(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one/file").touch()
    (tmp_path / "two").mkdir()
    (tmp_path / "linked").symlink_to("one")
    os.mkfifo(tmp_path / "pipe")
    batch = BatchUpload(Taken(), force=False)
    batch.put_directory(tmp_path, "/to")
    assert [remote for _, remote, _ in batch._wanted] == ["/to/linked/file", "/to/one/file"]
    link = tmp_path / "two/link"
    link.symlink_to("../nowhere")
    with pytest.raises(FileNotFoundError):
        batch.put_directory(tmp_path, "/to")
    link.unlink()
    link.symlink_to("../one")
    (tmp_path / "one/back").symlink_to("../two")
    with pytest.raises(InvalidError, match="leads to a directory that it is in"):
        batch.put_directory(tmp_path, "/to")


@pytest.fixture
def mounted(tmp_path, monkeypatch):
    """A process that is a container with the volume `data` at `tmp_path`."""
    mount = {"path": str(tmp_path), "id": "vo-1", "sub_path": None, "read_only": False, **DATA}

    port = SimpleNamespace(volumes=[mount])
    monkeypatch.setenv("MODAL_IS_REMOTE", "1")
    monkeypatch.setattr(runner, "port", port)
    return mount


def test_uploads_of_killed_containers_are_swept(mounted, tmp_path):
    killed = textwrap.dedent("""
        import os, sys
        from modal._runner.volumes import _Staging

        staging = _Staging(sys.argv[1])
        open(os.path.join(staging.path, "half"), "w").close()
        os.kill(os.getpid(), 9)
    """)
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(modal.__file__))}
    assert subprocess.run([sys.executable, "-c", killed, tmp_path], check=False, env=environment).returncode == -9
    (left,) = tmp_path.iterdir()
    in_use = _Staging(str(tmp_path))
    assert not left.exists()
    volume = modal.Volume.from_name("data")
    with volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"1"), "/a")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["a", os.path.basename(in_use.path)])
    in_use.end()
    with pytest.raises(InvalidError), volume.batch_upload() as batch:
        batch.put_file(io.StringIO("text"), "/b")
    with pytest.raises(OSError, match="Input/output"), volume.batch_upload() as batch:
        batch.put_file("/proc/self/mem", "/b")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_holes_of_files_stay_holes(mounted, tmp_path):
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(64 << 20)
        for position in (1 << 20, 48 << 20):
            os.pwrite(file.fileno(), b"data", position)
    if sparse.stat().st_blocks * 512 > 1 << 20:
        pytest.skip("this file system has no holes")
    sparse.chmod(0o750)
    volume = modal.Volume.from_name("data")
    with volume.batch_upload() as batch:
        batch.put_file(str(sparse), "/uploaded")
    (tmp_path / "copied").mkdir()
    volume.copy_files(["sparse"], "copied")
    for copy in (tmp_path / "uploaded", tmp_path / "copied" / "sparse"):
        assert copy.stat().st_blocks * 512 < 1 << 20
        assert copy.stat().st_mode & 0o777 == 0o750
        assert copy.read_bytes() == sparse.read_bytes()


def test_files_without_positions_are_uploaded_to_their_ends(mounted, tmp_path):
    volume = modal.Volume.from_name("data")
    with volume.batch_upload() as batch:
        batch.put_file("/proc/self/cmdline", "/text")
        batch.put_file(io.BytesIO(b""), "/empty")
    with open("/proc/self/cmdline", "rb") as file:
        assert (tmp_path / "text").read_bytes() == file.read()
    assert (tmp_path / "empty").read_bytes() == b""
    reader, writer = os.pipe()
    os.write(writer, b"piped")
    os.close(writer)
    with volume.batch_upload() as batch:
        batch.put_file(f"/proc/self/fd/{reader}", "/piped")
    os.close(reader)
    assert (tmp_path / "piped").read_bytes() == b"piped"


def test_containers_work_where_a_volume_is_mounted(mounted, tmp_path):
    volume = modal.Volume.from_name("data")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a").write_text("one")
    (tmp_path / "link").symlink_to("deep/a")
    listed = [(entry.path, entry.type, entry.size) for entry in volume.listdir("/deep")]
    assert listed == [("deep/a", FileEntryType.FILE, 3)]
    assert [entry.path for entry in volume.iterdir("/")] == ["deep", "deep/a", "link"]
    assert b"".join(volume.read_file("link")) == b"one"
    with volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"two"), "/deep/er/b")
    with pytest.raises(FileExistsError), volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"new"), "/new")
        batch.put_file(io.BytesIO(b"three"), "/deep/er/b")
    volume.copy_files(["deep"], "copy", recursive=True)
    volume.remove_file("deep", recursive=True)
    volume.remove_file("link")
    assert [entry.path for entry in volume.iterdir("/")] == ["copy", "copy/a", "copy/er", "copy/er/b"]
    volume.commit()
    volume.reload()
    assert volume.hydrate().object_id == "vo-1"
    for wrong in (lambda: volume.copy_files(["copy"], "copy/in", recursive=True), lambda: volume.remove_file("copy")):
        with pytest.raises(InvalidError):
            wrong()
    with pytest.raises(FileNotFoundError):
        list(volume.read_file("nothing"))
    for kind in (NotFoundError, FileNotFoundError):
        with pytest.raises(kind):
            volume.listdir("nothing")


def test_containers_have_no_other_volumes(mounted):
    with pytest.raises(ExecutionError, match="has not the volume"):
        modal.Volume.from_name("other").listdir("/")
    with pytest.raises(ExecutionError, match="has not the volume"):
        modal.Volume.from_name("data", environment_name="dev").listdir("/")
    assert modal.Volume.from_id("vo-1").listdir("/") == []


def test_containers_see_the_part_that_is_mounted(mounted, tmp_path):
    mounted["sub_path"] = "a/b"
    (tmp_path / "c").write_text("1")
    volume = modal.Volume.from_name("data")
    assert [entry.path for entry in volume.listdir("a/b")] == ["a/b/c"]
    assert b"".join(volume.read_file("/a/b/c")) == b"1"
    with pytest.raises(InvalidError, match="has only `a/b`"):
        volume.listdir("/")


def test_entries_are_values():
    assert FileEntry("a", FileEntryType.FILE, 1, 2) == FileEntry("a", FileEntryType.FILE, 1, 2)
    assert FileEntryType.SYMLINK == 3
