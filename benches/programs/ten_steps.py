"""An image of ten steps, for planning it when nothing has changed."""

import os

import modal

image = (
    modal.Image.debian_slim(python_version="3.11")
    .apt_install("figlet")
    .uv_pip_install("humanize==4.12.3")
    .env({"LOG_LEVEL": "INFO"})
    .run_commands("echo one > /etc/one")
    .run_commands("echo two > /etc/two")
    .workdir("/root")
    .run_commands("echo three > three")
    .add_local_dir(os.environ.get("BENCH_SOURCE", "src"), remote_path="/root/src", copy=True)
    .run_commands("find src -type f | wc -l > count")
)
app = modal.App("ten-steps", image=image)


@app.function()
def look() -> str:
    """What the steps left, in the words that the benchmark expects."""
    from importlib.metadata import version

    texts = []
    for path in ("/etc/one", "/etc/two", "/root/three", "/root/count"):
        with open(path) as file:
            texts.append(file.read().strip())
    return " ".join([version("humanize"), *texts])


@app.local_entrypoint()
def main():
    """Prints what the steps left."""
    print(look.remote())


@app.local_entrypoint()
def build():
    """Nothing: the image is built before."""
