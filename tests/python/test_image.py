"""Images: which errors come when, what is sent, what makes no layer."""

from __future__ import annotations

import inspect
import json
import os
import warnings
from pathlib import Path

import pytest

import modal
from modal._client.graph import Graph, app_graph
from modal._shared.errors import is_report
from modal._shared.redact import redact
from modal.exception import InvalidError

BASE = modal.Image.debian_slim("3.11")
SECRET = modal.Secret.from_dict({"GITHUB_TOKEN": "t"})


def steps(image: modal.Image) -> list[dict]:
    graph = Graph()
    graph.add_image(image)
    graph.check()
    return [node["step"] for node in graph.images]


def last(image: modal.Image) -> dict:
    return steps(image)[-1]


def test_images_are_made_by_factories_only():
    with pytest.raises(InvalidError, match="debian_slim"):
        modal.Image()
    with pytest.raises(InvalidError, match=r"`Image.pip_install` was called on the class"):
        modal.Image.pip_install("x")
    with pytest.raises(InvalidError, match=r"Image.debian_slim\(\).env"):
        modal.Image.env({})


@pytest.mark.parametrize(
    "call",
    [
        modal.Image.build,
        lambda: modal.Image.publish("trainer"),
        modal.Image.hydrate,
        modal.Image.build.aio,
        modal.Volume.commit,
    ],
)
def test_methods_of_objects_are_refused_on_the_class(call):
    with pytest.raises(InvalidError, match="was called on the class, which is no"):
        call()


