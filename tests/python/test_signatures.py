"""Every method that is here takes what Modal's takes, in its places, and means by silence what Modal's means."""

from __future__ import annotations

import inspect
from inspect import Parameter
from typing import Any

import pytest

import modal
from modal._shared import absent
from modal.dict import _MISSING as MISSING
from modal.image.dockerfile import AUTO
from modal.volume import FileEntry

ENVIRONMENT = "env=None, secrets=None, gpu=None, force_build=False"
INDEX = "find_links=None, index_url=None, extra_index_url=None, pre=False, extra_options=''"
WITH_OPTIONS = "*, cpu=None, memory=None, gpu=None, env=None, secrets=None, volumes={}, retries=None,"
WITH_OPTIONS += "max_containers=None, buffer_containers=None, scaledown_window=None, timeout=None, region=None,"
WITH_OPTIONS += "cloud=None, routing_region=None"
LIST = "*, max_objects=None, created_before=None, environment_name=None, client=None"

#: Modal's signatures, client 1.6.4, without `self`. A default that is empty is written as it is here or there.
SIGNATURES = {
    "App": "name=None, *, tags=None, image=None, secrets=[], volumes={}, include_source=True",
    "App.deploy": "*, name=None, environment_name=None, tag='', strategy='rolling', client=None",
    "App.function": "*, image=None, schedule=None, env=None, secrets=None, gpu=None, serialized=False,"
    "network_file_systems={}, volumes={}, cpu=None, memory=None, ephemeral_disk=None, min_containers=None,"
    "max_containers=None, buffer_containers=None, scaledown_window=None, proxy=None, retries=None, timeout=300,"
    "startup_timeout=None, name=None, is_generator=None, cloud=None, region=None, routing_region=None,"
    "nonpreemptible=False, enable_memory_snapshot=False, block_network=False, restrict_modal_access=False,"
    "single_use_containers=False, i6pn=None, include_source=None, experimental_options=None, max_inputs=None",
    "App.get_tags": "",
    "App.include": "other_app, inherit_tags=True",
    "App.info": "refresh=False",
    "App.cls": "*, image=None, env=None, secrets=None, gpu=None, serialized=False,"
    "network_file_systems={}, volumes={}, cpu=None, memory=None, ephemeral_disk=None, min_containers=None,"
    "max_containers=None, buffer_containers=None, scaledown_window=None, proxy=None, retries=None, timeout=300,"
    "startup_timeout=None, cloud=None, region=None, routing_region=None, nonpreemptible=False,"
    "enable_memory_snapshot=False, block_network=False, restrict_modal_access=False, single_use_containers=False,"
    "i6pn=None, include_source=None, experimental_options=None, max_inputs=None",
    "App.local_entrypoint": "*, name=None",
    "App.lookup": "name, *, client=None, environment_name=None, create_if_missing=False",
    "App.run": "*, name=None, client=None, detach=False, interactive=False, environment_name=None",
    "App.set_tags": "tags",
    "App.stop": "",
    "Cls.hydrate": "client=None",
    "Cls.from_name": "app_name, name, *, version=None, environment_name=None, client=None",
    "Cls.with_batching": "*, max_batch_size, wait_ms",
    "Cls.with_concurrency": "*, max_inputs, target_inputs=None",
    "Cls.with_options": WITH_OPTIONS,
    "Cron": "cron_string, timezone='UTC'",
    "Dict.clear": "",
    "Dict.contains": "key",
    "Dict.from_id": "dict_id, client=None",
    "Dict.from_name": "name, *, environment_name=None, create_if_missing=False, client=None",
    "Dict.get": "key, default=None",
    "Dict.hydrate": "client=None",
    "Dict.info": "",
    "Dict.items": "",
    "Dict.keys": "",
    "Dict.len": "",
    "Dict.objects.create": "name, *, allow_existing=False, environment_name=None, client=None",
    "Dict.objects.delete": "name, *, allow_missing=False, environment_name=None, client=None",
    "Dict.objects.list": LIST,
    "Dict.pop": "key, default=MISSING",
    "Dict.put": "key, value, *, skip_if_exists=False",
    "Dict.update": "other=None, /, **kwargs",
    "Dict.values": "",
    "FilePatternMatcher": "*pattern",
    "FilePatternMatcher.can_prune_directories": "",
    "FilePatternMatcher.from_file": "file_path",
    "Function.from_name": "app_name, name, *, version=None, environment_name=None, client=None",
    "Function.get_current_stats": "",
    "Function.info": "*, refresh=False",
    "Function.get_web_url": "",
    "Function.hydrate": "client=None",
    "Function.update_autoscaler": "*, min_containers=None, max_containers=None, scaledown_window=None,"
    "buffer_containers=None",
    "Function.with_batching": "*, max_batch_size, wait_ms",
    "Function.with_concurrency": "*, max_inputs, target_inputs=None",
    "Function.experimental_spawn_map": "*input_iterators, kwargs={}",
    "Function.spawn_map": "*input_iterators, kwargs={}",
    "FunctionCall.hydrate": "client=None",
    "FunctionCall.iter": "*, start=0, end=None",
    "FunctionCall.num_inputs": "",
    "Function.for_each": "*input_iterators, kwargs={}, ignore_exceptions=False",
    "Function.local": "*args, **kwargs",
    "Function.map": "*input_iterators, kwargs={}, order_outputs=True, return_exceptions=False, "
    "wrap_returned_exceptions=None",
    "Function.remote": "*args, **kwargs",
    "Function.remote_gen": "*args, **kwargs",
    "Function.spawn": "*args, **kwargs",
    "Function.starmap": "input_iterator, *, kwargs={}, order_outputs=True, return_exceptions=False, "
    "wrap_returned_exceptions=None",
    "Function.with_options": WITH_OPTIONS,
    "FunctionCall.cancel": "terminate_containers=False",
    "FunctionCall.from_id": "function_call_id, client=None",
    "FunctionCall.get": "timeout=None, *, index=0",
    "FunctionCall.get_call_graph": "",
    "Image.add_local_dir": "local_path, remote_path, *, copy=False, ignore=[]",
    "Image.add_local_file": "local_path, remote_path, *, copy=False",
    "Image.add_local_python_source": "*modules, copy=False, ignore=None",
    "Image.apt_install": f"*packages, {ENVIRONMENT}",
    "Image.build": "app=None",
    "Image.cmd": "cmd",
    "Image.debian_slim": "python_version=None, force_build=False",
    "Image.dockerfile_commands": "*dockerfile_commands, context_files={}, context_dir=None, ignore=AUTO, build_args={},"
    + ENVIRONMENT,
    "Image.entrypoint": "entrypoint_commands",
    "Image.env": "vars",
    "Image.from_aws_ecr": "tag, secret=None, *, setup_dockerfile_commands=[], force_build=False, add_python=None",
    "Image.from_dockerfile": "path, *, context_dir=None, ignore=AUTO, build_args={}, add_python=None,"
    f"registry_secret=None, {ENVIRONMENT}",
    "Image.from_gcp_artifact_registry": "tag, secret=None, *, setup_dockerfile_commands=[], force_build=False, add_python=None",
    "Image.from_id": "image_id, client=None",
    "Image.from_name": "name, *, environment_name=None, client=None",
    "Image.from_registry": "tag, secret=None, *, setup_dockerfile_commands=[], force_build=False, add_python=None, **kwargs",
    "Image.from_scratch": "force_build=False",
    "Image.imports": "",
    "Image.micromamba": "python_version=None, force_build=False",
    "Image.micromamba_install": f"*packages, spec_file=None, channels=[], {ENVIRONMENT}",
    "Image.pip_install": f"*packages, {INDEX}, {ENVIRONMENT}",
    "Image.pip_install_from_pyproject": f"pyproject_toml, optional_dependencies=[], *, {INDEX}, {ENVIRONMENT}",
    "Image.pip_install_from_requirements": "requirements_txt, find_links=None, *, "
    + f"{INDEX}, {ENVIRONMENT}".replace("find_links=None, ", ""),
    "Image.pip_install_private_repos": f"*repositories, git_user, {INDEX}, {ENVIRONMENT}",
    "Image.pipe": "func, *args, **kwargs",
    "Image.poetry_install_from_file": "poetry_pyproject_toml, poetry_lockfile=None, *, ignore_lockfile=False, with_=[],"
    f"without=[], only=[], poetry_version='latest', old_installer=False, {ENVIRONMENT}",
    "Image.publish": "name, *, environment_name=None, experimental_options=None, client=None",
    "Image.run_commands": f"*commands, volumes=None, {ENVIRONMENT}",
    "Image.run_function": "raw_f, *, volumes={}, network_file_systems={}, cpu=None, memory=None, timeout=3600, cloud=None,"
    f"region=None, args=(), kwargs={{}}, include_source=True, {ENVIRONMENT}",
    "Image.shell": "shell_commands",
    "Image.uv_pip_install": f"*packages, requirements=None, uv_version=None, {INDEX}, {ENVIRONMENT}",
    "Image.uv_sync": "uv_project_dir='./', *, groups=None, extras=None, frozen=True, extra_options='', uv_version=None,"
    + ENVIRONMENT,
    "Image.workdir": "path",
    "Period": "*, years=0, months=0, weeks=0, days=0, hours=0, minutes=0, seconds=0",
    "Queue.clear": "*, partition=None, all=False",
    "Queue.from_id": "queue_id, client=None",
    "Queue.from_name": "name, *, environment_name=None, create_if_missing=False, client=None",
    "Queue.get": "block=True, timeout=None, *, partition=None",
    "Queue.get_many": "n_values, block=True, timeout=None, *, partition=None",
    "Queue.hydrate": "client=None",
    "Queue.info": "",
    "Queue.iterate": "*, partition=None, item_poll_timeout=0.0",
    "Queue.len": "*, partition=None, total=False",
    "Queue.objects.create": "name, *, allow_existing=False, environment_name=None, client=None",
    "Queue.objects.delete": "name, *, allow_missing=False, environment_name=None, client=None",
    "Queue.objects.list": LIST,
    "Queue.put": "v, block=True, timeout=None, *, partition=None, partition_ttl=86400",
    "Queue.put_many": "vs, block=True, timeout=None, *, partition=None, partition_ttl=86400",
    "Queue.validate_partition_key": "partition",
    "Retries": "*, max_retries, backoff_coefficient=2.0, initial_delay=1.0, max_delay=60.0",
    "Secret.from_dict": "env_dict",
    "Secret.from_dotenv": "path=None, *, filename='.env', client=None",
    "Secret.from_local_environ": "env_keys",
    "Secret.from_name": "name, *, environment_name=None, required_keys=[], client=None",
    "Secret.hydrate": "client=None",
    "Secret.info": "*, refresh=False",
    "Secret.objects.create": "name, env_dict, *, allow_existing=False, environment_name=None, client=None",
    "Secret.objects.delete": "name, *, allow_missing=False, environment_name=None, client=None",
    "Secret.objects.list": LIST,
    "Secret.update": "env_dict",
    "Volume.batch_upload": "force=False",
    "Volume.commit": "",
    "Volume.copy_files": "src_paths, dst_path, recursive=False",
    "Volume.from_id": "volume_id, client=None",
    "Volume.from_name": "name, *, environment_name=None, create_if_missing=False, version=None, create_options=None,"
    "client=None",
    "Volume.hydrate": "client=None",
    "Volume.info": "",
    "Volume.iterdir": "path, *, recursive=True",
    "Volume.listdir": "path, *, recursive=False",
    "Volume.objects.delete": "name, *, allow_missing=False, environment_name=None, client=None",
    "Volume.objects.list": LIST,
    "Volume.read_file": "path",
    "Volume.read_file_into_fileobj": "path, fileobj, progress_cb=None",
    "Volume.read_only": "",
    "Volume.reload": "",
    "Volume.remove_file": "path, recursive=False",
    "Volume.rename": "old_name, new_name, *, environment_name=None, client=None",
    "Volume.with_mount_options": "*, read_only=None, sub_path=None",
    "batched": "*, max_batch_size, wait_ms",
    "enable_output": "",
    "enter": "*, snap=False",
    "exit": "",
    "interact": "",
    "is_local": "",
    "method": "*, is_generator=None",
}

