"""The image `crew`: two Debian packages, nine requirements (some 160 packages), a source directory, two variables."""

import os

import modal

#: The requirement that changes between rounds.
TAVILY = os.environ.get("BENCH_TAVILY", "tavily-python>=0.3.0")
#: Whether the files are in a layer, and leave with the image.
COPY = bool(os.environ.get("BENCH_COPY"))
SOURCE = os.environ.get("BENCH_SOURCE", "src")

image = (
    modal.Image.debian_slim(python_version="3.11")
    .apt_install("git", "curl")
    .uv_pip_install(
        "crewai>=0.80.0",
        "crewai-tools>=0.14.0",
        "fastapi>=0.115.0",
        "pydantic>=2.0.0",
        "pydantic-settings>=2.0.0",
        "supabase>=2.0.0",
        "openai>=1.0.0",
        TAVILY,
        "httpx>=0.27.0",
    )
    .env({"PYTHONPATH": "/root/src", "LOG_LEVEL": "INFO"})
    .add_local_dir(SOURCE, remote_path="/root/src", copy=COPY)
)
app = modal.App("crew", image=image)


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
    """Prints the image's id; it is built before."""
    print(image.object_id)
