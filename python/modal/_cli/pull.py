"""The command `pull`: an image of a registry, without a program."""

from __future__ import annotations


def pull(words: list[str]) -> int:
    """Pulls the image as its tag is now, names it, and prints its id. The words are the reference and options."""
    from modal._client import engine as engines
    from modal._client.images import read_name
    from modal.image import Image
    from modal.secret import Secret

    reference, *options = words
    name, secret = None, None
    for option in options:
        key, _, value = option.partition("=")
        if key == "--name":
            name = value
        else:
            secret = Secret.from_name(value)
    if name is not None:
        # A name that cannot be one is no reason to pull first.
        read_name("modal image pull", name, None)
    image = Image.from_registry(reference, secret, force_build=True)
    engine = engines.connect(output=True)
    try:
        image.build()
        if name is not None:
            image.publish(name)
    finally:
        engine.close()
    print(image.object_id)
    return 0