#: What names are called in errors, where that is not their own name.
OWNERS = {
    "App": "modal.App",
    "App.cls": "@app.cls",
    "App.function": "@app.function",
    "App.local_entrypoint": "@app.local_entrypoint",
    "App.run": "app.run",
}


def found(name: str) -> dict[str, Parameter]:
    """The parameters that something has here, without the object or class itself."""
    *owners, last = name.split(".")
    owner: Any = modal
    for each in owners:
        owner = getattr(owner, each)
    if isinstance(owner, type):
        function = inspect.getattr_static(owner, last)
        for inner in ("__func__", "_blocking", "_function", "_method", "__func__"):
            function = getattr(function, inner, function)
    else:
        function = getattr(owner, last)
        function = getattr(function, "_blocking", function)
    parameters = dict(inspect.signature(function).parameters)
    for receiver in ("self", "cls"):
        parameters.pop(receiver, None)
    return parameters


def wanted(name: str) -> dict[str, Parameter]:
    """The parameters that it has in Modal."""
    namespace: dict[str, Any] = {"AUTO": AUTO, "MISSING": MISSING}
    exec(f"def function({SIGNATURES[name]}): pass", namespace)
    return dict(inspect.signature(namespace["function"]).parameters)


def is_empty(default: Any) -> bool:
    """Whether a default means that there is nothing; how that is written makes no difference."""
    return default is None or (isinstance(default, (list, tuple, dict)) and not default)


