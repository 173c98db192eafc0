"""The command `build`: the image of a Dockerfile, without a program."""

from __future__ import annotations

import os


def build(words: list[str]) -> int:
    """Builds the image, names it, and prints its id. The words are the context, the Dockerfile and options."""
    from modal._client import engine as engines
    from modal._client.images import publish, read_name
    from modal._client.origin import origin_of
    from modal.image import Image
    from modal.secret import Secret

    context, file, *options = words
    arguments: dict[str, str] = {}
    secrets, login, tag, target, force = [], None, None, None, False
    for option in options:
        name, _, value = option.partition("=")
        if name == "--build-arg":
            key, given, text = value.partition("=")
            if given or key in os.environ:
                arguments[key] = text if given else os.environ[key]
        elif name == "--secret":
            secrets.append(Secret.from_name(value))
        elif name == "--registry-secret":
            login = Secret.from_name(value)
        elif name == "--registry-secret-from-env":
            login = Secret.from_local_environ([each.strip() for each in value.split(",") if each.strip()])
        elif name == "--tag":
            tag = value
        elif name == "--target":
            target = value
        else:
            force = True
    if tag is not None:
        # A name that cannot be one is no reason to build first.
        read_name("modal image build", tag, None)
    image = Image.from_dockerfile(
        file,
        context_dir=context,
        build_args=arguments,
        secrets=secrets,
        registry_secret=login,
        force_build=force,
    )
    if file == "-":
        from modal._client.dockerfile import read_standard_input

        read = read_standard_input(context)
        image._local = lambda: read
    if target is not None:
        image._step["target"] = target
    engine = engines.connect(output=True)
    try:
        image.build()
        if tag is not None:
            publish(image, tag, None, {} if file == "-" else origin_of(file))
    finally:
        engine.close()
    print(image.object_id)
    return 0
