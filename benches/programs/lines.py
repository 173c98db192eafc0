"""The image `crew` as a Dockerfile says it."""

import json
import os

import modal

app = modal.App(
    "lines",
    image=modal.Image.from_dockerfile(
        os.environ.get("BENCH_DOCKERFILE", "Dockerfile"),
        context_dir=os.environ.get("BENCH_CONTEXT", "."),
        build_args=json.loads(os.environ.get("BENCH_ARGUMENTS", "{}")),
    ),
)


@app.function()
def installed() -> str:
    """Says what is there, in the words that the benchmark expects."""
    import shutil
    from importlib.metadata import distributions, version

    count = len(list(distributions()))
    programs = all(shutil.which(name) for name in ("git", "curl"))
    modules = sum(len(files) for _, _, files in os.walk("/root/src"))
    return f"packages={count} tavily={version('tavily-python')} programs={programs} modules={modules}"


@app.local_entrypoint()
def main():
    """Prints what is in the image."""
    print(installed.remote())


@app.local_entrypoint()
def build():
    """Nothing: the image is built before."""