@pytest.mark.parametrize("name", SIGNATURES)
def test_parameters_are_those_of_modal(name: str) -> None:
    here, there = found(name), wanted(name)
    owner = OWNERS.get(name, name)
    explained = {*absent.KEYWORDS.get(owner, ()), *absent.WITHOUT_EFFECT.get(owner, ())}
    explained |= set(absent.RENAMED) if owner in absent.SERVICES else set()
    assert there.keys() - here.keys() <= explained, "neither here nor explained"
    own = {each.name for each in here.values() if each.kind not in (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL)}
    assert own <= there.keys(), "not in Modal"
    assert not own & explained, "explained, and here nevertheless"
    for each in there.values():
        if each.name in here:
            ours = here[each.name]
            assert ours.kind == each.kind, each.name
            same = is_empty(ours.default) if is_empty(each.default) else ours.default == each.default
            assert same, f"`{each.name}` is {ours.default!r}, and in Modal {each.default!r}"


@pytest.mark.parametrize("name", SIGNATURES)
def test_positional_parameters_are_in_the_order_of_modal(name: str) -> None:
    kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    in_order = [[each.name for each in of.values() if each.kind in kinds] for of in (found(name), wanted(name))]
    assert in_order[0] == in_order[1]


def test_every_public_method_has_its_row() -> None:
    """What is here without being Modal's is named, so that nothing new comes without a row."""
    own = {"Function.get_raw_f", "Secret.allow", "Image.hydrate", "FunctionCall.gather"}
    own |= {f"{kind}.ephemeral" for kind in ("Dict", "Queue", "Volume")}
    missing = set()
    for kind in (
        "App",
        "Cls",
        "Dict",
        "FilePatternMatcher",
        "Function",
        "FunctionCall",
        "Image",
        "Queue",
        "Secret",
        "Volume",
    ):
        for member in vars(getattr(modal, kind)) if kind != "Image" else dir(modal.Image):
            value = inspect.getattr_static(getattr(modal, kind), member)
            is_method = callable(value) or hasattr(value, "_blocking") or hasattr(value, "__get__")
            if not member.startswith("_") and is_method and not isinstance(value, property):
                missing.add(f"{kind}.{member}")
    assert {name for name in missing - SIGNATURES.keys() if not name.endswith(".objects")} == own


def test_what_volumes_list_has_the_fields_of_modal() -> None:
    assert list(FileEntry.__dataclass_fields__) == ["path", "type", "mtime", "size"]
