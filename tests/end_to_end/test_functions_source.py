"""How a program's source reaches its containers, and what they run in."""

from __future__ import annotations

import json

from conftest import Modal

SCRIPT = """
import json, os, sys
import modal

base = modal.Image.debian_slim(python_version="3.11")
app = modal.App("source", image=base)
moved = modal.App("moved", image=base.workdir("/srv"))

def facts():
    names = sorted(name for name in os.environ if name.startswith("MODAL_"))
    return {
        "cwd": os.getcwd(),
        "path": "/root" in sys.path,
        "pythonpath": os.environ.get("PYTHONPATH", "").split(":"),
        "names": names,
        "remote": os.environ.get("MODAL_IS_REMOTE"),
        "image": os.environ.get("MODAL_IMAGE_ID"),
        "task": os.environ.get("MODAL_TASK_ID", "")[:3],
        "environment": os.environ.get("MODAL_ENVIRONMENT"),
        "local": modal.is_local(),
        "name": __name__,
        "file": __file__,
        "files": sorted(name for name in os.listdir("/root") if not name.startswith((".", "__pycache__"))),
    }

@app.function()
def look():
    return facts()

@moved.function()
def elsewhere():
    return facts()

@app.local_entrypoint()
def main():
    print(json.dumps({"image": base.object_id, **{"facts": look.remote()}}))

@moved.local_entrypoint()
def other():
    print(json.dumps(elsewhere.remote()))
"""


def test_a_script_and_what_it_runs_in(modal: Modal) -> None:
    modal.write("app.py", SCRIPT)
    modal.write("beside.py", "")
    told = json.loads(modal("run", "-q", "app.py::main").stdout)
    facts = told["facts"]
    assert facts["cwd"] == "/root"
    assert facts["path"] and "/root" in facts["pythonpath"]
    assert facts["remote"] == "1" and facts["local"] is False
    assert facts["image"] == told["image"]
    assert facts["task"] == "ta-"
    assert facts["environment"] == "main"
    assert {"MODAL_IS_REMOTE", "MODAL_IMAGE_ID", "MODAL_TASK_ID", "MODAL_ENVIRONMENT", "MODAL_REGION"} <= set(
        facts["names"]
    )
    assert {"MODAL_CLOUD_PROVIDER", "MODAL_IDENTITY_TOKEN"} <= set(facts["names"])
    assert (facts["name"], facts["file"]) == ("app", "/root/app.py")
    assert facts["files"] == ["app.py"]


def test_the_images_directory_and_the_named_environment_count(modal: Modal) -> None:
    modal.write("app.py", SCRIPT)
    facts = json.loads(modal("run", "-q", "-e", "staging", "app.py::other").stdout)
    assert facts["cwd"] == "/srv"
    assert facts["environment"] == "staging"
    assert facts["files"] == ["app.py"]


PACKAGED = """
import modal
from . import helper
from .data import text

app = modal.App("packaged", image=modal.Image.debian_slim(python_version="3.11"))

@app.function()
def look():
    import os
    found = sorted(os.path.relpath(os.path.join(folder, name), "/root") for folder, _, names in os.walk("/root/house") for name in names if folder.rpartition("/")[2] != "__pycache__" or "stale" in name)
    return helper.VALUE, text(), __name__, found

@app.local_entrypoint()
def main():
    print(look.remote())
"""


def test_a_module_brings_its_whole_package(modal: Modal) -> None:
    modal.write("house/__init__.py", "")
    modal.write("house/helper.py", "VALUE = 7\n")
    modal.write(
        "house/data/__init__.py",
        "import os\ndef text():\n    return open(os.path.join(os.path.dirname(__file__), 'a.txt')).read()\n",
    )
    modal.write("house/data/a.txt", "content")
    for left_behind in (".hidden", "stale.pyc", "__pycache__/stale.txt"):
        modal.write(f"house/{left_behind}", "")
    modal.write("house/rooms/app.py", PACKAGED.replace("from .", "from .."))
    modal.write("house/rooms/__init__.py", "")
    result = modal("run", "-q", "-m", "house.rooms.app")
    files = [
        "house/__init__.py",
        "house/data/__init__.py",
        "house/data/a.txt",
        "house/helper.py",
        "house/rooms/__init__.py",
        "house/rooms/app.py",
    ]
    assert result.stdout == f"{(7, 'content', 'house.rooms.app', files)}\n"


def test_a_module_without_package_comes_alone(modal: Modal) -> None:
    modal.write("app.py", SCRIPT)
    told = json.loads(modal("run", "-q", "-m", "app::main").stdout)
    assert told["facts"]["files"] == ["app.py"]


