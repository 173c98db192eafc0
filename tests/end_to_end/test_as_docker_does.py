"""Files are files: each path has an inode, a link count, times and bytecode of its own, as under a plain overlay.

Every situation is a chain of steps with the output that Docker's would have; all are built three times: with the
views that this machine makes by itself, with small ones made as large ones are, and in the way that every machine allows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Modal, remove

WAYS = {
    "best": {},
    "redirects": {"MODAL_STORE_WITHOUT": "copies"},
    "links": {"MODAL_STORE_WITHOUT": "redirects,clones"},
}

#: What is to be built, the command whose output is compared, and the output.
SITUATIONS: dict[str, tuple[list[str], str, str]] = {
    "cp -a keeps equal files apart": (
        ["mkdir /s && echo same > /s/a && echo same > /s/b", "cp -a /s /t && echo changed > /t/a"],
        "cat /t/b /s/a",
        "same\nsame\n",
    ),
    "tar keeps equal files apart": (
        [
            "mkdir /s && echo same > /s/a && echo same > /s/b",
            "mkdir /t && tar -C /s -c . | tar -C /t -x",
            "echo x > /t/a",
        ],
        "cat /t/b",
        "same\n",
    ),
    "equal files are not the same": (
        ["mkdir /s && echo same > /s/a && echo same > /s/b", "cp /s/a /s/b && cp /s/a /c"],
        'python3 -c \'import os; print(os.path.samefile("/s/a", "/s/b"), os.path.samefile("/s/a", "/c"))\'',
        "False False\n",
    ),
    "links that somebody made are links": (
        ["echo linked > /a && ln /a /b && mkdir /d && ln /a /d/c", "cp -a /a /b /d /opt"],
        "python3 -c \"import os; print(os.path.samefile('/a', '/d/c'), len({os.stat(p).st_ino for p in "
        "('/opt/a', '/opt/b')}))\"",
        "True 1\n",
    ),
    "files below /etc have one name": (
        ["echo x > /etc/one && echo x > /etc/two"],
        "stat -c %h /etc/one /etc/two /etc/passwd",
        "1\n1\n1\n",
    ),
    "make sees that a source is newer": (
        [
            "apt-get --version > /dev/null; mkdir /m && cd /m && printf 'out: in\\n\\tcp in out\\n' > Makefile && echo one > in",
            "cd /m && cp in out && touch out",
            "sleep 0.01 && echo two > /m/in",
        ],
        "cd /m && test in -nt out && echo newer",
        "newer\n",
    ),
    "times are kept": (
        ["touch -d '2011-11-11 11:11:11.123456789 UTC' /old && mkdir /d && touch -d '1985-05-05 UTC' /d", "touch /new"],
        "stat -c %y /old /d && find /old -newer /new && find /new -newer /old",
        "2011-11-11 11:11:11.123456789 +0000\n1985-05-05 00:00:00.000000000 +0000\n/new\n",
    ),
    "a touch alone is a change": (
        ["echo x > /f && touch -d '2001-01-01 UTC' /f", "touch -d '2002-02-02 UTC' /f"],
        "stat -c %y /f",
        "2002-02-02 00:00:00.000000000 +0000\n",
    ),
    "everything is on one device": (
        ["echo x > /one", "echo y > /two"],
        "stat -c %d / /one /two /usr/bin/env | sort -u | wc -l",
        "1\n",
    ),
    "deletions and replacements": (
        [
            "mkdir -p /d/sub && touch /d/old /d/sub/x /gone && ln -s /d /link && mkdir /dir && touch /dir/x",
            "rm -rf /d /gone && mkdir /d && touch /d/new && rm /link && mkdir /link && rm -rf /dir && echo file > /dir",
            "touch /gone2 && rm /gone2 /d/new && touch /d/newer",
        ],
        "ls /d /link; cat /dir; ls /gone /gone2 2>&1 | wc -l",
        "/d:\nnewer\n\n/link:\nfile\n2\n",
    ),
    "attributes, and those that look like marks": (
        [
            "python3 -c \"import os; os.mkdir('/a'); open('/a/f', 'w').write('x'); open('/a/empty', 'w')\n"
            "for p in '/a', '/a/f', '/a/empty':\n os.setxattr(p, 'user.note', b'n'); "
            "os.setxattr(p, 'user.overlay.opaque', b'y'); os.setxattr(p, 'user.overlay.whiteout', b'')\"",
            "echo more >> /a/f",
        ],
        "python3 -c \"import os\nfor p in '/a', '/a/f', '/a/empty': print(sorted(os.listxattr(p)))\"",
        "['user.note', 'user.overlay.opaque', 'user.overlay.whiteout']\n" * 3,
    ),
    "changed source of a package runs": (
        ["echo 'X = 1' >> $(python3 -c 'import humanize; print(humanize.__file__)')"],
        "python3 -c 'import humanize; print(humanize.X)'",
        "1\n",
    ),
    "an own module edited in the next step runs": (
        ["mkdir /own && cd /own && echo 'V=1' > own.py && python3 -c 'import own'", "echo 'V=2' > /own/own.py"],
        "cd /own && python3 -c 'import own; print(own.V)'",
        "2\n",
    ),
    "bytecode of packages is used": (
        [],
        "python3 -v -c 'import humanize.number' 2>&1 | grep -c 'number.*matches'",
        "1\n",
    ),
    "holes stay holes": (
        ["truncate -s 20G /disk && echo end >> /disk"],
        "stat -c %s /disk && tail -c 4 /disk && tar -C / -cSf - disk | wc -c | awk '{print ($1 < 100000)}'",
        f"{(20 << 30) + 4}\nend\n1\n",
    ),
}

PROGRAM = """\
import subprocess
import modal

