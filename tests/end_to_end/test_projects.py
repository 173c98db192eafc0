"""Packages that files and projects name: installed as pip, uv and poetry would, and refused in good time."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Modal, Result
from packages import Index, record_row, serve

UV = Path(__file__).resolve().parents[2] / "target/test-environment/bin/uv"


@pytest.fixture(scope="module")
def index() -> Iterator[Index]:
    with serve() as index:
        for version in ("1.0", "2.0"):
            index.add("host", "lamina_demo", version)
        index.add("host", "lamina_more", "1.0", requires=("lamina-demo<2",))
        yield index


def build(modal: Modal, index: Index | None, step: str, *, check: bool = True) -> Result:
    """Builds an image with one step, on a machine whose index is ``host`` or its own; prints what Python and versions it has."""
    modal.write(
        "app.py",
        f"""
        import modal

        app = modal.App("projects")

        @app.function(image=modal.Image.debian_slim(python_version="3.11"){step})
        def versions():
            import importlib.metadata, sys
            found = {{each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}}
            return sys.executable, sorted(each for each in found.items() if each[0].startswith("lamina"))

        @app.local_entrypoint()
        def main():
            print(*versions.remote())
        """,
    )
    settings = {"UV_DEFAULT_INDEX": index.url("host")} if index else {}
    return modal("run", "--progress", "plain", "app.py", check=check, **settings)


PROJECT = """
[project]
name = "demo"
version = "1"
requires-python = ">=3.11"
dependencies = ["lamina-demo"]
[project.optional-dependencies]
more = ["lamina-more"]
"""


def test_requirements_file(modal: Modal, index: Index) -> None:
    modal.write("requirements.txt", "-r other.txt\n")
    modal.write("other.txt", "lamina-demo==1.0\n")
    step = f'.pip_install_from_requirements("requirements.txt", index_url="{index.url("host")}")'
    assert build(modal, index, step).stdout == "/usr/local/bin/python [('lamina_demo', '1.0')]\n"


def test_dependencies_of_a_project(modal: Modal, index: Index) -> None:
    modal.write("pyproject.toml", PROJECT)
    step = f'.pip_install_from_pyproject("pyproject.toml", GROUPS, index_url="{index.url("host")}")'
    plain = build(modal, index, step.replace("GROUPS", "[]"))
    assert plain.stdout == "/usr/local/bin/python [('lamina_demo', '2.0')]\n"
    more = build(modal, index, step.replace("GROUPS", '["more"]'))
    assert more.stdout == "/usr/local/bin/python [('lamina_demo', '1.0'), ('lamina_more', '1.0')]\n"


def test_project_of_uv(modal: Modal, index: Index) -> None:
    modal.write("project/pyproject.toml", PROJECT.replace("lamina-demo", "lamina-demo<2"))
    lock = [UV, "lock", "--no-config", "--default-index", index.url("host")]
    subprocess.run(lock, cwd=modal.directory / "project", check=True, capture_output=True)
    python = "/.uv/.venv/bin/python"
    assert build(modal, index, '.uv_sync("project")').stdout == f"{python} [('lamina_demo', '1.0')]\n"
    more = build(modal, index, '.uv_sync("project", extras=["more"])')
    assert more.stdout == f"{python} [('lamina_demo', '1.0'), ('lamina_more', '1.0')]\n"
    unknown = build(modal, index, '.uv_sync("project", extras=["less"])', check=False)
    assert "has no extra `less`; it has `more`" in unknown.stderr and "Traceback" not in unknown.stderr
    text = (modal.directory / "project/pyproject.toml").read_text()
    modal.write("project/pyproject.toml", text.replace('<2"]', '<2", "lamina-new"]'))
    stale = build(modal, index, '.uv_sync("project")', check=False)
    assert "does not match its project" in stale.stderr and "run `uv lock`" in stale.stderr


SETTINGS = """
[dependency-groups]
dev = ["lamina-tool", { include-group = "test" }]
test = ["lamina-old; python_version < '3'", "lamina-data; sys_platform == 'linux'"]
[tool.uv]
default-groups = ["dev"]
"""


#: Everything that a wheel may have beside modules.
MORE_FILES = {
    "lamina_tool-1.0.data/scripts/lamina-script": "#!python -u\nprint('script')\n",
    "lamina_tool-1.0.data/data/share/lamina.txt": "data\n",
    "lamina_tool-1.0.data/headers/lamina.h": "int lamina;\n",
    "lamina_tool-1.0.dist-info/entry_points.txt": "[console_scripts]\nlamina = lamina_tool:main\n",
}


def test_locked_wheels_are_linked_as_uv_installs_them(modal: Modal, index: Index) -> None:
    rows = "".join(record_row(path, text) for path, text in MORE_FILES.items())
    index.add(
        "host",
        "lamina_tool",
        "1.0",
        requires=("lamina-demo",),
        record=lambda record: record + rows,
        more=lambda archive: [archive.writestr(path, text) for path, text in MORE_FILES.items()],
    )
    index.add("host", "lamina_data", "1.0")
    index.add("host", "lamina_old", "1.0")
    modal.write("project/pyproject.toml", PROJECT + SETTINGS)
    lock = [UV, "lock", "--no-config", "--default-index", index.url("host")]
    subprocess.run(lock, cwd=modal.directory / "project", check=True, capture_output=True)

    def built(options: str) -> tuple[str, str, str]:
        """Image, log and what is in it. Images with the same content have the same name."""
        result = build(modal, index, f'.uv_sync("project", extras=["more"], extra_options={options!r})')
        return re.findall(r"Built (im-\w+)", result.stderr)[0], result.stderr, result.stdout

    for selection, names in (("", ["data", "demo", "more", "tool"]), ("--no-dev", ["demo", "more"])):
        linked, log, found = built(selection)
        assert "inside the sandbox" not in log
        assert found == f"/.uv/.venv/bin/python {[(f'lamina_{name}', '1.0') for name in names]}\n"
        # An option that changes nothing has uv itself install all of it.
        installed, log, again = built(f"{selection} --no-progress")
        assert "installing inside the sandbox" in log
        assert (linked, found) == (installed, again)


def test_an_address_in_a_project_is_recorded_as_uv_does(modal: Modal, index: Index) -> None:
    source = f"lamina-demo = {{ url = '{index.address}/host/files/lamina_demo-1.0-py3-none-any.whl' }}"
    modal.write("project/pyproject.toml", f"{PROJECT}[tool.uv.sources]\n{source}\n")
    lock = [UV, "lock", "--no-config", "--default-index", index.url("host")]
    subprocess.run(lock, cwd=modal.directory / "project", check=True, capture_output=True)
    images = []
    for options, is_linked in (("", True), ("--no-progress", False)):
        result = build(modal, index, f'.uv_sync("project", extra_options={options!r}, force_build=True)')
        assert ("installing inside the sandbox" not in result.stderr) == is_linked
        images += re.findall(r"Built (im-\w+)", result.stderr)
    assert len(set(images)) == 1


def test_what_a_project_has_beside_it_is_copied_before(modal: Modal, index: Index) -> None:
    modal.write("lib/setup.py", "import setuptools\nsetuptools.setup(name='lamina_lib', version='3', py_modules=[])\n")
    project = PROJECT.replace('"lamina-demo"', '"lamina-lib"') + "[tool.uv.sources]\nlamina-lib = { path = '../lib' }\n"
    modal.write("project/pyproject.toml", project)
    # It is built without isolation by what the base has.
    step = '.uv_sync("project", extra_options="--no-build-isolation")'
    result = build(modal, index, step, check=False)
    assert 'copy it to `/lib` in a step before, as `.add_local_dir(…, "/lib", copy=True)`' in result.stderr


def test_a_version_that_the_lock_was_not_made_for(modal: Modal, index: Index) -> None:
    project = PROJECT.split("[project.optional", maxsplit=1)[0]
    modal.write("project/pyproject.toml", project.replace("lamina-demo", "lamina-demo<2"))
    lock = [UV, "lock", "--no-config", "--default-index", index.url("host")]
    subprocess.run(lock, cwd=modal.directory / "project", check=True, capture_output=True)
    modal.write("project/pyproject.toml", project.replace("lamina-demo", "lamina-demo>=2"))
    stale = build(modal, index, '.uv_sync("project")', check=False)
    assert "made for `lamina-demo<2`" in stale.stderr and "run `uv lock` in the project" in stale.stderr
    assert "2.0" in build(modal, index, '.uv_sync("project", frozen=False)').stdout


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("activate", "The script name `activate` is reserved"),
        ("python3", "Scripts must not use the reserved name `python3`"),
    ],
)
def test_names_of_scripts_that_uv_keeps_are_its_own_business(
    modal: Modal, index: Index, script: str, said: str
) -> None:
    path, text = "lamina_named-1.0.dist-info/entry_points.txt", f"[console_scripts]\n{script} = lamina_named:main\n"
    index.add(
        "host",
        "lamina_named",
        "1.0",
        record=lambda record: record + record_row(path, text),
        more=lambda archive: archive.writestr(path, text),
    )
    project = '[project]\nname = "demo"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["lamina-named"]\n'
    modal.write("project/pyproject.toml", project)
    lock = [UV, "lock", "--no-config", "--default-index", index.url("host")]
    subprocess.run(lock, cwd=modal.directory / "project", check=True, capture_output=True)
    result = build(modal, index, '.uv_sync("project")', check=False)
    assert f"has a script `{script}`" in result.stderr and said in result.stderr
    assert (result.code == 0) == (script == "activate"), result.stderr


def test_project_of_poetry(modal: Modal, index: Index) -> None:
    source = f'[[tool.poetry.source]]\nname = "host"\nurl = "{index.url("host")}/"\npriority = "primary"\n'
    modal.write("pyproject.toml", PROJECT + source)
    missing = build(modal, index, '.poetry_install_from_file("pyproject.toml")', check=False)
    assert "the project has no lock file" in missing.stderr and "run `poetry lock`" in missing.stderr
    # poetry itself is a real package. It chooses versions that go with all extras, wanted or not.
    result = build(modal, None, '.poetry_install_from_file("pyproject.toml", ignore_lockfile=True)')
    assert result.stdout == "/usr/local/bin/python [('lamina_demo', '1.0')]\n"


def lock_of_poetry(modal: Modal, poetry: str) -> None:
    """Has poetry itself write the lock of the project."""
    modal.write(
        "lock.py",
        f"""
        import modal

        image = modal.Image.debian_slim(python_version="3.11").pip_install({poetry!r})
        image = image.add_local_file("pyproject.toml", "/x/pyproject.toml", copy=True)
        app = modal.App("lock", image=image.run_commands("cd /x && poetry lock --no-interaction"))

        @app.function()
        def lock():
            return open("/x/poetry.lock").read()

        @app.local_entrypoint()
        def main():
            open("poetry.lock", "w").write(lock.remote())
        """,
    )
    modal("run", "--progress", "plain", "lock.py")


@pytest.mark.parametrize(
    ("version", "keywords"),
    [("2.1.4", ""), ("1.8.5", ", poetry_version='1.8.5'"), ("1.8.5", ", poetry_version='~=1.8.0', old_installer=True")],
)
def test_project_with_a_lock_of_poetry(modal: Modal, index: Index, version: str, keywords: str) -> None:
    modal.write(
        "pyproject.toml",
        """
        [tool.poetry]
        name = "demo"
        version = "1"
        description = ""
        authors = []
        package-mode = false
        [tool.poetry.dependencies]
        python = "^3.11"
        lamina-demo = "<2"
        [tool.poetry.group.dev.dependencies]
        lamina-more = "*"
        [[tool.poetry.source]]
        name = "host"
        url = "INDEX/"
        priority = "primary"
        """.replace("INDEX", index.url("host")),
    )
    lock_of_poetry(modal, f"poetry=={version}")
    step = '.poetry_install_from_file("pyproject.toml"'
    demo, more = ("lamina_demo", "1.0"), ("lamina_more", "1.0")
    assert build(modal, None, f"{step}{keywords})").stdout == f"/usr/local/bin/python {[demo, more]}\n"
    assert build(modal, None, f"{step}, without=['dev']{keywords})").stdout == f"/usr/local/bin/python {[demo]}\n"
    # The lock counts, not what there is meanwhile.
    index.add("host", "lamina_demo", "1.5")
    try:
        assert build(modal, None, f"{step}, only=['main']{keywords})").stdout == f"/usr/local/bin/python {[demo]}\n"
    finally:
        del index.wheels["host"]["lamina_demo-1.5-py3-none-any.whl"]


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ('.pip_install_from_requirements("gone.txt")', "requirements file `gone.txt` does not exist"),
        ('.pip_install_from_pyproject("gone.toml")', "project file `gone.toml` does not exist"),
        ('.pip_install_from_pyproject("empty.toml")', "`empty.toml` has no `dependencies`"),
        ('.pip_install_from_pyproject("plain.toml", ["x"])', "has no table `[project.optional-dependencies]`\nhint: "),
        ('.uv_sync("gone")', "the project has no `pyproject.toml`"),
        (
            '.pip_install_private_repos("github.com/a/b", git_user="x", secrets=[modal.Secret.from_dict({"A": "b"})])',
            "no secret of the step has the variable `GITHUB_TOKEN`",
        ),
    ],
)
def test_what_is_missing_is_said(modal: Modal, index: Index, step: str, error: str) -> None:
    modal.write("empty.toml", "")
    modal.write("plain.toml", "[project]\ndependencies = []\n")
    result = build(modal, index, step, check=False)
    assert error in result.stderr.replace(f"{modal.directory}/", "") and "Traceback" not in result.stderr
