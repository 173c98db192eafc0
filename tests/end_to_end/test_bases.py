"""Every Python that Debian carries, natively."""

from __future__ import annotations

import json
import sqlite3

import pytest
from conftest import Modal


@pytest.mark.parametrize("series", ["3.9", "3.11", "3.13", "3.14"])
def test_a_native_python_runs_functions_and_installs_packages(modal: Modal, series: str) -> None:
    modal.write(
        "app.py",
        f"""
        import modal
        image = modal.Image.debian_slim(python_version="{series}").apt_install("tree").uv_pip_install("attrs==24.2.0", "pyyaml==6.0.3")
        app = modal.App("base", image=image)

        @app.function()
        def versions(numbers):
            import shutil, subprocess, sys
            import attr, yaml
            audit = subprocess.run(["dpkg", "--audit"], capture_output=True, text=True).stdout
            frontend = subprocess.run(["debconf-show", "debconf"], capture_output=True, text=True).stdout
            assert "debconf/frontend: Noninteractive" in frontend, frontend
            found = [bool(shutil.which(name)) for name in ("python", "python3", "pip", "tree")]
            return "%d.%d" % sys.version_info[:2], attr.__version__, yaml.safe_load("a: 1"), audit, found, sum(numbers)

        @app.local_entrypoint()
        def main():
            print(versions.remote([1, 2, 3]))
        """,
    )
    assert modal("run", "app.py").stdout == f"('{series}', '24.2.0', {{'a': 1}}, '', [True, True, True, True], 6)\n"


def test_the_guides_example_imports_everything(modal: Modal) -> None:
    modal.write("src/package.py", "NAME = 'src'\n")
    modal.write(
        "app.py",
        """
        import modal

        image = (
            modal.Image.debian_slim(python_version="3.11")
            .pip_install(
                "crewai>=0.80.0",
                "crewai-tools>=0.14.0",
                "fastapi>=0.115.0",
                "pydantic>=2.0.0",
                "pydantic-settings>=2.0.0",
                "supabase>=2.0.0",
                "openai>=1.0.0",
                "tavily-python>=0.3.0",
                "httpx>=0.27.0",
            )
            .add_local_dir("src", remote_path="/root/src")
        )
        app = modal.App(name="startupai-validation", image=image)

        @app.function()
        def versions():
            import importlib
            import importlib.metadata as metadata

            import src.package

            names = ["crewai", "crewai-tools", "fastapi", "pydantic", "pydantic-settings", "supabase", "openai", "tavily-python", "httpx"]
            modules = ["crewai", "crewai_tools", "fastapi", "pydantic", "pydantic_settings", "supabase", "openai", "tavily", "httpx"]
            for module in modules:
                importlib.import_module(module)
            return {name: metadata.version(name) for name in names}

        @app.local_entrypoint()
        def main():
            found = versions.remote()
            print(len(found), all(found.values()))
        """,
    )
    assert modal("run", "app.py").stdout == "9 True\n"


def test_a_base_that_another_version_recorded_is_made_again(modal: Modal) -> None:
    modal.write(
        "app.py",
        """
        import modal
        app = modal.App("facts", image=modal.Image.debian_slim(python_version="3.11").uv_pip_install("attrs==24.2.0"))

        @app.function()
        def main():
            import attr, os, sys
            print(attr.__version__, os.environ["LANG"], sys.executable)
        """,
    )
    expected = modal.events("app.py").stdout
    former = {"suite": "bookworm", "python_version": "3.11.2", "interpreter": "/usr/bin/python3"}
    update = "UPDATE layers SET record = json_set(record, '$.facts', json(?)) WHERE json_extract(record, '$.material.kind') = ?"
    for facts in (former, {"version": 99}):
        index = sqlite3.connect(modal.store / "index.db")
        with index:
            assert index.execute(update, [json.dumps(facts), "debian_slim"]).rowcount > 0
        index.close()
        again = modal.events("app.py")
        assert again.stdout == expected
        assert [event["miss"] for event in again.of("step_started")] == [{"reason": "lost"}]


def test_a_builder_version_pins_the_suite_whatever_python_it_has(modal: Modal) -> None:
    modal.write(
        "app.py",
        """
        import modal
        app = modal.App("t", image=modal.Image.debian_slim(python_version="3.11"))

        @app.function()
        def main():
            import platform, sys
            print(platform.freedesktop_os_release()["VERSION_CODENAME"], sys.version_info[:2])
        """,
    )
    # Standalone builds cannot be had on every machine; Debian's own is in bookworm.
    pinned = modal("run", "app.py", check=False, MODAL_IMAGE_BUILDER_VERSION="2026.10")
    assert pinned.stdout == "trixie (3, 11)\n" or "downloading Python" in pinned.stderr
    assert modal("run", "app.py", MODAL_IMAGE_BUILDER_VERSION="2025.06").stdout == "bookworm (3, 11)\n"
    refused = modal("run", "app.py", check=False, MODAL_IMAGE_BUILDER_VERSION="1")
    assert refused.code == 1 and "is no version of the image builder" in refused.stderr
