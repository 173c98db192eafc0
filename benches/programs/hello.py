"""A function on the bare base."""

import modal

app = modal.App("hello", image=modal.Image.debian_slim(python_version="3.11"))


@app.function()
def hello() -> str:
    """Says so."""
    return "hello"


@app.local_entrypoint()
def main():
    """Calls the function."""
    print(hello.remote())


@app.local_entrypoint()
def build():
    """Nothing: the image is built before."""
