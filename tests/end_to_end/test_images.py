"""Steps, caching and what a step sees."""

from __future__ import annotations

import os

import pytest
from conftest import Modal

HEAD = """
import modal
base = modal.Image.debian_slim(python_version="3.11")
"""


def app(modal: Modal, image: str, body: str, name: str = "app.py") -> None:
    lines = "\n".join(f"    {line}" for line in body.strip().splitlines())
    modal.write(
        name, f'{HEAD}\nimage = {image}\napp = modal.App("t", image=image)\n\n@app.function()\ndef main():\n{lines}\n'
    )


def test_commands_see_environment_directory_and_secrets_and_secrets_do_not_stay(modal: Modal) -> None:
    app(
        modal,
        'base.env({"A": "a $HOME"}).workdir("/srv/x")'
        '.run_commands("echo $A-$TOKEN_LENGTH > made", "pwd >> made", secrets=[modal.Secret.from_dict({"TOKEN_LENGTH": "12"})])',
        'import os\nprint(open("made").read(), os.getcwd(), os.environ["A"], "TOKEN_LENGTH" in os.environ)',
    )
    assert modal("run", "app.py").stdout == "a $HOME-12\n/srv/x\n /srv/x a $HOME False\n"


def test_a_step_that_leaves_a_secret_behind_is_refused_with_the_path(modal: Modal) -> None:
    app(
        modal,
        'base.run_commands("echo $TOKEN | base64 > /opt/leak", secrets=[modal.Secret.from_dict({"TOKEN": "correct-horse-battery"})])',
        "pass",
    )
    result = modal("run", "app.py", check=False)
    assert result.code == 1
    assert "`TOKEN`" in result.stderr and "`/opt/leak`" in result.stderr
    assert "correct-horse-battery" not in result.stderr + result.stdout


def test_a_rebuilt_step_with_the_same_result_leaves_later_ones_cached(modal: Modal) -> None:
    tag = os.urandom(8).hex()
    chain = f'base.run_commands("echo {tag} > /opt/one"{{force}}).run_commands("date +%N > /opt/two")'
    app(modal, chain.format(force=""), 'print(open("/opt/two").read())')
    first = modal.events("app.py")
    app(modal, chain.format(force=", force_build=True"), 'print(open("/opt/two").read())')
    second = modal.events("app.py")
    assert second.stdout == first.stdout
    assert [event["miss"]["reason"] for event in second.of("step_started")] == ["forced"]
    app(
        modal,
        f'base.run_commands("echo {tag}  > /opt/one").run_commands("date +%N > /opt/two")',
        'print(open("/opt/two").read())',
    )
    third = modal.events("app.py")
    assert third.stdout == first.stdout, "another text with the same bytes"
    assert len(third.of("step_started")) == 1


@pytest.mark.parametrize("variable", ["MODAL_FORCE_BUILD", "MODAL_IGNORE_CACHE"])
def test_a_variable_rebuilds_every_layer_and_changed_requirements_only_theirs(modal: Modal, variable: str) -> None:
    tag = os.urandom(8).hex()
    modal.write("requirements.txt", f"six==1.16.0  # {tag}\n")
    app(modal, 'base.uv_pip_install(requirements=["requirements.txt"])', "import six\nprint(six.__version__)")
    assert modal("run", "app.py").stdout == "1.16.0\n"
    forced = modal.events("app.py", **{variable: "1"})
    assert forced.stdout == "1.16.0\n"
    assert len(forced.of("step_started")) == 2
    modal.write("requirements.txt", f"six==1.17.0  # {tag}\n")
    changed = modal.events("app.py")
    assert changed.stdout == "1.17.0\n"
    assert len(changed.of("step_cached")) == 1 and len(changed.of("step_started")) == 1


@pytest.mark.parametrize("install", ["pip_install", "uv_pip_install"])
def test_installers_leave_a_usable_python(modal: Modal, install: str) -> None:
    app(
        modal,
        f'base.{install}("flask==3.0.3", "markupsafe")',
        """
import subprocess, sys, flask, importlib.metadata as metadata
print(metadata.version("flask"), metadata.distribution("flask").read_text("INSTALLER").strip())
print(subprocess.run(["flask", "--version"], capture_output=True, text=True).stdout.splitlines()[1])
print(subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True).stdout.strip())
print(flask.__spec__.cached.endswith(".pyc") and __import__("os").path.exists(flask.__spec__.cached))
""",
    )
    lines = modal("run", "app.py").stdout.splitlines()
    assert lines == [
        f"3.0.3 {install.split('_', maxsplit=1)[0] if install == 'uv_pip_install' else 'pip'}",
        "Flask 3.0.3",
        "No broken requirements found.",
        "True",
    ]


