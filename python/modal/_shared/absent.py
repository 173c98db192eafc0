"""What Modal's API has and this version has not: imported only to say so, so that the lists cost nobody anything."""

from __future__ import annotations

from modal.exception import DeprecationError, InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType
    from typing import Any

_STORAGE = "use `modal.Volume`, or put files into the image with `Image.add_local_dir`"
_WEB = "functions have no URLs yet: call them with `.remote` from a script"
_SANDBOXES = "run programs with `subprocess` inside a function, or open a shell with `modal shell`"
_DEPLOYED = "use `modal.Function.from_name` for the functions of a deployed app"
_ACCOUNT = "there is no account and no service: all runs on this machine"
_NETWORK = "containers use the network of this machine"
_DASHBOARD = "there is no dashboard: `modal app list` and `modal image list` show what is there"
_LOCAL = "the program and its containers are on this machine: there is nothing to fetch beforehand"
_INTERNAL = "it is internal to Modal's client"
_FIGURES = "`modal app list` shows what runs"

#: Names of `modal` itself, and what to do without them.
NAMES = {
    **dict.fromkeys(("CloudBucketMount", "NetworkFileSystem"), _STORAGE),
    "Obj": "it is what calling a class of an app gives",
    **dict.fromkeys(("Server", "asgi_app", "fastapi_endpoint", "web_endpoint", "web_server", "wsgi_app"), _WEB),
    **dict.fromkeys(("Tunnel", "forward", "sessioned"), _WEB),
    **dict.fromkeys(("ContainerProcess", "Probe", "Sandbox", "SandboxSnapshot"), _SANDBOXES),
    **dict.fromkeys(("Cluster", "clustered"), "there is one machine"),
    **dict.fromkeys(("Client", "Environment", "Workspace", "billing"), _ACCOUNT),
    **dict.fromkeys(("Proxy", "SchedulerPlacement"), _NETWORK),
    "experimental": "nothing is here that Modal only tries out; of several machines, or of snapshots, there are none",
    "gpu": 'Modal has removed it: name the type in a string, `gpu="A100"`, or `gpu="H100:2"` for two',
    "SharedVolume": "Modal has removed it: use `modal.Volume`",
    "Mount": "Modal has removed it: use `Image.add_local_dir`, `add_local_file` or `add_local_python_source`",
    "Stub": "Modal has renamed it: use `modal.App`",
}

#: Modules of Modal's client, and what to do without them.
MODULES = {
    **dict.fromkeys(("cloud_bucket_mount", "network_file_system"), _STORAGE),
    **dict.fromkeys(("server", "serving", "tunnel"), _WEB),
    **dict.fromkeys(("container_process", "file_io", "io_streams", "sandbox", "snapshot", "stream_type"), _SANDBOXES),
    **dict.fromkeys(("billing", "client", "environments", "token_flow", "workspace"), _ACCOUNT),
    **dict.fromkeys(("proxy", "scheduler_placement"), _NETWORK),
    **dict.fromkeys(("object", "parallel_map", "running_app", "types"), _INTERNAL),
    "cluster": "there is one machine",
    "cli": "the `modal` command is a program of its own here",
    "runner": "use `with app.run():`",
    **{name: NAMES[name] for name in ("experimental", "gpu")},
    "mount": NAMES["Mount"],
    "stub": NAMES["Stub"],
}

_NAMED = "Modal has removed it: use `from_name`"
_CONDA = "Modal has removed it: use `Image.micromamba` and `micromamba_install`"
_LOCAL_FILES = "Modal has removed it: use `Image.add_local_file` or `add_local_dir`, with `copy=True` for a layer"

#: Attributes, and what there is instead.
SUBSTITUTES = {
    **dict.fromkeys(("Cls.lookup", "Dict.lookup", "Queue.lookup", "Secret.lookup"), _NAMED),
    **dict.fromkeys(("Volume.lookup", "Volume.new", "Volume.persisted"), _NAMED),
    **dict.fromkeys(("Image.conda", "Image.conda_install", "Image.conda_update_from_environment"), _CONDA),
    **dict.fromkeys(("Image.copy_local_dir", "Image.copy_local_file", "Image.copy_mount"), _LOCAL_FILES),
    **{f"{kind}.delete": f"Modal has moved it: use `{kind}.objects.delete`" for kind in ("Dict", "Queue", "Volume")},
    "Function.call": "Modal has renamed it: use `.remote`",
    "Function.web_url": _WEB,
    "App.server": _WEB,
    "App.sandboxes": _SANDBOXES,
    "Function.app": "keep the app in a global",
    "Function.from_id": _DEPLOYED,
    "Function.lookup": _NAMED,
    "client": _ACCOUNT,
    "get_dashboard_url": _DASHBOARD,
    **dict.fromkeys(("get_current_stats", "info", "metrics", "stats"), _FIGURES),
    **dict.fromkeys(("Function.metrics", "Function.stats"), "use `Function.get_current_stats`: no others are kept"),
    "hydrate": _LOCAL,
    "object_id": "functions and classes go by their names, and those of their apps",
    "patterns": _INTERNAL,
}

