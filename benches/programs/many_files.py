"""A function beside 10,000 local files, one of which it reads."""

import os

import modal

#: Whether the files are in a layer, and leave with the image.
COPY = bool(os.environ.get("BENCH_COPY"))
image = modal.Image.debian_slim(python_version="3.11").add_local_dir(
    os.environ.get("BENCH_SOURCE", "src"), remote_path="/root/src", copy=COPY
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
    """Prints the image's id; it is built before."""
    print(image.object_id)
