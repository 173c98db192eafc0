"""Environments of conda packages: solved, linked, finished in the sandbox, and active everywhere."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import shutil
import textwrap
import threading
from pathlib import Path

import pytest
from conda_channel import PREFIX, SUBDIR, Channel, Contents
from conftest import Modal, Result
from packages import serve

#: A program with the prefix in the middle of a C string, and something whose place must not change behind it.
BINARY = b"\x7fELF\0" + f"{PREFIX}/share".encode() + b"\0end"


@pytest.fixture(scope="module")
def channels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the channels ``conda-forge`` and ``lab``."""
    directory = tmp_path_factory.mktemp("channels")
    forge = Channel(directory / "conda-forge")
    forge.add_python("3.11.2", "3.12.1")
    lab = Channel(directory / "lab")
    for version in ("1.0", "2.0"):
        module = Contents(
            {"site-packages/demo_mod/__init__.py": f"VERSION = '{version}'\ndef main(): print('entry', VERSION)\n"},
            entry_points=("demo-entry = demo_mod:main",),
        )
        lab.add("demo-mod", version, module, depends=("python >=3.9",), noarch="python", form=".tar.bz2")
    library = Contents({"lib/libdemo.so.1": BINARY}, {"lib/libdemo.so": "libdemo.so.1"}, {"lib/libdemo.so.1": "binary"})
    lab.add("libdemo", "1.0", library)
    script = {
        "bin/.demo-tool-post-link.sh": 'echo "$PKG_NAME $PKG_VERSION $PKG_BUILDNUM $ROOT_PREFIX $PWD $DEMO_HOME" > "$PREFIX/share/posted"\n'
        'echo "thank you" > "$PREFIX/.messages.txt"\n',
        "share/demo/kept": "kept\n",
        "etc/conda/activate.d/demo.sh": 'export DEMO_HOME="$CONDA_PREFIX/share/demo"\n',
    }
    tool = f"#!{PREFIX}/bin/python\nimport demo_mod; print('tool', demo_mod.VERSION)\n"
    prefixes = {"bin/demo-tool": "text"}
    needs = ("libdemo", "demo-mod", "__glibc >=2.17")
    lab.add(
        "demo-tool",
        "1.0",
        Contents({"bin/demo-tool": tool, "share/old/gone": "1", **script}, {}, prefixes),
        depends=needs,
    )
    lab.add("demo-tool", "2.0", Contents({"bin/demo-tool": tool, **script}, {}, prefixes), depends=needs)
    lab.add("demo-spoiled", "1.0", library)
    early = """
        echo "$PKG_NAME $PKG_VERSION $PKG_BUILDNUM $ROOT_PREFIX $PREFIX $SOURCE_DIR $PWD" > "$PREFIX/early-said"
        ls "$PREFIX"/share/early "$SOURCE_DIR"/info/index.json >> "$PREFIX/early-said" 2> /dev/null
        if [ -n "$CHANGES" ]; then
            echo changed | tee "$SOURCE_DIR/share/early/own" > "$SOURCE_DIR/share/early/more"
        fi
    """
    said = {"bin/.demo-early-pre-link.sh": textwrap.dedent(early), "share/early/own": "own\n"}
    going = {"bin/.demo-early-pre-unlink.sh": 'cp "$PREFIX/share/early/own" "$PREFIX/went"; exit 1\n'}
    lab.add("demo-early", "1.0", Contents({**said, **going}))
    lab.add("demo-early", "2.0", Contents({**said, "share/early/own": "own of 2\n"}))
    lab.add("demo-refusal", "1.0", Contents({"bin/.demo-refusal-pre-link.sh": "echo there is no room; exit 3\n"}))
    lab.add("demo-liar", "1.0", Contents({"conda-meta/python-3.11.2-0.json": "{}"}))
    lab.add("demo-leak", "1.0", Contents({"bin/.demo-leak-pre-link.sh": 'echo "$TOKEN" > "$PREFIX/leak"\n'}))
    lab.add("demo-twelve", "1.0", depends=("python >=3.12",))
    lab.add("demo-clash", "1.0", depends=("demo-mod <2", "demo-tool >=2", "python >=3.14"))
    spoiled = next(directory.glob("lab/*/demo-spoiled-*"))
    spoiled.write_bytes(spoiled.read_bytes()[:-1] + b"x")
    return directory


