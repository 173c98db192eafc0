"""Dockerfiles: stages, variables, files, mounts, settings, and what is said about lines that are wrong."""

from __future__ import annotations

import http.server
import io
import os
import stat
import tarfile
import threading

import pytest
from conftest import Modal

HEAD = """
import modal
image = {image}
app = modal.App("t", image=image)

@app.function()
def main():
    import subprocess
    print(subprocess.run({command!r}, shell=True, capture_output=True, text=True).stdout, end="")
"""
BASE = 'modal.Image.debian_slim(python_version="3.11")'


def program(modal: Modal, command: str, *lines: str, options: str = "") -> None:
    """A program that runs a shell command in an image with these lines of a Dockerfile."""
    given = ", ".join(map(repr, lines))
    modal.write("app.py", HEAD.format(image=f"{BASE}.dockerfile_commands({given}{options})", command=command))


def output(modal: Modal, command: str, *lines: str, options: str = "") -> str:
    program(modal, command, *lines, options=options)
    return modal("run", "app.py").stdout


@pytest.fixture
def context(modal: Modal) -> Modal:
    """Files of many kinds in the working directory."""
    modal.write("a.txt", "one\n")
    modal.write("b.txt", "two\n").chmod(0o600)
    modal.write("sub/deep.txt", "deep\n")
    modal.write("sub/more/x.py", "x\n")
    (modal.directory / "sub/empty").mkdir()
    (modal.directory / "sub/empty").chmod(0o710)
    (modal.directory / "sub/link").symlink_to("deep.txt")
    (modal.directory / "out").symlink_to("/etc/hostname")
    os.mkfifo(modal.directory / "pipe", 0o640)
    os.mknod(modal.directory / "socket", stat.S_IFSOCK | 0o600)
    return modal


def test_variables_are_those_of_buildkit(modal: Modal) -> None:
    lines = (
        "ARG NAME=usual",
        "ARG GIVEN",
        "ENV A=${NAME:-x} B='$NAME' C=${GIVEN:+yes}",
        "ENV NAME=image A=later",
        "RUN echo $NAME $GIVEN $A $B $C ${D:-none} > /seen",
        "WORKDIR /srv/${C}",
        "WORKDIR below",
        "WORKDIR $NOWHERE",
        "USER $NOBODY",
    )
    shown = "cat /seen; pwd; echo $NAME $GIVEN $A $B; stat -c '%a %u' /srv/yes/below"
    expected = "image given later $NAME yes none\n/srv/yes/below\nimage later $NAME\n755 0\n"
    assert output(modal, shown, *lines, options=', build_args={"GIVEN": "given"}') == expected


def test_arguments_hide_variables_and_reach_stages_that_begin_on_theirs(modal: Modal) -> None:
    lines = (
        "ENV SET=image LATER=image",
        "ARG SET=argument LATER=argument",
        "ENV LATER=again FROM_ARGUMENT=$SET",
        "ARG PLAIN=plain",
        "RUN echo $SET $LATER $FROM_ARGUMENT > /first",
        "FROM 0",
        "RUN echo $SET $LATER $PLAIN $http_proxy > /second",
        "FROM 1",
        "ARG PLAIN=other",
        "RUN echo $PLAIN > /third",
        "HEALTHCHECK --interval=1.5s CMD true",
    )
    shown = output(
        modal, "cat /first /second /third", *lines, options=', build_args={"HTTP_PROXY": "http://127.0.0.1:1"}'
    )
    assert shown == "argument again argument\nimage again plain http://127.0.0.1:1\nother\n"