@pytest.mark.parametrize(
    "make",
    [
        lambda: modal.Image.debian_slim("3.10"),
        lambda: modal.Image.debian_slim("3.10.14"),
        lambda: modal.Image.micromamba("3.10"),
        lambda: modal.Image.from_registry("debian", add_python="3.10-gnu"),
    ],
)
def test_a_python_whose_time_is_over_is_warned_of(make, monkeypatch):
    with pytest.warns(modal.exception.DeprecationError, match=r"Python 3\.10 gets no more fixes") as told:
        make()
    # Whatever is cleared away meanwhile may warn of something else.
    assert [each.filename for each in told if each.category is modal.exception.DeprecationError] == [__file__]
    monkeypatch.setenv("MODAL_IS_REMOTE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make()


def test_methods_leave_their_image_alone():
    extended = BASE.apt_install("git").env({"A": "1"})
    assert [step["kind"] for step in steps(BASE)] == ["debian_slim"]
    assert [step["kind"] for step in steps(extended)] == ["debian_slim", "apt_install", "env"]


@pytest.mark.parametrize(
    "call",
    [
        lambda image: image.pip_install(),
        lambda image: image.pip_install([]),
        lambda image: image.uv_pip_install(),
        lambda image: image.uv_pip_install([], requirements=[]),
        lambda image: image.apt_install([], []),
        lambda image: image.run_commands(),
        lambda image: image.dockerfile_commands(),
        lambda image: image.dockerfile_commands([]),
    ],
)
def test_nothing_given_is_the_same_image(call):
    assert call(BASE) is BASE


def test_empty_env_is_a_layer():
    assert last(BASE.env({})) == {"kind": "env", "variables": {}}


@pytest.mark.parametrize("method", ["pip_install", "uv_pip_install", "apt_install", "run_commands"])
@pytest.mark.parametrize("value", [1, ("a",), [["a"]], None, {"a": 1}, [1]])
def test_only_strings_and_flat_lists(method, value):
    with pytest.raises(InvalidError, match="strings and flat lists"):
        getattr(BASE, method)("fine", value)


def test_packages_are_sent_as_written():
    assert last(BASE.pip_install("b", ["c", "a"]))["packages"] == ["b", "c", "a"]
    assert last(BASE.uv_pip_install(["b"], "a"))["packages"] == ["b", "a"]
    assert last(BASE.apt_install("b", "a"))["packages"] == ["b", "a"]
    assert last(BASE.run_commands("b", ["a"]))["commands"] == ["b", "a"]


def test_options_are_no_packages():
    for method in (BASE.pip_install, BASE.uv_pip_install):
        with pytest.raises(InvalidError, match="`--pre` is an option"):
            method("a", "--pre")
    assert last(BASE.apt_install("-y"))["packages"] == ["-y"]


def test_pip_options_travel():
    step = last(BASE.pip_install("a", index_url="https://example.com", pre=True, extra_options="--no-deps"))
    assert step == {
        "kind": "pip_install",
        "packages": ["a"],
        "find_links": None,
        "index_url": "https://example.com",
        "extra_index_url": None,
        "pre": True,
        "extra_options": "--no-deps",
    }


def test_requirements_are_a_list_of_files_read_later(tmp_path, monkeypatch):
    with pytest.raises(InvalidError, match="takes a list"):
        BASE.uv_pip_install(requirements="requirements.txt")
    image = BASE.uv_pip_install(requirements=["missing.txt", "~/other.txt"])
    monkeypatch.chdir(tmp_path)
    assert last(image)["requirements"] == [str(tmp_path / "missing.txt"), os.path.expanduser("~/other.txt")]


def test_files_that_name_packages_are_read_later(tmp_path, monkeypatch):
    images = {
        "requirements": BASE.pip_install_from_requirements("a.txt", "/wheels"),
        "pyproject": BASE.pip_install_from_pyproject("~/b.toml", ["x"], pre=True),
        "project": BASE.uv_sync(groups=["g"], extras=["e"], frozen=False, uv_version="0.5.0"),
        "lockfile": BASE.poetry_install_from_file("p/pyproject.toml", "p/other.lock", with_=["w"], only=["o"]),
    }
    monkeypatch.chdir(tmp_path)
    options = {"packages": [], "index_url": None, "extra_index_url": None, "extra_options": ""}
    requirements = {
        "kind": "pip_install",
        "find_links": "/wheels",
        "pre": False,
        "requirements": [str(tmp_path / "a.txt")],
    }
    assert last(images["requirements"]) == {**options, **requirements}
    named = {"path": os.path.expanduser("~/b.toml"), "optional_dependencies": ["x"]}
    pyproject = {"kind": "pip_install", "find_links": None, "pre": True, "pyproject": named}
    assert last(images["pyproject"]) == {**options, **pyproject}
    assert last(images["project"]) == {
        "kind": "uv_sync",
        "project": str(tmp_path),
        "groups": ["g"],
        "extras": ["e"],
        "frozen": False,
        "extra_options": "",
        "uv_version": "0.5.0",
    }
    assert last(images["lockfile"]) == {
        "kind": "poetry_install_from_file",
        "pyproject": str(tmp_path / "p/pyproject.toml"),
        "lockfile": str(tmp_path / "p/other.lock"),
        "ignore_lockfile": False,
        "with": ["w"],
        "without": [],
        "only": ["o"],
        "poetry_version": "latest",
        "old_installer": False,
    }
    assert repr(images["project"]).endswith('.uv_sync("./", groups=["g"], extras=["e"])')


def test_conda_packages_travel_in_their_order(tmp_path, monkeypatch):
    base = modal.Image.micromamba("3.12")
    assert (last(base)["kind"], last(base)["python_version"]) == ("micromamba", "3.12")
    assert base.micromamba_install() is base and base.micromamba_install([], channels=["a"]) is base
    image = base.micromamba_install("b", ["a=1"], spec_file="e.yml", channels=["y", "x"])
    monkeypatch.chdir(tmp_path)
    assert last(image) == {
        "kind": "micromamba_install",
        "packages": ["b", "a=1"],
        "channels": ["y", "x"],
        "spec_file": str(tmp_path / "e.yml"),
    }
    assert repr(image).endswith('.micromamba_install("b", "a=1", spec_file="e.yml", channels=["y","x"])')
    monkeypatch.setenv("MODAL_IMAGE_BUILDER_VERSION", "2026.10")
    assert last(base)["release"] == "trixie"
    with pytest.raises(InvalidError, match=r"`3\.1`, which is no string"):
        last(modal.Image.micromamba(3.10))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: BASE.micromamba_install("a", channels="x"), "`channels` of `Image.micromamba_install` takes a list"),
        (lambda: BASE.micromamba_install(("a",)), "takes strings and flat lists"),
        (lambda: BASE.micromamba_install(spec_file=1), "`spec_file` of `Image.micromamba_install` takes a path"),
        (lambda: BASE.pip_install_from_requirements(None), "takes a path"),
        (lambda: BASE.pip_install_from_pyproject("a", "x"), "takes a list of strings"),
        (lambda: BASE.uv_sync(groups="x"), "`groups` of `Image.uv_sync` takes a list"),
        (lambda: BASE.uv_sync(extras=("x",)), "`extras` of `Image.uv_sync` takes a list"),
        (lambda: BASE.poetry_install_from_file("a", with_="x"), "takes a list of strings"),
        (lambda: BASE.pip_install_private_repos("github.com/a/b", git_user="me"), "needs a secret"),
        (
            lambda: BASE.pip_install_private_repos(
                "github.com/a/b", "https://github.com/c", "x.org/d", git_user="me", secrets=[SECRET]
            ),
            "`https://github.com/c`, `x.org/d` cannot",
        ),
    ],
)
def test_misuse_of_installers_is_said_at_once(call, said):
    with pytest.raises(InvalidError, match=said):
        call()