def build(modal: Modal, channels: Path | str, image: str, body: str, *, check: bool = True, **settings: str) -> Result:
    """Runs a function in an image of conda packages; prints what it returns as JSON."""
    address = channels.as_uri() if isinstance(channels, Path) else channels
    modal.write(
        "app.py",
        f"""
        import json, modal

        app = modal.App("conda")
        base = modal.Image.micromamba(python_version="3.11")

        @app.function(image={image})
        def look():
            import os, subprocess, sys
            from pathlib import Path
            run = lambda command: subprocess.check_output(command, shell=True, text=True).strip()
            return {" ".join(body.split())}

        @app.local_entrypoint()
        def main():
            print(json.dumps(look.remote()))
        """,
    )
    settings = {"MODAL_CONDA_CHANNEL_ALIAS": address, **settings}
    return modal("run", "--progress", "plain", "app.py", check=check, **settings)


def test_packages_are_linked_and_finished(modal: Modal, channels: Path) -> None:
    image = 'base.micromamba_install("demo-tool", channels=["lab"])'
    body = """{
        "prefix": sys.prefix, "path": os.environ["PATH"].split(":")[0], "home": os.environ.get("DEMO_HOME"),
        "active": [os.environ.get(name) for name in ("CONDA_PREFIX", "CONDA_DEFAULT_ENV")],
        "tool": run("demo-tool"), "entry": run("demo-entry"), "posted": Path("/opt/conda/share/posted").read_text(),
        "library": Path("/opt/conda/lib/libdemo.so").read_bytes().decode("latin-1"),
        "bytecode": Path(__import__("demo_mod").__cached__).exists(),
        "records": sorted(path.name for path in Path("/opt/conda/conda-meta").iterdir()),
        "record": json.loads(Path("/opt/conda/conda-meta/demo-tool-2.0-0.json").read_text()),
        "messages": Path("/opt/conda/.messages.txt").exists(),
    }"""
    result = build(modal, channels, image.replace('["lab"]', '["lab"], force_build=True'), body)
    found = json.loads(result.stdout)
    assert (found["prefix"], found["path"]) == ("/opt/conda", "/opt/conda/bin")
    assert (found["home"], found["active"]) == ("/opt/conda/share/demo", ["/opt/conda", "base"])
    posted = "demo-tool 2.0 0 /opt/conda /opt/conda/bin /opt/conda/share/demo\n"
    assert (found["tool"], found["entry"], found["posted"]) == ("tool 2.0", "entry 2.0", posted)
    library = BINARY.replace(PREFIX.encode(), b"/opt/conda").replace(b"\0end", b"\0" * (len(PREFIX) - 10) + b"\0end")
    assert found["library"].encode("latin-1") == library
    assert found["bytecode"] and not found["messages"]
    assert found["records"] == [
        *("demo-mod-2.0-0.json", "demo-tool-2.0-0.json", "history", "libdemo-1.0-0.json"),
        *("pip-24.0-0.json", "python-3.11.2-0.json"),
    ]
    record = found["record"]
    assert record["requested_specs"] == ["demo-tool"] and "bin/demo-tool" in record["files"]
    # Where this machine reads a channel is nobody's business.
    assert str(channels) not in json.dumps(record) and record["url"].endswith("/demo-tool-2.0-0.conda")
    assert "+ lab/" in result.stderr and "thank you" in result.stderr
    again = build(modal, "file:///nowhere", image, body)
    assert again.stdout == result.stdout, "a layer that is there needs no channel"