def test_files_are_copied_as_docker_does(context: Modal) -> None:
    lines = (
        "COPY a.txt b.txt /into/",
        "COPY a.txt /named",
        "COPY sub /tree",
        "COPY --chown=1000:100 --chmod=u=rwX,go= sub/more /owned",
        "COPY *.txt none* /all/",
        "COPY none* /nothing/",
        'COPY ["a.txt", "/with space/x"]',
        "COPY --exclude=**/*.py --exclude=empty sub /some",
        "COPY --parents ./sub/./more/x.py /parents/",
        "COPY a.txt /bin/in-bin",
    )
    command = (
        "cd /; for d in into named tree owned all some parents 'with space' usr/bin/in-bin; do "
        "find \"$d\" -printf '%p %y %m %U:%G %l\\n' | sort; done; cat /tree/link /named; test -e /nothing || echo none"
    )
    assert output(context, command, *lines) == (
        "into d 755 0:0 \ninto/a.txt f 644 0:0 \ninto/b.txt f 600 0:0 \n"
        "named f 644 0:0 \n"
        "tree d 755 0:0 \ntree/deep.txt f 644 0:0 \ntree/empty d 710 0:0 \ntree/link l 777 0:0 deep.txt\n"
        "tree/more d 755 0:0 \ntree/more/x.py f 644 0:0 \n"
        "owned d 755 1000:100 \nowned/x.py f 600 1000:100 \n"
        "all d 755 0:0 \nall/a.txt f 644 0:0 \nall/b.txt f 600 0:0 \n"
        "some d 755 0:0 \nsome/deep.txt f 644 0:0 \nsome/link l 777 0:0 deep.txt\n"
        "some/more d 755 0:0 \n"
        "parents d 755 0:0 \nparents/more d 755 0:0 \nparents/more/x.py f 644 0:0 \n"
        "with space d 755 0:0 \nwith space/x f 644 0:0 \n"
        "usr/bin/in-bin f 644 0:0 \n"
        "deep\none\nnone\n"
    )


def test_a_dockerfile_with_stages_builds_what_is_needed(context: Modal) -> None:
    tag = os.urandom(6).hex()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, mode, kind in (("d", 0o750, tarfile.DIRTYPE), ("d/f", 0o4755, tarfile.REGTYPE)):
            member = tarfile.TarInfo(name)
            member.mode, member.type, member.uid, member.gid, member.mtime = mode, kind, 7, 8, 1_000_000_000
            member.size = 4 if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(b"text"))
        link = tarfile.TarInfo("d/l")
        link.type, link.linkname = tarfile.SYMTYPE, "f"
        tar.addfile(link)
    (context.directory / "files.tgz").write_bytes(archive.getvalue())
    lines = (
        f"ENV TAG={tag}",
        "RUN echo base > /made && ln /made /twin",
        "FROM 0 AS left",
        "RUN echo left > /left",
        "FROM 0 AS Right",
        "RUN echo right > /right && chown 5:6 /right",
        "FROM 0 AS unused",
        "RUN exit 3",
        "FROM scratch AS plain",
        "ADD files.tgz /unpacked/",
        "COPY --from=left /left /x/",
        "FROM 0",
        "COPY --from=left /left /",
        "COPY --from=right /right /",
        "COPY --from=right --chown=0 /right /mine",
        "COPY --from=plain / /plain",
        "COPY --from=0 /made /twin /links/",
    )
    command = (
        "cat /left /right /plain/x/left; stat -c '%n %a %u:%g %h' /right /mine /plain/unpacked/d /plain/unpacked/d/f "
        "/links/made; readlink /plain/unpacked/d/l; stat -c %Y /plain/unpacked/d"
    )
    expected = (
        "left\nright\nleft\n/right 644 5:6 1\n/mine 644 0:0 1\n/plain/unpacked/d 750 7:8 2\n"
        "/plain/unpacked/d/f 4755 7:8 1\n/links/made 644 0:0 1\nf\n1000000000\n"
    )
    program(context, command, *lines)
    first = context.events("app.py")
    assert first.stdout == expected
    again = context.events("app.py")
    assert again.stdout == expected and not again.of("step_started")