def test_private_repositories_travel():
    step = last(BASE.pip_install_private_repos("gitlab.com/a/b@1", git_user="me", secrets=[SECRET], pre=True))
    assert (step["repositories"], step["git_user"], step["pre"]) == (["gitlab.com/a/b@1"], "me", True)
    with pytest.raises(TypeError, match="git_user"):
        BASE.pip_install_private_repos("github.com/a/b", secrets=[SECRET])


def test_python_version_is_a_string():
    for value in (3.11, 3):
        with pytest.raises(TypeError, match="takes a string"):
            modal.Image.debian_slim(python_version=value)
    # What the text says is the engine's business, when it builds.
    assert steps(modal.Image.debian_slim("3.99"))[0]["python_version"] == "3.99"


@pytest.mark.parametrize("variables", [{"A": 1}, {"A": None}, {1: "a"}])
def test_env_takes_strings(variables):
    with pytest.raises(InvalidError, match=r"`Image.env` takes strings"):
        BASE.env(variables)


@pytest.mark.parametrize(
    "call",
    [
        lambda: BASE.env({"": "a"}),
        lambda: BASE.env({"A=B": "a"}),
        lambda: BASE.env({"A": "\0"}),
        lambda: BASE.env({"A": "\udc80"}),
        lambda: BASE.workdir(""),
        lambda: BASE.workdir("/a\0"),
        lambda: BASE.entrypoint(["a\0"]),
        lambda: BASE.run_commands("true", ["a\0"]),
        lambda: BASE.apt_install("a\0"),
    ],
)
def test_what_no_process_can_have_is_refused_at_once(call):
    with pytest.raises(InvalidError):
        call()


@pytest.mark.parametrize("method", ["entrypoint", "shell", "cmd"])
def test_what_runs_commands_is_a_list_of_strings(method):
    call = getattr(BASE, method)
    assert last(call([])) == {"kind": method, "arguments": []}
    assert last(call(["/bin/bash", "-c", 'é "$@"'])) == {"kind": method, "arguments": ["/bin/bash", "-c", 'é "$@"']}
    assert repr(call([])).endswith(f".{method}([])")
    for wrong in ("/bin/sh", ("/bin/sh",), None, [1], [["a"]], {"a": "b"}):
        with pytest.raises(InvalidError, match=rf"`Image\.{method}` takes a list of strings"):
            call(wrong)


