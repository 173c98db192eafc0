"""A function beside 10,000 local files, one of which it reads."""

import os

import modal

image = modal.Image.debian_slim(python_version="3.11").add_local_dir(
    os.environ.get("BENCH_SOURCE", "src"), remote_path="/root/src"
)
app = modal.App("many-files", image=image)


@app.function()
def last_line(path: str) -> str:
    """The last line of a file."""
    with open(f"/root/src/{path}") as file:
        return file.read().splitlines()[-1]


@app.local_entrypoint()
def main(path: str):
    """Prints the last line of a file."""
    print(last_line.remote(path))


@app.local_entrypoint()
def build():
    """Nothing: the files are collected before."""