situations = {situations!r}
base = modal.Image.debian_slim(python_version="3.11").uv_pip_install("humanize==4.12.3")
app = modal.App("files")

def run(command):
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True).stdout

images = []
for steps, command in situations:
    image = base
    for step in steps:
        image = image.run_commands(step)
    images.append(image)

functions = [app.function(image=image, name=f"f{{i}}", serialized=True)(run) for i, image in enumerate(images)]

@app.local_entrypoint()
def main():
    import json
    print(json.dumps([function.remote(command) for function, (_, command) in zip(functions, situations)]))
"""


@pytest.fixture(scope="module", params=WAYS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What every situation's command printed in a function, with one way of making views."""
    import json

    directory = tmp_path_factory.mktemp(request.param)
    kept = os.environ.get("MODAL_TEST_STORE")
    store = Path(f"{kept}-{request.param}") if kept else directory / "store"
    modal = Modal(store, directory)
    modal.environment.update(WAYS[request.param])
    situations = [(steps, command) for steps, command, _ in SITUATIONS.values()]
    modal.write("files.py", PROGRAM.format(situations=situations))
    printed = json.loads(modal("run", "-q", "files.py").stdout)
    yield dict(zip(SITUATIONS, printed))
    if not kept:
        remove(store)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_files_are_files(built: dict[str, str], situation: str) -> None:
    assert built[situation] == SITUATIONS[situation][2]


def test_local_files_keep_their_times_and_are_apart(modal: Modal) -> None:
    for name in ("one", "two"):
        path = modal.write(f"data/{name}", "equal")
        os.utime(path, ns=(10**9, 981_173_106_123_456_789))
    modal.write("own.py", "V = 1\n")
    modal.write(
        "app.py",
        """
        import modal

        image = (
            modal.Image.debian_slim(python_version="3.11")
            .add_local_dir("data", "/copied", copy=True)
            .add_local_dir("data", "/attached")
        )
        app = modal.App("times", image=image)

        @app.function()
        def look():
            import os

            paths = [f"/{where}/{name}" for where in ("copied", "attached") for name in ("one", "two")]
            return {os.stat(path).st_mtime_ns for path in paths}, len({os.stat(path).st_ino for path in paths})

        @app.local_entrypoint()
        def main():
            print(look.remote())
        """,
    )
    assert modal("run", "-q", "app.py").stdout == "({981173106123456789}, 4)\n"


def test_an_attached_module_edited_without_a_change_of_size_runs(modal: Modal) -> None:
    modal.write(
        "app.py",
        """
        import modal

        image = modal.Image.debian_slim(python_version="3.11").add_local_python_source("own")
        app = modal.App("edited", image=image)

        @app.function()
        def value():
            import own

            return own.V

        @app.local_entrypoint()
        def main():
            print(value.remote())
        """,
    )
    for number in (1, 2, 3):
        modal.write("own.py", f"V = {number}\n")
        assert modal("run", "-q", "app.py").stdout == f"{number}\n"
