"""What runs in a container behaves as it would outside: interpreters, modules, event loops, values, time limits."""

from __future__ import annotations

import pytest
import snapshots

I = 'modal.Image.debian_slim(python_version="3.11")'  # noqa: E741 - as in the table of examples


def test_functions_of_other_modules_and_programs_with_dots_in_their_names(modal):
    modal.write("helpers.py", "def work(x):\n    return x + 1\n")
    modal.write(
        "app.v2.py",
        f"""
        import modal
        import helpers

        app = modal.App(image={I}.add_local_python_source("helpers"))
        one = app.function(name="one")(helpers.work)


        class Point:
            def __init__(self, x):
                self.x = x


        @app.function()
        def own(point):
            return Point(point.x + 1)


        @app.local_entrypoint()
        def main():
            print(one.remote(1), own.remote(Point(2)).x)
        """,
    )
    assert modal("run", "-q", "app.v2.py").stdout == "2 3\n"


def test_classes_of_the_main_program_reach_functions_of_other_modules(modal):
    modal.write("helpers.py", "def work(point):\n    point.x += 1\n    return point\n")
    modal.write(
        "app.py",
        """
        import helpers
        import modal

        app = modal.App(image=modal.Image.debian_slim())
        work = app.function()(helpers.work)


        class Point:
            def __init__(self, x):
                self.x = x


        if __name__ == "__main__":
            with app.run():
                point = work.remote(Point(1))
                print(type(point) is Point, point.x)
        """,
    )
    assert modal.python("app.py").stdout == "True 2\n"


def test_one_event_loop_and_values_without_names(modal):
    modal.write(
        "app.py",
        """
        import asyncio
        import threading
        import modal

        app = modal.App(image=modal.Image.debian_slim())
        state = {}


        @app.function(max_containers=1)
        async def ask(text):
            # A connection belongs to the loop that it was opened in.
            if not state:
                async def answer(reader, writer):
                    while line := await reader.readline():
                        writer.write(line.upper())
                state["server"] = await asyncio.start_server(answer, "127.0.0.1", 0)
                port = state["server"].sockets[0].getsockname()[1]
                state["client"] = await asyncio.open_connection("127.0.0.1", port)
            reader, writer = state["client"]
            writer.write(text.encode() + b"\\n")
            return (await reader.readline()).decode()


        @app.function()
        def adder(function, amount):
            return lambda x: function(x) + amount


        @app.function()
        def fail():
            class Local(Exception):
                pass

            raise BaseExceptionGroup("both", [Local("a"), ValueError(threading.Lock())])


        @app.local_entrypoint()
        def main():
            print([ask.remote(word) for word in ("one", "two", "three")])
            print(adder.remote(lambda x: x * 2, 3)(5))
            try:
                fail.remote()
            except Exception as error:
                print(type(error).__name__, [type(member).__name__ for member in error.exceptions])
        """,
    )
    lines = modal("run", "-q", "app.py").stdout.splitlines()
    assert lines == [r"['ONE\n', 'TWO\n', 'THREE\n']", "13", "ExceptionGroup ['Local', 'SerializationError']"]


def test_the_interpreter_that_the_path_names(modal):
    modal.write(
        "app.py",
        f"""
        import sys
        import modal

        search = "/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        base = {I}
        image = (
            base.uv_pip_install("uv")
            .run_commands("uv venv --seed /opt/venv", "mkdir /srv/project", "echo here = 1 > /srv/project/beside.py")
            .env({{"PATH": search}})
            .uv_pip_install("humanize==4.12.3")
            .pip_install("iniconfig==2.0.0")
            .uv_pip_install("six==1.16.0", uv_version="0.8.0")
            .run_commands("python -c 'import humanize, iniconfig, six; print(humanize.__file__)'")
            .workdir("/srv/project")
        )
        app = modal.App()


        @app.function(image=image)
        def inside():
            import beside
            import humanize
            import iniconfig

            return sys.prefix, humanize.__file__.startswith("/opt/venv/"), beside.__file__, sys.path[1:3]


        @app.function(image=base)
        def plain():
            return sys.executable, sys.prefix


        @app.local_entrypoint()
        def main():
            print(inside.remote())
            print(plain.remote())
        """,
    )
    first, second = modal("run", "-q", "app.py").stdout.splitlines()
    assert first == "('/opt/venv', True, '/srv/project/beside.py', ['/srv/project', '/root'])"
    assert second == "('/usr/local/bin/python', '/usr')"


PROJECT = """
[project]
name = "demo"
version = "0"
requires-python = ">=3.9"
dependencies = ["humanize==4.12.3"]
"""

#: A Python of its own in a prefix, as conda makes it. Nothing but the variable leads it to its first library.
PREFIX = """
mkdir -p /opt/conda/bin /opt/conda/lib/libraries
cp -a /usr/lib/python3 /usr/lib/python3.11 /opt/conda/lib/
cp /usr/bin/python3.11 /opt/conda/bin/
ln -s python3.11 /opt/conda/bin/python
expat=$(ldd /usr/bin/python3.11 | grep -o '/[^ ]*libexpat[^ ]*')
cp -L $expat /opt/conda/lib/libraries/ && rm $expat
"""


