"""What is taken from CPython's private modules: their public halves take longer to import than a container to start.

Nothing promises that another Python has them, or that they do there what they do here; then the public halves take
over.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.machinery import ModuleSpec
    from pickle import Pickler, PicklingError, Unpickler, dumps, loads
    from socket import AF_UNIX, SOCK_STREAM, socket, socketpair
    from struct import Struct
    from types import ModuleType
    from typing import Any
else:
    try:
        from _pickle import Pickler, PicklingError, Unpickler, dumps, loads
    except ImportError:
        from pickle import Pickler, PicklingError, Unpickler, dumps, loads
    try:
        from _struct import Struct
    except ImportError:
        from struct import Struct
    try:
        from _socket import AF_UNIX, SOCK_STREAM, socket, socketpair
    except ImportError:
        from socket import AF_UNIX, SOCK_STREAM, socket, socketpair

__all__ = [
    "AF_UNIX",
    "SOCK_STREAM",
    "Pickler",
    "PicklingError",
    "Struct",
    "Unpickler",
    "decode_json",
    "dumps",
    "encode_json",
    "find_spec",
    "loads",
    "module_from_spec",
    "script_spec",
    "signals",
    "socket",
    "socketpair",
]

SAMPLE = '{"a":[1,-2.5,true,null,"\\u00e9\\"\\\\"],"b":{}}'


class _ScannerOptions:
    """What the C scanner asks of a `json.JSONDecoder`."""

    strict = True
    parse_float = float
    parse_int = int
    parse_constant = float

    def __getattr__(self, _name: str) -> None:
        """Hooks, of which there are none; later Pythons may know more of them."""


def _refuse(value: object) -> Any:
    raise TypeError(f"`{type(value).__name__}` cannot be part of a control message")


def _fast_json() -> tuple[Any, Any]:
    """A reader and a writer made of the C halves of `json`; an exception where they are not as expected."""
    from _json import encode_basestring, make_encoder, make_scanner

    options: Any = _ScannerOptions()
    scan = make_scanner(options)
    encode = make_encoder(None, _refuse, encode_basestring, None, ":", ",", False, False, False)

    def decode_json(text: str) -> Any:
        return scan(text, 0)[0]

    def encode_json(value: Any) -> str:
        return "".join(encode(value, 0))

    value = decode_json(SAMPLE)
    if value != {"a": [1, -2.5, True, None, 'é"\\'], "b": {}} or encode_json(value) != SAMPLE.replace("\\u00e9", "é"):
        raise ValueError("this Python has other halves")
    return decode_json, encode_json


def _portable_json() -> tuple[Any, Any]:
    import json

    def encode_json(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    return json.loads, encode_json


#: Reads one JSON value.
decode_json: Callable[[str], Any]
#: Writes one JSON value, without spaces.
encode_json: Callable[[Any], str]
try:
    decode_json, encode_json = _fast_json()
except Exception:  # Whatever a later Python has changed.
    decode_json, encode_json = _portable_json()


def signals() -> Any:
    """The module `signal`, without its enumerations."""
    try:
        import _signal  # type: ignore[import-not-found]
    except ImportError:
        import signal

        return signal
    return _signal


def script_spec(name: str, path: str) -> ModuleSpec:
    """How the file `path` becomes the module `name`."""
    try:
        from _frozen_importlib_external import spec_from_file_location
    except ImportError:
        from importlib.util import spec_from_file_location
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"`{path}` is no Python program", name=name, path=path)
    return spec


def module_from_spec(spec: ModuleSpec) -> ModuleType:
    """A module that is yet to be executed."""
    try:
        from _frozen_importlib import module_from_spec
    except ImportError:
        from importlib.util import module_from_spec
    return module_from_spec(spec)


def find_spec(name: str) -> ModuleSpec | None:
    """Where a top-level module is, without importing it."""
    try:
        from _frozen_importlib import _find_spec  # type: ignore[attr-defined]
    except ImportError:
        from importlib.util import find_spec

        return find_spec(name)
    return _find_spec(name, None)  # type: ignore[no-any-return]