def test_dockerfiles_are_read_when_the_app_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = modal.Image.from_dockerfile("sub/Dockerfile", build_args={"A": "1"})
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/Dockerfile").write_text("FROM scratch\n")
    expected = {
        "kind": "from_dockerfile",
        "name": "Dockerfile",
        "text": "FROM scratch\n",
        "build_args": {"A": "1"},
        "environment": "main",
        "context": {"source": str(tmp_path), "ignore": None},
    }
    assert steps(image) == [expected]
    for place, pattern in ((".dockerignore", "a"), ("sub/.dockerignore", "b"), ("sub/Dockerfile.dockerignore", "c")):
        (tmp_path / place).write_text(f"# comment\n\n /{pattern}/ \n! /keep\n")
        assert steps(image)[0]["context"]["ignore"] == {"patterns": [pattern, "!keep"]}
    given = BASE.dockerfile_commands("RUN a", ["RUN b"], context_dir="sub", ignore=["x"])
    assert last(given)["text"] == "RUN a\nRUN b"
    assert last(given)["context"] == {"source": str(tmp_path / "sub"), "ignore": {"patterns": ["x"]}}
    with pytest.raises(FileNotFoundError, match="does not exist"):
        steps(modal.Image.from_dockerfile("none"))
    (tmp_path / "sub/Dockerfile.dockerignore").unlink()
    (tmp_path / "sub/Dockerfile.dockerignore").mkdir()
    with pytest.raises(IsADirectoryError, match=r"the ignore file `.*` cannot be read: Is a directory") as caught:
        steps(image)
    assert is_report(caught.value)
    beside = BASE.dockerfile_commands("COPY /x /y", context_files={"/x": "sub/x"})
    with pytest.raises(FileNotFoundError, match="sub/x` of `context_files` does not exist"):
        steps(beside)
    (tmp_path / "sub/x").touch()
    assert last(beside)["context"]["files"] == {"/x": str(tmp_path / "sub/x")}


@pytest.mark.parametrize(
    "call",
    [
        lambda: modal.Image.from_dockerfile(1),
        lambda: modal.Image.from_dockerfile("a", context_dir=1),
        lambda: modal.Image.from_dockerfile("a", build_args=["A"]),
        lambda: modal.Image.from_dockerfile("a", build_args={"A": 1}),
        lambda: modal.Image.from_dockerfile("a", ignore="x"),
        lambda: modal.Image.from_dockerfile("a", secrets=["x"]),
        lambda: modal.Image.from_dockerfile("a", env={"A": 1}),
        lambda: modal.Image.from_dockerfile("a", add_python=3.11),
        lambda: BASE.dockerfile_commands(1),
        lambda: BASE.dockerfile_commands("RUN x", build_args={1: "a"}),
        lambda: BASE.dockerfile_commands("RUN x", context_files=["a"]),
        lambda: BASE.dockerfile_commands("RUN x", context_files={"a": 1}),
    ],
)
def test_dockerfiles_refuse_what_they_do_not_take(call):
    with pytest.raises(InvalidError):
        call()


def test_nothing_is_a_base():
    assert steps(modal.Image.from_scratch()) == [{"kind": "from_scratch"}]
    registry = modal.Image.from_registry("python:3.11", setup_dockerfile_commands=["RUN true"])
    assert steps(registry)[0] == {"kind": "from_registry", "reference": "python:3.11"}
    assert repr(registry) == 'Image.from_registry("python:3.11").dockerfile_commands("RUN true")'
    with pytest.raises(InvalidError, match="takes a name such as"):
        modal.Image.from_registry(3.11)
    for method, provider in [("from_aws_ecr", "aws"), ("from_gcp_artifact_registry", "gcp")]:
        image = getattr(modal.Image, method)("r.example/x:1", modal.Secret.from_dict({"A": "b"}))
        assert steps(image) == [{"kind": "from_registry", "reference": "r.example/x:1", "provider": provider}]
        assert repr(image) == f'Image.{method}("r.example/x:1")'
        with pytest.raises(InvalidError, match=f"`Image.{method}` takes a name"):
            getattr(modal.Image, method)(3.11)
    with pytest.raises(InvalidError, match="takes a series such as"):
        modal.Image.from_registry("ubuntu:24.04", add_python=3.12)
    added = modal.Image.from_registry("ubuntu:24.04", add_python="3.12", setup_dockerfile_commands=["RUN true"])
    assert [step["kind"] for step in steps(added)] == ["from_registry", "add_python", "dockerfile_commands"]
    assert steps(added)[1] == {"kind": "add_python", "version": "3.12"}
    added = modal.Image.from_dockerfile("Dockerfile", add_python="3.12")
    assert repr(added) == 'Image.from_dockerfile("Dockerfile").add_python("3.12")'
    assert repr(modal.Image.from_scratch(force_build=True).env({})) == "Image.from_scratch().env({})"