def test_a_source_distribution_is_built_inside_the_sandbox(modal: Modal) -> None:
    app(modal, 'base.uv_pip_install("docopt==0.6.2")', "import docopt\nprint(docopt.__version__)")
    assert modal("run", "app.py").stdout == "0.6.2\n"


def test_a_later_step_changes_what_an_earlier_one_installed(modal: Modal) -> None:
    app(modal, 'base.uv_pip_install("six==1.16.0").pip_install("six==1.17.0")', "import six\nprint(six.__version__)")
    assert modal("run", "app.py").stdout == "1.17.0\n"


def test_independent_images_of_one_app_are_built_and_used(modal: Modal) -> None:
    modal.write(
        "app.py",
        f"""
        {HEAD.replace(chr(10), chr(10) + "        ")}
        app = modal.App("two")

        @app.function(image=base.run_commands("echo one > /opt/which"))
        def one():
            return open("/opt/which").read().strip()

        @app.function(image=base.run_commands("echo two > /opt/which"))
        def two():
            return open("/opt/which").read().strip()

        @app.local_entrypoint()
        def main():
            print(one.remote(), two.remote())
        """,
    )
    assert modal("run", "app.py").stdout == "one two\n"


def test_images_are_listed_and_their_logs_shown(modal: Modal) -> None:
    app(modal, 'base.run_commands("echo marker-in-the-log")', "pass")
    image = modal.events("app.py").of("image_built")[0]["image"]
    assert image in modal("image", "list").stdout
    assert "marker-in-the-log" in modal("image", "logs", image).stdout
    modal.write(
        "name.py", f"import modal\nwith modal.App('t').run():\n    modal.Image.from_id('{image}').publish('logged')\n"
    )
    modal.python("name.py")
    assert "marker-in-the-log" in modal("image", "logs", "logged").stdout
    unknown = modal("image", "logs", "im-0000000000000000000000", check=False)
    assert unknown.code == 1 and "`im-0000000000000000000000`" in unknown.stderr


def test_equal_layers_in_one_image_are_one(modal: Modal) -> None:
    app(
        modal,
        'base.run_commands("true").run_commands("true # again").run_commands("echo 1 > /opt/x")',
        'print(open("/opt/x").read())',
    )
    assert modal("run", "app.py").stdout == "1\n\n"


def test_no_line_of_a_secret_is_shown(modal: Modal) -> None:
    secret = 'modal.Secret.from_dict({"KEY": "first-secret-line\\nsecond-secret-line"})'
    app(
        modal, f'base.run_commands(\'echo "$KEY"; echo "$KEY" | base64\', secrets=[{secret}], force_build=True)', "pass"
    )
    result = modal("run", "--progress", "plain", "app.py")
    assert "***" in result.stderr
    for part in ("first-secret-line", "second-secret-line", "Zmlyc3Qtc2VjcmV0"):
        assert part not in result.stderr


def test_only_an_untouched_apt_adds_to_the_shared_cache(modal: Modal) -> None:
    archives = modal.store / "content/caches/apt-bookworm-archives/archives"
    app(modal, f'base.run_commands("echo {os.urandom(8).hex()}").apt_install("hello")', "pass")
    modal("run", "app.py")
    assert not list(archives.glob("hello_*"))
    app(modal, 'base.apt_install("figlet", force_build=True)', "pass")
    modal("run", "app.py")
    assert list(archives.glob("figlet_*"))


def test_a_steps_own_index_is_not_the_hosts(modal: Modal) -> None:
    app(
        modal,
        'base.uv_pip_install("six==1.16.0", env={"UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple", "UV_INDEX_URL": "http://127.0.0.1:9/simple"})',
        "pass",
    )
    result = modal("run", "app.py", check=False)
    assert result.code == 1
    assert "`UV_DEFAULT_INDEX` is set for it" in result.stderr


def test_chains_that_are_written_twice_are_built_once(modal: Modal) -> None:
    tag = os.urandom(8).hex()
    modal.write(
        "app.py",
        f"""
        import modal

        def image():
            return modal.Image.debian_slim(python_version="3.11").run_commands("echo {tag}")

        app = modal.App("twice")

        @app.function(image=image())
        def one():
            return 1

        @app.function(image=image().env({{"A": "2"}}))
        def two():
            return 2

        @app.local_entrypoint()
        def main():
            print(one.remote(), two.remote())
        """,
    )
    result = modal.events("app.py")
    assert result.stdout == "1 2\n"
    assert [event["title"].split("(")[0] for event in result.of("step_queued")] == ["debian_slim", "run_commands"]
    assert len(result.of("image_built")) == 2


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ('base.workdir("/etc/passwd").run_commands("true")', "`/etc/passwd` cannot be entered"),
        ('base.run_commands("chmod -x $(realpath /bin/sh)").run_commands("true")', "cannot be executed"),
        ('base.run_commands("echo Permission denied on a Read-only file system; exit 1")', "exit code 1"),
    ],
)
def test_what_an_image_holds_is_not_blamed_on_the_store(modal: Modal, image: str, words: str) -> None:
    app(modal, image, "pass")
    result = modal("run", "app.py", check=False)
    assert result.code == 1
    assert words in result.stderr
    assert "hint:" not in result.stderr


