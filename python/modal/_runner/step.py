"""Executes the function of an `Image.run_function` step, in the sandbox in which that is built."""

from __future__ import annotations

import sys

from modal._runner import runner
from modal._shared.errors import format_trimmed
from modal._shared.interpreter import decode_json
from modal._shared.payload import unpack
from modal.exception import DeserializationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def main(path: str) -> None:
    """Runs the function that the file describes; its exception ends the process with 1."""
    with open(path, encoding="utf-8") as file:
        described = decode_json(file.read())
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if described["volumes"]:
        from modal._runner.volumes import of_step

        of_step += described["volumes"]
    runner._put_working_directory_first()
    try:
        function = runner.find(described["module"], described["function"])
        args, kwargs = _arguments(described)
        _run(getattr(function, "get_raw_f", lambda: function)(), args, kwargs)
    except SystemExit:
        raise
    except BaseException as error:
        sys.stdout.flush()
        sys.stderr.write(format_trimmed(error))
        sys.exit(1)


def _arguments(described: dict[str, Any]) -> Any:
    if described["arguments"] is None:
        return (), {}
    from binascii import a2b_base64

    try:
        return unpack(a2b_base64(described["arguments"]))
    except DeserializationError:
        raise
    except Exception as error:
        raise DeserializationError(
            f"the arguments of `{described['function']}` cannot be read in the image: {type(error).__name__}: {error}",
            hint="install what defines their classes before this step, or pass plain data",
        ) from error


def _run(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Calls a function of any kind, to its end."""
    result = function(*args, **kwargs)
    if hasattr(result, "cr_frame"):
        import asyncio

        asyncio.run(result)
    elif hasattr(result, "gi_frame"):
        for _ in result:
            pass