def test_commands_have_shells_users_documents_and_mounts(context: Modal) -> None:
    tag = os.urandom(6).hex()
    lines = (
        'SHELL ["/bin/bash", "-ec"]',
        "RUN a=(1 2) && echo ${#a[@]} > /seen",
        'RUN ["/bin/sh", "-c", "echo exec $0 >> /seen"]',
        "RUN useradd -m -u 1234 -G daemon app",
        "USER app",
        "RUN echo $(id -u) $(id -G) $HOME > /tmp/user",
        "USER 0",
        "RUN <<EOF\nread -r line < /tmp/user\necho $line >> /seen\nEOF",
        "RUN <<'EOF' cat >> /seen\ntext $A\nEOF",
        "RUN <<EOF\n#!/usr/bin/env python3\nprint('python', file=open('/seen', 'a'))\nEOF",
        f"RUN --mount=type=cache,target=/cache,id={tag} echo x >> /cache/x",
        f"RUN --mount=type=cache,target=/cache,id={tag} wc -l < /cache/x >> /seen",
        "RUN --mount=type=secret,id=TOKEN --mount=type=secret,id=TOKEN,env=OTHER "
        "wc -c < /run/secrets/TOKEN >> /seen && echo ${#OTHER} >> /seen",
        f"RUN --mount=type=cache,target=/a,id={tag},sharing=locked --mount=type=cache,target=/b,id={tag},sharing=locked "
        "cat /a/x /b/x >> /seen",
        "RUN --mount=source=sub,target=/mnt/sub --mount=type=tmpfs,target=/mnt/sub/empty cat /mnt/sub/deep.txt >> /seen "
        "&& touch /mnt/sub/empty/x && ! touch /mnt/sub/x",
        "RUN --mount=source=sub,target=/mnt/sub,rw touch /mnt/sub/x",
        "RUN --mount=source=sub,target=/new/sub echo x > /new/file",
        "RUN --mount=type=tmpfs,target=/tmp/memory echo x > /tmp/memory/x",
        "RUN --network=none tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' >> /seen",
    )
    options = ', secrets=[modal.Secret.from_dict({"TOKEN": "correct-horse-battery"})]'
    shown = output(context, "cat /seen; ls -A /run/secrets /cache /mnt /new /tmp 2>/dev/null", *lines, options=options)
    assert shown == (
        "2\nexec /bin/sh\n1234 1234 1 /home/app\ntext $A\npython\n1\n21\n21\nx\nx\ndeep\nlo\n/mnt:\n\n/new:\nfile\n\n/tmp:\nuser\n"
    )


def test_caches_begin_as_copies(modal: Modal) -> None:
    cache = f"RUN --mount=type=cache,id={modal.directory.name}"
    lines = (
        "RUN mkdir -p /d/sub && echo one > /d/f && chown -R 5:6 /d && chmod 750 /d && ln -s d /link",
        "FROM 0",
        f"{cache},from=0,source=/link,target=/c stat -c '%a %u:%g' /c /c/f > /seen && cat /c/f >> /seen "
        "&& echo two >> /c/f && rmdir /c/sub",
        f"{cache},from=0,source=link/,target=/c,sharing=locked cat /c/f >> /seen && ls /c >> /seen",
        f"{cache},from=0,source=/link/f,target=/file cat /file >> /seen",
        f"{cache},target=/c ls /c | wc -l >> /seen && mkdir -p /c/a/b && touch /c/a/b/x",
        f"{cache},target=/c,source=a/b ls /c >> /seen",
        f"{cache},target=/c,uid=7,mode=0700 stat -c '%a %u:%g' /c >> /seen && ls /c >> /seen",
        f"{cache},target=/c --mount=from=0,source=/d,target=/c/in cat /c/in/f >> /seen",
        f"{cache},target=/c,from=scratch ls /c >> /seen",
    )
    assert output(modal, "cat /seen", *lines).split() == [
        *("750", "5:6", "644", "5:6", "one"),
        *("one", "two", "f"),
        *("one", "0", "x"),
        *("700", "7:0", "one", "a", "in"),
    ]