def test_versions_change_and_python_keeps_its_series(modal: Modal, channels: Path) -> None:
    first = 'base.micromamba_install("demo-tool=1", "demo-mod=1.0", channels=["lab"])'
    body = """{
        "tool": run("demo-tool"), "gone": Path("/opt/conda/share/old").exists(), "python": run("ls /opt/conda/bin/python3.*"),
        "records": sorted(path.stem for path in Path("/opt/conda/conda-meta").glob("demo*")),
        "history": Path("/opt/conda/conda-meta/history").read_text().count("==>"),
    }"""
    before = json.loads(build(modal, channels, first, body).stdout)
    assert (before["tool"], before["gone"]) == ("tool 1.0", True)
    after = json.loads(
        build(modal, channels, f'{first}.micromamba_install("demo-tool>=2", channels=["lab"])', body).stdout
    )
    # What nobody asked to change stays.
    assert (after["tool"], after["gone"], after["history"]) == ("tool 1.0", False, 3)
    assert after["records"] == ["demo-mod-1.0-0", "demo-tool-2.0-0"]
    assert after["python"] == before["python"] == "/opt/conda/bin/python3.11"
    # Nor does what users hold with the file of conda.
    pin = "base.run_commands(\"echo 'demo-mod 1.*  # not 2' > /opt/conda/conda-meta/pinned\")"
    held = f'{pin}.micromamba_install("demo-tool=1", channels=["lab"])'
    asked = f'{held}.micromamba_install("demo-mod=2", channels=["lab"])'
    assert json.loads(build(modal, channels, held, body).stdout)["records"] == ["demo-mod-1.0-0", "demo-tool-1.0-0"]
    result = build(modal, channels, asked, body, check=False)
    assert "while the environment holds `demo-mod 1.*` and `python 3.11.*`:" in result.stderr, result.stderr


def test_scripts_of_packages_run_before_they_come_and_go(modal: Modal, channels: Path) -> None:
    first = 'base.micromamba_install("demo-early=1.0", channels=["lab"], env={"CHANGES": "1"}, force_build=True)'
    body = """{
        "said": Path("/opt/conda/early-said").read_text().split("\\n"), "files": run("ls -A /opt/conda/share/early"),
        "own": Path("/opt/conda/share/early/own").read_text(), "packages": run("ls /opt/conda/pkgs 2>&1 || true"),
        "went": Path("/opt/conda/went").exists() and Path("/opt/conda/went").read_text(),
    }"""
    source = "/opt/conda/pkgs/demo-early-1.0-0"
    found = json.loads(build(modal, channels, first, body).stdout)
    # The package is there unpacked, as conda has it, and the prefix is still without it.
    assert found["said"][0] == f"demo-early 1.0 0 /opt/conda /opt/conda {source} {source}/bin"
    assert found["said"][1:] == [f"{source}/info/index.json", ""]
    # What the script makes of it is what is linked, of the files that the package has.
    assert (found["own"], found["files"], found["went"]) == ("changed\n", "own", False)
    assert "No such file" in found["packages"]
    # What others have of the package is as it was.
    plain = 'base.micromamba_install("demo-early=1.0", channels=["lab"])'
    assert json.loads(build(modal, channels, plain, body).stdout)["own"] == "own\n"
    second = f'{plain}.micromamba_install("demo-early=2.0", channels=["lab"], force_build=True)'
    result = build(modal, channels, second, body)
    found = json.loads(result.stdout)
    # One that goes has its say while it is there; when the next comes, it is gone.
    assert (found["went"], found["own"], found["said"][1:]) == (
        "own\n",
        "own of 2\n",
        [f"{source.replace('1.0', '2.0')}/info/index.json", ""],
    )
    assert "the pre-unlink script of demo-early failed" in result.stderr


