"""What is linked is, file by file, what pip and uv install with the same arguments in the same image."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from conftest import Modal
from installers import ITSELF, compared
from packages import Index, serve

BASE = 'modal.Image.debian_slim(python_version="3.11")'


@pytest.fixture(scope="module")
def index() -> Iterator[Index]:
    with serve() as index:
        for version in ("1.0", "2.0", "3.0b1"):
            index.add("host", "lamina_demo", version)
        index.add("host", "lamina_more", "1.0", requires=("lamina-demo<2",))
        index.add("host", "lamina_early", "1.0b2")
        index.add("links", "lamina_demo", "2.0", files={"lamina_demo/other.py": ""})
        index.add("other", "lamina_demo", "1.5")
        index.add("other", "lamina_own", "1.0", requires=("lamina-demo",))
        index.add("third", "lamina_demo", "9.0")
        index.add("third", "lamina_own", "2.0b3")
        index.add("host", "lamina_early_need", "1.0", requires=("lamina-demo>=1.0b1",))
        index.add("host", "lamina_kernel", "1.0", requires=("lamina-demo; platform_version != ''",))
        for name in ("one", "two"):
            index.add("host", f"lamina_{name}", "1.0", files={"lamina_shared.py": f"NAME = {name!r}\n"})
        yield index


@pytest.mark.parametrize("tool", list(ITSELF))
def test_what_is_linked_is_what_the_installer_installs(modal: Modal, index: Index, tool: str) -> None:
    wheel = f"{index.address}/host/files/lamina_demo-1.0-py3-none-any.whl"
    other, third = index.url("other"), index.url("third")
    best, first = "lamina_demo-2.0", "lamina_demo-1.5"
    cases = {
        "'lamina-demo'": ["lamina_demo-2.0"],
        "'Lamina.DEMO >= 1, < 2'": ["lamina_demo-1.0"],
        "'lamina-demo', 'lamina-more'": ["lamina_demo-1.0", "lamina_more-1.0"],
        "'lamina-demo', pre=True": ["lamina_demo-3.0b1"],
        "'lamina-early'": ["lamina_early-1.0b2"],
        "'lamina-demo; python_version < \"3\"', 'lamina-early'": ["lamina_early-1.0b2"],
        f"'lamina-demo', index_url={other!r}": ["lamina_demo-1.5"],
        # pip takes the best version of all indexes, uv the first index that has the name.
        f"'lamina-demo', extra_index_url={other!r}": [best if tool == "pip" else first],
        f"'lamina-demo', extra_index_url={third!r}": ["lamina_demo-9.0"],
        f"'lamina-own', index_url={other!r}, extra_index_url={third!r}": (
            ["lamina_demo-9.0", "lamina_own-1.0"] if tool == "pip" else ["lamina_own-2.0b3"]
        ),
        f"'lamina-demo', find_links='{index.address}/third/simple/lamina-demo/'": ["lamina_demo-9.0"],
        f"'lamina-demo<3', find_links='{index.address}/links/simple/lamina-demo/'": ["lamina_demo-2.0"],
        "'lamina-demo>=1.0b1'": ["lamina_demo-3.0b1" if tool == "pip" else best],
        "'lamina-early-need'": ["lamina_demo-3.0b1" if tool == "pip" else best, "lamina_early_need-1.0"],
        "'lamina-kernel'": ["lamina_demo-2.0", "lamina_kernel-1.0"],
        f"{wheel!r}": ["lamina_demo-1.0"],
        f"'lamina-demo @ {wheel.replace('://', '://me:word@')}#egg'": ["lamina_demo-1.0"],
    }
    # pip's order follows from what packages need; that of `uv` is nobody's to know.
    cases |= {"'lamina-one', 'lamina-two'": ["lamina_one-1.0", "lamina_two-1.0"]} if tool == "pip" else {}
    result = compared(modal, index, BASE, [[(f"{tool}_install", arguments)] for arguments in cases])
    # What pip and the resolver see differently is pip's business, and what the kernel decides that of both.
    assert result.runs_inside == len(cases) + (4 if tool == "pip" else 1)
    for (arguments, names), (linked, differing) in zip(cases.items(), result.chains):
        assert [name for name in linked if name.startswith("lamina_")] == names, arguments
        assert differing == [], arguments


def test_other_versions_take_the_place_of_what_is_installed(modal: Modal, index: Index) -> None:
    """Whatever the versions before were installed by: nothing of them stays, and nothing of others goes."""
    old = {"lamina_tool/gone.py": "X = 1\n", "lamina_tool/data/old.txt": "1\n", "lamina_shared/one.py": "A = 1\n"}
    new = {"lamina_tool/fresh.py": "X = 2\n", "lamina_tool/data/new.txt": "2\n", "lamina_shared/one.py": "A = 2\n"}
    for version, files in (("1.0", old), ("2.0", new)):
        programs = f"[console_scripts]\nlamina-{version} = lamina_tool:VERSION.upper\n"
        files[f"lamina_tool-{version}.dist-info/entry_points.txt"] = programs
        index.add("host", "lamina_tool", version, files=files)
    pip, uv = "pip_install", "uv_pip_install"
    chains = {
        ((pip, "'lamina-tool==1.0'"), (pip, "'lamina-tool==2.0'")): ["lamina_tool-2.0"],
        ((pip, "'lamina-tool==2.0'"), (pip, "'lamina-tool<2'")): ["lamina_tool-1.0"],
        ((uv, "'lamina-tool==1.0'"), (uv, "'lamina-tool==2.0'")): ["lamina_tool-2.0"],
        ((uv, "'lamina-tool==2.0'"), (uv, "'lamina-tool<2'")): ["lamina_tool-1.0"],
        ((pip, "'lamina-tool==1.0'"), (uv, "'lamina-tool==2.0'")): ["lamina_tool-2.0"],
        ((uv, "'lamina-tool==1.0'"), (pip, "'lamina-tool==2.0'")): ["lamina_tool-2.0"],
        # One that is there already, and is asked for again.
        ((pip, "'lamina-tool==1.0'"), (pip, "'lamina-tool'")): ["lamina_tool-1.0"],
        ((uv, "'lamina-tool==1.0'"), (uv, "'lamina-tool'")): ["lamina_tool-1.0"],
        # What another package needs is taken back, beside something that stays.
        ((pip, "'lamina-demo', 'lamina-tool==1.0'"), (pip, "'lamina-more'")): [
            "lamina_demo-1.0",
            "lamina_more-1.0",
            "lamina_tool-1.0",
        ],
        ((uv, "'lamina-demo', 'lamina-tool==1.0'"), (uv, "'lamina-more'")): [
            "lamina_demo-1.0",
            "lamina_more-1.0",
            "lamina_tool-1.0",
        ],
        ((pip, "'lamina-tool==1.0'"), (uv, "'lamina-demo'"), (pip, "'lamina-tool==2.0'")): [
            "lamina_demo-2.0",
            "lamina_tool-2.0",
        ],
    }
    result = compared(modal, index, BASE, [list(chain) for chain in chains])
    for (chain, names), (linked, differing) in zip(chains.items(), result.chains):
        assert [name for name in linked if name.startswith("lamina_")] == names, chain
        assert differing == [], chain


def test_an_index_that_a_step_names_stands_above_that_of_the_machine(modal: Modal, index: Index) -> None:
    modal.write(
        "app.py",
        f"""
        import modal

        app = modal.App("index")
        base = modal.Image.debian_slim(python_version="3.11")

        @app.function(image=base.uv_pip_install("lamina-demo", index_url={index.url("other")!r}, force_build=True))
        def version():
            import lamina_demo
            return lamina_demo.VERSION

        @app.local_entrypoint()
        def main():
            print(version.remote())
        """,
    )
    result = modal("run", "--progress", "plain", "app.py", UV_DEFAULT_INDEX=index.url("third"))
    assert result.stdout == "1.5\n" and "inside the sandbox" not in result.stderr


def test_to_pip_one_digest_asks_for_all(modal: Modal, index: Index) -> None:
    digest = index.add("host", "lamina_demo", "1.0")
    modal.write("requirements.txt", f"lamina-demo==1.0 --hash=sha256:{digest}\nlamina-early\n")
    modal.write(
        "app.py",
        """
        import modal

        image = modal.Image.debian_slim(python_version="3.11").pip_install_from_requirements("requirements.txt")
        app = modal.App("digests", image=image)

        @app.function()
        def main():
            pass
        """,
    )
    result = modal("run", "--progress", "plain", "app.py", PIP_INDEX_URL=index.url("host"), check=False)
    assert result.code != 0 and "In --require-hashes mode, all requirements must" in result.stderr, result.stderr


def test_pip_inside_has_the_index_of_uv_where_it_is_told_of_none(modal: Modal, index: Index) -> None:
    modal.write(
        "app.py",
        """
        import modal

        app = modal.App("index")
        image = modal.Image.debian_slim(python_version="3.11").pip_install("lamina-demo", extra_options="--no-cache-dir")

        @app.function(image=image)
        def version():
            import lamina_demo
            return lamina_demo.VERSION

        @app.local_entrypoint()
        def main():
            print(version.remote())
        """,
    )
    modal.environment = {name: value for name, value in modal.environment.items() if not name.startswith("PIP_")}
    result = modal("run", "--progress", "plain", "app.py", UV_DEFAULT_INDEX=index.url("third"))
    assert result.stdout == "9.0\n" and "inside the sandbox" in result.stderr
