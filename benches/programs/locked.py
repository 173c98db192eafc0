"""The packages of the image `crew` as a project of uv's with its lock file."""

import os

import modal

app = modal.App(
    "locked", image=modal.Image.debian_slim(python_version="3.11").uv_sync(os.environ.get("BENCH_PROJECT", "."))
)


@app.function()
def installed() -> str:
    """Says what is there, in the words that the benchmark expects."""
    import sys
    from importlib.metadata import distributions

    return f"packages={len(list(distributions()))} python={sys.executable}"


@app.local_entrypoint()
def main():
    """Prints what is in the image."""
    print(installed.remote())


@app.local_entrypoint()
def build():
    """Nothing: the image is built before."""
