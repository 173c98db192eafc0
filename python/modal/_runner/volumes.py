"""Volumes in a container: what is asked of them is done where they are mounted."""

from __future__ import annotations

import os

from modal._runner import runner
from modal._shared.file_entry import FileEntry, FileEntryType, MissingFile, check_path
from modal.exception import ExecutionError, InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from modal._shared.file_entry import VolumeInfo
    from modal.volume import Volume

#: The volumes that are mounted while this process builds a step.
of_step: list[dict[str, Any]] = []

#: Bytes that are read at once.
PIECE = 1 << 20


class Mounted:
    """A volume that this container has."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._mount = _mount_of(volume)
        self._staging: _Staging | None = None

    def _path(self, path: str) -> str:
        """Where a path of the volume is in this container."""
        parts = [part for part in check_path(path).split("/") if part not in ("", ".")]
        if ".." in parts:
            raise InvalidError(f"`{path}` leads out of the volume", hint="write a path without `..`")
        visible = [part for part in (self._mount["sub_path"] or "").split("/") if part not in ("", ".")]
        if parts[: len(visible)] != visible:
            raise InvalidError(f"this container has only `{'/'.join(visible)}` of the volume, not `{path}`")
        return os.path.join(self._mount["path"], *parts[len(visible) :])

    def find(self) -> None:
        """Notes the volume's id."""
        self._volume._id = self._mount["id"]

    def info(self) -> VolumeInfo:
        """That is asked for where the app was started from."""
        raise ExecutionError("`Volume.info` is not for containers", hint="use it where the app is started from")

    def commit(self) -> None:
        """Returns when what was written is on the disk."""
        if self._mount["read_only"]:
            raise RuntimeError("this container may not write to the volume, so there is nothing to commit")
        directory = os.open(self._mount["path"], os.O_RDONLY | os.O_DIRECTORY)
        try:
            _synchronise(directory)
        finally:
            os.close(directory)

    def listed(self, path: str, recursive: bool) -> Iterator[FileEntry]:
        """The entries of a directory, or the file itself."""
        place = self._path(path)
        try:
            if not os.path.isdir(place):
                return iter([self._entry(place, os.stat(place))])
            return self._walk(place, recursive)
        except FileNotFoundError:
            raise MissingFile(f"there is no `{path}` in the volume") from None

    def _walk(self, place: str, recursive: bool) -> Iterator[FileEntry]:
        for entry in sorted(os.scandir(place), key=lambda entry: entry.name):
            yield self._entry(entry.path, entry.stat(follow_symlinks=False))
            if recursive and entry.is_dir(follow_symlinks=False):
                yield from self._walk(entry.path, recursive)

    def _entry(self, place: str, status: os.stat_result) -> FileEntry:
        import stat

        kinds = (
            (stat.S_ISREG, FileEntryType.FILE),
            (stat.S_ISDIR, FileEntryType.DIRECTORY),
            (stat.S_ISLNK, FileEntryType.SYMLINK),
            (stat.S_ISFIFO, FileEntryType.FIFO),
            (stat.S_ISSOCK, FileEntryType.SOCKET),
        )
        kind = next((kind for matches, kind in kinds if matches(status.st_mode)), FileEntryType.UNSPECIFIED)
        visible = (self._mount["sub_path"] or "").strip("/")
        below = os.path.relpath(place, self._mount["path"])
        return FileEntry(os.path.join(visible, below), kind, int(status.st_mtime), status.st_size)

    def read(self, path: str) -> Iterator[bytes]:
        """The contents of a file."""
        with open(self._path(path), "rb") as file:
            while True:
                piece = file.read(PIECE)
                if not piece:
                    return
                yield piece

    def remove(self, path: str, recursive: bool) -> None:
        """Removes a file or a directory."""
        place = self._path(path)
        if place == self._mount["path"]:
            raise InvalidError("the root of a volume cannot be removed")
        if not os.path.isdir(place) or os.path.islink(place):
            os.unlink(place)
            return
        if not recursive:
            raise InvalidError(f"`{path}` is a directory", hint="say `recursive=True` to remove all that it holds")
        import shutil

        shutil.rmtree(place)

    def copy(self, sources: list[str], destination: str, recursive: bool) -> None:
        """Copies within the volume."""
        import shutil

        target = self._path(destination)
        into = os.path.isdir(target)
        if not into and (len(sources) > 1 or destination.endswith("/")):
            raise InvalidError(f"`{destination}` is no directory of the volume, so that nothing can go into it")
        for source in sources:
            place = self._path(source)
            to = os.path.join(target, os.path.basename(place)) if into else target
            if not os.path.isdir(place):
                _copy_file(place, to)
            elif recursive:
                if os.path.commonpath([place, to]) == place:
                    raise InvalidError(f"`{source}` cannot be copied into itself")
                shutil.copytree(place, to, symlinks=True, copy_function=_copy_file, dirs_exist_ok=True)
            else:
                raise InvalidError(f"`{source}` is a directory", hint="say `recursive=True` to copy all that it holds")

    def stage(self, fd: int) -> dict[str, Any]:
        """Copies what a descriptor gives to a file of the volume that is not in its place yet."""
        from tempfile import NamedTemporaryFile

        if self._staging is None:
            self._staging = _Staging(self._mount["path"])
        with NamedTemporaryFile(dir=self._staging.path, delete=False) as file:
            _copy(fd, file.fileno())
            return {"name": file.name}

    def publish(self, uploads: list[dict[str, Any]], force: bool) -> None:
        """Puts files in their places."""
        placed = [(upload, self._path(upload["path"])) for upload in uploads]
        for upload, place in placed:
            if not force and os.path.lexists(place):
                path = upload["path"]
                raise FileExistsError(f"there is a file `{path}` in the volume already")
        for upload, place in placed:
            os.makedirs(os.path.dirname(place), exist_ok=True)
            os.chmod(upload["staged"]["name"], upload["mode"] & 0o777)
            os.replace(upload["staged"]["name"], place)
        self._end_staging()
        self.commit()

    def forget(self, staged: list[dict[str, Any]]) -> None:
        """Removes what is not in its place."""
        self._end_staging()

    def _end_staging(self) -> None:
        staging, self._staging = self._staging, None
        if staging is not None:
            staging.end()


