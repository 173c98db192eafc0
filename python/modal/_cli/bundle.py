"""The command `bundle`: the image of a program's functions, with all that a call needs where Lamina is not."""

from __future__ import annotations

import json
import os

from modal._cli import SelectionError
from modal._runner.command import DESCRIPTION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from modal.image import Image

#: What is left out of the package.
PACKAGE_IGNORE = ("**/__pycache__", "**/*.pyc")
#: Where the package lies in containers.
PACKAGE = "/__modal/python/modal"


def bundle(words: list[str]) -> int:
    """Builds the image, and writes its id into a file. The words are `-m`, if it is a module, the REF and the file."""
    as_module = words[:1] == ["-m"]
    reference, result = words[as_module:]
    services = _chosen(reference, as_module)
    from tempfile import TemporaryDirectory

    from modal._client import engine as engines
    from modal._client.graph import Graph
    from modal._client.origin import origin_of

    graph = Graph()
    for service in services:
        graph.add_function(service)
    graph.check()
    with TemporaryDirectory(prefix="modal-bundle-") as directory:
        path = os.path.join(directory, "functions.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"version": 1, "functions": [_described(each) for each in graph.functions]}, file, sort_keys=True)
        os.chmod(path, 0o644)
        image = _with_files(_image_of(services[0]), graph.functions, path)
        engine = engines.connect(output=True)
        try:
            image.build()
        finally:
            engine.close()
    program = reference.partition("::")[0]
    made = {"image": image.object_id, "name": _tag(services[0]._app.name, program)}
    with open(result, "w", encoding="utf-8") as file:
        json.dump({**made, "origin": origin_of(program, as_module)}, file)
    return 0


def _chosen(reference: str, as_module: bool) -> list[Any]:
    """The function or class that is named, or all of the app, which have one image then."""
    from modal._cli.reference import resolve_app, resolve_function

    if "::" in reference:
        app, name = resolve_function(reference, as_module)
        services = [service for service in app._services() if name in (None, service._name)]
    else:
        app = resolve_app(reference, as_module)
        services = app._services()
    if not services:
        raise SelectionError(f"`{reference}` has no functions", "put `@app.function()` above one")
    images: dict[int, list[str]] = {}
    for service in services:
        images.setdefault(id(_image_of(service)), []).append(service._name)
    if len(images) > 1:
        groups = "; ".join(", ".join(f"`{name}`" for name in names) for names in images.values())
        raise SelectionError(
            f"the functions of `{reference}` have several images", f"name a function behind `::`, of {groups}"
        )
    return services


def _tag(name: str | None, program: str) -> str:
    """What the image is called: as the app, with what names of images may have."""
    stem = os.path.splitext(os.path.basename(program))[0]
    letters = [letter if letter in "abcdefghijklmnopqrstuvwxyz0123456789" else "-" for letter in (name or stem).lower()]
    return ("-".join(part for part in "".join(letters).split("-") if part) or "app") + ":latest"


def _image_of(service: Any) -> Image:
    image: Image = service._settings.image or service._app._default_image()
    return image


def _described(function: dict[str, Any]) -> dict[str, Any]:
    """What a call needs to know; of secrets only which variables they are."""
    variables = sorted({name for secret in function["secrets"] for name in secret.get("values") or ()})
    described = {"name": function["name"], "module": function["module"], "environment": function["environment"]}
    if "class" in function:
        described["methods"] = function["class"]["methods"]
    return {**described, **({"variables": variables} if variables else {})}


def _with_files(image: Image, functions: list[dict[str, Any]], description: str) -> Image:
    """The image with what containers get when they start as layers."""
    import modal
    from modal._client.files import directory_entry, file_entry
    from modal.image import Image
    from modal.image._step import make

    attached = []
    current: Image = image
    while current._step["kind"] == "attach_files":
        attached.append(current)
        assert current._parent is not None
        current = current._parent
    for each in reversed(attached):
        current = make(Image, current, {"kind": "copy_files"}, each._title, local=each._local)
    source: list[dict[str, Any]] = []
    for function in functions:
        source += [entry for entry in function["source"]["entries"] if entry not in source]
    package = directory_entry(os.path.dirname(modal.__file__), PACKAGE, PACKAGE_IGNORE)
    sets = [
        ("modal", [package]),
        ("source of the functions", source),
        ("functions", [file_entry(description, DESCRIPTION)]),
    ]
    for title, entries in sets:
        if entries:
            step = {"kind": "copy_files", "files": {"entries": entries}}
            current = make(Image, current, step, title)
    return current
