"""`modal deploy`: which app of a program is meant, and keeping it."""

from __future__ import annotations

from modal._cli import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def deploy(words: list[str]) -> int:
    """Deploys an app; returns the exit code."""
    from time import monotonic

    from modal._cli.reference import resolve_app
    from modal._client.deploy import deploy as deploy_app
    from modal._client.engine import connect

    text, as_module, name, tag, strategy = _parse(words)
    begun = monotonic()
    app = resolve_app(text, as_module)
    engine = connect(output=True)
    try:
        deployed = deploy_app(engine, app, name=name, environment=None, tag=tag, strategy=strategy)
    finally:
        engine.close()
    called = deployed["name"] + ("" if deployed["environment"] == "main" else f" ({deployed['environment']})")
    if deployed["is_new"]:
        print(f"Deployed {called} as version {deployed['version']} in {monotonic() - begun:.1f} s.")
    else:
        print(f"Nothing has changed: {called} stays version {deployed['version']}.")
    for name in deployed["functions"]:
        kind = "Cls" if name in app._classes else "Function"
        print(f'  modal.{kind}.from_name("{deployed["name"]}", "{name}")')
    return 0


def _parse(words: list[str]) -> tuple[str, bool, str | None, str, str]:
    """REF, `-m`, `--name`, `--tag` and `--strategy`."""
    rest = iter(words)
    options: dict[str, str] = {}
    text, as_module = None, False
    for word in rest:
        if word == "-m":
            as_module = True
        elif word in ("--name", "--tag", "--strategy"):
            options[word] = _value(word, rest)
        elif text is None:
            text = word
        else:
            raise UsageError(f"`{word}` is not expected here", "`modal deploy` takes one REF")
    if text is None:
        raise UsageError("which program to deploy is missing", "write for example `modal deploy app.py`")
    return text, as_module, options.get("--name"), options.get("--tag", ""), options.get("--strategy", "rolling")


def _value(option: str, rest: Iterator[str]) -> str:
    value = next(rest, None)
    if value is None:
        raise UsageError(f"`{option}` needs a value")
    return value