class _Staging:
    """A directory of the volume for what is not in its place yet, locked as long as somebody uses it.

    Nobody can clean up after a container that was killed, so the next upload of a container does.
    """

    _PREFIX = ".modal-upload-"

    def __init__(self, volume: str) -> None:
        from tempfile import mkdtemp

        self._sweep(volume)
        while True:
            self.path = mkdtemp(prefix=self._PREFIX, dir=volume)
            descriptor = self._lock(self.path, wait=True)
            if descriptor is not None:
                self._descriptor = descriptor
                return

    def end(self) -> None:
        """Removes it with all that it still holds."""
        import shutil

        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._descriptor)

    @classmethod
    def _sweep(cls, volume: str) -> None:
        import shutil

        for entry in os.scandir(volume):
            if entry.name.startswith(cls._PREFIX) and entry.is_dir(follow_symlinks=False):
                descriptor = cls._lock(entry.path, wait=False)
                if descriptor is not None:
                    shutil.rmtree(entry.path, ignore_errors=True)
                    os.close(descriptor)

    @staticmethod
    def _lock(path: str, wait: bool) -> int | None:
        """Locks a directory; None if somebody else has it, or it is gone."""
        import fcntl

        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
                return descriptor
        except OSError:
            pass
        os.close(descriptor)
        return None


def _copy_file(source: str, target: str) -> None:
    """Copies a file with its permissions and its holes, as ``cp`` does it."""
    import shutil

    if os.path.exists(target) and os.path.samefile(source, target):
        raise shutil.SameFileError(f"`{source}` and `{target}` are the same file")
    with open(source, "rb") as reader, open(target, "wb") as writer:
        _copy(reader.fileno(), writer.fileno())
    shutil.copymode(source, target)


def _copy(source: int, target: int) -> None:
    """Copies what a descriptor gives to an empty file; what is a hole there becomes one here."""
    position = 0
    while True:
        data = _next_data(source, position)
        if data is None:
            break
        position, end = data
        while end is None or position < end:
            piece = os.read(source, PIECE) if end is None else os.pread(source, min(PIECE, end - position), position)
            if not piece:
                break
            _write(target, piece, position)
            position += len(piece)
        if end is None:
            return
    os.ftruncate(target, os.fstat(source).st_size)


def _next_data(source: int, position: int) -> tuple[int, int | None] | None:
    """Where the next data begins and ends; it has no end where there are no positions, as in a pipe."""
    import errno

    try:
        start = os.lseek(source, position, os.SEEK_DATA)
        return start, os.lseek(source, start, os.SEEK_HOLE)
    except OSError as error:
        # A file that says to be empty may only not know what it has, as those of `/proc`.
        if error.errno == errno.ENXIO and (position or os.fstat(source).st_size):
            return None
        if position == 0 and error.errno in (errno.ENXIO, errno.ESPIPE, errno.EINVAL):
            return 0, None
        raise


def _write(target: int, piece: bytes, position: int) -> None:
    rest = memoryview(piece)
    while rest:
        count = os.pwrite(target, rest, position)
        rest, position = rest[count:], position + count


def _mount_of(volume: Volume) -> dict[str, Any]:
    from modal._shared.api import environment_or_default

    for mount in of_step if runner.port is None else runner.port.volumes:
        named = (mount["name"], mount["environment"]) == (
            volume._name,
            environment_or_default(volume._environment),
        )
        if mount["id"] == volume._id or (volume._id is None and named):
            return mount
    raise ExecutionError(
        f"this container has not the volume `{volume!r}`",
        hint='give it to the function: `@app.function(volumes={"/data": volume})`',
    )


def _synchronise(directory: int) -> None:
    """Has what was written to the file system of a directory reach the disk."""
    try:
        from ctypes import CDLL, get_errno

        synchronise = CDLL(None, use_errno=True).syncfs
    except (ImportError, OSError, AttributeError):
        # Those of all file systems, which takes longer where others write.
        os.sync()
        return
    if synchronise(directory) != 0:
        number = get_errno()
        raise RuntimeError(f"the volume could not be committed: {os.strerror(number)}")
