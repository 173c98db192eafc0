"""An environment of conda packages."""

import os

import modal

image = modal.Image.micromamba(python_version="3.11").micromamba_install(
    "everything", f"edition=={os.environ.get('BENCH_EDITION', '0')}", channels=["bench"]
)
app = modal.App("conda-environment", image=image)


@app.function()
def installed() -> str:
    """Says what is there, in the words that the benchmark expects."""
    import os

    packages = [name for name in os.listdir("/opt/conda/conda-meta") if name.startswith("library-")]
    files = sum(len(names) for _, _, names in os.walk("/opt/conda/share/bench"))
    with open("/opt/conda/share/bench/library-7/settings") as file:
        prefix = file.read()
    return f"packages={len(packages)} files={files} {prefix}"


@app.local_entrypoint()
def main():
    """Prints what is in the image."""
    print(installed.remote())


@app.local_entrypoint()
def build():
    """Nothing: the image is built before."""