def test_files_of_secrets_have_owners_and_modes(modal: Modal) -> None:
    lines = (
        "RUN useradd -u 1234 app && mkdir /real && ln -s real /link && touch /there",
        "RUN --mount=type=secret,id=TOKEN --mount=type=secret,id=TOKEN,target=/link/key,uid=1234,gid=7,mode=0640 "
        "--mount=type=secret,id=TOKEN,target=/there,mode=444 "
        "stat -c '%F %a %u:%g' /run/secrets/TOKEN /real/key /there > /seen; (echo x > /there) 2> /dev/null || echo no >> /seen",
        "USER app",
        "RUN --mount=type=secret,id=TOKEN,target=/key,uid=1234 --mount=type=secret,id=TOKEN wc -c < /key > /tmp/own && "
        "! cat /run/secrets/TOKEN",
        "RUN --mount=type=secret,id=NONE ls /run/secrets /link >> /tmp/own; ls -s /there >> /tmp/own",
    )
    secret = ', secrets=[modal.Secret.from_dict({"TOKEN": "correct-horse-battery"})]'
    shown = output(modal, "cat /seen /tmp/own; ls -d /key /run/secrets", *lines, options=secret)
    files = "regular file 400 0:0\nregular file 640 1234:7\nregular file 444 0:0\nno\n"
    assert shown == files + "21\n/link:\n0 /there\n"
    program(modal, "true", "RUN --mount=type=secret,id=TOKEN,uid=4000000000 true", options=secret)
    result = modal("run", "app.py", check=False)
    assert "dockerfile_commands:1: `4000000000:0` is not among the " in result.stderr


def test_files_are_given_beside_the_context(context: Modal) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("unpacked"))
    (context.directory / "elsewhere").mkdir()
    (context.directory / "elsewhere/x.tar").write_bytes(archive.getvalue())
    given = {"/.settings": "b.txt", "sub/given.txt": "a.txt", "other.tar": "elsewhere/x.tar"}
    lines = (
        "COPY /.settings /",
        "COPY sub /tree",
        "ADD other.tar /x/",
        "RUN --mount=source=sub,target=/s cp /s/* /seen || true",
    )
    options = f', context_dir="sub/..", context_files={given!r}'
    shown = output(context, "cat /.settings; ls /tree /x /seen", "RUN mkdir /seen", *lines, options=options)
    listed = "deep.txt\nempty\ngiven.txt\nlink\nmore\n"
    assert shown == f"two\n/seen:\ndeep.txt\ngiven.txt\nlink\n\n/tree:\n{listed}\n/x:\nunpacked\n"


def test_commands_are_lent_compilers(modal: Modal) -> None:
    source = '#include <stdio.h>\nint main(void) { puts("compiled"); return 0; }'
    lines = (f"COPY <<EOF /x.c\n{source}\nEOF", "RUN cd / && gcc x.c -o /compiled")
    assert output(modal, "/compiled; command -v gcc || echo none", *lines) == "compiled\nnone\n"


def test_what_containers_have_is_kept(modal: Modal) -> None:
    lines = ("ENTRYPOINT []", "CMD run it", "EXPOSE 80 53/UDP", "LABEL a='b c'", "VOLUME /data", "STOPSIGNAL SIGINT")
    assert output(modal, "echo works", *lines, "HEALTHCHECK --interval=5s CMD true") == "works\n"


def test_linked_copies_know_nothing_of_what_is_below(context: Modal) -> None:
    lines = (
        "RUN mkdir -m 700 /real && touch /real/old && ln -s real /link && ln -s real /other",
        "COPY --link a.txt /link/",
        "COPY --link sub /real/new",
        "COPY --link --chmod=640 a.txt /other/",
    )
    command = "stat -c '%F %a' /link /real /other; ls /link /real; stat -c %a /real/a.txt"
    assert output(context, command, *lines) == (
        "directory 755\ndirectory 755\nsymbolic link 777\n/link:\na.txt\n\n/real:\na.txt\nnew\nold\n640\n"
    )


def test_sources_end_at_the_context(context: Modal) -> None:
    (context.directory / "inner").mkdir()
    context.write("inner/a.txt", "inner\n")
    lines = ("COPY ../a.txt x/../../a.txt /one/", "COPY ../*.txt /two/")
    shown = output(context, "cat /one/* /two/*", *lines, options=', context_dir="inner"')
    assert shown == "inner\ninner\n"


