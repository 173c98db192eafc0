"""The command line's words as arguments of a function, and the help text about them."""

from __future__ import annotations

from modal._cli import UsageError
from modal._cli.signature import MISSING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from modal._cli.signature import Parameter

METAVARS = {
    "str": "TEXT",
    "int": "INTEGER",
    "float": "FLOAT",
    "datetime": "YYYY-MM-DD[THH:MM:SS]",
    "list": "JSON",
    "dict": "JSON",
}

#: Options of `modal run`, which stand before the program: behind it they would be the program's own.
OF_THE_COMMAND = (
    *("-m", "--module", "-v", "--verbose", "-q", "--quiet", "-w", "--write-result", "-n", "--name", "-e", "--env"),
    *("--timestamps", "-d", "--detach", "-i", "--interactive", "--progress"),
)


def wants_help(words: list[str], parameters: list[Parameter]) -> bool:
    """Whether `--help` is among the options."""
    if _takes_words(parameters):
        return words == ["--help"]
    options = words[: words.index("--")] if "--" in words else words
    return "--help" in options and not any(parameter.option == "help" for parameter in parameters)


def bind(command: str, parameters: list[Parameter], words: list[str]) -> tuple[list[Any], dict[str, Any]]:
    """The positional and keyword arguments that the words give."""
    if _takes_words(parameters):
        return list(words), {}
    given = _read(command, parameters, words)
    missing = [parameter for parameter in parameters if parameter.is_required and parameter.name not in given]
    if missing:
        raise UsageError(
            "missing {} {}".format(
                "option" if len(missing) == 1 else "options", ", ".join(_shown(parameter) for parameter in missing)
            ),
            _see_help(command),
        )
    args: list[Any] = []
    for parameter in parameters:
        if parameter.positional_only:
            args.append(given.pop(parameter.name, parameter.default))
    return args, given


def _read(command: str, parameters: list[Parameter], words: list[str]) -> dict[str, Any]:
    options = _options(parameters)
    given: dict[str, Any] = {}
    rest = iter(words)
    for word in rest:
        if not word.startswith("--") or word == "--":
            raise UsageError(
                f"`{word}` is not an option", _misplaced(word) or "write `--NAME VALUE`; " + _see_help(command)
            )
        option, has_value, value = word[2:].partition("=")
        if option not in options:
            raise UsageError(
                f"there is no option `--{option}`", _misplaced(f"--{option}") or _suggestion(option, options, command)
            )
        parameter, flag = options[option]
        if parameter.kind == "bool":
            if has_value:
                raise UsageError(
                    f"`--{option}` takes no value",
                    f"write `--{parameter.option}` or `--no-{parameter.option}`",
                )
            given[parameter.name] = flag
            continue
        if not has_value:
            following = next(rest, None)
            if following is None:
                raise UsageError(f"`--{option}` needs a value", f"write `{_usage(parameter)}`")
            value = following
        given[parameter.name] = _convert(parameter, value)
    return given


def _options(parameters: list[Parameter]) -> dict[str, tuple[Parameter, bool]]:
    """Every option that is understood: its parameter, and for flags what it says."""
    options = {}
    for parameter in parameters:
        if parameter.kind == "bool":
            options["no-" + parameter.option] = parameter, False
    for parameter in parameters:
        options[parameter.option] = parameter, True
    return options


def _convert(parameter: Parameter, value: str) -> Any:
    try:
        if parameter.kind == "int":
            return int(value)
        if parameter.kind == "float":
            return float(value)
        if parameter.kind == "datetime":
            from datetime import datetime

            return datetime.fromisoformat(value)
        if parameter.kind in ("list", "dict"):
            return _from_json(parameter.kind, value)
    except ValueError:
        kind = {
            "int": "an integer",
            "float": "a number",
            "datetime": "an ISO date or date-time",
            "list": "a JSON array",
            "dict": "a JSON object",
        }[parameter.kind]
        hint = "write for example `2031-05-01` or `2031-05-01T12:30:00`" if parameter.kind == "datetime" else None
        raise UsageError(f"`--{parameter.option}` takes {kind}, not `{value}`", hint) from None
    if parameter.kind == "choice":
        for choice in parameter.choices:
            if str(choice) == value:
                return choice
        raise UsageError(
            f"`--{parameter.option}` does not take `{value}`",
            "choose one of: {}".format(", ".join(f"`{choice}`" for choice in parameter.choices)),
        )
    return value


def _from_json(kind: str, value: str) -> Any:
    import json

    parsed = json.loads(value)
    if not isinstance(parsed, {"list": list, "dict": dict}[kind]):
        raise ValueError(value)
    return parsed


def _suggestion(option: str, options: dict[str, Any], command: str) -> str:
    import difflib

    close = difflib.get_close_matches(option, options, n=1)
    return f"did you mean `--{close[0]}`?" if close else _see_help(command)


def _misplaced(word: str) -> str | None:
    return f"write `{word}` of `modal run` before the program: `modal run {word} …`" if word in OF_THE_COMMAND else None


def _see_help(command: str) -> str:
    return f"`{command} --help` lists the options"


def _shown(parameter: Parameter) -> str:
    if parameter.kind == "bool":
        return f"`--{parameter.option}` or `--no-{parameter.option}`"
    return f"`--{parameter.option}`"


def _usage(parameter: Parameter) -> str:
    if parameter.kind == "bool":
        return f"--{parameter.option} / --no-{parameter.option}"
    if parameter.kind == "choice":
        return "--{} [{}]".format(parameter.option, "|".join(map(str, parameter.choices)))
    return f"--{parameter.option} {METAVARS[parameter.kind]}"


def help_text(command: str, function: Callable[..., Any], parameters: list[Parameter]) -> str:
    """What `--help` prints."""
    lines = ["Usage: {} {}".format(command, "[ARGS]..." if _takes_words(parameters) else "[OPTIONS]")]
    if function.__doc__:
        text = function.__doc__.expandtabs().strip().splitlines()
        lines += ["", *("  " + line.strip() if line.strip() else "" for line in text)]
    rows = [(_usage(parameter), _note(parameter)) for parameter in parameters if parameter.kind != "words"]
    rows.append(("--help", "Show this message"))
    width = max(len(usage) for usage, _ in rows)
    lines += ["", "Options:", *(f"  {usage.ljust(width)}  {note}" for usage, note in rows)]
    return "\n".join(line.rstrip() for line in lines)


def _note(parameter: Parameter) -> str:
    if parameter.default is MISSING:
        return "[required]"
    if parameter.default is None:
        return ""
    if parameter.kind == "bool":
        return "[default: %s]" % (parameter.option if parameter.default else "no-" + parameter.option)
    return f"[default: {parameter.default}]"


def _takes_words(parameters: list[Parameter]) -> bool:
    return len(parameters) == 1 and parameters[0].kind == "words"
