"""Brings one more package into the package cache, so that a later installation of it downloads nothing."""

import os

import modal

PACKAGE = os.environ.get("BENCH_TAVILY", "tavily-python")
app = modal.App("warm", image=modal.Image.debian_slim(python_version="3.11").uv_pip_install(PACKAGE))


@app.function()
def nothing() -> None:
    """Gives the app an image to build."""


@app.local_entrypoint()
def build():
    """Nothing: the image is built before."""
