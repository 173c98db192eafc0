"""Declare a container image in Python, build it layer by layer, run functions in it.

```python
import modal

image = modal.Image.debian_slim(python_version="3.11").uv_pip_install("pandas==2.2.3")
app = modal.App("demo", image=image)


@app.function()
def describe(rows):
    import pandas

    return pandas.DataFrame(rows).describe().to_dict()


@app.local_entrypoint()
def main(n: int = 3):
    print(describe.remote([{"x": i} for i in range(n)]))
```

Run it with ``modal run app.py --n 5``. Names load when they are first used, so that importing this package costs next
to nothing, here and in every container.
"""

# Without `from __future__ import annotations`, whose module would be a third of what importing this package costs.
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from modal import call_graph as call_graph
    from modal import config as config
    from modal import exception as exception
    from modal._runner.inputs import current_function_call_id as current_function_call_id
    from modal._runner.inputs import current_input_id as current_input_id
    from modal._runner.terminal import interact as interact
    from modal.app import App as App
    from modal.cls import Cls as Cls
    from modal.cls import parameter as parameter
    from modal.dict import Dict as Dict
    from modal.file_pattern_matcher import FilePatternMatcher as FilePatternMatcher
    from modal.function_call import FunctionCall as FunctionCall
    from modal.functions import Function as Function
    from modal.image import Image as Image
    from modal.output import enable_output as enable_output
    from modal.partial_function import batched as batched
    from modal.partial_function import concurrent as concurrent
    from modal.partial_function import enter as enter
    from modal.partial_function import exit as exit
    from modal.partial_function import method as method
    from modal.queue import Queue as Queue
    from modal.retries import Retries as Retries
    from modal.schedule import Cron as Cron
    from modal.schedule import Period as Period
    from modal.secret import Secret as Secret
    from modal.volume import Volume as Volume

__version__ = "0.1.0"

__all__ = [
    "App",
    "Cls",
    "Cron",
    "Dict",
    "FilePatternMatcher",
    "Function",
    "FunctionCall",
    "Image",
    "Period",
    "Queue",
    "Retries",
    "Secret",
    "Volume",
    "batched",
    "concurrent",
    "current_function_call_id",
    "current_input_id",
    "enable_output",
    "enter",
    "exception",
    "exit",
    "interact",
    "is_local",
    "method",
    "parameter",
]

_HOMES = {
    "App": "modal.app",
    "Cls": "modal.cls",
    "Cron": "modal.schedule",
    "Dict": "modal.dict",
    "FilePatternMatcher": "modal.file_pattern_matcher",
    "Function": "modal.functions",
    "FunctionCall": "modal.function_call",
    "Image": "modal.image",
    "Period": "modal.schedule",
    "Queue": "modal.queue",
    "Retries": "modal.retries",
    "Secret": "modal.secret",
    "Volume": "modal.volume",
    "batched": "modal.partial_function",
    "concurrent": "modal.partial_function",
    "current_function_call_id": "modal._runner.inputs",
    "current_input_id": "modal._runner.inputs",
    "enable_output": "modal.output",
    "enter": "modal.partial_function",
    "exit": "modal.partial_function",
    "interact": "modal._runner.terminal",
    "method": "modal.partial_function",
    "parameter": "modal.cls",
}

#: Modules that programs reach as attributes, without importing them.
_MODULES = frozenset({"call_graph", "config", "exception", *(home[6:] for home in _HOMES.values() if "._" not in home)})


def is_local() -> bool:
    """Whether this code runs in your own process (True) or in the process that runs a function in a container (False).

    Module-level code of an app runs in both places; this tells them apart. In further processes that a function starts
    it is True.
    """
    from os import getpid

    return _process != getpid()


def _in_container() -> bool:
    """Whether this process, whichever it is, is in a container."""
    from os import environ

    return environ.get("MODAL_IS_REMOTE") == "1"


#: The id of the process that runs functions in a container, there; 0 elsewhere.
_process = 0


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        # `import_module` would cost the import of `importlib`.
        home = _HOMES.get(name)
        if home is not None:
            value = getattr(__import__(home, None, None, [name]), name)
            globals()[name] = value
            return value
        if name in _MODULES:
            # Importing it makes it an attribute of this package.
            return __import__(f"modal.{name}", None, None, ["__name__"])
        if name.startswith("_"):
            raise AttributeError(f"module `modal` has no attribute `{name}`")
        from modal._shared.absent import missing_name

        raise missing_name(name, __version__, __all__, sys._getframe(1))


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


class _Absent:
    """Asked last for modules that nobody finds: those of Modal's client that are not here say so."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name.startswith("modal.") and not name.startswith("modal._"):
            from modal._shared.absent import missing_module

            error = missing_module(name)
            if error is not None:
                raise error


sys.meta_path.append(_Absent)
