"""Volumes in functions, steps and programs."""

from __future__ import annotations

import json
import os
import signal

from conftest import Modal

APP = """
import os
import modal
from modal.exception import NotFoundError

volume = modal.Volume.from_name("e2e-data", create_if_missing=True)
image = modal.Image.debian_slim(python_version="3.11")
app = modal.App("volumes", image=image, volumes={"/shared": volume})


@app.function()
def write(name, text):
    os.makedirs("/shared/deep", exist_ok=True)
    with open(f"/shared/deep/{name}", "w") as file:
        file.write(text)
    volume.commit()
    return os.stat("/shared").st_uid, os.stat(f"/shared/deep/{name}").st_uid


@app.function()
def read():
    volume.reload()
    listed = [(entry.path, entry.type.name, entry.size) for entry in volume.listdir("/", recursive=True)]
    return listed, b"".join(volume.read_file("deep/one")).decode()


@app.function(volumes={"/shared": volume.read_only()})
def refused():
    try:
        open("/shared/new", "w")
    except OSError as error:
        return error.strerror


@app.function()
def inside():
    with volume.batch_upload() as batch:
        batch.put_file("/etc/hostname", "/uploaded")
    volume.copy_files(["uploaded"], "copied")
    volume.remove_file("uploaded")
    names = sorted(entry.path for entry in volume.iterdir("/", recursive=False))
    try:
        next(iter(volume.read_file("uploaded")))
    except FileNotFoundError:
        names.append("missing")
    try:
        modal.Volume.from_name("other").listdir("/")
    except modal.exception.ExecutionError as error:
        names.append(str(error).splitlines()[0])
    volume.remove_file("copied")
    return names


@app.local_entrypoint()
def main():
    print(write.remote("one", "1"))
    print(write.remote("two", "22"))
    print(read.remote())
    print(refused.remote())
    print(inside.remote())
    print(b"".join(volume.read_file("deep/two")))
"""

DO = """
import asyncio, io, pathlib
import modal
from modal.exception import AlreadyExistsError, InvalidError, NotFoundError

def fails(kind, action):
    try:
        action()
    except kind as error:
        print(type(error).__name__, str(error).splitlines()[0])

fails(NotFoundError, lambda: modal.Volume.from_name("e2e-nothing").listdir("/"))
volume = modal.Volume.from_name("e2e-python", create_if_missing=True)
pathlib.Path("tree/deep").mkdir(parents=True)
pathlib.Path("tree/deep/a").write_text("1")
pathlib.Path("tree/b").write_text("22")
with volume.batch_upload() as batch:
    batch.put_directory("tree", "/tree")
    batch.put_file(io.BytesIO(b"bytes"), "/c")
def again():
    with volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"new"), "/new")
        batch.put_file(io.BytesIO(b"new"), "/c")
fails(FileExistsError, again)
def stopped():
    with volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"new"), "/new")
        raise KeyError("stop")
fails(KeyError, stopped)
print(sorted(entry.path for entry in volume.iterdir("/")))
fails(FileNotFoundError, lambda: list(volume.read_file("nothing")))
fails(NotFoundError, lambda: volume.listdir("nothing"))
fails(InvalidError, lambda: volume.listdir("tree/*"))
fails(InvalidError, lambda: list(volume.read_file("../x")))
volume.copy_files(["c"], "d")
volume.copy_files(["tree"], "copy", recursive=True)
volume.remove_file("tree", recursive=True)
target = io.BytesIO()
print(volume.read_file_into_fileobj("d", target), target.getvalue())
async def main():
    print([entry.path async for entry in volume.iterdir.aio("/")])
    print(b"".join([piece async for piece in volume.read_file.aio("copy/deep/a")]))
    await modal.Volume.rename.aio("e2e-python", "e2e-renamed")
    print((await modal.Volume.from_name("e2e-renamed").info.aio()).name)
asyncio.run(main())
fails(AlreadyExistsError, lambda: modal.Volume.objects.create("e2e-renamed"))
modal.Volume.objects.create("e2e-renamed", allow_existing=True)
print("e2e-renamed" in [volume.name for volume in modal.Volume.objects.list()])
modal.Volume.objects.delete("e2e-renamed")
modal.Volume.objects.delete("e2e-renamed", allow_missing=True)
fails(InvalidError, lambda: modal.Volume.from_name("x").read_only().remove_file("a"))
fails(RuntimeError, lambda: volume.commit())
"""

