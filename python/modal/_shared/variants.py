"""Services with other options than they were declared with."""

from __future__ import annotations

from modal._shared.api import refuse_keywords

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: What Modal's `with_options` takes, and this one as well.
KNOWN = (
    "cpu",
    "memory",
    "gpu",
    "env",
    "secrets",
    "volumes",
    "retries",
    "max_containers",
    "buffer_containers",
    "scaledown_window",
    "timeout",
)


def checked_options(owner: str, unsupported: dict[str, Any], **given: Any) -> dict[str, Any]:
    """The options that say something, checked. What is empty changes nothing."""
    from modal._shared.declaration import check_amount, check_count, check_timeout
    from modal._shared.keywords import environment_of, gpu_of, retries_of, secrets_of, volumes_of

    refuse_keywords(owner, unsupported, KNOWN)
    options: dict[str, Any] = {}
    for name in ("cpu", "memory"):
        if given[name]:
            check_amount(name, given[name])
            options[name] = given[name]
    if given["gpu"]:
        options["gpu"] = gpu_of(given["gpu"], f"`{owner}`")
    if given["secrets"] or given["env"]:
        # The variables of `env` are a secret more.
        options["secrets"] = secrets_of(given["secrets"], f"`{owner}`")
        options["environment"] = environment_of(given["env"] or None, f"`{owner}`")
    if given["volumes"]:
        options["volumes"] = volumes_of(given["volumes"], f"`{owner}`")
    if given["retries"]:
        options["retries"] = retries_of(given["retries"])
    if given["max_containers"]:
        check_count("max_containers", given["max_containers"])
        options["max_containers"] = given["max_containers"]
    for name in ("buffer_containers", "scaledown_window"):
        if given[name]:
            from modal._shared.scaling import check_number

            check_number(name, given[name])
            options[name] = given[name]
    if given["timeout"]:
        check_timeout(given["timeout"])
        options["timeout"] = given["timeout"]
    return options


def wire_options(options: dict[str, Any], owner: str) -> dict[str, Any]:
    """Options of `owner` as the engine gets them."""
    wired = dict(options)
    if "concurrency" in wired:
        from modal._shared.scaling import check_concurrency

        check_concurrency(wired["concurrency"], owner)
    if "secrets" in wired:
        from modal.secret import wire_secrets

        wired["secrets"] = wire_secrets(wired["secrets"])
    if "volumes" in wired:
        from modal.volume import wire_volumes

        wired["volumes"] = wire_volumes(wired["volumes"])
    if "retries" in wired:
        wired["retries"] = wired["retries"]._wire()
    return wired
