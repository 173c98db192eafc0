"""Functions that cannot work in their container, and values that cannot travel: each output is a file in ``snapshots``."""

from __future__ import annotations

import pytest
import snapshots
from conftest import Modal

HEAD = """
import modal

app = modal.App("bad", image=modal.Image.debian_slim(python_version="3.11"))
"""

PROGRAMS = {
    "local-module": """
import helper_of_mine

@app.function()
def main():
    return helper_of_mine.value
""",
    "local-package": """
import package_of_mine.inner

@app.function()
def main():
    pass
""",
    "package-of-the-host": """
if not modal.is_local():
    import numpy

@app.function()
def main():
    pass
""",
    "package-inside-the-function": """
@app.function()
def main():
    import numpy
""",
    "package-in-imports": """
with app.image.imports():
    import numpy

@app.function()
def main():
    pass
""",
    "import-raises": """
if not modal.is_local():
    raise ValueError("no `TOKEN` is set")

@app.function()
def main():
    pass
""",
    "import-exits": """
import sys
if not modal.is_local():
    sys.exit(3)

@app.function()
def main():
    pass
""",
    "defined-locally-only": """
if modal.is_local():
    @app.function()
    def main():
        pass
""",
    "syntax-error-in-a-file-of-the-image": """
if not modal.is_local():
    import broken

@app.function()
def main():
    pass
""",
    "unpicklable-argument": """
import threading

@app.function()
def work(value):
    pass

@app.local_entrypoint()
def main():
    work.remote(threading.Lock())
""",
    "unpicklable-input-of-map": """
import threading

@app.function()
def work(value):
    pass

@app.local_entrypoint()
def main():
    list(work.map([1, threading.Lock()]))
""",
    "argument-class-of-the-host": """
from helper_of_mine import Value

@app.local_entrypoint()
def main():
    work.remote(Value())

@app.function(image=modal.Image.debian_slim(python_version="3.11").run_commands("true"))
def work(value):
    pass
""",
    "unpicklable-result": """
@app.function()
def main():
    import threading
    return threading.Lock()

@app.local_entrypoint()
def entry():
    main.remote()
""",
    "exception-class-of-the-container": """
@app.function()
def work():
    import threading

    class Strange(Exception):
        def __str__(self):
            return "out of ideas"
    raise Strange(threading.Lock())

@app.local_entrypoint()
def main():
    work.remote()
""",
    "exception-module-of-the-container": """
@app.function()
def work():
    import only_inside
    raise only_inside.Strange("out of ideas")

@app.local_entrypoint()
def main():
    work.remote()
""",
    "generator-with-remote": """
@app.function()
def work():
    yield 1

@app.local_entrypoint()
def main():
    work.remote()
""",
    "generator-with-map": """
@app.function()
def work(x):
    yield x

@app.local_entrypoint()
def main():
    list(work.map([1]))
""",
    "remote-gen-of-a-function": """
@app.function()
def work():
    return 1

@app.local_entrypoint()
def main():
    list(work.remote_gen())
""",
    "wrong-arguments": """
@app.function()
def work(x):
    return x

@app.local_entrypoint()
def main():
    work.remote(1, 2)
""",
    "exits": """
@app.function()
def main():
    import os, sys
    print("last words", file=sys.stderr)
    os._exit(3)
""",
    "killed": """
@app.function()
def main():
    import os
    os.kill(os.getpid(), 11)
""",
    "times-out": """
@app.function(timeout=1)
def main():
    import time
    time.sleep(60)
""",
    "raises-in-nested-calls": """
def inner(x):
    return 1 / x

@app.function()
def main():
    return inner(0)
""",
}


@pytest.fixture
def program(modal: Modal) -> Modal:
    modal.write("helper_of_mine.py", "value = 1\nclass Value: pass\n")
    modal.write("package_of_mine/__init__.py", "")
    modal.write("package_of_mine/inner.py", "")
    modal.write("files/broken.py", "def f(:\n")
    modal.write("files/only_inside.py", "class Strange(Exception):\n    pass\n")
    return modal


@pytest.mark.parametrize("name", PROGRAMS)
def test_bad_functions(program: Modal, name: str) -> None:
    head = HEAD
    if name in ("syntax-error-in-a-file-of-the-image", "exception-module-of-the-container"):
        file = "broken.py" if name.startswith("syntax") else "only_inside.py"
        head = head.replace(
            '"3.11"))', f'"3.11").add_local_file("files/{file}", "/usr/lib/python3/dist-packages/{file}"))'
        )
    if name.startswith("package-in-imports"):
        head = head.replace('app = modal.App("bad", image=', "image = ").replace('"3.11"))', '"3.11")')
        head += 'app = modal.App("bad", image=image)\n'
    program.write("app.py", head + PROGRAMS[name].replace("app.image", "image"))
    result = program("run", "-q", "app.py", check=False)
    assert result.code == 1, result.stdout + result.stderr
    assert "/modal/" not in result.stderr and "panicked" not in result.stderr, result.stderr
    snapshots.check(program, f"function-{name}", result)