def test_programs_of_the_environment_work_in_shells(modal: Modal, channels: Path, tmp_path: Path) -> None:
    own = tmp_path / "channels"
    shutil.copytree(channels, own)
    # As the real one: a program that manages environments, and tells shells about a function of its name.
    program = """#!/bin/sh
    if [ "$1 $2 $3" = "shell hook --shell" ]; then
        echo 'micromamba() { if [ "$1" = activate ]; then export ACTIVE="$2"; else command micromamba "$@"; fi; }'
    else
        echo "$MAMBA_ROOT_PREFIX $*"
    fi
    """
    forge = Channel(own / "conda-forge")
    forge.add_python("3.12.1")
    forge.add("micromamba", "2.3.0", Contents({"bin/micromamba": textwrap.dedent(program)}))
    body = """{
        "list": run("conda list"), "run": run("micromamba run true"),
        "login": run("env -i bash -lc 'conda activate one; echo $ACTIVE; conda list; command -v python'"),
        "hooked": run("env -u ENV bash -c 'eval \\"$(conda shell.bash hook)\\"; conda activate four; echo $ACTIVE; conda init bash'"),
        "config": run("conda config --add channels lab --set channel_priority strict; conda config --show channels"),
        "captured": run("conda run --no-capture-output -n base true; conda run -n base --no-capture-output true --live-stream"),
        "posix": run("env -i sh -lc 'conda activate two; echo $ACTIVE'"),
        "interactive": run("bash -ic 'micromamba activate three; echo $ACTIVE' 2>/dev/null"),
        "settings": Path("/etc/conda/.condarc").read_text(),
        "history": Path("/opt/conda/conda-meta/history").read_text(),
        "source": json.loads(Path("/opt/conda/conda-meta/micromamba-2.3.0-0.json").read_text())["link"]["source"],
    }"""
    # Whether a channel has the program is no part of the key: the other tests have an image of another Python.
    result = build(modal, own, 'modal.Image.micromamba("3.12", force_build=True)', body)
    found = json.loads(result.stdout)
    assert (found["list"], found["run"]) == ("/opt/conda list", "/opt/conda run true")
    # Also in shells that begin without the image's variables.
    assert found["login"].split("\n") == ["one", "/opt/conda list", "/opt/conda/bin/python"], found["login"]
    assert found["hooked"].startswith("four\nShells know about conda already"), found["hooked"]
    assert (found["posix"], found["interactive"]) == ("two", "three")
    settings = ("prepend channels lab", "set channel_priority strict", "list channels")
    assert found["config"].split("\n") == [f"/opt/conda config {setting}" for setting in settings]
    assert found["captured"].split("\n") == [f"/opt/conda run -n base true{own}" for own in ("", " --live-stream")]
    assert found["settings"] == "channels:\n  - conda-forge\n"
    assert "# update specs: ['python=3.12', 'pip', 'micromamba']" in found["history"]
    assert found["source"] == "/opt/conda/pkgs/micromamba-2.3.0-0"