def test_downloads_are_added(modal: Modal, tmp_path) -> None:
    (tmp_path / "file.txt").write_text("downloaded")
    (tmp_path / "a b.txt").write_text("downloaded")
    os.utime(tmp_path / "file.txt", (1_234_567_890, 1_234_567_890))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments) -> None:
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *arguments) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/file.txt"
        command = "cat /into/file.txt; stat -c ' %a %Y' /into/file.txt; ls /into"
        named = url.replace("file.txt", "a%20b.txt?query#part")
        assert output(modal, command, f"ADD {url} {named} /into/") == "downloaded 600 1234567890\na b.txt\nfile.txt\n"
        with tarfile.open(tmp_path / "x.tgz", "w:gz") as tar:
            tar.add(tmp_path / "file.txt", "packed")
        archive = url.replace("file.txt", "x.tgz")
        lines = (f"ADD {archive} /kept/", f"ADD --unpack=true {archive} {url} /unpacked/")
        assert output(modal, "ls /kept /unpacked", *lines) == "/kept:\nx.tgz\n\n/unpacked:\nfile.txt\npacked\n"
        program(modal, "true", f"ADD --checksum=sha256:{'0' * 64} {url} /into/")
        result = modal("run", "app.py", check=False)
        server.shutdown()
    assert result.code == 1 and "has the digest `sha256:" in result.stderr


