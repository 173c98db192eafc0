"""The commands `run`, `describe`, `build` and `deploy`."""

from __future__ import annotations

import sys

from modal._cli import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from modal._cli.reference import Target
    from modal._cli.signature import Parameter

COMMANDS = ("run", "describe")


def main(words: list[str]) -> int:
    """Runs a command; returns the exit code."""
    try:
        return _dispatch(words)
    except SystemExit as error:
        # What the user's code says by `sys.exit` stands, as it would without `modal run`.
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        print(error.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        from modal._cli.report import report

        return report(error)


def _dispatch(words: list[str]) -> int:
    if words[:1] == ["build"]:
        from modal._cli.build import build

        return build(words[1:])
    if words[:1] == ["pull"]:
        from modal._cli.pull import pull

        return pull(words[1:])
    if words[:1] == ["prepare"]:
        from modal._cli.pull import prepare

        return prepare(words[1:])
    if words[:1] == ["import"]:
        from modal._cli.pull import import_file

        return import_file(words[1:])
    if words[:1] == ["bundle"]:
        from modal._cli.bundle import bundle

        _flush_lines()
        return bundle(words[1:])
    if words[:1] == ["deploy"]:
        from modal._cli.deploy import deploy

        _flush_lines()
        _spare_own_objects()
        return deploy(words[1:])
    if words[:1] in (["dict"], ["queue"]):
        from modal._cli.collections import show

        _flush_lines()
        return show(words)
    options, rest = words, []
    if "--" in words:
        cut = words.index("--")
        options, rest = words[:cut], words[cut + 1 :]
    command, as_module, name, result_file, text = _parse(options)
    _flush_lines()
    from modal._cli.reference import resolve, resolve_function

    _spare_own_objects()
    if command == "describe":
        return _describe(*resolve_function(text, as_module))
    return _run(resolve(text, as_module), rest, name, result_file)


def _flush_lines() -> None:
    """Containers write to the same terminal or pipe; whole lines must leave this process at once."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _spare_own_objects() -> None:
    """Garbage is looked for in what the program makes, not in this package: a tenth of a short run was spent on it."""
    import gc

    import modal.app
    import modal.functions
    import modal.image  # noqa: F401

    gc.freeze()
    gc.enable()


def _parse(options: list[str]) -> tuple[str, bool, str | None, str | None, str]:
    """The command, `-m`, `--name`, `--write-result` and the REF."""
    words = iter(options)
    command = next(words, None)
    if command not in COMMANDS:
        raise UsageError(f"`{command}` is no command of `modal._cli`", "use the `modal` command")
    as_module, name, result_file, text = False, None, None, None
    for word in words:
        if word == "-m":
            as_module = True
        elif word in ("-n", "--name"):
            name = next(words, None)
            if name is None:
                raise UsageError("`--name` needs a name")
        elif word in ("-w", "--write-result"):
            result_file = next(words, None)
            if result_file is None:
                raise UsageError("`--write-result` needs a file")
        elif text is None and (word == "-" or not word.startswith("-")):
            text = word
        else:
            raise UsageError(f"`{word}` is not expected here", "options of your program come after the REF")
    if text is None:
        raise UsageError("which program to run is missing", "write for example `modal run app.py`")
    return command, as_module, name, result_file, text


def _run(target: Target, words: list[str], name: str | None, result_file: str | None) -> int:
    from modal._cli.arguments import bind, help_text, wants_help
    from modal._cli.signature import class_parameters, read_signature

    of_class = [] if target.cls is None else class_parameters(target.cls)
    parameters = [*of_class, *read_signature(target.raw, is_method=target.cls is not None)]
    if wants_help(words, parameters):
        print(help_text(f"modal run {target.reference}", target.raw, parameters))
        return 0
    args, kwargs = bind(f"modal run {target.reference}", parameters, words)
    if target.cls is not None:
        args, kwargs = _split_parameters(of_class, args, kwargs)

    from modal._client.running import RunningApp

    if name is not None:
        target.app._name = name
    with RunningApp(target.app, output=True, ends_with=True):
        result = _finished(target.call(*args, **kwargs))
    if result_file is not None:
        _write_result(result_file, target.name, result)
    return 0


def _split_parameters(
    of_class: list[Parameter], args: list[Any], kwargs: dict[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """The parameters of a class in front of the arguments of its method."""
    given = {parameter.name: kwargs.pop(parameter.name) for parameter in of_class if parameter.name in kwargs}
    return [given, *args], kwargs


def _finished(result: Any) -> object:
    """What a call returned; an asynchronous entrypoint is run to its end."""
    if not hasattr(result, "__await__"):
        return result
    import asyncio

    async def finish() -> object:
        return await result

    return asyncio.run(finish())


def _write_result(path: str, name: str, result: object) -> None:
    from modal.exception import InvalidError

    if not isinstance(result, (str, bytes)):
        raise InvalidError(
            f"`--write-result` needs a result of type str or bytes; `{name}` returned `{type(result).__name__}`"
        )
    with open(path, "wb") as file:
        file.write(result.encode() if isinstance(result, str) else result)


def _describe(app: object, function: str | None) -> int:
    from modal._client.engine import connect
    from modal._client.graph import app_graph

    _, body = app_graph(app)  # type: ignore[arg-type]
    engine = connect(output=True)
    try:
        engine.request("app.describe", {**body, "select": function})
    finally:
        engine.close()
    return 0
