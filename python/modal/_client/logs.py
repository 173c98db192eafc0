"""Logs of apps, as programs read them: what `modal app logs` shows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from modal._client.engine import command
from modal._shared.api import Twins, in_thread
from modal.exception import ExecutionError, InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from subprocess import Popen

SOURCES = ("stdout", "stderr", "system")


@dataclass
class LogEntry:
    """A line of a log, or the part of one that came at once."""

    #: None of what a version of `modal` has recorded that noted no times.
    timestamp: datetime | None
    #: `stdout`, `stderr`, or `system` for what Lamina says itself.
    source: str
    #: With its line end, if that is there.
    message: str
    #: The container that it is of; the app, where it is of none.
    object_id: str
    #: What else it belongs to: the app, the function call.
    context_ids: list[str]


class Logs:
    """The log of an app, or the part of it that a function or a call has."""

    def __init__(self, words: Callable[[], tuple[str, list[str]]]) -> None:
        #: The app's id, and what `modal app logs` is told.
        self._words = words

    @in_thread
    def fetch(
        self,
        since: datetime | None = None,
        until: datetime | None = None,
        *,
        source: str | None = None,
        search: str | None = None,
    ) -> list[LogEntry]:
        """All that is kept from one time on and before another, from a source, with a text in it."""
        options = [f"--{name}={time_of(name, time)}" for name, time in (("since", since), ("until", until)) if time]
        return list(self._read([*(options or ["--tail=4294967295"]), *selected(source, search)]))

    @in_thread
    def tail(self, entries: int = 100, *, source: str | None = None, search: str | None = None) -> list[LogEntry]:
        """The last lines."""
        if isinstance(entries, bool) or not isinstance(entries, int) or entries < 1:
            raise InvalidError(f"`entries` takes a positive whole number, not `{entries!r}`")
        return list(self._read([f"--tail={entries}", *selected(source, search)]))

    def _stream(self, *, source: str | None = None, search: str | None = None) -> Iterator[LogEntry]:
        """The last 100 lines, and what follows, until the app is stopped or has ended."""
        return self._read(["--follow", *selected(source, search)])

    async def _stream_aio(self, *, source: str | None = None, search: str | None = None) -> AsyncIterator[LogEntry]:
        from asyncio import get_running_loop

        loop, lines = get_running_loop(), self._stream(source=source, search=search)
        try:
            while (entry := await loop.run_in_executor(None, next, lines, None)) is not None:
                yield entry
        finally:
            # One that waits in a thread ends with its process.
            close_process(lines)

    stream = Twins(_stream, _stream_aio)

    def _read(self, options: list[str]) -> Iterator[LogEntry]:
        app_id, words = self._words()
        return Reading(app_id, [command(), "app", "logs", *words, "--json", *options])


class Reading:
    """The entries that a process prints."""

    def __init__(self, app_id: str, words: list[str]) -> None:
        from subprocess import DEVNULL, PIPE, Popen

        self._app_id = app_id
        self._process: Popen[bytes] = Popen(words, stdin=DEVNULL, stdout=PIPE, stderr=PIPE)

    def __iter__(self) -> Iterator[LogEntry]:
        return self

    def __next__(self) -> LogEntry:
        process = self._process
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        if line:
            return entry_of(line, self._app_id)
        said = process.stderr.read().decode(errors="replace")
        self.close()
        if process.returncode > 0:
            message, _, hint = said.partition("\nhint: ")
            raise ExecutionError(message.partition("error: ")[2] or said, hint=hint.strip() or None)
        raise StopIteration

    def close(self) -> None:
        """Ends the process."""
        process = self._process
        if process.poll() is None:
            process.terminate()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()

    def __del__(self) -> None:
        if hasattr(self, "_process"):
            self.close()


def close_process(reading: Iterator[LogEntry]) -> None:
    """Ends what has not been read to its end."""
    process = getattr(reading, "_process", None)
    if process is not None and process.poll() is None:
        process.terminate()


def entry_of(line: bytes, app_id: str) -> LogEntry:
    """An entry as the command prints it."""
    from json import loads

    entry = loads(line)
    time = entry["timestamp"]
    context = [each for each in (app_id, entry["function_call"]) if each is not None]
    return LogEntry(
        None if time is None else datetime.fromisoformat(time.replace("Z", "+00:00")),
        entry["source"],
        entry["message"],
        entry["container"] or app_id,
        context if entry["container"] else context[1:],
    )


def time_of(name: str, time: object) -> str:
    """A time as the command takes it."""
    if not isinstance(time, datetime):
        raise InvalidError(f"`{name}` takes a `datetime.datetime`, not `{time!r}`")
    return time.astimezone().isoformat()


def selected(source: str | None, search: str | None) -> list[str]:
    """What is wanted of a log, as the command is told."""
    if source is not None and source not in SOURCES:
        raise InvalidError(f"`source` is `stdout`, `stderr` or `system`, not `{source!r}`")
    if search is not None and not isinstance(search, str):
        raise InvalidError(f"`search` takes a text, not `{search!r}`")
    return [*([f"--source={source}"] if source else []), *([f"--search={search}"] if search else [])]