EPHEMERAL = """
import modal

image = modal.Image.debian_slim(python_version="3.11")
app = modal.App(image=image)


@app.function()
def unused(): ...


def program(volume):
    app = modal.App(image=image)

    @app.function(volumes={"/data": volume}, serialized=True)
    def write(given):
        with open("/data/a", "w") as file:
            file.write("1")
        return [entry.path for entry in given.listdir("/")]

    return app, write


if __name__ == "__main__":
    with modal.Volume.ephemeral() as volume:
        app, write = program(volume)
        with app.run():
            print(write.remote(volume))
        print(volume.listdir("/")[0].path, b"".join(volume.read_file("a")))
    try:
        volume.listdir("/")
    except modal.exception.NotFoundError:
        print("gone")
"""


def test_functions_share_a_volume(modal: Modal) -> None:
    modal.write("app.py", APP)
    result = modal("run", "-q", "app.py")
    listed = [("deep", "DIRECTORY", 4096), ("deep/one", "FILE", 1), ("deep/two", "FILE", 2)]
    lines = result.stdout.splitlines()
    assert lines[:2] == ["(0, 0)", "(0, 0)"]
    shown = lines[2].replace(str(listed[0][2]), "4096")
    assert "('deep/one', 'FILE', 1), ('deep/two', 'FILE', 2)], '1')" in shown
    assert lines[3] == "Read-only file system"
    other = "this container has not the volume `Volume.from_name('other')`"
    assert lines[4] == str(["copied", "deep", "missing", other])
    assert lines[5] == "b'22'"
    again = modal("run", "-q", "app.py::read")
    assert again.code == 0
    modal("volume", "delete", "-y", "e2e-data")


def test_programs_work_with_volumes(modal: Modal) -> None:
    modal.write("do.py", DO)
    result = modal.python("do.py")
    assert result.stdout.splitlines() == [
        "NotFoundError there is no volume `e2e-nothing`",
        "FileExistsError there is a file `c` in the volume already",
        "KeyError 'stop'",
        "['c', 'tree', 'tree/b', 'tree/deep', 'tree/deep/a']",
        "FileNotFoundError there is no `nothing` in the volume",
        "MissingFile there is no `nothing` in the volume",
        "InvalidError `tree/*` is a pattern, and a path of a volume is wanted",
        "InvalidError `../x` leads out of the volume: write a path without `..`",
        "5 b'bytes'",
        "['c', 'copy', 'copy/b', 'copy/deep', 'copy/deep/a', 'd']",
        "b'1'",
        "e2e-renamed",
        "AlreadyExistsError there is a volume `e2e-renamed` already",
        "True",
        "InvalidError `Volume.remove_file` writes, and `Volume.from_name('x')` is read-only",
        "RuntimeError `Volume.commit` is for functions that have the volume, and this is none",
    ]


def test_an_ephemeral_volume_ends_with_its_block(modal: Modal) -> None:
    modal.write("app.py", EPHEMERAL)
    result = modal.python("app.py")
    assert result.stdout.splitlines() == ["['a']", "a b'1'", "gone"]


def test_steps_have_volumes_and_layers_do_not(modal: Modal) -> None:
    modal.write(
        "app.py",
        """
        import os
        import modal

        volume = modal.Volume.from_name("e2e-step", create_if_missing=True)
        image = modal.Image.debian_slim(python_version="3.11").run_commands(
            "test -e /data/counted && echo found; echo 1 >> /data/counted; wc -l < /data/counted > /root/count",
            volumes={"/data": volume},
            force_build=True,
        )
        app = modal.App(image=image)

        @app.function()
        def count():
            return open("/root/count").read().strip(), os.path.exists("/data")
        @app.local_entrypoint()
        def main():
            print(count.remote())
        """,
    )
    assert modal("run", "-q", "app.py").stdout == "('1', False)\n"
    assert modal("run", "-q", "app.py").stdout == "('2', False)\n"
    modal("volume", "delete", "-y", "e2e-step")


def test_misuse_is_an_error(modal: Modal) -> None:
    modal.write(
        "app.py",
        """
        import modal
        app = modal.App(image=modal.Image.debian_slim(python_version="3.11"))
        one, other = modal.Volume.from_name("e2e-same", create_if_missing=True), modal.Volume.from_name("e2e-same")
        @app.function(volumes={"/a": one, "/b": other})
        def same(): ...
        """,
    )
    result = modal("run", "app.py", check=False)
    assert result.code == 1 and "`same` has the same volume at `/a` and at `/b`" in result.stderr
    modal("volume", "delete", "-y", "e2e-same")
    modal.write("gone.py", modal.directory.joinpath("app.py").read_text().replace(", create_if_missing=True", ""))
    result = modal("run", "gone.py", check=False)
    assert result.code == 1 and "there is no volume `e2e-same`" in result.stderr
    assert "modal volume create e2e-same" in result.stderr and "Traceback" not in result.stderr


