"""Volumes: directories that outlive the containers which write to them."""

from __future__ import annotations

import os

from modal._shared.api import Bound, Explained, Twins, environment_or_default, explain_on_instance, in_thread
from modal.exception import InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from pathlib import PurePath
    from types import TracebackType
    from typing import IO, Any, ClassVar, Union

    from modal._client.volumes import BatchUpload
    from modal._shared.file_entry import FileEntry, FileEntryType, VolumeInfo

    Place = Union[str, PurePath]

#: Characters of an app's id.
APP_ID_LENGTH = 25

__all__ = ["FileEntry", "FileEntryType", "Volume", "VolumeInfo"]


def _rename(old_name: str, new_name: str, *, environment_name: str | None = None, client: object = None) -> None:
    """Gives a volume another name."""
    from modal._client.volumes import Remote

    _check_name("Volume.rename", old_name, environment_name)
    _check_name("Volume.rename", new_name, None)
    Remote(Volume.from_name(old_name, environment_name=environment_name)).rename(new_name)


async def _rename_aio(
    old_name: str, new_name: str, *, environment_name: str | None = None, client: object = None
) -> None:
    import asyncio
    from functools import partial

    renaming = partial(_rename, old_name, new_name, environment_name=environment_name)
    await asyncio.get_running_loop().run_in_executor(None, renaming)