def test_env_of_a_step_is_a_setting_and_no_secret():
    first = modal.Secret.from_dict({"A": "1", "REGION": "r"}).allow("REGION")
    image = BASE.run_commands("true", secrets=[first], env={"B": "2", "C": None})
    graph = Graph()
    graph.add_image(image)
    step = graph.images[1]
    assert step["environment"] == {"B": "2"}
    assert step["secrets"] == [
        {"name": "from_dict(A, REGION)", "values": {"A": "1", "REGION": "r"}, "allowed": ["REGION"]}
    ]
    assert step["title"] == 'run_commands("true", env={"B":"2"})'


def test_lines_after_an_image_of_a_registry_have_secrets():
    login = modal.Secret.from_dict({"REGISTRY_USERNAME": "u", "REGISTRY_PASSWORD": "p"})
    graph = Graph()
    lines = ["RUN use $GITHUB_TOKEN"]
    graph.add_image(
        modal.Image.from_registry("r.example/x:1", login, setup_dockerfile_commands=lines, secrets=[SECRET])
    )
    assert [[sorted(secret["values"]) for secret in node["secrets"]] for node in graph.images] == [
        [["REGISTRY_PASSWORD", "REGISTRY_USERNAME"]],
        [["GITHUB_TOKEN"]],
    ]
    with pytest.raises(InvalidError, match=r"modal\.Secret"):
        modal.Image.from_registry("r.example/x:1", secrets=["GITHUB_TOKEN"])
    for method in ("from_aws_ecr", "from_gcp_artifact_registry"):
        with pytest.raises(TypeError, match=f"`Image.{method}` does not take `secrets`"):
            getattr(modal.Image, method)("r.example/x:1", secrets=[SECRET])
    with pytest.raises(TypeError, match=r"`Image.from_registry` does not take `secretz`") as caught:
        modal.Image.from_registry("r.example/x:1", secretz=[SECRET])
    assert "did you mean `secret`?" in caught.value.hint


@pytest.mark.parametrize("gpu", [0, 1, False, b"A10G", ["A10G"], [], "H100:0", "H100:x", ":2"])
@pytest.mark.parametrize(
    "call",
    [
        lambda gpu: BASE.pip_install("a", gpu=gpu),
        lambda gpu: BASE.uv_sync(gpu=gpu),
        lambda gpu: BASE.run_commands("true", gpu=gpu),
        lambda gpu: BASE.dockerfile_commands("RUN true", gpu=gpu),
        lambda gpu: modal.Image.from_dockerfile("Dockerfile", gpu=gpu),
    ],
)
def test_a_gpu_is_a_type_with_a_count(call, gpu):
    with pytest.raises(InvalidError, match="gpu"):
        call(gpu)


@pytest.mark.parametrize("env", [["A"], {"A": 1}, {1: "a"}])
def test_env_of_a_step_takes_strings(env):
    with pytest.raises(InvalidError, match=r"`env` of `Image.apt_install` takes"):
        BASE.apt_install("git", env=env)


