"""Steps that install packages."""

from __future__ import annotations

import os

from modal._shared.interpreter import encode_json
from modal.exception import InvalidError
from modal.image._step import Steps, flatten, instance_method, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from modal.image import Image
    from modal.image._step import Environment, Secrets, Strings


class PackageSteps(Steps):
    """Python packages and those of the system."""

    @instance_method
    def pip_install(
        self,
        *packages: Strings,
        find_links: str | None = None,
        index_url: str | None = None,
        extra_index_url: str | None = None,
        pre: bool = False,
        extra_options: str = "",
        env: Environment = None,
        secrets: Secrets = None,
        force_build: bool = False,
    ) -> Image:
        """Installs Python packages with pip's rules.

        ```python
        image.pip_install("requests", "pydantic>=2")
        ```

        The order of the packages does not matter. `Image.uv_pip_install` does the same faster.
        """
        step = {"kind": "pip_install", **_options(find_links, index_url, extra_index_url, pre, extra_options)}
        return self._install(step, packages, env, secrets, force_build)

    @instance_method
    def uv_pip_install(
        self,
        *packages: Strings,
        requirements: list[str] | None = None,
        find_links: str | None = None,
        index_url: str | None = None,
        extra_index_url: str | None = None,
        pre: bool = False,
        extra_options: str = "",
        uv_version: str | None = None,
        env: Environment = None,
        secrets: Secrets = None,
        force_build: bool = False,
    ) -> Image:
        """Installs Python packages with uv.

        ```python
        image.uv_pip_install("pandas==2.2.3", requirements=["requirements.txt"])
        ```

        `requirements` names local requirements files, which are read when the image is built.
        """
        if requirements is not None and not (
            isinstance(requirements, list) and all(isinstance(path, (str, os.PathLike)) for path in requirements)
        ):
            raise InvalidError(
                f"`requirements` of `Image.uv_pip_install` takes a list of paths, not `{type(requirements).__name__}`",
                hint='write `requirements=["requirements.txt"]`',
            )
        files = [os.fspath(path) for path in requirements or ()]
        options = _options(find_links, index_url, extra_index_url, pre, extra_options)
        step = {"kind": "uv_pip_install", **options, "uv_version": uv_version}
        return self._install(step, packages, env, secrets, force_build, files)

    @instance_method
    def apt_install(
        self,
        *packages: Strings,
        env: Environment = None,
        secrets: Secrets = None,
        force_build: bool = False,
    ) -> Image:
        """Installs Debian packages.

        ```python
        image.apt_install("git", "curl")
        ```
        """
        names = flatten("apt_install", packages)
        if not names:
            return self._unchanged()
        return self._add({"kind": "apt_install", "packages": names}, map(quote, names), env, secrets, force_build)

    def _install(
        self,
        step: dict[str, Any],
        packages: tuple[Strings, ...],
        env: Environment,
        secrets: Secrets,
        force_build: bool,
        files: Sequence[str] = (),
    ) -> Image:
        """The image with Python packages, and with those that requirements files name."""
        names = _requirements(step["kind"], packages)
        if not names and not files:
            return self._unchanged()
        shown = [*map(quote, names), *(["requirements=" + encode_json(list(files))] if files else [])]
        step["packages"] = names
        return self._add(
            step,
            [*shown, *(["pre=True"] if step["pre"] else [])],
            env,
            secrets,
            force_build,
            local=(lambda: {"requirements": _paths(files)}) if "uv_version" in step else None,
        )


def _options(
    find_links: str | None, index_url: str | None, extra_index_url: str | None, pre: bool, extra_options: str
) -> dict[str, Any]:
    """What both installers are told."""
    return {
        "find_links": find_links,
        "index_url": index_url,
        "extra_index_url": extra_index_url,
        "pre": pre,
        "extra_options": extra_options,
    }


def _paths(files: Sequence[str]) -> list[str]:
    from modal._client.files import absolute

    return [absolute(path) for path in files]


def _requirements(method: str, values: tuple[object, ...]) -> list[str]:
    """The packages among `values`; options among them are refused."""
    names = flatten(method, values)
    for name in names:
        if name.startswith("-"):
            raise InvalidError(
                f"`{name}` is an option, not a package",
                hint=f"pass options of `Image.{method}` as `extra_options={quote(name)}`",
            )
    return names
