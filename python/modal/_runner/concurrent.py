"""Inputs that run beside one another in a container: synchronous ones in threads, asynchronous ones in the one loop.

The main thread reads what the engine sends, and runs the loop meanwhile. What one input does, how it ends and if it
is cancelled is no concern of its neighbours; only a synchronous one cannot be ended alone, so that the container goes.
"""

from __future__ import annotations

import asyncio
import threading
from queue import SimpleQueue

from modal._runner import loop as container_loop
from modal._runner.inputs import enter
from modal._runner.runner import AHEAD, AHEAD_BYTES, ITEM, RESULT, _flush, _pack, _pack_result, _unpack
from modal.exception import InputCancellation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from modal._runner.runner import Port, _Function, _Service
    from modal._shared.payload import Payload

COROUTINE, ASYNC_GENERATOR = 0x80, 0x200
EMPTY: Payload = b""


class _Flow:
    """How far a generator is ahead of who consumes its values."""

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._changed = threading.Condition()
        #: Wakes an asynchronous generator.
        self.wake: asyncio.Event | None = None
        self._is_closed = False

    def add(self, size: int) -> None:
        with self._changed:
            self._sizes.append(size)

    def consumed(self, count: int) -> None:
        with self._changed:
            del self._sizes[:count]
            self._changed.notify_all()
        if self.wake is not None:
            self.wake.set()

    def close(self) -> None:
        """Ends a synchronous generator at the value that it is at."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def is_far(self) -> bool:
        return len(self._sizes) >= AHEAD or sum(self._sizes) >= AHEAD_BYTES

    def wait(self) -> None:
        with self._changed:
            while self.is_far() and not self._is_closed:
                self._changed.wait()
            if self._is_closed:
                raise InputCancellation("the input was cancelled")

    async def wait_aio(self) -> None:
        while self.is_far():
            self.wake = asyncio.Event()
            if self.is_far():
                await self.wake.wait()


class Inputs:
    """The inputs of a container."""

    def __init__(self, port: Port, service: _Service) -> None:
        self._port = port
        self._service = service
        self._flows: dict[int, _Flow] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._queue: SimpleQueue[tuple[dict[str, Any], Any]] = SimpleQueue()
        self._free = 0
        self._lock = threading.Lock()

    def serve(self) -> None:
        """Runs inputs until the container is to leave."""
        while True:
            control, payload = self._port.receive()
            kind, call = control["type"], control.get("call")
            if kind == "stop":
                break
            if kind == "call":
                self._start(control, payload)
            elif kind == "more" and call in self._flows:
                self._flows[call].consumed(control["count"])
            elif kind == "cancel" and call in self._port.active and not self._cancel(call):
                break
        for call in list(self._tasks):
            self._cancel(call)

    def _cancel(self, call: int) -> bool:
        """Ends an input; false if it can only be ended with its container."""
        task, flow = self._tasks.get(call), self._flows.get(call)
        if task is not None:
            task.cancel()
        elif flow is not None:
            flow.close()
        return task is not None or flow is not None

    def _start(self, control: dict[str, Any], payload: Any) -> None:
        self._port.active[control["call"]] = control
        function = self._service.find(control["function"])
        if function.flags & (COROUTINE | ASYNC_GENERATOR):
            running = container_loop.usable_loop().create_task(self._run_aio(function, control, payload))
            self._tasks[control["call"]] = running
            return
        with self._lock:
            is_taken = self._free > 0
            self._free -= is_taken
        self._queue.put((control, payload))
        if not is_taken:
            threading.Thread(target=self._work, name="modal-input", daemon=True).start()

    def _work(self) -> None:
        while True:
            control, payload = self._queue.get()
            enter(control)
            self._end(control, *self._run(self._service.find(control["function"]), control, payload))
            with self._lock:
                self._free += 1

    def _run(self, function: _Function, control: dict[str, Any], payload: Any) -> tuple[bytes, Payload]:
        name = control["function"]
        try:
            args, kwargs = _unpack(payload, name)
            result = function.call(*args, **kwargs)
            if function.is_generator:
                flow = self._flows[control["call"]] = _Flow()
                for value in result:
                    self._send_item(function, control, value, flow)
                    flow.wait()
                return b"ok", b""
            return b"ok", _pack_result(function, result, name)
        except BaseException as error:
            return b"exception", _pack(error, f"the function `{name}`")

    async def _run_aio(self, function: _Function, control: dict[str, Any], payload: Any) -> None:
        name = control["function"]
        enter(control)
        status, packed = b"ok", EMPTY
        try:
            args, kwargs = _unpack(payload, name)
            result = function.call(*args, **kwargs)
            if function.is_generator:
                flow = self._flows[control["call"]] = _Flow()
                async for value in result:
                    self._send_item(function, control, value, flow)
                    await flow.wait_aio()
            else:
                packed = _pack_result(function, await result, name)
        except BaseException as error:
            status, packed = b"exception", _pack(error, f"the function `{name}`")
        self._tasks.pop(control["call"], None)
        self._end(control, status, packed)

    def _send_item(self, function: _Function, control: dict[str, Any], value: Any, flow: _Flow) -> None:
        payload = _pack_result(function, value, control["function"])
        _flush()
        flow.add(len(payload))
        self._port.send(ITEM % control["call"], payload)

    def _end(self, control: dict[str, Any], status: bytes, payload: Payload) -> None:
        call = control["call"]
        self._flows.pop(call, None)
        self._port.active.pop(call, None)
        _flush()
        self._port.send(RESULT % (call, status), payload)
