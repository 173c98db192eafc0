"""A program with everything that Modal's guide of images shows and that exists here, as type checkers see it.

What does not exist yet is an error for them too: each such line says so, and mypy reports a comment that is needless.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any, assert_type

import modal
from modal import Volume


def print_versions(package: str, full: bool = False) -> None: ...


fixed = modal.Image.debian_slim(python_version="3.11")
local_version = modal.Image.debian_slim()
latest = modal.Image.debian_slim("3.13", force_build=True)

quick = modal.Image.debian_slim().uv_pip_install("attrs>=24.1.0", "rich>=13.0.0", "httpx[http2]>=0.27.0")
thorough = modal.Image.debian_slim().pip_install("attrs>=24.1.0", ["rich>=13.0.0"], extra_index_url=None)
private = quick.uv_pip_install(
    "attrs",
    requirements=["requirements.txt"],
    find_links="https://links.invalid",
    index_url="https://index.invalid/simple",
    extra_options="--no-deps",
    uv_version="0.9.0",
    secrets=[modal.Secret.from_dict({"TOKEN": "t"}), modal.Secret.from_dotenv()],
)
system = modal.Image.debian_slim().apt_install("git", "curl", "build-essential")

files = (
    modal.Image.debian_slim()
    .add_local_dir("src", remote_path="/root/src")
    .add_local_dir(Path("more"), remote_path=PurePosixPath("/root/more"), ignore=lambda path: path.suffix == ".tmp")
    .add_local_python_source("one_module", "another_module")
    .add_local_file("settings.yaml", remote_path="/root/settings.yaml", copy=True)
)
variables = modal.Image.debian_slim().env({"PYTHONPATH": "/root/src", "LOG_LEVEL": "INFO"}).workdir("/root")
commands = (
    modal.Image.debian_slim()
    .apt_install("git")
    .run_commands("git clone https://git.invalid/project /root/project", "chmod +x /root/project/setup.sh")
    .run_commands(["make", "make install"], env={"PREFIX": "/usr/local"}, force_build=True)
    .run_function(print_versions, args=("pandas",), kwargs={"full": True}, timeout=60, memory=512)
)
dockerfile = modal.Image.from_dockerfile(
    "Dockerfile", context_dir=".", build_args={"A": "b"}, ignore=["*.pyc"], registry_secret=None
)
lines = dockerfile.dockerfile_commands("RUN make", ["CMD x"], secrets=[modal.Secret.from_dict({"A": "b"})])
given = dockerfile.dockerfile_commands("COPY /a /b", context_files={"/a": "local/a", "/c": Path("local/c")})
project = modal.Image.debian_slim().uv_sync(
    "project", groups=["dev"], extras=["more"], frozen=False, uv_version="0.9.0"
)
downloaded = project.run_function(
    print_versions,
    secrets=[modal.Secret.from_name("huggingface", required_keys=["HF_TOKEN"])],
    volumes={"/models": Volume.from_name("models", create_if_missing=True)},
    args=("torch",),
    include_source=False,
)
mounted = project.run_commands("ls /models", volumes={"/models": Volume.from_name("models")})
named = modal.Image.from_name("trainer:v1", environment_name="main")
assert_type(downloaded.build(), modal.Image)
assert_type(downloaded.publish("trainer:v2"), None)
served = (
    modal.Image.from_scratch(force_build=True)
    .entrypoint([])
    .entrypoint(["/usr/bin/tini", "--"])
    .shell(["/bin/bash", "-c"])
    .cmd(["serve"])
)
forced = modal.Image.debian_slim().pip_install("attrs", force_build=True)
chained = (
    modal.Image.debian_slim(python_version="3.11")
    .apt_install("git", "curl")
    .pip_install("attrs>=24.1.0", "rich>=13.0.0", pre=True)
    .add_local_dir("src", remote_path="/root/src")
)
assert_type(chained, modal.Image)
assert_type(modal.Secret.from_local_environ(["HOME"]), modal.Secret)

app = modal.App(
    name="guide",
    image=chained,
    secrets=[modal.Secret.from_dict({"LEVEL": "INFO", "NOTHING": None})],
    volumes={},
)

with quick.imports():
    # Checked where packages of the image are not: these are everywhere.
    import json

    import tomllib


@app.function(image=quick, gpu=None, schedule=None, min_containers=0)
def analyze(data: list[float]) -> dict[str, float]:
    print(json.dumps(data), tomllib.loads("a = 1"))
    return {"mean": sum(data) / len(data)}


@app.function(image=system, timeout=600, retries=2, env={"A": "1", "B": None}, max_containers=1)
def imports_inside(path: str) -> str:
    import urllib.request

    return str(urllib.request.urlopen(path))


@app.function(gpu=["H100:2", "A10G"])
def trained() -> None: ...


assert_type(modal.Image.from_registry("python:3.11"), modal.Image)
assert_type(modal.Image.from_aws_ecr("1.dkr.ecr.eu-west-1.amazonaws.com/x:1", modal.Secret.from_name("a")), modal.Image)
assert_type(modal.Image.from_gcp_artifact_registry("europe-docker.pkg.dev/p/r/x:1", force_build=True), modal.Image)
assert_type(modal.Image.micromamba("3.11").micromamba_install("a", ["b"], channels=["c"], gpu="any"), modal.Image)
modal.Secret.from_name("own", required_keys=["TOKEN"])
assert_type(modal.Secret.objects.list(), list[modal.Secret])
built = fixed.build()
assert_type(built, modal.Image)
built.publish("fixed:v1")
assert_type(modal.Image.from_name("fixed:v1", environment_name="main"), modal.Image)
assert_type(modal.Image.from_id(built.object_id).logs.fetch(layers=None), list[str])
fixed.pip_install("attrs", gpu="A10G").pip_install("attrs", gpu=["A10G"])  # type: ignore[arg-type]
Volume.from_name("data")

shared = modal.Dict.from_name("shared", create_if_missing=True)
shared["key"] = 1
assert_type(shared.put("key", 2, skip_if_exists=True), bool)
assert_type(shared.len(), int)
assert_type(list(shared.items()), list[tuple[Any, Any]])
assert_type(modal.Dict.objects.list(), list[modal.Dict])
with modal.Queue.ephemeral() as jobs:
    assert_type(jobs, modal.Queue)
    jobs.put_many([1, 2], partition="p", partition_ttl=60)
    assert_type(jobs.get_many(2, timeout=1.5), list[Any])


async def waits() -> None:
    assert_type(await jobs.len.aio(total=True), int)
    async for value in jobs.iterate.aio(item_poll_timeout=1.0):
        print(value)


@app.local_entrypoint()
def main(count: int = 3, name: str = "x") -> None:
    assert_type(analyze.remote([1.0] * count), dict[str, float])
    assert_type(imports_inside.remote(name), str)


assert_type(modal.App("kept").deploy(tag="v1", strategy="recreate"), modal.App)
deployed = modal.Function.from_name("kept", "work", version=2, environment_name="test")
deployed.remote(1, key="value")
assert_type(modal.App.lookup("kept", create_if_missing=True), modal.App)
assert_type(modal.App("whole", tags={"team": "a"}).include(modal.App("part")), modal.App)


@app.cls(gpu="any", scaledown_window=60)
class Model:
    size: int = modal.parameter(default=7)

    @modal.enter()
    def load(self) -> None:
        self.weights = [0.0] * self.size

    @modal.method()
    def predict(self, text: str) -> list[float]:
        return [len(text) * weight for weight in self.weights]

    @modal.method()
    async def later(self) -> int:
        return self.size

    @modal.exit()
    def leave(self) -> None: ...


assert_type(Model().predict.remote("x"), list[float])
assert_type(Model().later.remote(), int)


@app.function(schedule=modal.Period(hours=4, seconds=0.5))
def often() -> None: ...


@app.function(schedule=modal.Cron("30 2 * * mon-fri", timezone="Europe/Berlin"))
def daily() -> None: ...