def test_credentials_of_addresses_are_not_shown():
    image = BASE.pip_install("a @ https://user:secret@host.invalid/" + "x" * 80, env={"I": "https://token@h.invalid"})
    assert "secret" not in repr(image) and "https://***@host.invalid/x" in repr(image)
    cases = json.loads((Path(__file__).parents[1] / "data" / "redactions.json").read_text())
    for case in cases:
        assert redact(case["text"]) == case["shown"]


@pytest.mark.parametrize("secrets", [["x"], [{"A": "1"}], "x", modal.Secret.from_dict({})])
def test_secrets_are_secrets(secrets):
    with pytest.raises(InvalidError, match=r"modal\.Secret"):
        BASE.run_commands("true", secrets=secrets)


def test_secrets_do_not_show_values():
    secret = modal.Secret.from_dict({"TOKEN": "hunter2", "UNSET": None})
    assert repr(secret) == "Secret.from_dict(TOKEN)"
    assert "hunter2" not in repr(BASE.run_commands("true", secrets=[secret]))
    for bad in ({"A": 1}, {1: "a"}, "A=1"):
        with pytest.raises(InvalidError):
            modal.Secret.from_dict(bad)


def test_titles():
    graph = Graph()
    graph.add_image(
        BASE.uv_pip_install("pandas==2.2.3", "pydantic>=2", index_url="https://user:secret@example.com")
        .run_commands("echo " + "x" * 200)
        .workdir("/srv")
        .env({"A": "ä"})
        .add_local_dir("src", remote_path="/root/src")
    )
    assert [node["title"] for node in graph.images] == [
        'debian_slim(python_version="3.11")',
        'uv_pip_install("pandas==2.2.3", "pydantic>=2")',
        'run_commands("echo ' + "x" * 59 + "…)",
        'workdir("/srv")',
        'env({"A":"ä"})',
        'add_local_dir("src", "/root/src")',
    ]


def test_force_build_is_the_steps_own():
    graph = Graph()
    graph.add_image(BASE.apt_install("git", force_build=True).pip_install("a"))
    assert [node["force_build"] for node in graph.images] == [False, True, False]


def test_shared_parents_are_sent_once():
    graph = Graph()
    graph.add_image(BASE.apt_install("a"))
    graph.add_image(BASE.apt_install("b"))
    assert [(node["id"], node["inputs"]) for node in graph.images] == [("0", []), ("1", ["0"]), ("2", ["0"])]


def test_pipe():
    def add(image: modal.Image, *names: str, flag: bool) -> tuple:
        return image, names, flag

    assert BASE.pipe(add, "a", "b", flag=True) == (BASE, ("a", "b"), True)


def test_unbuilt_images_have_no_id():
    with pytest.raises(AttributeError, match="no id yet"):
        _ = BASE.object_id


def test_imports_pass_errors_over():
    image = modal.Image.debian_slim()
    with image.imports():
        import no_such_module_e  # noqa: F401
    with pytest.warns(UserWarning, match="ZeroDivisionError"), image.imports():
        _ = 1 / 0
    assert [type(error) for error in image._import_errors] == [ModuleNotFoundError, ZeroDivisionError]
    with pytest.raises(KeyboardInterrupt), image.imports():
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("call", "owner", "name", "hint"),
    [
        (lambda: modal.Image.debian_slim(python="3.11"), "debian_slim", "python", "it takes `python_version`"),
        (lambda: modal.Image.debian_slim(python_verson="3.11"), "debian_slim", "python_verson", "`python_version`?"),
        (lambda: BASE.env(variables={"A": "1"}), "env", "variables", "it takes `vars`"),
        (lambda: BASE.workdir(paht="/x"), "workdir", "paht", "did you mean `path`?"),
        (lambda: BASE.add_local_file("a", remote_pth="/a"), "add_local_file", "remote_pth", "`remote_path`?"),
        (lambda: BASE.add_local_dir("a", "/a", ignored=[]), "add_local_dir", "ignored", "did you mean `ignore`?"),
        (lambda: BASE.add_local_dir("a", "/a", remote="/a"), "add_local_dir", "remote", "it takes `local_path`"),
        (lambda: BASE.add_local_python_source("m", cpy=True), "add_local_python_source", "cpy", "`copy`?"),
        (lambda: BASE.pip_install("a", index="https://x.invalid"), "pip_install", "index", "it takes `find_links`"),
        (lambda: BASE.uv_pip_install("a", requirement=["r"]), "uv_pip_install", "requirement", "`requirements`?"),
        (lambda: BASE.apt_install("a", secret=1), "apt_install", "secret", "did you mean `secrets`?"),
        (lambda: BASE.run_commands("a", force_built=True), "run_commands", "force_built", "`force_build`?"),
        (lambda: BASE.imports(name="a"), "imports", "name", "it takes no keywords"),
    ],
)
def test_unknown_keywords_are_explained(call, owner, name, hint):
    with pytest.raises(InvalidError, match=f"^`Image.{owner}` does not take `{name}`") as caught:
        call()
    assert isinstance(caught.value, TypeError)
    assert hint in caught.value.hint