class Volume(metaclass=Explained):
    """A directory that outlives the containers which write to it.

    ```python
    volume = modal.Volume.from_name("models", create_if_missing=True)


    @app.function(volumes={"/models": volume})
    def train():
        with open("/models/weights", "wb") as file:
            file.write(weights)
        volume.commit()
    ```

    It is a directory of this machine: what a container writes, others see at once, and `reload` has nothing to do.
    `commit` returns when what was written is on the disk; the end of a container does the same.
    """

    #: The volumes that this machine keeps under names.
    objects: ClassVar[VolumeObjects]
    _name: str | None
    _environment: str | None
    _create: bool
    _id: str | None
    _version: int | None
    _read_only: bool
    _sub_path: str | None
    _has_options: bool
    #: What has an ephemeral volume made end with it.
    _engine: Any

    def __init__(self) -> None:
        raise InvalidError("`Volume()` makes no volume", hint="use a factory method such as `modal.Volume.from_name`")

    if not TYPE_CHECKING:
        __getattr__ = explain_on_instance

    @classmethod
    def from_name(
        cls,
        name: str,
        *,
        environment_name: str | None = None,
        create_if_missing: bool = False,
        version: int | None = None,
        create_options: Any = None,
        client: object = None,
    ) -> Volume:
        """The volume that this machine keeps under a name.

        ```python
        modal.Volume.from_name("models", create_if_missing=True)
        ```

        It is looked up when it is first used. That it is missing is a `modal.exception.NotFoundError` then, unless
        `create_if_missing` says to make it. `version` is Modal's business: here both are the same.
        """
        _check_name("Volume.from_name", name, environment_name)
        volume = _make(cls, name=name, environment=environment_name)
        volume._create = bool(create_if_missing)
        volume._version = version
        return volume

    @classmethod
    def from_id(cls, volume_id: str, client: object = None) -> Volume:
        """The volume with an id, `vo-…`."""
        if not isinstance(volume_id, str) or not volume_id.startswith("vo-"):
            raise InvalidError(f"`Volume.from_id` takes an id such as `vo-…`, not `{volume_id!r}`")
        return _make(cls, id=volume_id)

    @classmethod
    def ephemeral(
        cls,
        environment_name: str | None = None,
        *,
        version: int | None = None,
        create_options: Any = None,
        client: object = None,
    ) -> EphemeralVolume:
        """A volume that ends with a block.

        ```python
        with modal.Volume.ephemeral() as volume:
            work.remote(volume)
        ```
        """
        return EphemeralVolume(cls)

    @property
    def name(self) -> str | None:
        """The name that it is kept under, if it is."""
        return self._name

    @property
    def object_id(self) -> str:
        """Its id, `vo-…`, known after its first use."""
        if self._id is None:
            raise AttributeError(f"`{self!r}` has no id before it is first used: `hydrate()` looks it up")
        return self._id

    @in_thread
    def hydrate(self, client: object = None) -> Volume:
        """Looks the volume up now."""
        self._files().find()
        return self

    @in_thread
    def info(self) -> VolumeInfo:
        """Its name, and when it was made."""
        info: VolumeInfo = self._files().info()
        return info

    def read_only(self) -> Volume:
        """The same volume, in a form that lets nobody write to it."""
        if self._has_options:
            raise InvalidError(f"`{self!r}` has mount options: pass `read_only=True` to `with_mount_options` instead")
        return self._changed(_read_only=True)

    def with_mount_options(self, *, read_only: bool | None = None, sub_path: Place | None = None) -> Volume:
        """The same volume, mounted so that nobody may write to it, or only a directory of it, made if it is missing."""
        if self._read_only and not self._has_options:
            raise InvalidError(
                f"`{self!r}` is a `read_only()` one: pass `read_only=True` to `with_mount_options` instead"
            )
        if not isinstance(read_only, (bool, type(None))):
            raise InvalidError(f"`read_only` of `with_mount_options` takes True or False, not `{read_only!r}`")
        path = None if sub_path is None else os.fspath(sub_path)
        if path is not None and (not isinstance(path, str) or ".." in path.split("/")):
            raise InvalidError(f"`sub_path` of `with_mount_options` takes a path in the volume, not `{sub_path!r}`")
        return self._changed(_read_only=bool(read_only) or self._read_only, _sub_path=path, _has_options=True)

    @in_thread
    def commit(self) -> None:
        """Returns when what this container has written to the volume is on the disk."""
        self._mounted("commit").commit()

    @in_thread
    def reload(self) -> None:
        """Does nothing: a container sees what others write to a volume at once."""
        self._mounted("reload")

    @in_thread
    def listdir(self, path: str, *, recursive: bool = False) -> list[FileEntry]:
        """The entries of a directory of the volume, with those below it if `recursive`."""
        return list(self._files().listed(path, recursive))

    def _iterdir(self, path: str, *, recursive: bool = True) -> Iterator[FileEntry]:
        """The entries of a directory of the volume and of those below it, one after the other."""
        yield from self._files().listed(path, recursive)

    async def _iterdir_aio(self, path: str, *, recursive: bool = True) -> AsyncIterator[FileEntry]:
        for entry in await self.listdir.aio(path, recursive=recursive):
            yield entry

    iterdir = Twins(_iterdir, _iterdir_aio)

    def _read_file(self, path: str) -> Iterator[bytes]:
        """The contents of a file of the volume, in pieces."""
        yield from self._files().read(path)

    async def _read_file_aio(self, path: str) -> AsyncIterator[bytes]:
        import asyncio

        pieces = iter(self._files().read(path))
        while True:
            piece = await asyncio.get_running_loop().run_in_executor(None, next, pieces, None)
            if piece is None:
                return
            yield piece

    read_file = Twins(_read_file, _read_file_aio)

    @in_thread
    def read_file_into_fileobj(
        self, path: str, fileobj: IO[bytes], progress_cb: Callable[..., Any] | None = None
    ) -> int:
        """Writes the contents of a file of the volume to `fileobj`; gives how many bytes they are."""
        size = 0
        for piece in self._files().read(path):
            fileobj.write(piece)
            size += len(piece)
        return size

    @in_thread
    def remove_file(self, path: str, recursive: bool = False) -> None:
        """Removes a file of the volume, or a directory with all that it holds if `recursive`."""
        self._writable("remove_file").remove(path, bool(recursive))

    @in_thread
    def copy_files(self, src_paths: list[str], dst_path: str, recursive: bool = False) -> None:
        """Copies files within the volume, as ``cp`` does it: into a directory, or one to a new name."""
        if isinstance(src_paths, str) or not all(isinstance(path, str) for path in src_paths):
            raise InvalidError(f"`Volume.copy_files` takes a list of paths, not `{src_paths!r}`")
        self._writable("copy_files").copy(list(src_paths), dst_path, bool(recursive))

    rename = Bound(_rename, _rename_aio)

    def batch_upload(self, force: bool = False) -> BatchUpload:
        """Takes local files, and puts them into the volume when the block ends: all of them, or none if it fails.

        ```python
        with volume.batch_upload() as batch:
            batch.put_file("weights.bin", "/models/weights.bin")
            batch.put_directory("data", "/data")
        ```

        A file that is there already is a FileExistsError, unless `force` says to replace it.
        """
        from modal._client.volumes import BatchUpload

        return BatchUpload(self._writable("batch_upload"), bool(force))

    def _changed(self, **options: Any) -> Volume:
        changed = _make(type(self))
        vars(changed).update(vars(self))
        vars(changed).update(options)
        return changed

    def _files(self) -> Any:
        """What works on its files here: through the engine, or in a container where they are mounted."""
        from modal import _in_container

        if not _in_container():
            from modal._client.volumes import Remote

            return Remote(self)
        from modal._runner.volumes import Mounted

        return Mounted(self)

    def _writable(self, method: str) -> Any:
        if self._read_only and not self._has_options:
            raise InvalidError(f"`Volume.{method}` writes, and `{self!r}` is read-only")
        return self._files()

    def _mounted(self, method: str) -> Any:
        from modal import _in_container

        if not _in_container():
            raise RuntimeError(f"`Volume.{method}` is for functions that have the volume, and this is none")
        return self._files()

    def _reference(self) -> dict[str, Any]:
        """The volume as the engine reads it."""
        if self._id is not None:
            return {"id": self._id}
        if self._version not in (None, 1, 2):
            raise InvalidError(f"`version` of `Volume.from_name` is 1 or 2, not `{self._version!r}`")
        create = {"create": True} if self._create else {}
        return {"name": self._name, "environment": environment_or_default(self._environment), **create}

    def __reduce__(self) -> Any:
        state = {key: value for key, value in self.__dict__.items() if key != "_engine"}
        if self._environment is None and self._name is not None:
            state["_environment"] = environment_or_default(None)
        return _rebuild, (state,)

    def __repr__(self) -> str:
        return f"Volume.from_name({self._name!r})" if self._name is not None else f"Volume({self._id})"