def test_interpreters_of_projects_and_prefixes(modal):
    modal.write("pyproject.toml", PROJECT)
    modal.write(
        "app.py",
        f"""
        import modal

        base = {I}
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        project = (
            base.add_local_file("pyproject.toml", "/app/pyproject.toml", copy=True)
            .workdir("/app")
            .run_commands("uv sync")
            .env({{"PATH": f"/app/.venv/bin:{{path}}", "VIRTUAL_ENV": "/app/.venv"}})
            .uv_pip_install("six==1.16.0")
        )
        prefix = base.env(
            {{"PATH": f"/opt/conda/bin:{{path}}", "CONDA_PREFIX": "/opt/conda", "LD_LIBRARY_PATH": "/opt/conda/lib/libraries"}}
        ).run_commands({PREFIX!r})
        installed = prefix.uv_pip_install("humanize==4.12.3").pip_install("six==1.16.0")
        app = modal.App()


        def described():
            import sys

            import humanize
            import six

            return sys.prefix, humanize.__file__.startswith(sys.prefix), six.__file__.startswith(sys.prefix)


        @app.function(image=project)
        def of_project():
            return described()


        @app.function(image=installed)
        def of_prefix():
            return described()


        @app.local_entrypoint()
        def main():
            print(of_project.remote())
            print(of_prefix.remote())
        """,
    )
    result = modal("run", "-q", "app.py")
    assert result.stdout.splitlines() == ["('/app/.venv', True, True)", "('/opt/conda', True, True)"]
    assert "compile" not in result.stderr


def test_an_environment_without_pip(modal):
    modal.write(
        "app.py",
        f"""
        import modal

        image = {I}.run_commands("uv venv /opt/venv").env({{"PATH": "/opt/venv/bin:/usr/bin:/bin"}}).pip_install("six")
        app = modal.App(image=image)


        @app.function()
        def main():
            pass
        """,
    )
    result = modal("run", "--progress", "plain", "app.py", check=False)
    assert result.code == 1 and "/opt/venv/bin/python: No module named pip" in result.stderr
    assert (
        "Traceback" not in result.stderr
        and "hint: the Python that the image's PATH names first has no pip" in result.stderr
    )


ATTACKS = f"""
import array
import os
import socket
import time
import modal

app = modal.App(image={I})


def engine():
    return socket.socket(fileno=os.dup(3))


@app.function(timeout=2)
def slowly():
    end = engine()
    end.send(b"\\1\\0\\0\\0" + (4096).to_bytes(4, "little") + (0).to_bytes(8, "little"))
    while True:
        end.send(b" ")
        time.sleep(0.3)


@app.function(timeout=2)
def lingering():
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, (1).to_bytes(4, "little") + (600).to_bytes(4, "little"))
    accepted = server.accept()[0]
    client.setblocking(False)
    try:
        while True:
            client.send(bytes(65536))
    except BlockingIOError:
        pass
    if os.fork() == 0:
        os.setsid()
    control = b'{{"type":"ready"}}'
    header = b"\\1\\0\\1\\0" + len(control).to_bytes(4, "little") + (0).to_bytes(8, "little")
    fds = array.array("i", [client.fileno()])
    engine().sendmsg([header + control], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
    time.sleep(600)


@app.function(timeout=2)
def rubbish():
    control = b'{{"type":"result","call":%d,"status":"exception"}}'
    for call in range(64):
        text = control % call
        engine().send(b"\\1\\0\\0\\0" + len(text).to_bytes(4, "little") + (7).to_bytes(8, "little") + text + b"rubbish")
    time.sleep(600)


@app.local_entrypoint()
def main(name: str):
    try:
        app.registered[name].remote()
    except Exception as error:
        print(type(error).__name__, str(error).splitlines()[0])


app.registered = {{"slowly": slowly, "lingering": lingering, "rubbish": rubbish}}
"""


def test_a_container_cannot_stretch_its_time(modal):
    modal.write("app.py", ATTACKS)
    assert "FunctionTimeoutError" in modal("run", "-q", "app.py", "--name", "slowly", timeout=60).stdout


def test_nobody_waits_for_a_descriptor_of_a_container(modal):
    modal.write("app.py", ATTACKS)
    result = modal("run", "-q", "app.py", "--name", "lingering", timeout=60)
    assert "it sent file descriptors" in result.stdout


def test_rubbish_is_no_bare_error(modal):
    modal.write("app.py", ATTACKS)
    result = modal("run", "-q", "app.py", "--name", "rubbish", timeout=60)
    assert "Error" in result.stdout
    assert not result.stdout.startswith(("UnpicklingError", "TypeError", "KeyError", "EOFError"))


@pytest.mark.parametrize(
    ("name", "program"),
    [
        ("name", "from modal import Sandbox\n"),
        ("module", "import modal.experimental\n"),
        (
            "keyword",
            'import modal\napp = modal.App()\n\n\n@app.function(network_file_systems={"/x": 1})\ndef f(): ...\n',
        ),
    ],
)
def test_what_is_not_here_yet_says_so(modal, name, program):
    modal.write("app.py", program)
    snapshots.check(modal, f"absent-{name}", modal("run", "app.py", check=False))


@pytest.mark.parametrize("words", ["serve app.py", "setup", "app dashboard a"])
def test_commands_that_are_not_here_yet_say_so(modal, words):
    name = words.split()[0]
    snapshots.check(modal, f"absent-command-{name}", modal(*words.split(), check=False))