def test_a_dockerfile_is_read_with_its_ignore_file(context: Modal) -> None:
    tag = os.urandom(6).hex()
    context.write("a.txt", tag)
    context.write("build/Dockerfile", "FROM scratch\nCOPY . /all\n")
    context.write("build/Dockerfile.dockerignore", "# comment\n/sub/*\n!sub/deep.txt\n*.py\nbuild\nout\n")
    context.write(
        "app.py",
        """
        import modal
        files = modal.Image.from_dockerfile("build/Dockerfile")
        app = modal.App("t", image=files)

        @app.function()
        def main():
            pass
        """,
    )
    result = context.events("app.py", check=False)
    (finished,) = result.of("step_finished")
    assert finished["bytes_new"] + finished["bytes_shared"] == len(tag + "two\ndeep\n")
    context.write("sub/more/x.py", "changed\n")
    assert not context.events("app.py", check=False).of("step_started"), "what is ignored changes nothing"
    context.write("a.txt", tag + "changed\n")
    assert len(context.events("app.py", check=False).of("step_started")) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("FROM scratch\nRUM x", ["`RUM` is no instruction: did you mean `RUN`?", "Dockerfile:2", "2 | RUM x"]),
        ("FROM Python", ["`Python` is no stage above, and `Python` names no image", "1 | FROM Python"]),
        ("RUN x", ["only `ARG` may stand above the first `FROM`"]),
        ("# nothing", ["there is no `FROM`"]),
        ("FROM scratch\nONBUILD RUN x", ["`ONBUILD` is not supported"]),
        ("FROM scratch\nCOPY missing /x", ["`missing` is not there", "Dockerfile:2"]),
        (
            "FROM scratch\nCOPY . ignored.txt /x/",
            ["`ignored.txt` is in", "left out by its ignore file", "Dockerfile:2"],
        ),
        ("FROM scratch\nCOPY ../x /x", ["`../x` is outside of", "context_dir"]),
        ("FROM scratch\nCOPY a.txt b.txt /x", ["write `/x/` as the last word"]),
        ("FROM scratch\nENV A=${B:?needed}", ["`B` is not set: needed"]),
        ("FROM scratch AS one\nCOPY --from=two_ /x /", ["`two_` is no stage above", "Dockerfile:2"]),
        ("FROM --platform=linux/riscv64 scratch", ["`linux/riscv64` cannot run here"]),
        ("FROM scratch\nCOPY --chown=app a.txt /", ["the image has no user `app`"]),
        ("FROM scratch\nRUN x", ["Dockerfile:2 RUN x", "`/bin/sh` was not found"]),
        ("FROM scratch\nRUN []", ["`RUN []` runs nothing", "Dockerfile:2"]),
        ("FROM scratch\nENV A='x", ["`'x` is not finished", "Dockerfile:2"]),
        ("FROM scratch\nENV A=a\0b", ["a NUL character", "Dockerfile:2"]),
        ("FROM scratch\nCOPY <<END /x\ntext", ["the here-document does not end", "Dockerfile:2"]),
        ("FROM scratch\nCOPY <<.. /x/\n..", ["`..` is no name of a file", "Dockerfile:2"]),
        ("FROM scratch\nCOPY [a /x", ["`[a` is no pattern", "Dockerfile:2"]),
        ("FROM scratch\nCOPY out /x", ["the link `/out` leads nowhere", "Dockerfile:2"]),
        ("FROM scratch\nADD --checksum=md5:0 http://h.invalid/x /", ["`md5:0` is no checksum", "Dockerfile:2"]),
        (f"FROM scratch\nADD --checksum=sha256:{'0' * 64} a.txt /", ["`a.txt` is a local file", "Dockerfile:2"]),
        ("FROM scratch\nADD none.tar /x", ["`none.tar` is not there", "Dockerfile:2"]),
        ("FROM scratch\nADD socket /x", ["`socket` is a socket, which no image holds", "Dockerfile:2"]),
        ("FROM scratch\nSTOPSIGNAL NOPE", ["`NOPE` is no signal", "Dockerfile:2"]),
        ("FROM scratch\nCOPY --chown=4294967295 a.txt /", ["`4294967295` is not among", "Dockerfile:2"]),
        ("FROM scratch\nCOPY --chown=0:99999999 a.txt /", ["`0:99999999` is not among", "Dockerfile:2"]),
        ("FROM localhost/", ["`localhost/` names no image", "Dockerfile:1"]),
        ("FROM localhost/a/b/c", ["`localhost/a/b/c` names no image", "Dockerfile:1"]),
        ("FROM scratch\nCOPY --from=7 /x /", ["there is no stage `7`", "Dockerfile:2"]),
        ("FROM localhost/none:v1", ["Dockerfile:1: there is no image of the name `none:v1` in the environment `main`"]),
        ("FROM scratch\nCOPY --from=localhost/none / /", ["Dockerfile:2: there is no image of the name `none:latest`"]),
        ("FROM scratch\nRUN --device=nvidia.com/gpu=all x", ["pass `gpu=` to the method", "Dockerfile:2"]),
        ("FROM scratch\nCOPY --from=scratch /a /x", ["`/a` is not there", "Dockerfile:2"]),
        ("FROM oci:none", ["Dockerfile:1: ", "1 | FROM oci:none"]),
        ("FROM scratch\nCOPY --from=oci-archive:none.tar /a /x", ["Dockerfile:2: ", "none.tar"]),
        ("FROM scratch AS one\nCOPY --from=one /x /", ["`one` does not end above", "Dockerfile:2"]),
        ("FROM scratch\nCOPY --from=1 /x /\nFROM scratch\nFROM 0", ["`1` does not end above", "Dockerfile:2"]),
        ("FROM scratch\nLABEL a=" + "${A:-" * 20_000 + "}" * 20_000, ["substitutions stand in one another"]),
    ],
)
def test_lines_that_are_wrong_are_named(context: Modal, text: str, words: list[str]) -> None:
    context.write("Dockerfile", text + "\n")
    context.write("ignored.txt", "x\n")
    context.write(".dockerignore", "ignored*\n")
    context.write(
        "app.py",
        """
        import modal
        app = modal.App("t", image=modal.Image.from_dockerfile("Dockerfile"))

        @app.function()
        def main():
            pass
        """,
    )
    result = context("run", "app.py", check=False)
    assert result.code == 1 and "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


def test_a_file_starts_from_images_of_this_machine(context: Modal) -> None:
    name = f"local-{os.urandom(4).hex()}"
    lines = "FROM scratch AS other\nCOPY b.txt /\nFROM scratch\nENV A=set\nCOPY a.txt /\n"
    first = context("image", "build", ".", "-t", f"{name}:v1", "-f", "-", input=lines).stdout.strip()
    again = context("image", "build", ".", "-f", "-", input=f"ARG TAG=v1\nFROM localhost/{name}:$TAG\n").stdout.strip()
    assert again == first
    context(
        "image", "build", ".", "-t", name, "-f", "-", input="FROM scratch\nCOPY b.txt /\n", MODAL_ENVIRONMENT="other"
    )
    lines = (
        f"COPY --from=localhost/{name}:v1 /a.txt /one",
        f"COPY --from=localhost/other/{name} /b.txt /other",
        f"RUN --mount=from=localhost/{name}:v1,target=/mnt cat /mnt/a.txt > /mounted",
    )
    assert output(context, "cat /one /other /mounted", *lines) == "one\ntwo\none\n"
    built = f"FROM localhost/other/{name} AS {name}\nFROM {name}\nCOPY a.txt /$A\n"
    shown = context("image", "build", ".", "-f", "-", input=built, MODAL_ENVIRONMENT="elsewhere")
    assert shown.stdout.startswith("im-")


