"""`gpu=` of functions and steps."""

from __future__ import annotations

import pytest

import modal
from modal._client.graph import app_graph
from modal.exception import InvalidError


def of_function(gpu):
    app = modal.App("a")

    @app.function(gpu=gpu, serialized=True)
    def f(): ...

    return app_graph(app)[1]["functions"][0].get("gpu")


def of_step(gpu):
    app = modal.App("a", image=modal.Image.debian_slim().run_commands("nvidia-smi", gpu=gpu))
    step = app_graph(app)[1]["images"][-1]
    return step.get("gpu"), step["title"]


@pytest.mark.parametrize(
    ("gpu", "wired"),
    [
        (None, None),
        ("", None),
        ([], None),
        ("t4", ["T4"]),
        ("any", ["ANY"]),
        ("H100:2", ["H100:2"]),
        ("a100-80gb:1", ["A100-80GB"]),
        (["h100", "A100:2"], ["H100", "A100:2"]),
        (["T4", None], ["T4"]),
    ],
)
def test_functions_ask_for_gpus(gpu, wired):
    assert of_function(gpu) == wired


def test_steps_ask_for_gpus():
    assert of_step(None) == (None, 'run_commands("nvidia-smi")')
    assert of_step("a10g") == (["A10G"], 'run_commands("nvidia-smi", gpu="A10G")')
    image = modal.Image.debian_slim()
    steps = [
        image.apt_install("x", gpu="T4"),
        image.dockerfile_commands("RUN x", gpu="T4"),
        image.pip_install("x", gpu="T4"),
        image.pip_install_from_pyproject("x", gpu="T4"),
        image.pip_install_from_requirements("x", gpu="T4"),
        image.poetry_install_from_file("x", gpu="T4"),
        image.run_function(of_step, gpu="T4"),
        image.uv_pip_install("x", gpu="T4"),
        image.uv_sync(gpu="T4"),
        modal.Image.from_dockerfile("x", gpu="T4"),
    ]
    assert [step._gpu for step in steps] == [["T4"]] * len(steps)
    assert image.run_function(of_step, gpu=["H100", "T4:2"])._gpu == ["H100", "T4:2"]


@pytest.mark.parametrize("use", [of_function, of_step])
@pytest.mark.parametrize(
    ("gpu", "message"),
    [
        (5, "takes a string"),
        (True, "takes a string"),
        ("T4:", "has no count"),
        ("T4:0", "has no count"),
        ("T4:-1", "has no count"),
        ("T4:two", "has no count"),
        ("T4:1.5", "has no count"),
        ("T4:²", "has no count"),
        ("T4:99999999999", "has no count"),
        (":2", "names no type"),
        ([5], "takes a string"),
        ([["T4"]], "takes a string"),
    ],
)
def test_what_asks_for_no_gpu_is_refused_at_once(use, gpu, message):
    with pytest.raises(InvalidError, match=message):
        use(gpu)


def test_a_step_takes_no_list():
    with pytest.raises(InvalidError, match=r"`gpu` of `Image\.run_commands` takes a string, not"):
        of_step(["T4", "L4"])


def test_the_module_that_modal_has_removed_says_what_to_write():
    with pytest.raises(AttributeError, match='gpu="H100:2"'):
        _ = modal.gpu
