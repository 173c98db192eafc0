"""A function that runs in an image with one Debian package and one Python package.

Run it with `modal run examples/hello.py`, or with a name: `modal run examples/hello.py --name Ada`.
"""

import modal

image = (
    modal.Image.debian_slim(python_version="3.11")
    .apt_install("figlet")
    .uv_pip_install("humanize==4.12.3")
    .env({"GREETING": "Hello"})
)
app = modal.App("hello", image=image)


@app.function()
def greet(name: str) -> str:
    """Draws a greeting with the image's figlet and says where it was drawn."""
    import os
    import platform
    import subprocess

    import humanize

    text = f"{os.environ['GREETING']}, {name}"
    banner = subprocess.run(["figlet", text], check=True, capture_output=True, text=True).stdout
    with open("/etc/debian_version") as file:
        debian = file.read().strip()
    memory = humanize.naturalsize(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), binary=True)
    return f"{banner}from Debian {debian}, Python {platform.python_version()}, {os.cpu_count()} cores, {memory}"


@app.local_entrypoint()
def main(name: str = "Lamina") -> None:
    """Prints a greeting that the image's programs made."""
    print(greet.remote(name))