EXCLUDED = """
import modal

image = modal.Image.debian_slim(python_version="3.11")
app = modal.App("excluded", image=image, include_source=False)

@app.function()
def without():
    return 1

@app.function(include_source=True)
def included():
    return 2

@app.function(image=image.add_local_python_source("app", "beside"))
def added():
    import beside
    return beside.VALUE

@app.local_entrypoint()
def main():
    print(included.remote(), added.remote())
    try:
        without.remote()
    except ModuleNotFoundError as error:
        print(error)
"""


def test_source_that_is_not_taken_along(modal: Modal) -> None:
    modal.write("app.py", EXCLUDED)
    modal.write("beside.py", "VALUE = 3\n")
    assert modal("run", "-q", "app.py").stdout == "2 3\nNo module named 'app'\n"


def test_changed_source_builds_nothing(modal: Modal) -> None:
    modal.write("app.py", SCRIPT)
    modal("run", "-q", "app.py::main")
    modal.write("app.py", SCRIPT + "\n# changed\n")
    result = modal.events("app.py::main")
    assert result.of("step_started") == []


def test_a_container_compiles_nothing_that_the_image_could_have(modal: Modal) -> None:
    modal.write(
        "app.py",
        """
        import modal

        app = modal.App("compiled", image=modal.Image.debian_slim(python_version="3.11"))

        @app.function()
        def starts():
            import os, subprocess
            told = subprocess.run(["python3", "-v", "-c", ""], capture_output=True, text=True).stderr
            return "sitecustomize.py" in told, "# wrote" in told, os.path.exists("/root/__pycache__")

        @app.local_entrypoint()
        def main():
            print(starts.remote())
        """,
    )
    assert modal("run", "-q", "app.py").stdout == "(True, False, False)\n"


def test_what_a_container_says_at_its_end_is_shown_although_the_program_is_done(modal: Modal) -> None:
    modal.write(
        "app.py",
        """
        import atexit, time
        import modal

        app = modal.App("late", image=modal.Image.debian_slim(python_version="3.11"))

        def late():
            time.sleep(0.5)
            print("late", flush=True)

        @app.function()
        def work():
            atexit.register(late)
            return 1

        @app.local_entrypoint()
        def main():
            print(work.remote())
        """,
    )
    assert modal("run", "-q", "app.py").stdout == "1\nlate\n"


def test_a_program_on_standard_input(modal: Modal) -> None:
    modal.write("helper.py", "VALUE = 5\n")
    program = SCRIPT.replace("print(json.dumps(elsewhere.remote()))", "pass").replace(
        "import modal\n", "import modal\nif modal.is_local():\n    import helper\n", 1
    )
    told = json.loads(modal("run", "-q", "-", input=program.replace("@moved.local_entrypoint()\n", "")).stdout)
    assert told["facts"]["files"] == ["stdin_program.py"]
    empty = modal("run", "-", check=False)
    assert empty.code == 1
    assert "there is no program on standard input" in empty.stderr


CHILDREN = """
import os, subprocess, sys
import modal

WRITE = "mkdir -p /srv/own && echo WHOSE=7 > /srv/own/modal.py"
image = modal.Image.debian_slim(python_version="3.11")
# As one that was installed: what the interpreter finds without any PYTHONPATH.
installed = image.run_commands("cd $(python -c 'import site; print(site.getsitepackages()[0])') && mkdir modal && touch modal/__init__.py")
own = image.run_commands(WRITE).env({"PYTHONPATH": "/srv/own"})
app = modal.App("children")
CHILD = "import sys, modal; print(getattr(modal, 'WHOSE', modal.__file__), [each for each in sys.path[1:] if 'lib' not in each])"

def child():
    found = subprocess.run([sys.executable, "-c", CHILD], check=True, capture_output=True, text=True)
    return found.stdout.strip(), modal.__file__, sys.path.count("/__modal/python"), sys.path[0]

@app.function(image=image)
def plain():
    local = subprocess.run([sys.executable, "-c", "import modal; print(modal.is_local())"], capture_output=True, text=True)
    return (*child(), local.stdout.strip(), modal.is_local())

@app.function(image=installed)
def beside_installed():
    return child()

@app.function(image=own)
def with_own():
    return child()

@app.local_entrypoint()
def main():
    print(plain.remote())
    print(beside_installed.remote())
    print(with_own.remote())
"""


def test_programs_that_a_function_starts_find_the_package_after_their_own(modal: Modal) -> None:
    modal.write("app.py", CHILDREN)
    package = "/__modal/python/modal/__init__.py"
    here = (package, 1, "/__modal/python")
    assert modal("run", "-q", "app.py").stdout.splitlines() == [
        str((f"{package} ['/root', '/__modal/python']", *here, "True", False)),
        str((f"{package} ['/root', '/__modal/python']", *here)),
        str(("7 ['/root', '/srv/own', '/__modal/python']", *here)),
    ]
