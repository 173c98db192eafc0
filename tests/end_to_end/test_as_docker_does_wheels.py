"""What pip and uv obey inside an image counts, and what they install is installed."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator

import pytest
from conftest import Modal, Result
from packages import Index, record_row, serve

ZEROS = "0" * 64


@pytest.fixture(scope="module")
def index() -> Iterator[Index]:
    with serve() as index:
        for name, versions in {"host": ("1.0", "2.0"), "private": ("5.0", "6.0")}.items():
            for version in versions:
                index.add(name, "lamina_demo", version)
        index.add("host", "lamina_user", "1.0", requires=("lamina-demo",))
        yield index


def install(
    modal: Modal, index: Index, steps: str, *, check: bool = True, module: str = "lamina_demo", **environment: str
) -> Result:
    """Builds an image on a machine whose index is ``host``, and prints the version of a module in it."""
    modal.write(
        "app.py",
        f"""
        import modal

        base = modal.Image.debian_slim(python_version="3.11")
        app = modal.App("wheels")

        @app.function(image=base{steps})
        def version():
            import {module}
            return {module}.VERSION

        @app.local_entrypoint()
        def main():
            print(version.remote())
        """,
    )
    environment = {"PIP_INDEX_URL": index.url("host"), **environment}
    return modal("run", "--progress", "plain", "app.py", check=check, **environment)


def written(path: str, text: str) -> str:
    """A step that writes a file."""
    command = f"mkdir -p $(dirname {path}) && printf '{text}' > {path}"
    return f".run_commands({command!r})"


def test_an_image_without_settings_uses_the_index_of_the_machine(modal: Modal, index: Index) -> None:
    assert install(modal, index, '.uv_pip_install("lamina-demo")').stdout == "2.0\n"
    result = install(modal, index, '.run_commands("python3 -m pip install lamina-demo==1.0")')
    assert result.stdout == "1.0\n"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/etc/pip.conf", "[global]\\nindex-url = INDEX\\n"),
        ("/root/.config/pip/pip.conf", "[install]\\nindex-url = INDEX\\n"),
    ],
)
def test_settings_of_pip(modal: Modal, index: Index, path: str, text: str) -> None:
    steps = written(path, text.replace("INDEX", index.url("private")))
    result = install(modal, index, f'{steps}.pip_install("lamina-demo")')
    assert result.stdout == "6.0\n" and f"the image has settings for it in `{path}`" in result.stderr
    # They are none of uv's.
    assert install(modal, index, f'{steps}.uv_pip_install("lamina-demo")').stdout == "2.0\n"


def test_a_command_obeys_what_the_command_before_it_has_set(modal: Modal, index: Index) -> None:
    commands = [
        f"python3 -m pip config set global.index-url {index.url('private')}",
        "python3 -m pip install --break-system-packages lamina-demo",
    ]
    assert install(modal, index, f".run_commands(*{commands!r})").stdout == "6.0\n"
    joined = [" && ".join(commands)]
    assert install(modal, index, f".run_commands(*{joined!r})").stdout == "6.0\n"
    setting = f"""mkdir -p /etc/uv && echo 'index-url = "{index.url("private")}"' > /etc/uv/uv.toml"""
    used = "uv pip install --system lamina-demo"
    for steps, version in (([[setting, used]], "6.0"), ([[setting], ["rm /etc/uv/uv.toml", used]], "2.0")):
        chain = "".join(f".run_commands({' && '.join(commands)!r})" for commands in steps)
        assert install(modal, index, chain).stdout == f"{version}\n"


@pytest.mark.parametrize("path", ["/etc/uv/uv.toml", "/root/.config/uv/uv.toml", "/srv/uv.toml"])
def test_settings_of_uv(modal: Modal, index: Index, path: str) -> None:
    private = index.url("private")
    steps = written(path, f'index-url = "{private}"\\n') + '.workdir("/srv")'
    result = install(modal, index, f'{steps}.uv_pip_install("lamina-demo")')
    assert result.stdout == "6.0\n" and f"the image has settings for it in `{path}`" in result.stderr


def test_policies_of_the_machine_are_none_of_the_image(modal: Modal, index: Index) -> None:
    policies = f"""
        constraint-dependencies = ["lamina-demo<6"]
        index-url = "{index.url("private")}"
        no-binary-package = ["lamina-demo"]
        resolution = "lowest"
        """
    settings = modal.write("settings/uv/uv.toml", policies).parent.parent
    variables = {"UV_RESOLUTION": "lowest", "UV_NO_BINARY": "1", "UV_OFFLINE": "1", "XDG_CONFIG_HOME": str(settings)}
    # A step of its own: what it leaves in the cache is from another index.
    steps = '.env({"WITH": "policies"}).uv_pip_install("lamina-demo", force_build=True)'
    result = install(modal, index, steps, **variables)
    assert result.stdout == "6.0\n" and "inside the sandbox" not in result.stderr


def test_constraints_of_the_image(modal: Modal, index: Index) -> None:
    steps = written("/constraints.txt", "lamina-demo<2\\n")
    for install_step, name in (("pip_install", "PIP_CONSTRAINT"), ("uv_pip_install", "UV_CONSTRAINT")):
        environment = f'.env({{"{name}": "/constraints.txt"}})'
        assert install(modal, index, f'{steps}{environment}.{install_step}("lamina-demo")').stdout == "1.0\n"
    configured = written("/etc/pip.conf", "[install]\\nconstraint = /constraints.txt\\n")
    assert install(modal, index, f'{steps}{configured}.pip_install("lamina-demo")').stdout == "1.0\n"


def test_a_changed_interpreter_is_the_installers(modal: Modal, index: Index) -> None:
    path = "/etc/python3.11/sitecustomize.py"
    private = index.url("private")
    steps = written(path, f'import os; os.environ["PIP_INDEX_URL"] = "{private}"\\n')
    result = install(modal, index, f'{steps}.pip_install("lamina-demo")')
    assert result.stdout == "6.0\n" and f"`{path}` of the image changes its interpreter" in result.stderr


def test_digests(modal: Modal, index: Index) -> None:
    right = index.add("host", "lamina_demo", "1.0")
    install_file = '.uv_pip_install(requirements=["requirements.txt"])'
    modal.write("requirements.txt", f"lamina-demo==1.0 \\\n    --hash=sha256:{right}\n")
    result = install(modal, index, install_file)
    assert result.stdout == "1.0\n" and "inside the sandbox" not in result.stderr

    address = f"{index.address}/host/files/lamina_demo-1.0-py3-none-any.whl"
    for text, complaint in (
        (f"lamina-demo==1.0 --hash=sha256:{ZEROS}\n", "Hash mismatch for `lamina-demo==1.0`"),
        (f"lamina-demo @ {address}#sha256={ZEROS}\n", "Hash mismatch for `lamina-demo @ "),
        (
            f"--require-hashes\nlamina-user==1.0\nlamina-demo==1.0 --hash=sha256:{right}\n",
            "all requirements must have a",
        ),
    ):
        modal.write("requirements.txt", text)
        result = install(modal, index, install_file, check=False)
        assert result.code == 1 and complaint in result.stderr, result.stderr


def test_constraints_of_requirements_files(modal: Modal, index: Index) -> None:
    modal.write("requirements.txt", "lamina-user\n-c more/versions.txt\n")
    modal.write("more/versions.txt", "lamina-demo<2\nlamina-other<3\n")
    install_file = '.uv_pip_install(requirements=["requirements.txt"])'
    assert install(modal, index, install_file).stdout == "1.0\n"
    modal.write("more/versions.txt", "lamina-demo>=2\n")
    assert install(modal, index, install_file).stdout == "2.0\n"
    # The installer itself gets them, too.
    modal.write("more/versions.txt", "lamina-demo<2\n")
    forced = install_file.replace("])", "], force_build=True)")
    result = install(modal, index, f'.env({{"UV_PRERELEASE": "allow"}}){forced}')
    assert result.stdout == "1.0\n" and "inside the sandbox" in result.stderr


@pytest.mark.parametrize("option", ["-i", "--index-url"])
def test_an_index_of_a_requirements_file_is_the_only_one(modal: Modal, index: Index, option: str) -> None:
    modal.write("requirements.txt", f"{option} {index.url('private')}\nlamina-demo\n")
    assert install(modal, index, '.uv_pip_install(requirements=["requirements.txt"])').stdout == "6.0\n"


def link(archive: zipfile.ZipFile) -> None:
    entry = zipfile.ZipInfo("lamina_link/link")
    entry.external_attr = 0o120777 << 16
    archive.writestr(entry, "__init__.py")


def directory(archive: zipfile.ZipFile) -> None:
    entry = zipfile.ZipInfo("lamina_directory/")
    entry.external_attr = 0o100644 << 16
    archive.writestr(entry, "")


UNUSUAL = {
    "lamina_digest": {"record": lambda text: text.replace("sha256=", "sha256=x", 1)},
    "lamina_dot": {"record": lambda text: f"./{text}"},
    "lamina_above": {"record": lambda text: f"{text}../../x,sha256=x,1\n"},
    "lamina_link": {"more": link},
    "lamina_directory": {"more": directory},
}
ONLY_PIP = {
    "lamina_bzip2": {"more": lambda archive: archive.writestr("lamina_bzip2/x", "x" * 99, zipfile.ZIP_BZIP2)},
    "lamina_lzma": {"more": lambda archive: archive.writestr("lamina_lzma/x", "x" * 99, zipfile.ZIP_LZMA)},
    "lamina_twice": {"more": lambda archive: archive.writestr("lamina_twice/__init__.py", "VERSION = '2'\n")},
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("step", ["pip_install", "uv_pip_install"])
def test_wheels_that_the_installer_takes(modal: Modal, index: Index, step: str) -> None:
    names = {**UNUSUAL, **(ONLY_PIP if step == "pip_install" else {})}
    for name, options in names.items():
        index.add("host", name, "1.0", **options)
    steps = f".{step}(*{[name.replace('_', '-') for name in names]!r})"
    result = install(modal, index, steps, module="lamina_dot")
    assert result.stdout == "1.0\n"


SCRIPT, HEADER = "#!python -E\nprint(1)\n", "int lamina;\n"


def with_parts(archive: zipfile.ZipFile) -> None:
    archive.writestr(zipfile.ZipInfo("lamina_parts-1.0.data/scripts/lamina-script"), SCRIPT)
    archive.writestr(zipfile.ZipInfo("lamina_parts-1.0.data/headers/lamina.h"), HEADER)
    archive.writestr(zipfile.ZipInfo("lamina_parts-1.0.dist-info/entry_points.txt"), POINTS)


POINTS = "[console_scripts]\nlamina-point = lamina_parts:main\n"
LISTING = (
    "cd /; find usr/local usr/include -path '*lamina*' -printf '%p %y %m\\n' | LC_ALL=C sort;"
    " cat usr/local/lib/python3.11/dist-packages/lamina_parts-1.0.dist-info/RECORD usr/local/bin/lamina-*"
)


@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_what_is_installed_is_what_the_installer_leaves(modal: Modal, index: Index, tool: str) -> None:
    """Where headers go, what scripts may do, and each line of RECORD."""
    rows = [
        ("lamina_parts-1.0.data/scripts/lamina-script", SCRIPT),
        ("lamina_parts-1.0.data/headers/lamina.h", HEADER),
        ("lamina_parts-1.0.dist-info/entry_points.txt", POINTS),
    ]
    more = "".join(record_row(path, text) for path, text in rows)
    index.add("host", "lamina_parts", "1.0", more=with_parts, record=lambda text: more + text)
    options = '--break-system-packages --compile-bytecode --python "$(command -v python)"'
    real = "python -m pip install" if tool == "pip" else f"uv pip install {options}"
    modal.write(
        "app.py",
        f"""
        import modal, subprocess

        base = modal.Image.debian_slim(python_version="3.11")
        app = modal.App("wheels")

        def listing():
            return subprocess.check_output({LISTING!r}, shell=True, text=True)

        fast = app.function(name="fast", image=base.{"pip" if tool == "pip" else "uv_pip"}_install("lamina-parts"))(listing)
        real = app.function(name="real", image=base.run_commands({real + " lamina-parts"!r}))(listing)

        @app.local_entrypoint()
        def main():
            for text in (fast.remote(), real.remote()):
                print(ascii(text))
        """,
    )
    result = modal("run", "--progress", "plain", "app.py", PIP_INDEX_URL=index.url("host"))
    fast, real = result.stdout.splitlines()
    assert fast == real and "include/python3.11/lamina-parts/lamina.h" in fast
    assert "inside the sandbox" not in result.stderr


def test_wheels_that_lead_out_of_their_directory(modal: Modal, index: Index) -> None:
    index.add("host", "lamina_escape", "1.0", more=lambda archive: archive.writestr("../../../escape", "x"))
    result = install(modal, index, '.uv_pip_install("lamina-escape")', check=False)
    assert result.code == 1 and "`../../../escape` is not a plain relative path" in result.stderr