def test_mirrors_are_asked_in_order(modal: Modal, channels: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    for subdir in (SUBDIR, "noarch"):
        (broken / subdir).mkdir(parents=True)
        (broken / subdir / "repodata.json").write_text("<html>")
    mirrors = [(tmp_path / "absent").as_uri(), broken.as_uri(), (channels / "lab").as_uri()]
    settings = tmp_path / "condarc"
    custom = {"conda-forge": channels.as_uri()}
    settings.write_text(json.dumps({"custom_channels": custom, "mirrored_channels": {"mirrored-lab": mirrors}}))
    image = 'base.micromamba_install("libdemo", channels=["mirrored-lab"], force_build=True)'
    body = 'json.loads(Path("/opt/conda/conda-meta/libdemo-1.0-0.json").read_text())["channel"]'
    result = build(modal, "", image, body, CONDARC=str(settings))
    # Records have the public address.
    assert "mirrored-lab" in result.stdout and channels.as_uri() not in result.stdout
    assert f"`mirrored-lab` is read from the mirror `{mirrors[2]}/`" in result.stderr, result.stderr


def test_packages_are_read_from_the_next_mirror(modal: Modal, channels: Path, tmp_path: Path) -> None:
    full = Channel(tmp_path / "full")
    # Nothing that the store has from another test.
    full.add("demo-far", "1.0", Contents({"share/far": f"{tmp_path}\n"}))
    full.add("demo-near", "1.0", Contents({"share/near": f"{tmp_path}\n"}))
    shutil.copytree(tmp_path / "full", tmp_path / "half")
    next((tmp_path / "half").glob("*/demo-far-*")).unlink()
    settings = tmp_path / "condarc"
    mirrors = [(tmp_path / "half").as_uri(), (tmp_path / "full").as_uri()]
    custom = {"conda-forge": channels.as_uri()}
    settings.write_text(json.dumps({"custom_channels": custom, "mirrored_channels": {"mirrored": mirrors}}))
    image = 'base.micromamba_install("demo-far", "demo-near", channels=["mirrored"], force_build=True)'
    body = 'len(Path("/opt/conda/share/far").read_text()) == len(Path("/opt/conda/share/near").read_text())'
    result = build(modal, "", image, body, CONDARC=str(settings))
    assert result.stdout.strip() == "true"
    assert "packages are read from the next mirror: " in result.stderr and "demo-far" in result.stderr


def test_a_channel_over_http_is_kept_for_when_it_is_away(modal: Modal, channels: Path) -> None:
    login_page: list[bytes] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            if not login_page:
                return super().do_GET()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(login_page[0])
            return None

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(channels)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    # Of this port no other run has made a layer.
    image = f'base.micromamba_install("libdemo", channels=["lab"], env={{"PORT": "{server.server_port}"}})'
    body = 'Path("/opt/conda/lib/libdemo.so.1").exists()'
    other = image.replace('"libdemo"', '"libdemo>=1"')
    forced = other.replace("env=", "force_build=True, env=")
    try:
        assert build(modal, address, image, body).stdout == "true\n"
        # What answers in the channel's stead has no index, and does not take the place of the kept one.
        login_page.append(b"<html>")
        replaced = build(modal, address, forced, body)
        assert replaced.stdout == "true\n" and "cannot be read" in replaced.stderr, replaced.stderr
    finally:
        server.shutdown()
        server.server_close()
    # Neither the index nor the package is fetched again, and the key is another.
    assert build(modal, address, other.replace(">=1", ">=0"), body).stdout == "true\n"
    offline = build(modal, address, forced, body)
    assert offline.stdout == "true\n" and "the kept index of `lab`" in offline.stderr


def test_environment_files_and_pip(modal: Modal, channels: Path) -> None:
    modal.write(
        "environment.yml",
        """
        channels: [lab]
        dependencies:
          - libdemo=1.0
          - pip: [lamina-demo]
        variables: {LEVEL: 3}
        """,
    )
    with serve() as index:
        for name in ("lamina_demo", "lamina_more", "lamina_third"):
            index.add("host", name, "1.0")
        image = 'base.micromamba_install(spec_file="environment.yml").pip_install("lamina-more").uv_pip_install("lamina-third")'
        body = """[
            __import__("lamina_demo").__file__, __import__("lamina_more").__file__,
            __import__("lamina_third").__file__, os.environ["LEVEL"],
            Path("/opt/conda/lib/libdemo.so").is_symlink(),
        ]"""
        found = json.loads(build(modal, channels, image, body, PIP_INDEX_URL=index.url("host")).stdout)
    site = "/opt/conda/lib/python3.11/site-packages"
    assert found == [
        f"{site}/lamina_demo/__init__.py",
        f"{site}/lamina_more/__init__.py",
        f"{site}/lamina_third/__init__.py",
        "3",
        True,
    ]


def test_lists_of_addresses_and_locks_are_taken_as_they_are(modal: Modal, channels: Path, tmp_path: Path) -> None:
    # Without an index: nothing is solved.
    lab = tmp_path / "lab"
    shutil.copytree(channels / "lab", lab)
    for index in lab.glob("*/repodata.json*"):
        index.unlink()
    paths = [next(lab.glob(f"*/{name}-1.0-0.*")) for name in ("demo-tool", "libdemo", "demo-mod")]
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, *_) -> None:
            asked.append(self.path.rsplit("/", 1)[1])

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    urls = [f"{address}/{path.relative_to(tmp_path)}" for path in paths]
    md5, sha256 = (hashlib.new(name, paths[0].read_bytes()).hexdigest() for name in ("md5", "sha256"))
    modal.write("list.txt", f"# platform: {SUBDIR}\n@EXPLICIT\n{urls[0]}#{md5}\n{paths[1].as_uri()}\n{urls[2]}\n")
    modal.write("wrong.txt", f"@EXPLICIT\n{urls[0]}#{md5[::-1]}\n")
    modal.write("missing.txt", f"@EXPLICIT\n{address}/lab/noarch/none-1-0.conda\n")
    modal.write("other.txt", f"@EXPLICIT\n{address}/lab/win-64/demo-1-0.conda\n")
    entry = {"name": "demo-tool", "manager": "conda", "platform": SUBDIR, "url": urls[0], "hash": {"sha256": sha256}}
    modal.write("conda-lock.yml", json.dumps({"version": 1, "metadata": {}, "package": [entry]}))
    body = """{
        "tool": run("demo-tool") if Path("/opt/conda/bin/demo-entry").exists() else None,
        "records": sorted(path.stem for path in Path("/opt/conda/conda-meta").glob("*.json")),
        "record": json.loads(Path("/opt/conda/conda-meta/demo-tool-1.0-0.json").read_text()),
    }"""
    others = ["pip-24.0-0", "python-3.11.2-0"]
    try:
        found = json.loads(build(modal, channels, 'base.micromamba_install(spec_file="list.txt")', body).stdout)
        assert found["tool"] == "tool 1.0"
        assert found["records"] == ["demo-mod-1.0-0", "demo-tool-1.0-0", "libdemo-1.0-0", *others]
        assert (found["record"]["url"], found["record"]["channel"]) == (urls[0], f"{address}/lab/")
        assert (found["record"]["sha256"], found["record"]["depends"][0]) == (sha256, "libdemo")
        locked = json.loads(build(modal, channels, 'base.micromamba_install(spec_file="conda-lock.yml")', body).stdout)
        assert locked["records"] == ["demo-tool-1.0-0", *others]
        # What has a digest and is unpacked already is not fetched again to be asked what it is.
        asked.clear()
        again = 'base.micromamba_install(spec_file="list.txt", force_build=True)'
        assert json.loads(build(modal, channels, again, body).stdout) == found
        assert asked == [paths[2].name]
        for name, words in (
            ("wrong.txt", f"its MD5 is `{md5}`"),
            ("missing.txt", "404"),
            ("other.txt", "it is for `win-64`"),
        ):
            result = build(modal, channels, f'base.micromamba_install(spec_file="{name}")', "None", check=False)
            assert result.code != 0 and words in result.stderr, result.stderr
        # A list of nothing asks no channel.
        modal.write("empty.txt", "@EXPLICIT\n")
        image = 'base.micromamba_install(spec_file="empty.txt")'
        assert build(modal, "file:///nowhere", image, "len(sys.argv) > 0").stdout == "true\n"
        mixed = 'base.micromamba_install("numpy", spec_file="list.txt")'
        assert "beside which `numpy`" in build(modal, channels, mixed, "None", check=False).stderr
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (
            'base.micromamba_install("demo-clash", channels=["lab"])',
            ["no set of packages", "demo-clash 1.0", "python >=3.14"],
        ),
        (
            'base.micromamba_install("demo-twelve", channels=["lab", "conda-forge"])',
            ["while the environment holds `python 3.11.*`:", "demo-twelve 1.0", "python >=3.12", "as `python=3.12`"],
        ),
        (
            'base.micromamba_install("demo-leak", channels=["lab"], '
            'secrets=[modal.Secret.from_dict({"TOKEN": "hunter2-hunter2"})])',
            ["contains the value of the secret `TOKEN`", "opt/conda/leak"],
        ),
        (
            'base.micromamba_install("demo-refusal", channels=["lab"])',
            ["there is no room", "the pre-link script of demo-refusal failed"],
        ),
        ('base.micromamba_install("demo-liar", channels=["lab"])', ["`conda-meta/python-3.11.2-0.json`, which only"]),
        ('base.micromamba_install("demo-spoiled", channels=["lab"])', ["demo-spoiled-1.0-0.conda", "its SHA-256 is"]),
        (
            'base.run_commands("echo > /opt/conda/conda-meta/x.json").micromamba_install("libdemo", channels=["lab"])',
            ["`/opt/conda/conda-meta/x.json` is no record", "leave `/opt/conda/conda-meta` alone"],
        ),
        ('base.run_commands("micromamba install x")', ["micromamba: not found", "use `micromamba_install`"]),
        ('base.micromamba_install("no-such-package")', ["no set of packages", "no-such-package", "channels"]),
        ('base.micromamba_install("demo-tool", channels=["nowhere"])', ["channel `nowhere` has no packages"]),
        ('base.micromamba_install("--yes")', ["`--yes` does not say which package", "write a name"]),
        ('base.micromamba_install("x", channels=["a:b"])', ["`a:b` is no conda channel"]),
        ('base.micromamba_install(spec_file="none.yml")', ["spec file", "none.yml` does not exist"]),
        (
            'modal.Image.debian_slim("3.11").micromamba_install("x")',
            ["no environment of conda packages", "micromamba()"],
        ),
        ('modal.Image.micromamba("2.7")', ["2.7", "3.11"]),
        ("modal.Image.micromamba(3.11)", ["`3.11`, which is no string"]),
    ],
)
def test_what_cannot_be_is_explained(modal: Modal, channels: Path, image: str, words: list[str]) -> None:
    result = build(modal, channels, image, "None", check=False)
    assert result.code != 0 and "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr, result.stderr