def _make(cls: type[Volume], name: str | None = None, environment: str | None = None, id: str | None = None) -> Volume:
    volume: Volume = object.__new__(cls)
    volume._name = name
    volume._environment = environment
    volume._create = False
    volume._id = id
    volume._version = None
    volume._read_only = False
    volume._sub_path = None
    volume._has_options = False
    volume._engine = None
    return volume


def _rebuild(state: dict[str, Any]) -> Volume:
    volume = _make(Volume)
    vars(volume).update(state)
    return volume


class EphemeralVolume:
    """The block of `Volume.ephemeral`."""

    def __init__(self, kind: type[Volume]) -> None:
        self._kind = kind
        self._volume: Volume | None = None

    def __enter__(self) -> Volume:
        from modal._client.volumes import make_ephemeral

        self._volume = _make(self._kind)
        make_ephemeral(self._volume)
        return self._volume

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        volume, self._volume = self._volume, None
        if volume is not None:
            from modal._client.volumes import Remote

            Remote(volume).delete()
            volume._engine = None

    async def __aenter__(self) -> Volume:
        import asyncio

        return await asyncio.get_running_loop().run_in_executor(None, self.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        import asyncio

        await asyncio.get_running_loop().run_in_executor(None, self.__exit__, kind, error, traceback)


class VolumeObjects:
    """The volumes that this machine keeps under names: `Volume.objects`."""

    @in_thread
    def create(
        self,
        name: str,
        *,
        version: int | None = None,
        allow_existing: bool = False,
        environment_name: str | None = None,
        client: object = None,
    ) -> None:
        """Makes a volume; a name that is taken is a `modal.exception.AlreadyExistsError`, unless `allow_existing`."""
        from modal._client.errands import errand
        from modal.exception import AlreadyExistsError

        _check_name("Volume.objects.create", name, environment_name)
        body = {"do": "create", "name": name, "environment": environment_or_default(environment_name)}
        try:
            errand("volume", body)
        except AlreadyExistsError:
            if not allow_existing:
                raise

    @in_thread
    def list(
        self,
        *,
        max_objects: int | None = None,
        created_before: Any = None,
        environment_name: str | None = None,
        client: object = None,
    ) -> list[Volume]:
        """The volumes, the newest first."""
        from modal._client.errands import listed

        chosen = listed("volume", environment_name, max_objects, created_before)
        return [_make(Volume, each["name"], each["environment"], each["id"]) for each in chosen]

    @in_thread
    def delete(
        self,
        name: str,
        *,
        allow_missing: bool = False,
        environment_name: str | None = None,
        client: object = None,
    ) -> None:
        """Removes a volume with all that it holds; none of that name is a `modal.exception.NotFoundError`."""
        from modal._client.volumes import Remote
        from modal.exception import NotFoundError

        _check_name("Volume.objects.delete", name, environment_name)
        try:
            Remote(Volume.from_name(name, environment_name=environment_name)).delete()
        except NotFoundError:
            if not allow_missing:
                raise


Volume.objects = VolumeObjects()


def _check_name(method: str, name: object, environment: object) -> None:
    if not isinstance(name, str):
        raise InvalidError(f"`{method}` takes the name of a volume, not `{name!r}`")
    plain = name.replace("-", "").replace("_", "").replace(".", "")
    if not (0 < len(name) <= 64 and plain.isalnum() and plain.isascii()):
        raise InvalidError(
            f"`{name}` cannot be the name of a volume", hint="take 1 to 64 letters, digits, `-`, `_` and `.`"
        )
    if name.startswith("ap-") and len(name) == APP_ID_LENGTH and name[3:].isalnum():
        raise InvalidError(f"`{name}` cannot be the name of a volume", hint="it looks like the id of an app")
    if environment is not None and not isinstance(environment, str):
        raise InvalidError(f"`environment_name` of `{method}` takes a string, not `{environment!r}`")


def check_volumes(volumes: object, owner: str) -> dict[str, Volume]:
    """The volumes by where they are, or an `InvalidError` that names who got something else."""
    if not isinstance(volumes, dict):
        raise InvalidError(f"`volumes` of {owner} takes a dict of paths and volumes, not `{type(volumes).__name__}`")
    checked: dict[str, Volume] = {}
    for path, volume in volumes.items():
        if not isinstance(volume, Volume):
            raise InvalidError(
                f"`volumes` of {owner} takes `modal.Volume` objects; `{type(volume).__name__}` was given",
                hint='write `volumes={"/data": modal.Volume.from_name("data")}`',
            )
        written = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
        if not isinstance(written, str):
            raise InvalidError(f"`volumes` of {owner} takes paths as keys, not `{path!r}`")
        parts = [part for part in written.split("/") if part not in ("", ".")]
        place = "/" + "/".join(parts)
        if not written.startswith("/") or written.startswith("//") or ".." in parts or place in _NO_PLACES:
            raise InvalidError(
                f"a volume of {owner} cannot be at `{path}`",
                hint="choose an absolute path such as `/data`, without `..`, and not `/`, `/root` or `/tmp` itself",
            )
        if place in checked:
            raise InvalidError(f"{owner} has two volumes at `{place}`")
        if any(volume is other for other in checked.values()):
            raise InvalidError(f"{owner} has the same volume at two paths", hint="one place is possible")
        checked[place] = volume
    return checked


#: Where the kernel, the image or the program has something that a volume would hide.
_NO_PLACES = ("/", "/root", "/tmp")


def wire_volumes(volumes: Mapping[str, Volume]) -> list[dict[str, Any]]:
    """The volumes as the engine reads them, in the order of their places."""
    wired = []
    for path, volume in sorted(volumes.items()):
        options: dict[str, Any] = {"read_only": True} if volume._read_only else {}
        if volume._sub_path is not None:
            options["sub_path"] = volume._sub_path
        wired.append({"path": path, "volume": volume._reference(), **options})
    return wired


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name in ("FileEntry", "FileEntryType", "VolumeInfo"):
            return getattr(__import__("modal._shared.file_entry", None, None, [name]), name)
        raise AttributeError(f"module `modal.volume` has no attribute `{name}`")