def test_a_forced_file_executes_what_is_needed_of_it_again(context: Modal) -> None:
    context.write(
        "Dockerfile",
        "FROM scratch AS unused\nCOPY missing /\nFROM scratch AS one\nCOPY a.txt /\nFROM scratch\nCOPY --from=one /a.txt /\n",
    )
    program = """
        import modal
        image = modal.Image.from_dockerfile("Dockerfile", force_build=FORCED).dockerfile_commands("COPY b.txt /")
        app = modal.App("t", image=image)

        @app.function()
        def main():
            pass
        """
    titles = ["Dockerfile:4 COPY a.txt /", "Dockerfile:6 COPY --from=one /a.txt /"]
    for forced in (False, True):
        context.write("app.py", program.replace("FORCED", str(forced)))
        # There is no Python in it.
        result = context.events("app.py", check=False)
    queued = {event["step"]: event["title"] for event in result.of("step_queued")}
    assert [queued[event["step"]] for event in result.of("step_started")] == titles


def test_long_files_are_built(context: Modal) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("of-archive"))
    (context.directory / "x.tar").write_bytes(archive.getvalue())
    stages = "".join(f"FROM {f's{number - 1}' if number else 'scratch'} AS s{number}\n" for number in range(500))
    text = stages + "COPY a.txt /\n" + "LABEL a=b\n" * 2_000 + "FROM s499\nADD a.txt *.tar /x/\n"
    context.write("Dockerfile", text)
    image = context("image", "build", ".").stdout.strip()
    assert image.startswith("im-")


def test_a_missing_dockerfile_is_no_traceback(modal: Modal) -> None:
    modal.write("app.py", HEAD.format(image='modal.Image.from_dockerfile("none")', command="true"))
    result = modal("run", "app.py", check=False)
    assert result.code == 1 and "/none` does not exist" in result.stderr and "Traceback" not in result.stderr


def test_an_image_is_built_without_a_program(context: Modal) -> None:
    context.write(
        "Dockerfile",
        """
        FROM scratch AS first
        ARG GIVEN
        ARG TAKEN
        COPY a.txt /${GIVEN}-${TAKEN}
        FROM first
        COPY b.txt missing /x/
        """,
    )
    name = f"built-{os.urandom(4).hex()}"
    options = ("--build-arg", "GIVEN=given", "--build-arg", "TAKEN", "--build-arg", "ABSENT", "--target", "First")
    image = context("image", "build", ".", "-t", f"{name}:v1", *options, TAKEN="taken").stdout.strip()
    assert image.startswith("im-")
    listed = context("image", "names", "list", "--prefix", name).stdout
    assert f"{name}:v1" in listed and image[:9] in listed
    shown = context("image", "inspect", image).stdout
    assert "COPY a.txt /${GIVEN}-${TAKEN}" in shown
    text = "FROM scratch\nCOPY missing /\n"
    result = context("image", "build", ".", "-f", "-", check=False, input=text)
    assert result.code and "Dockerfile:2" in result.stderr and "`missing` is not there" in result.stderr
    given = context("image", "build", ".", "-f", "-", input="FROM scratch\nCOPY a.txt /\n").stdout.strip()
    assert given.startswith("im-")
    for words, said in (
        (("-t", "im-no"), "cannot be the name of an image"),
        (("--target", "none"), "there is no stage `none`"),
        (("--platform", "linux/riscv64"), "`linux/riscv64` cannot run here"),
        (("-f", "none"), "does not exist"),
        ((), "`missing` is not there"),
    ):
        result = context("image", "build", ".", *words, check=False)
        assert result.code and said in result.stderr and "Traceback" not in result.stderr, result.stderr
