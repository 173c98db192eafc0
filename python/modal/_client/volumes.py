"""Volumes in the user's own process: what is asked of them goes to the engine."""

from __future__ import annotations

import os
from stat import S_ISDIR, S_ISREG

from modal._client.errands import errand
from modal._shared.file_entry import FileEntry, MissingFile, VolumeInfo, check_path, entries
from modal.exception import InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import Any, BinaryIO, Union

    from modal.volume import Volume

    Local = Union[str, Path]

#: Bytes that are read at once.
PIECE = 1 << 20


def make_ephemeral(volume: Volume) -> None:
    """Makes a volume that ends with the engine that makes it, which the handle keeps running."""
    from modal._client.engine import any_engine

    volume._id = errand("volume", {"do": "create"})["id"]
    volume._engine = any_engine()


class Remote:
    """A volume that the engine works on."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume

    def _ask(self, do: str, fds: tuple[int, ...] = (), **body: Any) -> Any:
        return errand("volume", {"do": do, "volume": self._volume._reference(), **body}, fds, self._volume._engine)

    def find(self) -> dict[str, Any]:
        """What the engine knows about the volume; its id is kept."""
        found: dict[str, Any] = self._ask("find")
        self._volume._id = found["id"]
        return found

    def info(self) -> VolumeInfo:
        """The same for people."""
        from datetime import datetime, timezone

        found = self.find()
        return VolumeInfo(found["name"], datetime.fromtimestamp(found["created"], timezone.utc), None)

    def listed(self, path: str, recursive: bool) -> Iterable[FileEntry]:
        """The entries of a directory."""
        try:
            return entries(self._ask("files", path=check_path(path), recursive=bool(recursive)))
        except FileNotFoundError:
            raise MissingFile(f"there is no `{path}` in the volume") from None

    def read(self, path: str) -> Iterator[bytes]:
        """The contents of a file, which come through a pipe."""
        from modal._client.engine import any_engine

        checked = check_path(path)
        engine = self._volume._engine or any_engine()
        reader, writer = os.pipe()
        try:
            try:
                body = {"do": "read", "volume": self._volume._reference(), "path": checked}
                answer = engine.ask("volume", body, (writer,))
            finally:
                os.close(writer)
            while True:
                piece = os.read(reader, PIECE)
                if not piece:
                    break
                yield piece
        finally:
            os.close(reader)
        engine.answer(answer)

    def remove(self, path: str, recursive: bool) -> None:
        """Removes a file or a directory."""
        self._ask("remove", path=check_path(path), recursive=recursive)

    def copy(self, sources: list[str], destination: str, recursive: bool) -> None:
        """Copies within the volume."""
        self._ask("copy", sources=sources, destination=check_path(destination), recursive=recursive)

    def rename(self, name: str) -> None:
        """Gives the volume another name."""
        self._ask("rename", name=name)

    def delete(self) -> None:
        """Removes the volume."""
        self._ask("delete")

    def stage(self, fd: int) -> dict[str, Any]:
        """Has the engine take in what a descriptor gives."""
        staged: dict[str, Any] = errand("volume", {"do": "stage"}, (fd,), self._volume._engine)
        return staged

    def publish(self, uploads: list[dict[str, Any]], force: bool) -> None:
        """Has what was taken in put in its places."""
        self._ask("publish", uploads=uploads, force=force)

    def forget(self, staged: list[dict[str, Any]]) -> None:
        """Has the engine forget what was taken in."""
        if staged:
            errand("volume", {"do": "forget", "staged": staged}, (), self._volume._engine)


def _named(path: str) -> str:
    """The path of an upload; a name that is no text is an error before anything is taken in."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InvalidError(
            f"{path!r} has no name in UTF-8, and nothing is put into a volume without one", hint="rename the file"
        ) from None
    return path


def _files_below(directory: str, recursive: bool, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[str]:
    """The paths of the files below a directory, links followed; `above` are the directories that it is in."""
    status = os.stat(directory)
    identity = status.st_dev, status.st_ino
    if identity in above:
        raise InvalidError(f"the link `{directory}` leads to a directory that it is in")
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        # A link that leads nowhere is a mistake, and no reason to leave something out.
        mode = os.stat(path).st_mode
        if S_ISREG(mode):
            yield path
        elif S_ISDIR(mode) and recursive:
            yield from _files_below(path, recursive, above | {identity})


class BatchUpload:
    """Local files on their way into a volume: the block of `Volume.batch_upload`."""

    def __init__(self, files: Any, force: bool) -> None:
        self._files = files
        self._force = force
        self._wanted: list[tuple[Any, str, int | None]] = []

    def put_file(self, local_file: Local | BinaryIO, remote_path: Any, mode: int | None = None) -> None:
        """Takes a local file, or one that is open for reading bytes, to a path of the volume."""
        remote = os.fspath(remote_path)
        if remote.endswith("/"):
            raise ValueError(f"`{remote}` is the path of a directory: name the file")
        if not isinstance(local_file, (str, os.PathLike)) and not hasattr(local_file, "read"):
            raise TypeError(f"`put_file` takes a path or a file, not `{type(local_file).__name__}`")
        self._wanted.append((local_file, _named(remote), mode))

    def put_directory(self, local_path: Local, remote_path: Any, recursive: bool = True) -> None:
        """Takes the files of a local directory, and of those below it if `recursive`, to a directory of the volume."""
        local, remote = os.fspath(local_path), os.fspath(remote_path)
        assert os.path.isdir(local), f"`{local}` is no directory"
        for path in _files_below(local, recursive):
            target = os.path.join(remote, os.path.relpath(path, local))
            self._wanted.append((path, _named(target.replace(os.sep, "/")), None))

    def __enter__(self) -> BatchUpload:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._upload()

    async def __aenter__(self) -> BatchUpload:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            import asyncio

            await asyncio.get_running_loop().run_in_executor(None, self._upload)

    def _upload(self) -> None:
        uploads: list[dict[str, Any]] = []
        try:
            for source, remote, mode in self._wanted:
                staged, permissions = self._stage(source)
                uploads.append({"staged": staged, "path": remote, "mode": permissions if mode is None else mode})
            if uploads:
                self._files.publish(uploads, self._force)
        except BaseException:
            self._files.forget([upload["staged"] for upload in uploads])
            raise

    def _stage(self, source: Any) -> tuple[dict[str, Any], int]:
        """Takes in a file; gives what it is known by, and its permissions."""
        if isinstance(source, (str, os.PathLike)):
            with open(source, "rb") as file:
                return self._files.stage(file.fileno()), os.fstat(file.fileno()).st_mode & 0o777
        from tempfile import TemporaryFile

        with TemporaryFile() as copy:
            while True:
                piece = source.read(PIECE)
                if not isinstance(piece, bytes):
                    raise InvalidError("`put_file` takes files that are open for reading bytes")
                if not piece:
                    break
                copy.write(piece)
            copy.flush()
            copy.seek(0)
            return self._files.stage(copy.fileno()), 0o644
