"""`Function.remote_gen`: values arrive while the generator goes on in its container, a limited number ahead."""

from __future__ import annotations

from modal._calls.conversation import AsyncReceiver, Receiver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from typing import Any

    from modal._calls.conversation import Conversation
    from modal._shared.payload import Payload
    from modal.functions import Function

#: So many consumed values are acknowledged together, while more wait to be consumed.
PORTION = 8


class _Stream:
    """One call of a generator."""

    def __init__(
        self, function: Function[Any, Any, Any], engine: Conversation, payload: Payload, receiver: Receiver
    ) -> None:
        self.receiver = receiver
        self._function = function
        self._engine = engine
        self._number = engine.start_call(receiver, function._wire_name, payload)
        self._consumed = 0
        self._ended = False

    def take(self) -> tuple[bool, Any]:
        """What has arrived: whether it is a value, and the value; raises the exception that ended the generator."""
        _, control, payload = self.receiver.arrived.popleft()
        if control["type"] == "item":
            self._consumed += 1
            return True, self._function._unpack(payload)
        self._ended = True
        if control["status"] != "ok":
            raise self._function._failure(control, payload)
        return False, None

    def acknowledge(self) -> None:
        """Lets the container go on. Without a value at hand it may be waiting for this."""
        if self._consumed >= PORTION or (self._consumed and not self.receiver.arrived):
            count, self._consumed = self._consumed, 0
            self._engine.send_frame(b'{"type":"more","call":%d,"count":%d}' % (self._number, count))

    def close(self) -> None:
        """Gives the call up if it has not ended."""
        if not self._ended:
            self._engine.cancel([self._number])


def stream(function: Function[Any, Any, Any], engine: Conversation, payload: Payload) -> Iterator[Any]:
    """Yields the values of a generator that runs in a container."""
    call = _Stream(function, engine, payload, Receiver())
    try:
        while True:
            call.acknowledge()
            engine.wait(call.receiver)
            is_value, value = call.take()
            if not is_value:
                return
            yield value
    finally:
        call.close()


async def stream_async(function: Function[Any, Any, Any], engine: Conversation, payload: Payload) -> AsyncIterator[Any]:
    """As `stream`, in an event loop."""
    receiver = AsyncReceiver(engine)
    call = _Stream(function, engine, payload, receiver)
    try:
        while True:
            call.acknowledge()
            while not receiver.arrived:
                await receiver.changed()
            is_value, value = call.take()
            if not is_value:
                return
            yield value
    finally:
        call.close()