def test_a_volume_that_is_deleted_meanwhile_is_said_to_be_gone(modal: Modal) -> None:
    modal.write(
        "app.py",
        """
        import modal
        app = modal.App(image=modal.Image.debian_slim(python_version="3.11"))
        @app.function(volumes={"/data": modal.Volume.from_name("e2e-gone", create_if_missing=True)})
        def work(): ...
        @app.local_entrypoint()
        def main():
            modal.Volume.objects.delete("e2e-gone")
            work.remote()
        """,
    )
    result = modal("run", "app.py", check=False)
    assert result.code == 1 and "of the store was removed meanwhile" in result.stderr
    assert "a volume that is deleted is gone for whoever has it" in result.stderr


def test_the_commands(modal: Modal) -> None:
    modal("volume", "create", "e2e-cli")
    assert "already" in modal("volume", "create", "e2e-cli", check=False).stderr
    modal.write("local/deep/a.txt", "one\n")
    modal.write("b.txt", "two\n")
    modal("volume", "put", "e2e-cli", "local", "/")
    modal("volume", "put", "e2e-cli", "b.txt", "into/")
    modal("volume", "put", "e2e-cli", "b.txt", "named")
    assert modal("volume", "ls", "e2e-cli").stdout.splitlines() == ["into", "local", "named"]
    assert modal("volume", "ls", "e2e-cli", "local/deep").stdout.splitlines() == ["local/deep/a.txt"]
    refused = modal("volume", "put", "e2e-cli", "b.txt", "named", check=False)
    assert refused.code == 1 and "already" in refused.stderr and "--force" in refused.stderr
    modal("volume", "put", "-f", "e2e-cli", "b.txt", "named")
    assert modal("volume", "get", "e2e-cli", "named", "-").stdout == "two\n"
    modal("volume", "get", "e2e-cli", "local", "back")
    assert modal.directory.joinpath("back/local/deep/a.txt").read_text() == "one\n"
    refused = modal("volume", "get", "e2e-cli", "named", "b.txt", check=False)
    assert refused.code == 1 and "--force" in refused.stderr
    modal("volume", "get", "--force", "e2e-cli", "named", "b.txt")
    os.mkfifo(modal.directory / "pipe")
    reader = os.open(modal.directory / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    modal("volume", "get", "--force", "e2e-cli", "named", "pipe")
    assert os.read(reader, 100) == b"two\n"
    os.close(reader)
    assert (modal.directory / "pipe").is_fifo()
    modal("volume", "cp", "e2e-cli", "named", "copy")
    modal("volume", "cp", "-r", "e2e-cli", "local", "copied")
    modal("volume", "rm", "-r", "e2e-cli", "local")
    assert "no `local`" in modal("volume", "rm", "e2e-cli", "local", check=False).stderr
    assert modal("volume", "ls", "e2e-cli").stdout.splitlines() == ["copied", "copy", "into", "named"]
    modal("volume", "rename", "e2e-cli", "e2e-new")
    listed = json.loads(modal("volume", "list", "--json").stdout)
    assert [volume["name"] for volume in listed if volume["name"].startswith("e2e-new")] == ["e2e-new"]
    assert "nobody to ask" in modal("volume", "delete", "e2e-new", check=False).stderr
    modal("volume", "delete", "-y", "e2e-new")
    assert "there is no volume `e2e-new`" in modal("volume", "ls", "e2e-new", check=False).stderr
    modal("volume", "delete", "-y", "--allow-missing", "e2e-new")


def test_names_that_are_no_text_are_refused_before_anything_is_written(modal: Modal) -> None:
    modal.write(
        "app.py",
        """
        import modal

        volume = modal.Volume.from_name("e2e-names", create_if_missing=True)
        app = modal.App("names", image=modal.Image.debian_slim(python_version="3.11"))

        @app.function(volumes={"/data": volume})
        def write():
            import os

            os.makedirs("/data/in", exist_ok=True)
            for name in (b"a", "b\ufffd".encode(), b"caf\\xe9"):
                with open(b"/data/in/" + name, "wb") as file:
                    file.write(b"1")

        @app.local_entrypoint()
        def main():
            write.remote()
        """,
    )
    modal("run", "app.py")
    assert modal("volume", "ls", "e2e-names", "in").stdout.splitlines() == ["in/a", "in/b\ufffd", "in/caf\ufffd"]
    refused = modal("volume", "get", "e2e-names", "in", "back", check=False)
    assert refused.code == 1 and "no name in UTF-8" in refused.stderr
    assert not (modal.directory / "back").exists()
    modal("volume", "get", "e2e-names", "in/b\ufffd", "back")
    assert (modal.directory / "back").read_text() == "1"


def test_a_killed_put_changes_nothing(modal: Modal) -> None:
    modal("volume", "create", "e2e-killed")
    modal.write("a.txt", "committed")
    modal("volume", "put", "e2e-killed", "a.txt")
    pipe = modal.directory / "pipe"
    os.mkfifo(pipe)
    putting = modal.start("volume", "put", "-f", "e2e-killed", "pipe", "a.txt")
    with open(pipe, "wb") as writer:
        # More than a pipe holds: some of it was taken in when this returns.
        writer.write(b"x" * (1 << 20))
        writer.flush()
        os.killpg(putting.pid, signal.SIGKILL)
        putting.communicate(timeout=60)
    assert modal("volume", "get", "e2e-killed", "a.txt", "-").stdout == "committed"
    assert modal("volume", "ls", "e2e-killed").stdout == "a.txt\n"
    work = modal.store / "content" / "work"
    left = [path for path in work.glob("*-temporary/*") if path.is_file() and path.stat().st_size >= 1 << 16]
    assert left == []
    modal("volume", "delete", "-y", "e2e-killed")


def test_writers_in_several_containers_lose_nothing(modal: Modal) -> None:
    modal.write(
        "app.py",
        """
        import os, sys
        import modal

        volume = modal.Volume.from_name("e2e-writers", create_if_missing=True)
        app = modal.App(image=modal.Image.debian_slim(python_version="3.11"), volumes={"/data": volume})

        @app.function(max_containers=4)
        def write(number):
            for each in range(20):
                with open(f"/data/{number}-{each}", "w") as file:
                    file.write(str(number))
            volume.commit()
            if number % 2:
                os._exit(1)

        @app.local_entrypoint()
        def main():
            list(write.map(range(8), return_exceptions=True))
            entries = volume.listdir("/")
            print(len(entries), sum(entry.size for entry in entries))
        """,
    )
    assert modal("run", "-q", "app.py").stdout == "160 160\n"
    modal("volume", "delete", "-y", "e2e-writers")


def test_links_that_a_container_makes_lead_nowhere(modal: Modal) -> None:
    modal.write(
        "app.py",
        """
        import os
        import modal

        volume = modal.Volume.from_name("e2e-links", create_if_missing=True)
        app = modal.App(image=modal.Image.debian_slim(python_version="3.11"), volumes={"/data": volume})

        @app.function()
        def link():
            os.symlink("/etc", "/data/etc")
            os.symlink("../../..", "/data/up")
            os.symlink("/store", "/data/store")
            os.mkfifo("/data/pipe")
            os.mkdir("/data/good")
            open("/data/good/a", "w").write("1")
            return sorted(os.listdir("/data/up"))
        @app.local_entrypoint()
        def main():
            print(link.remote() == sorted(os.listdir("/")) or "its own root")
        """,
    )
    assert modal("run", "-q", "app.py").stdout == "its own root\n"
    for path in ("etc/passwd", "up/record.json", "store/idmap.json", "up", "pipe"):
        refused = modal("volume", "get", "e2e-links", path, "-", check=False, timeout=60)
        assert refused.code == 1 and refused.stdout == "", path
    modal.write("new.txt", "new")
    for path in ("etc/new.txt", "up/new.txt", "store/"):
        assert modal("volume", "put", "-f", "e2e-links", "new.txt", path, check=False).code == 1, path
    assert modal("volume", "rm", "-r", "e2e-links", "up/files", check=False).code == 1
    got = modal("volume", "get", "e2e-links", "/", "all")
    assert "Left out 4 links" in got.stderr
    assert sorted(path.name for path in (modal.directory / "all").rglob("*")) == ["a", "good"]
    modal("volume", "delete", "-y", "e2e-links")


def test_a_shell_has_the_volumes_of_its_function(modal: Modal) -> None:
    modal.write(
        "app.py",
        """
        import modal
        volume = modal.Volume.from_name("e2e-shell", create_if_missing=True)
        app = modal.App(image=modal.Image.debian_slim(python_version="3.11"))
        @app.function(volumes={"/data": volume, "/part": modal.Volume.from_name(
            "e2e-part", create_if_missing=True).with_mount_options(sub_path="deep/er")})
        def f(): ...
        """,
    )
    modal("shell", "app.py::f", "-c", "echo 1 > /data/a; echo 2 > /part/b")
    assert modal("volume", "get", "e2e-shell", "a", "-").stdout == "1\n"
    assert modal("volume", "get", "e2e-part", "deep/er/b", "-").stdout == "2\n"
    modal("secret", "create", "--force", "e2e-shell", "A=three")
    shell = ("shell", "--volume", "e2e-shell", "--secret", "e2e-shell", "-c", "cat /mnt/e2e-shell/a; echo $A")
    assert modal(*shell).stdout == "1\nthree\n"
    assert "no volume `nothing`" in modal("shell", "--volume", "nothing", check=False).stderr
    modal("secret", "delete", "-y", "e2e-shell")
    for name in ("e2e-shell", "e2e-part"):
        modal("volume", "delete", "-y", name)
