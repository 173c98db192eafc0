"""Dockerfiles of many shapes, built by `buildah bud` and here: the same files and the same settings.

Both begin with an empty image and an archive of our base. Where buildah is not as BuildKit is, the shape stays out.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import shutil
import subprocess
import tarfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Modal
from conftest import command as modal_command
from file_tree import LAMINA, LONG_AGO, differences, tree

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="buildah and its files are root's here"),
    pytest.mark.skipif(shutil.which("buildah") is None, reason="`apt-get install buildah`"),
]

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
START = f"FROM scratch AS base\nADD base.tar /\nENV PATH={PATH}\n"

SHAPES: dict[str, str] = {
    "files and directories": """
        COPY a.txt b.txt /into/
        COPY a.txt /named
        COPY sub /tree
        COPY sub /tree/
        COPY sub/ /with-slash/
        COPY a.txt /deep/er/file
        COPY *.txt none* /all/
        COPY sub/dee?.[t-u]xt /pattern/
        COPY ["a.txt", "/with space/x"]
        COPY a.txt /bin/in-bin
    """,
    "pipes": """
        RUN mkdir /into
        COPY pipe /into/
        COPY with-pipe /tree
    """,
    "owners by number and name": """
        RUN useradd -u 1234 app && groupadd -g 77 crew
        COPY --chown=app a.txt /user
        COPY --chown=app:crew a.txt /both
        COPY --chown=:crew a.txt /group
        COPY --chown=5 a.txt /number
        COPY --chown=5:crew sub /numbers
        COPY --chown=1000:100 sub /new/tree
        COPY --chown=1000:100 sub/more /new/
    """,
    "modes": """
        COPY --chmod=640 a.txt /mode
        COPY --chmod=0755 a.txt sub/deep.txt /modes/
        COPY --chmod=4711 a.txt /set-id
    """,
    "what stages hand on": """
        RUN mkdir -p /d/in && echo x > /d/f && ln /d/f /d/in/twin && chown -R 5:6 /d && chmod 750 /d && ln -s f /d/l \
            && mkfifo /d/pipe && chmod 4755 /d/f && touch -d @1234567890 /d/f /d/in
        FROM base AS second
        RUN echo right > /right && chown 5:6 /right
        FROM base
        COPY --from=1 /right /left/
        COPY --from=second --chown=0:0 /right /mine
        COPY --from=0 /d /tree
        COPY --from=0 /d/ /deep/er/tree/
        COPY --from=0 --chown=7 /d /changed
        COPY --from=0 /d/f /d/in/twin /links/
    """,
    "links on the way": """
        RUN mkdir -p /real/sub && ln -s real /link && ln -s /real/sub /absolute && ln -s nowhere /dangling
        COPY a.txt /link/
        COPY sub /absolute/
        COPY a.txt /link/sub/new/
        COPY through/deep.txt /through
        COPY link.txt /followed
        COPY sub/link /copied-link
    """,
    "archives": """
        ADD plain.tar /plain/
        ADD gz.tgz /gz/
        ADD bz2.tar.bz2 /bz2/
        ADD xz.tar.xz /xz/
        ADD zst.tar.zst /zst/
        ADD a.txt plain.tar /two/
        ADD not.tar.gz /not/
        COPY gz.tgz /kept/
        ADD linked.tar /linked/
        ADD *.t[ag][rz] /matched/
    """,
    "an archive over what is there": """
        RUN mkdir -p /t/d && echo old > /t/d/f && chmod 700 /t/d && mkdir /t/real && ln -s real /t/way
        ADD plain.tar /t/
    """,
    "variables": """
        ARG NAME=usual
        ARG GIVEN
        ARG ABSENT
        ENV A=${NAME:-x} B='$NAME' C=${GIVEN:+yes} D="a b" E=a\\ b F=${ABSENT:-none}
        ENV NAME=image A=later
        ENV OLD form with spaces
        RUN echo $NAME $GIVEN $A $B $C $D $E $F ${ABSENT:-no} > /seen
        WORKDIR /srv/${C}
        COPY a.txt $NAME.txt
        LABEL given=$GIVEN "quoted key"="x y" \\
              other=1
    """,
    "scopes": """
        ARG IN_BASE=1
        RUN echo $OUTER.$IN_BASE > /first
        FROM base AS two
        ARG OUTER
        RUN echo $OUTER > /second
    """,
    "directories": """
        WORKDIR /new/deep
        RUN pwd > where
        WORKDIR below
        COPY a.txt ./
        COPY a.txt ../up
        RUN useradd -u 1234 app
        USER app
        WORKDIR /home/app/work
        RUN id -un > /tmp/user && pwd >> /tmp/user
        COPY b.txt /home/
    """,
    "users": """
        RUN useradd -m -u 1234 -G daemon app
        USER app
        RUN echo $(id -u) $(id -G) $HOME > /tmp/named
        USER 1234
        RUN echo $(id -u) $(id -G) > /tmp/number
        USER app:daemon
        RUN echo $(id -u):$(id -g) > /tmp/group
        USER 5:6
        RUN echo $(id -u):$(id -g) > /tmp/nobody
        USER root
        RUN echo $(id -u):$(id -g) $HOME > /tmp/root
    """,
    "shells and forms": """
        SHELL ["/bin/bash", "-ec"]
        RUN a=(1 2) && echo ${#a[@]} > /seen
        RUN ["/bin/sh", "-c", "echo exec $0 >> /seen"]
        SHELL ["/bin/sh", "-c"]
        RUN echo one \\
            # a comment between

            two >> /seen
        CMD run it
    """,
    "settings": """
        EXPOSE 80 53/udp
        LABEL a=b
        LABEL c="d e"
        STOPSIGNAL SIGINT
        USER 5:6
        HEALTHCHECK --interval=5s --timeout=1m30s --retries=2 CMD curl -f localhost
        ENTRYPOINT ["/usr/bin/env", "--"]
        CMD ["sh", "-c", "true"]
        MAINTAINER  Some One's "name" $HOME <me@host.invalid>
    """,
    "settings are replaced": """
        MAINTAINER first
        ENTRYPOINT ["/first"]
        CMD ["one"]
        HEALTHCHECK CMD true
        FROM base
        MAINTAINER second
        CMD ["gone"]
        ENTRYPOINT exec $0
        HEALTHCHECK NONE
    """,
    "declarations of stages": """
        ARG A=one
        ARG A
        RUN echo $A > /first
        ARG B=$A-two C="three $A"
        ENV B=image
        RUN echo $A $B $C > /second
        ARG A=again
        RUN echo $A $B > /third
        FROM base
        ARG N
        ENV X="$N" Y='a "b" $N' Z=a\\"b W="c\\\\d" V="it's"
        RUN echo "$N|$X|$Y|$Z|$W|$V" > /fourth
    """,
    "words": """
        ENV A="a\\nb" B='x\\ny' C=a\\"b D='it''s' E=\\$B F="\\${A}" G=$$ H=$1x I=${A}${A}
        RUN env | sort | grep -E '^[A-I]=' > /seen
        \tRUN\techo\t"a\tb"\t>\t/tabs
        run echo a > /lower && \\
          # a comment

          echo b >> /lower
        copy ["a.txt", "/copied"]
        LABEL a="two \\
          lines" empty=""
        STOPSIGNAL 9
    """,
    "volumes": """
        RUN mkdir -p "/with space" /c /relative /slash /data && echo before > /data/file
        VOLUME ["/with space", "/c"]
        VOLUME relative /slash/
        VOLUME /data
    """,
    "what is ignored": """
        COPY . /all
    """,
    "what is ignored again": """
        COPY . /all
        COPY sub /part
    """,
}

IGNORED = {
    "what is ignored again": "**/*.py\n!sub/more/x.py\nsub/empty\n./b.txt\n sub/link \n\n#!a.txt\n",
    "what is ignored": "# comment\n/sub/*\n!sub/deep.txt\n**/*.py\n*.tar*\n!base.tar\n*.tgz\nnot*\n/b.txt/\n",
}
OPTIONS = {"variables": {"GIVEN": "given"}, "scopes": {"OUTER": "outer"}}


def archive(compress) -> bytes:
    """An archive of every kind of entry, with times, owners and modes of its own."""
    contents = io.BytesIO()
    with tarfile.open(fileobj=contents, mode="w") as tar:
        for name, kind, mode, target in (
            ("d", tarfile.DIRTYPE, 0o750, ""),
            ("d/f", tarfile.REGTYPE, 0o4755, ""),
            ("d/twin", tarfile.LNKTYPE, 0o4755, "d/f"),
            ("d/link", tarfile.SYMTYPE, 0o777, "f"),
            ("d/pipe", tarfile.FIFOTYPE, 0o640, ""),
            ("way", tarfile.DIRTYPE, 0o755, ""),
            ("way/x", tarfile.REGTYPE, 0o600, ""),
            ("no/parents/x", tarfile.REGTYPE, 0o644, ""),
        ):
            member = tarfile.TarInfo(name)
            member.mode, member.type, member.linkname = mode, kind, target
            member.uid, member.gid, member.mtime = 7, 8, LONG_AGO
            member.size = 4 if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(b"text"))
    return compress(contents.getvalue())


def zstandard(contents: bytes) -> bytes:
    """A frame of raw blocks: the standard library has no compressor for this format."""
    blocks = [contents[start : start + 4096] for start in range(0, len(contents), 4096)]
    header = b"\x28\xb5\x2f\xfd\xa0" + len(contents).to_bytes(4, "little")
    sizes = (len(block) << 3 | (number == len(blocks)) for number, block in enumerate(blocks, 1))
    return header + b"".join(size.to_bytes(3, "little") + block for size, block in zip(sizes, blocks))


def make_context(directory: Path) -> None:
    """Files of many kinds."""
    files = {"a.txt": 0o644, "b.txt": 0o600, "sub/deep.txt": 0o664, "sub/more/x.py": 0o755}
    for name, mode in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n")
        path.chmod(mode)
        os.utime(path, (LONG_AGO, LONG_AGO))
    (directory / "sub/empty").mkdir()
    (directory / "sub/empty").chmod(0o710)
    (directory / "sub").chmod(0o770)
    (directory / "sub/link").symlink_to("deep.txt")
    (directory / "through").symlink_to("sub")
    (directory / "link.txt").symlink_to("a.txt")
    (directory / "linked.tar").symlink_to("plain.tar")
    for name, compress in (
        ("plain.tar", bytes),
        ("gz.tgz", gzip.compress),
        ("bz2.tar.bz2", bz2.compress),
        ("xz.tar.xz", lzma.compress),
        ("zst.tar.zst", zstandard),
    ):
        (directory / name).write_bytes(archive(compress))
    (directory / "with-pipe").mkdir()
    for pipe in (directory / "pipe", directory / "with-pipe/pipe"):
        os.mkfifo(pipe, 0o640)
        os.utime(pipe, (LONG_AGO, LONG_AGO))
    (directory / "not.tar.gz").write_bytes(gzip.compress(b"no archive"))


class Buildah:
    """A storage of its own, which is removed at the end."""

    def __init__(self, directory: Path) -> None:
        self.options = ["--root", str(directory / "storage"), "--runroot", str(directory / "run")]

    def __call__(self, *words: object) -> str:
        command = ["buildah", *self.options, *map(str, words)]
        completed = subprocess.run(command, capture_output=True, text=True, check=False)
        assert completed.returncode == 0, f"{command}\n{completed.stdout}\n{completed.stderr}"
        return completed.stdout

    def bud(self, tag: str, file: Path, context: Path, *given: str) -> None:
        self(
            *("bud", "--isolation=chroot", "--format=docker", "--network=host", "--pull-never", *given),
            *("-t", tag, "-f", file, context),
        )

    def build(self, directory: Path, arguments: dict[str, str]) -> tuple[dict[str, list], dict]:
        """The tree and the settings of what a Dockerfile describes."""
        given = [word for pair in arguments.items() for word in ("--build-arg", "=".join(pair))]
        self.bud("shape", directory / "Dockerfile.buildah", directory / "context", *given)
        container = self("from", "--pull-never", "localhost/shape").strip()
        try:
            found = tree(self("mount", container).strip())
            return found, json.loads(self("inspect", "--type", "image", "localhost/shape"))["Docker"]
        finally:
            self("rm", container)


@pytest.fixture(scope="session")
def base_archive(shared_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our base as an archive."""
    modal = Modal(shared_store, tmp_path_factory.mktemp("base"))
    modal.write("base.py", 'import modal\nprint(modal.Image.debian_slim("3.11").build().object_id)\n')
    image = modal.python("base.py").stdout.strip()
    kept = shared_store.parent / f"{image}.tar"
    if not kept.exists():
        command = [modal_command(), "shell", image, "-c", "tar --one-file-system -cf - -C / ."]
        with kept.open("wb") as file:
            subprocess.run(command, stdout=file, env=modal.environment, check=True)
    return kept


@pytest.fixture(scope="session")
def buildah(base_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    """buildah with our base as an image."""
    directory = tmp_path_factory.mktemp("buildah")
    (directory / "context").mkdir()
    os.link(base_archive, directory / "context/base.tar")
    (directory / "Dockerfile").write_text(START)
    buildah = Buildah(directory)
    buildah.bud("start", directory / "Dockerfile", directory / "context")
    yield buildah
    buildah("rmi", "--all", "--force")


def settings(image: dict) -> dict:
    """Docker's settings under our names."""
    config = image["config"]
    environment = dict(pair.split("=", 1) for pair in config.get("Env") or [])
    names = {
        "user": config.get("User"),
        "entrypoint": config.get("Entrypoint"),
        "command": config.get("Cmd"),
        "working_directory": config.get("WorkingDir"),
        "labels": {name: text for name, text in (config.get("Labels") or {}).items() if "buildah" not in name},
        "exposed_ports": sorted(config.get("ExposedPorts") or {}),
        "volumes": sorted(config.get("Volumes") or {}),
        "stop_signal": config.get("StopSignal"),
        "shell": config.get("Shell"),
        "author": image.get("author"),
    }
    check = config.get("Healthcheck")
    if check:
        fields = (("Test", "test"), ("Interval", "interval"), ("Timeout", "timeout"), ("Retries", "retries"))
        names["healthcheck"] = {ours: check[theirs] for theirs, ours in fields if check.get(theirs)}
    return {"environment": environment, **{name: value for name, value in names.items() if value}}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_is_built(modal: Modal, buildah: Buildah, base_archive: Path, shape: str) -> None:
    context = modal.directory / "context"
    make_context(context)
    os.link(base_archive, context / "base.tar")
    os.utime(context, (LONG_AGO, LONG_AGO))
    lines = textwrap.dedent(SHAPES[shape])
    arguments = OPTIONS.get(shape, {})
    outer = "".join(f"ARG {name}=unset\n" for name in arguments if shape == "scopes")
    (modal.directory / "Dockerfile").write_text(outer + START + lines)
    (modal.directory / "Dockerfile.buildah").write_text(outer + "FROM localhost/start AS base\n" + lines)
    # The archive itself is copied by nobody.
    (context / ".dockerignore").write_text(IGNORED.get(shape, "") + "**/.dockerignore\n")
    expected, config = buildah.build(modal.directory, arguments)
    modal.write("app.py", LAMINA.replace("ARGUMENTS", repr(arguments)))
    image = modal("run", "app.py").stdout.split()[-1]
    found = differences(json.loads((modal.directory / "tree.json").read_text()), expected)
    assert not found, "\n".join(found)
    described = json.loads(modal("image", "inspect", image, "--json").stdout)
    assert {name: described[name] for name in described.keys() & settings(config).keys()} == settings(config)