_HERE: dict[str, str] = dict.fromkeys(("cloud", "region"), "everything runs on this machine")
_OPTIONS = {**_HERE, "routing_region": _HERE["region"]}
_SERVICE = {
    **_HERE,
    "routing_region": _HERE["region"],
    **dict.fromkeys(("i6pn", "proxy"), "containers use the network of this machine"),
    "nonpreemptible": "nobody else takes this machine away",
    "ephemeral_disk": "containers write to the disk that the store is on",
    "experimental_options": "they are about Modal's own service",
}
#: Keywords that are taken and change nothing, because what they are about is not here, or goes without saying.
WITHOUT_EFFECT = {
    "@app.cls": _SERVICE,
    "@app.function": _SERVICE,
    "Cls.with_options": _OPTIONS,
    "Function.with_options": _OPTIONS,
    "Image.run_function": _HERE,
}

_FUNCTION = ("network_file_systems", "restrict_modal_access")
#: Keywords of Modal's that are not here, by who takes them there. What asks for nothing is taken all the same.
KEYWORDS = {
    "@app.cls": _FUNCTION,
    "@app.function": _FUNCTION,
    "app.run": ("detach", "show_progress", "stdout"),
    **dict.fromkeys(("Image.from_aws_ecr", "Image.from_gcp_artifact_registry"), ("context_files", "gpu", "secrets")),
    "Image.from_registry": ("context_files", "gpu"),
    "Image.run_function": ("network_file_systems",),
}

#: What takes, or took, the keywords of services.
SERVICES = ("@app.cls", "@app.function")
#: Keywords that Modal has renamed.
RENAMED = {
    "allow_concurrent_inputs": "it is `@modal.concurrent(max_inputs=...)`, below the decorator",
    "concurrency_limit": "it is called `max_containers`",
    "container_idle_timeout": "it is called `scaledown_window`",
    "keep_warm": "it is called `min_containers`",
    "mounts": NAMES["Mount"],
}

#: Those of them that Modal's client knows as such.
DEPRECATED = ("allow_concurrent_inputs", "concurrency_limit", "container_idle_timeout", "keep_warm")

HINTS = {
    "detach": "use `modal run --detach`",
    "network_file_systems": _STORAGE,
    "restrict_modal_access": "leave it away: a container reaches its own app, and nothing of other ones",
}


def missing_name(name: str, version: str, known: Iterable[str], frame: FrameType) -> Exception:
    """The error for a name that `modal` has not. `from modal import …` would drop the text of an AttributeError."""
    text = f"`modal.{name}` is not part of this version ({version})"
    reason = NAMES.get(name) or MODULES.get(name)
    if reason is not None:
        text += f": {reason}"
    else:
        text += "; it has {}".format(", ".join(f"`{each}`" for each in known))
    return ImportError(text, name="modal") if _imports(frame) else AttributeError(text)


def _imports(frame: FrameType) -> bool:
    """Whether a frame is in the middle of `from … import …`."""
    from opcode import opmap

    code, position = frame.f_code.co_code, frame.f_lasti
    return 0 <= position < len(code) and code[position] == opmap["IMPORT_FROM"]


def missing_module(name: str) -> ModuleNotFoundError | None:
    """The error for a module of Modal's client that is not here; None if Modal has no such module either."""
    instead = MODULES.get(name.partition(".")[2].partition(".")[0])
    if instead is None:
        return None
    return ModuleNotFoundError(f"the module `{name}` is not part of this version: {instead}", name=name)


class UnknownKeyword(InvalidError, TypeError):
    """A keyword that a method does not take: to Python, too, that is an error of this kind."""


def refuse(owner: str, given: dict[str, Any], known: Iterable[str]) -> None:
    """Raises an error for the first keyword that asks for something which `owner` cannot do."""
    given = _without_effect(owner, given)
    theirs = [*KEYWORDS.get(owner, ()), *(DEPRECATED if owner in SERVICES else ())]
    renamed = next((name for name, value in given.items() if name in DEPRECATED and value is not None), None)
    if renamed is not None and owner in SERVICES:
        raise DeprecationError(f"`{renamed}` of `{owner}` is gone: {RENAMED[renamed]}")
    name = next((name for name, value in given.items() if name not in theirs or not _asks_for_nothing(value)), None)
    if name is None:
        return
    raise UnknownKeyword(f"`{owner}` does not take `{name}` in this version", hint=_hint(owner, name, list(known)))


#: The keywords of which it was said that they change nothing.
_said: set[str] = set()


def _without_effect(owner: str, given: dict[str, Any]) -> dict[str, Any]:
    """The other keywords. Of each that asks for something in vain it is said once."""
    reasons = WITHOUT_EFFECT.get(owner, {})
    idle = [name for name in given if name in reasons]
    unsaid = [name for name in idle if name not in _said and not _asks_for_nothing(given[name])]
    if unsaid:
        _said.update(unsaid)
        listed = ", ".join(f"`{name}` ({reasons[name]})" for name in unsaid)
        from modal import _in_container
        from modal._shared.warned import warn

        # Containers import the same line again.
        if not _in_container():
            warn(f"`{owner}` is given what changes nothing here: {listed}")
    return {name: value for name, value in given.items() if name not in reasons}


def _hint(owner: str, name: str, known: list[str]) -> str:
    import difflib

    if name in KEYWORDS.get(owner, ()) or (owner in SERVICES and name in RENAMED):
        return HINTS.get(name) or RENAMED.get(name) or "leave it away"
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    if close:
        return f"did you mean `{close[0]}`?"
    return "it takes {}".format(", ".join(f"`{each}`" for each in known) or "no keywords")


def _asks_for_nothing(value: object) -> bool:
    plain = (bool, int, float, str, list, tuple, dict, set, frozenset)
    return value is None or (isinstance(value, plain) and not value)
