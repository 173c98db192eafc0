"""Serves one call from the command line: the entrypoint of images that were written with their functions.

There is no engine. The first word is a function, or a method as `Class.method`; options follow as for `modal run`.
Standard output has the result and nothing else, so that other programs can read it: what the function and its module
print goes to standard error.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import TextIOWrapper
    from typing import Any

#: What says which functions there are.
DESCRIPTION = "/__modal/functions.json"
#: Where the source of functions lies, which in most images root alone may enter.
SOURCE = "/root"
#: What runtimes take as the code of a program that `SIGTERM` has ended.
TERMINATED = 128 + 15


def main(words: list[str]) -> int:
    """Calls a function and prints what it returns; answers the exit code."""
    from modal._cli.report import report

    _end_when_told()
    try:
        _call(words)
        sys.stdout.flush()
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        print(error.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever reads has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except BaseException as error:
        return report(error)
    return 0


def _end_when_told() -> None:
    """Takes `SIGTERM`, which `docker stop` sends, as an exit: a pid 1 that does not handle it never gets it."""
    from modal._shared.interpreter import signals

    def end(_number: int, _frame: Any) -> None:
        raise SystemExit(TERMINATED)

    signal = signals()
    signal.signal(signal.SIGTERM, end)


def _call(words: list[str]) -> None:
    import json

    from modal._cli.arguments import bind, help_text, wants_help
    from modal._cli.signature import class_parameters, read_signature

    with open(DESCRIPTION, encoding="utf-8") as file:
        functions = json.load(file)["functions"]
    chosen = _choose(functions, words)
    if chosen is None:
        print(_listing(functions))
        return
    name, function, method, rest = chosen
    with _results() as results:
        found = _load(function)
        raw = found if method is None else found._methods()[method].raw
        of_class = [] if method is None else class_parameters(found)
        parameters = [*of_class, *read_signature(raw, is_method=method is not None)]
        if wants_help(rest, parameters):
            print(help_text(name, raw, parameters), file=results)
            return
        args, kwargs = bind(name, parameters, rest)
        for variable in function.get("variables", ()):
            if variable not in os.environ:
                missing = f"`{variable}`, which comes from a secret, is not set: `-e {variable}` passes it on"
                print(missing, file=sys.stderr)
        if method is None:
            _show(raw, args, kwargs, results)
            return
        from modal._runner.classes import Instance
        from modal.cls import Obj

        given = {parameter.name: kwargs.pop(parameter.name) for parameter in of_class if parameter.name in kwargs}
        instance = Instance(found, Obj(found, (), given)._wire_parameters())
        instance.enter()
        try:
            _show(instance.methods([method])[method], args, kwargs, results)
        finally:
            instance.exit()


@contextmanager
def _results() -> Iterator[TextIOWrapper]:
    """Where results are written; descriptor 1 is standard error meanwhile, for programs that a function starts, too."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with open(kept, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors) as results:
        yield results


def _choose(
    functions: list[dict[str, Any]], words: list[str]
) -> tuple[str, dict[str, Any], str | None, list[str]] | None:
    """The function or method that is called, and the words that are left; None if all are to be listed."""
    from modal._cli import UsageError

    callables = dict(_callables(functions))
    first = words[0] if words else None
    if first in callables:
        function, method = callables[first]
        return first, function, method, words[1:]
    if len(callables) == 1 and (first is None or first.startswith("-")):
        name, (function, method) = next(iter(callables.items()))
        return name, function, method, words
    listed = ", ".join(f"`{name}`" for name in callables)
    if first in ("-h", "--help"):
        return None
    if first is None or first.startswith("-"):
        raise UsageError("which function to call is missing", f"name one of {listed}")
    raise UsageError(f"there is no function `{first}`", f"there is {listed}")


def _callables(functions: list[dict[str, Any]]) -> list[tuple[str, tuple[dict[str, Any], str | None]]]:
    found: list[tuple[str, tuple[dict[str, Any], str | None]]] = []
    for function in functions:
        if "methods" not in function:
            found.append((function["name"], (function, None)))
        found += [(f"{function['name']}.{method}", (function, method)) for method in function.get("methods", ())]
    return found


def _listing(functions: list[dict[str, Any]]) -> str:
    names = [name for name, _ in _callables(functions)]
    return "\n".join(["Usage: FUNCTION [OPTIONS]", "", "Functions:", *(f"  {name}" for name in names)])


def _load(function: dict[str, Any]) -> Any:
    """The plain function, or the class of the app, as a container has it."""
    from types import SimpleNamespace

    if os.path.isdir(SOURCE) and not os.access(SOURCE, os.X_OK):
        from modal._cli import SelectionError

        raise SelectionError(
            f"user {os.geteuid()} may not enter `{SOURCE}`, where the source of the functions is",
            f'run the image as root, or add `.run_commands("chmod a+x {SOURCE}")` to it',
        )

    from modal._runner import runner

    os.environ.update(function["environment"])
    runner._put_working_directory_first()
    module = function["module"]
    load = runner._load_pickled if module["kind"] == "serialized" else runner._load
    return load(SimpleNamespace(app=None, origin=None), module, function["name"]).call  # type: ignore[arg-type]


def _show(call: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], results: TextIOWrapper) -> None:
    """Calls a function and writes its result, or each value of a generator as it comes."""
    result = call(*args, **kwargs)
    if hasattr(result, "__anext__"):
        from modal._runner.loop import iterate

        result = iterate(result)
    elif hasattr(result, "cr_frame"):
        from modal._runner.loop import run

        result = run(result)
    if hasattr(result, "gi_frame"):
        for value in result:
            _write(value, results)
    else:
        _write(result, results)


def _write(value: Any, results: TextIOWrapper) -> None:
    """Text and bytes as they are, what JSON knows as JSON, and all else as Python prints it; nothing for None."""
    if isinstance(value, bytes):
        results.buffer.write(value)
        results.flush()
        return
    if value is None:
        return
    if not isinstance(value, str):
        import json

        try:
            # JSON has no number that is infinite, or none.
            value = json.dumps(value, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError):
            value = str(value)
    print(value, file=results, flush=True)


if __name__ == "__main__":
    if not getattr(sys.flags, "safe_path", False):
        # Python put this file's own directory first.
        del sys.path[0]
    # Other programs of the container find the package after all else, by their PYTHONPATH; here it comes first.
    package = __file__.rsplit("/", 3)[0]
    sys.path[:] = [package, *(each for each in sys.path if each != package)]
    from modal._runner.command import main as _main

    sys.exit(_main(sys.argv[1:]))
