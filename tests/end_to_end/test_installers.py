"""What is linked is, file by file, what pip and uv install with the same arguments in the same image."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from conftest import Modal
from packages import Index, serve

#: An option that changes nothing, with which the tool itself installs.
ITSELF = {"pip": "--no-input", "uv_pip": "--no-progress"}

PROGRAM = """
import json
import modal

base = modal.Image.debian_slim(python_version="3.11")
app = modal.App("installers")

def files():
    import hashlib, os
    found = {}
    for top in ("/usr/local", "/tmp", "/root", "/opt"):
        for directory, directories, names in os.walk(top):
            for path in (os.path.join(directory, name) for name in directories + names):
                if path == "/root/app.py" or "__pycache__/app." in path:
                    continue
                content = hashlib.sha256(open(path, "rb").read()).hexdigest() if os.path.isfile(path) else ""
                found[path] = [os.lstat(path).st_mode, content]
    return found

STEPS

@app.local_entrypoint()
def main():
    for linked, installed in PAIRS:
        one, other = linked.remote(), installed.remote()
        names = sorted(path.rsplit("/", 1)[1][:-10] for path in one if path.endswith(".dist-info"))
        differing = [path for path in sorted({*one, *other}) if one.get(path) != other.get(path)]
        print(json.dumps([names, differing]))
"""


@pytest.fixture(scope="module")
def index() -> Iterator[Index]:
    with serve() as index:
        for version in ("1.0", "2.0", "3.0b1"):
            index.add("host", "lamina_demo", version)
        index.add("host", "lamina_more", "1.0", requires=("lamina-demo<2",))
        index.add("host", "lamina_early", "1.0b2")
        index.add("other", "lamina_demo", "1.5")
        index.add("other", "lamina_own", "1.0", requires=("lamina-demo",))
        index.add("third", "lamina_demo", "9.0")
        index.add("third", "lamina_own", "2.0b3")
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
        f"{wheel!r}": ["lamina_demo-1.0"],
        f"'lamina-demo @ {wheel.replace('://', '://me:word@')}#egg'": ["lamina_demo-1.0"],
    }
    steps, pairs = "", ""
    for number, arguments in enumerate(cases):
        for way, more in (("linked", ""), ("installed", f", extra_options={ITSELF[tool]!r}")):
            image = f"base.{tool}_install({arguments}{more}, force_build=True)"
            steps += f"{way}{number} = app.function(image={image}, name='{way}{number}')(files)\n"
        pairs += f"(linked{number}, installed{number}), "
    modal.write("app.py", PROGRAM.replace("STEPS", steps).replace("PAIRS", f"[{pairs}]"))
    result = modal("run", "--progress", "plain", "app.py", PIP_INDEX_URL=index.url("host"))
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.stderr.count("installing inside the sandbox") == len(cases)
    for (arguments, names), (linked, differing) in zip(cases.items(), found):
        assert [name for name in linked if name.startswith("lamina_")] == names, arguments
        assert differing == [], arguments


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
