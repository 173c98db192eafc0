"""What is known of apps and functions: `App.info`, `Function.info`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone

from modal._client.errands import errand
from modal.schedule import Cron, Period

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from modal._shared.declaration import Amount
    from modal.app import App
    from modal.functions import Function
    from modal.schedule import Schedule


@dataclass
class AppInfo:
    """What is known of an app."""

    app_id: str
    name: str | None
    #: Of one that runs without being deployed, None.
    environment_name: str | None
    #: `deployed` or `ephemeral`.
    state: str
    #: The number of the version that calls get, if it is deployed.
    version: int | None
    #: When it was deployed first.
    created_at: datetime | None
    tags: dict[str, str]


@dataclass
class VolumeMountInfo:
    """A volume of a function."""

    #: None of one without a name.
    name: str | None
    read_only: bool
    sub_path: str | None


@dataclass
class ConcurrencyInfo:
    """How many inputs a container runs at a time."""

    max_inputs: int
    target_inputs: int | None


@dataclass
class BatchingInfo:
    """How many inputs run together, and how long the first one waits for others."""

    max_batch_size: int
    wait_ms: int


@dataclass
class FunctionInfo:
    """What a function was declared with. What is None was not said, or is not so."""

    cpu: Amount
    memory_mib: Amount
    #: The types of GPU that will do, the best first.
    gpus: list[str]
    #: The id of its image.
    image_id: str | None
    #: Seconds that an input may take.
    timeout: int
    #: Seconds that a container may take to be ready.
    startup_timeout: int
    max_retries: int | None
    schedule: Schedule | None
    concurrency_info: ConcurrencyInfo | None
    batching_info: BatchingInfo | None
    single_use_containers: bool
    block_network: bool
    #: By the path that each is at.
    volumes: dict[str, VolumeMountInfo]
    #: Names of those that have one.
    secrets: list[str]
    #: Web functions are not part of this version.
    web_info: None
    #: Of a class, its methods.
    method_names: list[str] | None


def of_app(app: App) -> AppInfo:
    """What is known of an app that runs or was deployed."""
    from modal._client.deploy import find, get_tags

    assert app._app_id is not None
    if app._engine is not None or app._deployed is None:
        return AppInfo(app._app_id, app.name, None, "ephemeral", None, None, get_tags(app))
    found = find(app)
    created = datetime.fromtimestamp(found["created"], timezone.utc)
    return AppInfo(
        found["app_id"], found["name"], found["environment"], "deployed", found["version"], created, found["tags"]
    )


def of_declared(function: Function[Any, Any, Any]) -> FunctionInfo:
    """What a function of this process's own app was declared with."""
    from modal._client.graph import Graph
    from modal.volume import wire_volumes

    app, settings = function._app, function._settings
    volumes = {**app._volumes, **settings.volumes}
    secrets = [*app._secrets, *Graph._secrets_of(function)]
    image = settings.image or app._default_image()
    described = {
        "schedule": None if function._schedule is None else function._schedule._wire,
        "timeout": settings.timeout,
        "retries": None if settings.retries is None else settings.retries._wire(),
        "cpu": settings.cpu,
        "memory": settings.memory,
        "gpu": settings.gpu,
        "volumes": wire_volumes(volumes),
        "secrets": [secret._kept[0] for secret in secrets if secret._kept],
        **settings.scaling,
        **Graph._class(function),
    }
    return of_wire(described, image._object_id)


def of_deployed(environment: str, app: str, version: int | None, function: str) -> FunctionInfo:
    """What a function of a deployed app was declared with."""
    body = {"do": "function", "environment": environment, "app": app, "version": version, "function": function}
    found = errand("deployment", body)
    return of_wire(found["function"], found["image_id"])


def of_wire(function: dict[str, Any], image_id: str | None) -> FunctionInfo:
    """The same, from what the engine was told."""
    concurrency, batching = function.get("concurrency"), function.get("batching")
    cls, retries = function.get("class"), function.get("retries")
    return FunctionInfo(
        cpu=_amount(function.get("cpu")),
        memory_mib=_amount(function.get("memory")),
        gpus=list(function.get("gpu") or []),
        image_id=image_id,
        timeout=int(function["timeout"]),
        startup_timeout=function.get("startup_timeout") or int(function["timeout"]),
        max_retries=None if retries is None else retries["max_retries"],
        schedule=_schedule(function.get("schedule")),
        concurrency_info=ConcurrencyInfo(concurrency["max_inputs"], concurrency.get("target_inputs"))
        if concurrency
        else None,
        batching_info=BatchingInfo(**batching) if batching else None,
        single_use_containers=bool(function.get("single_use_containers")),
        block_network=bool(function.get("block_network")),
        volumes={each["path"]: _mount(each) for each in function.get("volumes") or []},
        secrets=list(function.get("secrets") or []),
        web_info=None,
        method_names=None if cls is None else list(cls["methods"]),
    )


def _amount(amount: Any) -> Amount:
    return tuple(amount) if isinstance(amount, list) else amount


def _mount(mount: dict[str, Any]) -> VolumeMountInfo:
    reference = mount["volume"]
    name = reference.get("name") if isinstance(reference, dict) else None
    return VolumeMountInfo(name, bool(mount.get("read_only")), mount.get("sub_path"))


def _schedule(wire: dict[str, Any] | None) -> Schedule | None:
    if wire is None:
        return None
    if "cron" in wire:
        return Cron(**wire["cron"])
    return Period(**wire["period"])