def test_what_is_done_is_said_when_asked_for(modal: Modal) -> None:
    app(modal, 'base.run_commands("true")', 'print("hi")')
    usual = modal("run", "app.py")
    assert "lamina_" not in usual.stderr
    said = modal("-v", "run", "app.py")
    assert "INFO lamina_store::engine: store path=" in said.stderr
    assert "INFO lamina_sandbox::client: sandbox pid=" in said.stderr
    assert "DEBUG" not in said.stderr
    # The store worker is another process, and so is the launcher.
    assert "DEBUG lamina_store::worker" in modal("run", "-vv", "app.py").stderr
    chosen = modal("run", "app.py", MODAL_LOG="lamina_store::worker=debug")
    assert "lamina_store::worker" in chosen.stderr
    assert "lamina_sandbox" not in chosen.stderr
    refused = modal("run", "app.py", check=False, MODAL_LOG="lamina_store=loud")
    assert refused.code == 1
    assert "`MODAL_LOG` is `lamina_store=loud`" in refused.stderr
    assert "hint: " in refused.stderr


def test_a_new_image_on_the_same_python_need_not_compile_the_package(modal: Modal) -> None:
    def sandboxes(image: str) -> int:
        modal.write("app.py", f'{HEAD}\napp = modal.App("t", image={image})\n{entrypoint}')
        return modal("run", "-v", "app.py").stderr.count("INFO lamina_sandbox::client: sandbox pid=")

    entrypoint = "\n@app.function()\ndef work():\n    pass\n\n@app.local_entrypoint()\ndef main():\n    pass\n"
    new = 'base.add_local_file("{}", "/opt/content", copy=True)'
    for name in ("one", "other"):
        modal.write(name, f"{name} {os.urandom(8).hex()}")
    sandboxes(new.format("one"))
    assert sandboxes(new.format("other")) == 0
    # One sandbox is the step's.
    assert sandboxes(f'base.run_commands("echo {os.urandom(8).hex()}")') == 1
    # Its own Python makes its own, once: what lies in the first place of the search path may be anything.
    own = new.format("other") + '.run_commands("cp /usr/bin/python3 /opt/python").env({"PATH": "/opt:/usr/bin:/bin"})'
    assert sandboxes(own) == 2
    assert sandboxes(own) == 0


def test_functions_start_through_the_entrypoint_and_steps_do_not(modal: Modal) -> None:
    modal.write("start", '#!/bin/sh\nSTARTED="by $0 $1" exec "$@"\n').chmod(0o755)
    build = 'base.add_local_file("start", "/start", copy=True).entrypoint(["/start"])'
    see = 'import os\nprint(os.environ.get("STARTED"), os.path.exists("/seen") and open("/seen").read())'
    app(modal, build + '.cmd(["sleep"]).run_commands("echo step $STARTED > /seen")', see)
    assert modal("run", "app.py").stdout == "by /start python step\n\n"
    app(modal, build + ".entrypoint([])", see)
    assert modal("run", "app.py").stdout == "None False\n"
    app(modal, "base.entrypoint([])", see)
    plain = modal.events("app.py")
    assert plain.stdout == "None False\n" and not plain.of("step_started")


def test_an_entrypoint_that_executes_nothing_is_named(modal: Modal) -> None:
    app(modal, 'base.entrypoint(["/bin/echo", "hello"])', "pass")
    result = modal("run", "app.py", check=False)
    assert result.code == 1
    assert "the entrypoint `/bin/echo hello` of the image of function `main` ended with code `0`" in result.stderr
    assert 'exec "$@"' in result.stderr and "Traceback" not in result.stderr


def test_later_commands_are_run_by_the_images_shell(modal: Modal) -> None:
    app(
        modal,
        'base.shell(["/bin/bash", "-c"]).run_commands("a=(1 2) && echo ${#a[@]} > /seen").shell([])'
        '.run_commands("readlink /proc/$$/exe >> /seen")',
        'print(open("/seen").read())',
    )
    assert modal("run", "app.py").stdout == "2\n/usr/bin/dash\n\n"


def test_an_image_without_a_python_says_so_and_can_hold_files(modal: Modal) -> None:
    modal.write("data.txt", "hello")
    app(
        modal,
        'modal.Image.from_scratch().env({"A": "1"}).add_local_file("data.txt", "/data/x", copy=True)',
        "pass",
    )
    result = modal("run", "app.py", check=False)
    assert result.code == 1 and "Traceback" not in result.stderr
    assert "the command `python` was not found in the image" in result.stderr
