"""The commands `pull` and `import`: an image of a registry or of a file, without a program."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from modal.secret import Secret


def pull(words: list[str]) -> int:
    """Pulls the image as its tag is now, names it, and prints its id. The words are the reference and options."""
    from modal.secret import Secret

    reference, *options = words
    given = dict(option.split("=", 1) for option in options)
    secret = Secret.from_name(given["--secret"]) if "--secret" in given else None
    return _take("pull", reference, secret, given.get("--name"))


def import_file(words: list[str]) -> int:
    """Brings the image of a file or directory into the store, names it, and prints its id."""
    path, *options = words
    given = dict(option.split("=", 1) for option in options)
    if path != "-":
        return _take("import", f"any-archive:{os.path.abspath(path)}", None, given.get("--name"))
    import shutil
    import sys
    import tempfile

    # It is read in any order. A file without a name goes with this process, however that ends.
    with tempfile.TemporaryFile() as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.flush()
        return _take("import", f"any-archive:/proc/{os.getpid()}/fd/{file.fileno()}", None, given.get("--name"))


def prepare(words: list[str]) -> int:
    """Pulls an image as its tag was first, and writes its id into a file. A Python to add may follow."""
    from modal._client import engine as engines
    from modal.image import Image

    reference, result, *python = words
    image = Image.from_registry(reference, add_python=python[0] if python else None)
    engine = engines.connect(output=True)
    try:
        image.build()
    finally:
        engine.close()
    with open(result, "w", encoding="utf-8") as file:
        file.write(image.object_id)
    return 0


def _take(command: str, reference: str, secret: Secret | None, name: str | None) -> int:
    from modal._client import engine as engines
    from modal._client.images import publish, read_name
    from modal.image import Image

    if name is not None:
        # A name that cannot be one is no reason to pull first.
        read_name(f"modal image {command}", name, None)
    image = Image.from_registry(reference, secret, force_build=True)
    engine = engines.connect(output=True)
    try:
        image.build()
        if name is not None:
            publish(image, name, None, {})
    finally:
        engine.close()
    print(image.object_id)
    return 0