def test_methods_show_what_they_take():
    assert list(inspect.signature(BASE.add_local_dir).parameters) == ["local_path", "remote_path", "copy", "ignore"]
    assert list(inspect.signature(modal.Image.debian_slim).parameters) == ["python_version", "force_build"]
    assert "Debian packages" in BASE.apt_install.__doc__
    with pytest.raises(TypeError, match="remote_path"):
        BASE.add_local_dir("a")


def test_all_that_this_machine_lacks_is_said_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.txt").write_text("")
    image = (
        BASE.add_local_python_source("no_such_e", "colorsys", "no_other_e", copy=True)
        .uv_pip_install(requirements=["none.txt", "here.txt"])
        .run_commands("true", secrets=[modal.Secret.from_dotenv(filename="none.env")])
        .add_local_dir("none", "/x", ignore=lambda path: False)
        .add_local_file("here.txt", "/h")
        .add_local_file("gone.txt", "/g")
    )
    app = modal.App("a", image=image)
    app.function(serialized=True, secrets=[modal.Secret.from_dotenv(filename="other.env")])(lambda: 1)
    with pytest.raises(modal.exception.ModuleNotMountable) as caught:
        app_graph(app)
    here = f"{tmp_path}/"
    found = str(caught.value).replace(here, "").replace(f"`{tmp_path}`", "`.`").split("\n  ")
    assert found[0] == "7 things on this machine cannot be used:"
    words = ["`no_such_e`", "`no_other_e`", "`none.env`", "`none` does not exist", "`other.env`"]
    assert all(word in line for word, line in zip(words, found[1:]))
    assert found[6:] == ["local path `gone.txt` does not exist", "requirements file `none.txt` does not exist"]


def test_one_problem_is_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = BASE.run_commands("true", secrets=[modal.Secret.from_dotenv(filename="none.env")])
    with pytest.raises(modal.exception.NotFoundError, match=r"^`Secret.from_dotenv` found no `none.env`") as caught:
        app_graph(modal.App("a", image=image))
    assert "make the file" in caught.value.hint


def test_a_builder_version_pins_the_release_of_debian(monkeypatch):
    def release(version: str) -> str | None:
        monkeypatch.setenv("MODAL_IMAGE_BUILDER_VERSION", version)
        return last(BASE).get("release")

    assert [release(version) for version in ("", "2024.10", "2025.06", "2026.10", "PREVIEW")] == [
        *(None, "bookworm", "bookworm", "trixie", "trixie")
    ]
    with pytest.raises(modal.exception.VersionError, match=r"`MODAL_IMAGE_BUILDER_VERSION=2022`"):
        release("2022")


@pytest.mark.parametrize("call", [BASE.build, modal.Image.from_name("trainer").hydrate])
def test_containers_do_not_build(call, monkeypatch):
    monkeypatch.setenv("MODAL_IS_REMOTE", "1")
    with pytest.raises(InvalidError, match="inside a container") as raised:
        call()
    assert "if modal.is_local()" in raised.value.hint
