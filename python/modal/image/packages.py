"""Steps that install packages."""

from __future__ import annotations

from modal._shared.interpreter import encode_json
from modal.exception import InvalidError
from modal.image._step import Steps, flatten, instance_method, path_text, quote, string_list

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
        gpu: str | None = None,
        force_build: bool = False,
    ) -> Image:
        """Installs Python packages with pip's rules.

        ```python
        image.pip_install("requests", "pydantic>=2")
        ```

        The order of the packages does not matter. `Image.uv_pip_install` does the same faster.
        """
        step = {"kind": "pip_install", **_options(find_links, index_url, extra_index_url, pre, extra_options)}
        return self._install(step, packages, env, secrets, force_build, gpu)

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
        gpu: str | None = None,
        force_build: bool = False,
    ) -> Image:
        """Installs Python packages with uv.

        ```python
        image.uv_pip_install("pandas==2.2.3", requirements=["requirements.txt"])
        ```

        `requirements` names local requirements files, which are read when the image is built.
        """
        if requirements is not None and not isinstance(requirements, list):
            raise InvalidError(
                f"`requirements` of `Image.uv_pip_install` takes a list of paths, not `{type(requirements).__name__}`",
                hint='write `requirements=["requirements.txt"]`',
            )
        files = [path_text(path, "`requirements` of `Image.uv_pip_install`") for path in requirements or ()]
        options = _options(find_links, index_url, extra_index_url, pre, extra_options)
        step = {"kind": "uv_pip_install", **options, "uv_version": uv_version}
        return self._install(step, packages, env, secrets, force_build, gpu, files)

    @instance_method
    def pip_install_from_requirements(
        self,
        requirements_txt: str,
        find_links: str | None = None,
        *,
        index_url: str | None = None,
        extra_index_url: str | None = None,
        pre: bool = False,
        extra_options: str = "",
        env: Environment = None,
        secrets: Secrets = None,
        gpu: str | None = None,
        force_build: bool = False,
    ) -> Image:
        """Installs what a local requirements file names, with pip's rules.

        ```python
        image.pip_install_from_requirements("requirements.txt")
        ```

        The file is read when the image is built, with those that it includes.
        """
        file = path_text(requirements_txt, "`requirements_txt` of `Image.pip_install_from_requirements`")
        options = _options(find_links, index_url, extra_index_url, pre, extra_options)
        return self._add(
            {"kind": "pip_install", "packages": [], **options},
            [quote(file)],
            env,
            secrets,
            force_build,
            gpu=gpu,
            method="pip_install_from_requirements",
            local=lambda: {"requirements": _paths([file])},
        )

    @instance_method
    def pip_install_from_pyproject(
        self,
        pyproject_toml: str,
        optional_dependencies: list[str] = [],  # noqa: B006 - never changed
        *,
        find_links: str | None = None,
        index_url: str | None = None,
        extra_index_url: str | None = None,
        pre: bool = False,
        extra_options: str = "",
        env: Environment = None,
        secrets: Secrets = None,
        gpu: str | None = None,
        force_build: bool = False,
    ) -> Image:
        """Installs the dependencies that a local `pyproject.toml` declares, with pip's rules.

        ```python
        image.pip_install_from_pyproject("pyproject.toml", optional_dependencies=["server"])
        ```

        The file is read when the image is built. The project itself is not installed, and groups that it has not are
        passed over.
        """
        file = path_text(pyproject_toml, "`pyproject_toml` of `Image.pip_install_from_pyproject`")
        groups = _names("pip_install_from_pyproject", "optional_dependencies", optional_dependencies)
        options = _options(find_links, index_url, extra_index_url, pre, extra_options)
        return self._add(
            {"kind": "pip_install", "packages": [], **options},
            [quote(file), *_shown("optional_dependencies", groups)],
            env,
            secrets,
            force_build,
            gpu=gpu,
            method="pip_install_from_pyproject",
            local=lambda: {"pyproject": {"path": _paths([file])[0], "optional_dependencies": groups}},
        )

    @instance_method
    def pip_install_private_repos(
        self,
        *repositories: str,
        git_user: str,
        find_links: str | None = None,
        index_url: str | None = None,
        extra_index_url: str | None = None,
        pre: bool = False,
        extra_options: str = "",
        env: Environment = None,
        secrets: Secrets = None,
        gpu: str | None = None,
        force_build: bool = False,
    ) -> Image:
        """Installs Python packages of private repositories on GitHub and GitLab.

        ```python
        image.pip_install_private_repos(
            "github.com/owner/package@v1.0",
            git_user="somebody",
            secrets=[modal.Secret.from_name("github")],
        )
        ```

        The secrets have the variable ``GITHUB_TOKEN`` or ``GITLAB_TOKEN``. git gets it, and the image does not. A layer
        with git comes before.
        """
        method = "pip_install_private_repos"
        names = flatten(method, repositories)
        if not secrets:
            raise InvalidError(
                f"`Image.{method}` needs a secret with a token",
                hint='pass `secrets=[modal.Secret.from_name("github")]`, which has the variable `GITHUB_TOKEN`',
            )
        if not isinstance(git_user, str):
            raise InvalidError(f"`git_user` of `Image.{method}` takes a string, not `{type(git_user).__name__}`")
        wrong = [name for name in names if not name.startswith(("github.com/", "gitlab.com/"))]
        if wrong:
            raise InvalidError(
                "{} cannot be installed by `Image.{}`".format(", ".join(f"`{name}`" for name in wrong), method),
                hint="write repositories as `github.com/owner/name@reference` or `gitlab.com/owner/name`",
            )
        if not names:
            return self._unchanged()
        options = _options(find_links, index_url, extra_index_url, pre, extra_options)
        step = {"kind": method, "repositories": names, "git_user": git_user, **options}
        return self._add(step, map(quote, names), env, secrets, force_build, gpu=gpu)

    @instance_method
    def uv_sync(
        self,
        uv_project_dir: str = "./",
        *,
        groups: list[str] | None = None,
        extras: list[str] | None = None,
        frozen: bool = True,
        extra_options: str = "",
        uv_version: str | None = None,
        env: Environment = None,
        secrets: Secrets = None,
        gpu: str | None = None,
        force_build: bool = False,
    ) -> Image:
        """Installs the dependencies of a project of uv's, as its lock file says.

        ```python
        image.uv_sync("project", groups=["server"])
        ```

        They are installed in an environment of their own, `/.uv/.venv`, which comes first on the image's PATH. The
        project itself is not installed: add it with `Image.add_local_python_source`. `pyproject.toml` and `uv.lock` are
        read when the image is built; with `frozen` the lock is taken as it is, and otherwise uv renews it where it has
        to.
        """
        directory = path_text(uv_project_dir, "`uv_project_dir` of `Image.uv_sync`")
        step = {
            "kind": "uv_sync",
            "groups": _names("uv_sync", "groups", groups),
            "extras": _names("uv_sync", "extras", extras),
            "frozen": bool(frozen),
            "extra_options": extra_options,
            "uv_version": uv_version,
        }
        shown = [quote(directory), *_shown("groups", step["groups"]), *_shown("extras", step["extras"])]
        local = lambda: {"project": _paths([directory])[0]}  # noqa: E731
        return self._add(step, shown, env, secrets, force_build, gpu=gpu, local=local)

    @instance_method
    def poetry_install_from_file(
        self,
        poetry_pyproject_toml: str,
        poetry_lockfile: str | None = None,
        *,
        ignore_lockfile: bool = False,
        with_: list[str] = [],  # noqa: B006 - never changed
        without: list[str] = [],  # noqa: B006 - never changed
        only: list[str] = [],  # noqa: B006 - never changed
        poetry_version: str | None = "latest",
        old_installer: bool = False,
        env: Environment = None,
        secrets: Secrets = None,
        gpu: str | None = None,
        force_build: bool = False,
    ) -> Image:
        """Installs the dependencies of a project of poetry's, as its lock file says.

        ```python
        image.poetry_install_from_file("pyproject.toml", without=["dev"])
        ```

        The lock file is looked for beside the project unless it is named. Both are read when the image is built. poetry
        comes in a layer before, in the version that is wanted; with ``poetry_version=None`` the image has to have it.
        The project itself is not installed.
        """
        method = "poetry_install_from_file"
        project = path_text(poetry_pyproject_toml, f"`poetry_pyproject_toml` of `Image.{method}`")
        lock = poetry_lockfile
        if lock is not None:
            lock = path_text(lock, f"`poetry_lockfile` of `Image.{method}`")
        step = {
            "kind": method,
            "ignore_lockfile": bool(ignore_lockfile),
            "with": _names(method, "with_", with_),
            "without": _names(method, "without", without),
            "only": _names(method, "only", only),
            "poetry_version": poetry_version,
            "old_installer": bool(old_installer),
        }
        shown = [quote(project), *([] if lock is None else [quote(lock)])]
        for name in ("with", "without", "only"):
            shown += _shown("with_" if name == "with" else name, step[name])

        def local() -> dict[str, Any]:
            return {"pyproject": _paths([project])[0], "lockfile": None if lock is None else _paths([lock])[0]}

        return self._add(step, shown, env, secrets, force_build, gpu=gpu, local=local)

    @instance_method
    def micromamba_install(
        self,
        *packages: Strings,
        spec_file: str | None = None,
        channels: list[str] = [],  # noqa: B006 - never changed
        env: Environment = None,
        secrets: Secrets = None,
        force_build: bool = False,
        gpu: str | None = None,
    ) -> Image:
        """Installs packages of conda channels into the environment of `Image.micromamba`.

        ```python
        image.micromamba_install("samtools=1.20", "bwa", channels=["conda-forge", "bioconda"])
        ```

        `spec_file` is a local file that is read when the image is built: an environment (``environment.yml``), a
        list with one package a line, a list of addresses (`@EXPLICIT`), or a lock of conda-lock. Of `channels` the
        first is the strongest; where none is named, it is conda-forge. Packages that the environment has keep their
        versions where possible, and Python its series.
        """
        method = "micromamba_install"
        names = flatten(method, packages)
        if not names and spec_file is None:
            return self._unchanged()
        file = None if spec_file is None else path_text(spec_file, f"`spec_file` of `Image.{method}`")
        step = {"kind": method, "packages": names, "channels": _names(method, "channels", channels)}
        shown = [*map(quote, names), *([] if file is None else [f"spec_file={quote(file)}"])]
        shown += _shown("channels", step["channels"])
        local = None if file is None else lambda: {"spec_file": _paths([file])[0]}
        return self._add(step, shown, env, secrets, force_build, gpu=gpu, local=local)

    @instance_method
    def apt_install(
        self,
        *packages: Strings,
        env: Environment = None,
        secrets: Secrets = None,
        gpu: str | None = None,
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
        step = {"kind": "apt_install", "packages": names}
        return self._add(step, map(quote, names), env, secrets, force_build, gpu=gpu)

    def _install(
        self,
        step: dict[str, Any],
        packages: tuple[Strings, ...],
        env: Environment,
        secrets: Secrets,
        force_build: bool,
        gpu: str | None,
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
            gpu=gpu,
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


def _names(method: str, name: str, values: object) -> list[str]:
    """A list of names; None is an empty one."""
    if values is None:
        return []
    return string_list(values, f"`{name}` of `Image.{method}`", f'write `{name}=["name"]`')


def _shown(name: str, values: object) -> list[str]:
    """A list as an argument of a title."""
    return [f"{name}={encode_json(values)}"] if values else []


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
