"""The event loop of a container: one for all its inputs, which goes on while the container waits for the next one.

A client that an input keeps in a global belongs to the loop that it was made in, and a task that an input leaves behind
is to go on: neither would survive a loop for each input.
"""

from __future__ import annotations

import asyncio

from modal._runner.inputs import enter_running

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future
    from collections.abc import Callable, Iterator
    from typing import Any

#: How long tasks may take to end after they were cancelled, before the container leaves.
FAREWELL_SECONDS = 1.0

_loop: AbstractEventLoop | None = None
#: What runs for an input, or a hook.
_running: Future[Any] | None = None
#: What the runner waits for in the loop, between inputs.
_woken: Future[None] | None = None

# A task is to know its input, also if it was made before anything asked.
enter_running()


def run(awaitable: Any) -> Any:
    """Runs a coroutine to its end, beside whatever else is under way in the loop."""
    global _running
    loop = usable_loop()
    task = _running = asyncio.ensure_future(awaitable, loop=loop)
    try:
        return loop.run_until_complete(task)
    finally:
        _running = None
        _settle(loop, task)


def cancel_running() -> bool:
    """Cancels what `run` waits for; false if it waits for nothing."""
    if _loop is None or _running is None:
        return False
    _loop.call_soon_threadsafe(_running.cancel)
    return True


def iterate(generator: Any) -> Iterator[Any]:
    """The values of an asynchronous generator; its loop stands still while a value is on its way."""
    try:
        while True:
            try:
                value = run(generator.__anext__())
            except StopAsyncIteration:
                return
            yield value
    finally:
        run(generator.aclose())


def is_usable() -> bool:
    """Whether there is a loop in which something may go on."""
    return _loop is not None and not _loop.is_closed()


def run_until_readable(fd: int) -> None:
    """Lets the loop go on until there is something to read from a descriptor, or somebody wakes it."""
    if _loop is None or _loop.is_closed():
        return
    woken = _loop.create_future()
    _loop.add_reader(fd, _resolve, woken)
    try:
        _run_until(_loop, woken)
    finally:
        if not _loop.is_closed():
            _loop.remove_reader(fd)


def run_until(condition: Callable[[], object]) -> None:
    """Lets the loop go on until a condition holds; whoever changes that wakes it."""
    while _loop is not None and not _loop.is_closed() and not condition():
        woken = _loop.create_future()
        _run_until(_loop, woken, condition)


def wake() -> None:
    """Ends what waits in the loop, from any thread."""
    loop, woken = _loop, _woken
    if loop is not None and woken is not None:
        try:
            loop.call_soon_threadsafe(_resolve, woken)
        except RuntimeError:
            pass  # The loop is closed.


def _run_until(loop: AbstractEventLoop, woken: Future[None], condition: Callable[[], object] | None = None) -> None:
    global _woken
    _woken = woken
    try:
        # Looked at again: it may have come to hold before there was anything to wake.
        while not woken.done() and not loop.is_closed() and not (condition is not None and condition()):
            try:
                loop.run_until_complete(woken)
            except RuntimeError:
                # A task has stopped the loop, which ends what waits for the loop and not the container.
                continue
    finally:
        _woken = None


def close() -> None:
    """Cancels what is under way and closes the loop."""
    if _loop is None or _loop.is_closed():
        return
    tasks = asyncio.all_tasks(_loop)
    for task in tasks:
        task.cancel()
    if tasks:
        _loop.run_until_complete(asyncio.wait(tasks, timeout=FAREWELL_SECONDS))
    _loop.run_until_complete(_loop.shutdown_asyncgens())
    _loop.close()


def usable_loop() -> AbstractEventLoop:
    """The loop of this container."""
    global _loop
    if _loop is None or _loop.is_closed():
        _loop = asyncio.new_event_loop()
        asyncio.set_event_loop(_loop)
    return _loop


def _settle(loop: AbstractEventLoop, task: Future[Any]) -> None:
    if not task.done() and not loop.is_closed():
        # An interrupt stops the loop, not what runs in it.
        task.cancel()
        loop.run_until_complete(asyncio.wait([task]))
    if task.done() and not task.cancelled():
        task.exception()  # The caller has it: it need not be reported as lost.


def _resolve(future: Future[None]) -> None:
    if not future.done():
        future.set_result(None)
