"""Every snippet of the guide that users of Modal's images have, as one program."""

from __future__ import annotations

import json

from conftest import Modal

PROGRAM = '''
import modal

# Basic definition, and the local series of Python.
basic = modal.Image.debian_slim(python_version="3.11").pip_install("requests", "pydantic")
local = modal.Image.debian_slim()

# Installing.
quick = modal.Image.debian_slim(python_version="3.11").uv_pip_install(
    "crewai>=0.80.0",
    "fastapi>=0.115.0",
    "pydantic>=2.0.0",
)
system = modal.Image.debian_slim(python_version="3.11").apt_install("git", "curl", "build-essential")

# Local files.
directory = modal.Image.debian_slim(python_version="3.11").add_local_dir("src", remote_path="/root/src")
module = modal.Image.debian_slim(python_version="3.11").add_local_python_source("my_module")
single = modal.Image.debian_slim(python_version="3.11").add_local_file("config.yaml", remote_path="/root/config.yaml")

# Variables and commands.
variables = modal.Image.debian_slim(python_version="3.11").env({"PYTHONPATH": "/root/src", "LOG_LEVEL": "INFO"})
commands = system.run_commands(
    "git init -q /root/origin && touch /root/origin/setup.sh && git -C /root/origin add setup.sh"
    " && git -C /root/origin -c user.name=x -c user.email=x@x.invalid commit -qm setup",
    "git clone -q /root/origin /root/repo",
    "chmod +x /root/repo/setup.sh",
)


def download_models():
    """Download models during image build."""
    import os

    import huggingface_hub

    os.makedirs("/root/models")
    with open("/root/models/weights.bin", "w") as file:
        file.write(f"{huggingface_hub.__name__} {len(os.environ['HF_TOKEN'])}")


function = (
    modal.Image.debian_slim(python_version="3.11")
    .pip_install("huggingface_hub")
    .run_function(download_models, secrets=[modal.Secret.from_name("huggingface")])
)

# With a GPU, which the test does without.
trained = modal.Image.debian_slim(python_version="3.11").pip_install("idna", gpu="A10G")

# Forcing, and imports that only the image has.
forced = modal.Image.debian_slim(python_version="3.11").pip_install("idna", force_build=True)
with basic.imports():
    import pydantic
    import requests
frames = modal.Image.debian_slim(python_version="3.11").pip_install("pandas", "numpy")
with frames.imports():
    import numpy as np
    import pandas as pd

# The whole.
image = (
    modal.Image.debian_slim(python_version="3.11")
    .apt_install("git", "curl")
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
app = modal.App(name="startupai-validation", image=image, secrets=[modal.Secret.from_name("startupai-secrets")])


@app.function(image=basic)
def of_basic():
    return requests.__name__ + pydantic.__name__


@app.function(image=local)
def of_local():
    import sys

    return list(sys.version_info[:2])


@app.function(image=quick)
def of_quick():
    import crewai

    return crewai.__name__


@app.function(image=directory)
def of_directory():
    return open("/root/src/names.py").read()


@app.function(image=module)
def of_module():
    import my_module

    return my_module.VALUE


@app.function(image=single)
def of_single():
    return open("/root/config.yaml").read()


@app.function(image=variables)
def of_variables():
    import os

    return os.environ["LOG_LEVEL"] + os.environ["PYTHONPATH"]


@app.function(image=commands)
def of_commands():
    import os

    return os.access("/root/repo/setup.sh", os.X_OK)


@app.function(image=function)
def of_function():
    return open("/root/models/weights.bin").read()


@app.function(image=trained, gpu="A10G")
def of_trained():
    import idna

    return idna.__name__


@app.function(image=frames)
def of_frames():
    data = [{"x": 1}, {"x": 3}]
    df = pd.DataFrame(data)  # pd is available
    return [df.describe().to_dict()["x"]["mean"], np.__name__]


@app.function(image=forced)
def of_forced():
    import idna

    return idna.__name__


@app.function()
def of_whole():
    import os
    import shutil

    import crewai_tools
    import supabase

    return [shutil.which("git"), crewai_tools.__name__, supabase.__name__, sorted(os.listdir("/root/src")), os.environ["TOKEN"]]


@app.local_entrypoint()
def main():
    import json
    import sys

    functions = {name: value for name, value in globals().items() if name.startswith("of_")}
    print(json.dumps({name: function.remote() for name, function in functions.items()}))
    print(json.dumps(sys.version_info[:2]))
'''


def test_the_guide_runs_as_it_stands(modal: Modal) -> None:
    modal.environment["MODAL_GPU"] = "ignore"
    modal.write("app.py", PROGRAM)
    modal.write("src/names.py", "COLUMN = 'x'\n")
    modal.write("my_module.py", "VALUE = 42\n")
    modal.write("config.yaml", "a: 1\n")
    for name in ("huggingface", "startupai-secrets"):
        modal("secret", "delete", name, "--yes", "--allow-missing")
    missing = modal("run", "app.py", check=False)
    assert missing.code == 1
    assert "modal secret create" in missing.stderr
    modal("secret", "create", "huggingface", "HF_TOKEN=correct-horse-battery-staple")
    modal("secret", "create", "startupai-secrets", "TOKEN=of-the-app")
    results, series = modal("run", "app.py").stdout.splitlines()
    assert json.loads(results) == {
        "of_basic": "requestspydantic",
        "of_local": json.loads(series),
        "of_quick": "crewai",
        "of_directory": "COLUMN = 'x'\n",
        "of_module": 42,
        "of_single": "a: 1\n",
        "of_variables": "INFO/root:/root/src:/__modal/python",
        "of_commands": True,
        "of_function": "huggingface_hub 28",
        "of_trained": "idna",
        "of_frames": [2.0, "numpy"],
        "of_forced": "idna",
        "of_whole": ["/usr/bin/git", "crewai_tools", "supabase", ["names.py"], "of-the-app"],
    }
