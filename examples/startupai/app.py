"""An application with nine direct requirements (some 160 packages) and a source directory of its own.

Run it with `modal run examples/startupai/app.py`.
"""

from pathlib import Path

import modal

SOURCE = Path(__file__).parent / "src"

image = (
    modal.Image.debian_slim(python_version="3.11")
    .pip_install(
        "crewai>=0.80.0",
        "crewai-tools>=0.14.0",
        "fastapi>=0.115.0",
        "pydantic>=2.0.0",
        "pydantic-settings>=2.0.0",
        "supabase>=2.0.0",
        "openai>=1.0.0",
        "tavily-python>=0.3.0",
        "httpx>=0.27.0",
    )
    .add_local_dir(SOURCE, remote_path="/root/src")
)
app = modal.App(
    "startupai-validation",
    image=image,
    secrets=[modal.Secret.from_dict({"STARTUPAI_STAGE": "example"})],
)


@app.function(timeout=600)
def versions() -> dict[str, str]:
    """Imports every requirement inside the container and returns what is installed there."""
    from src.inventory import installed_versions

    return installed_versions()


@app.local_entrypoint()
def main() -> None:
    """Prints what is installed in the image, one package a line."""
    for name, version in versions.remote().items():
        print(f"{name:18} {version}")
