"""`Function.map`: many inputs in flight, results in order or as they come, never more taken ahead than is useful."""

from __future__ import annotations

import sys

from modal._calls.conversation import Receiver
from modal._shared.wire import JOIN_LIMIT, frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from modal._calls.conversation import Conversation
    from modal._shared.payload import Payload
    from modal.functions import Function

#: The most inputs between the oldest result not yet yielded and the newest input sent.
WINDOW = 256
#: The most bytes of arguments in flight; one larger input goes alone.
WINDOW_BYTES = 256 << 20


def run_map(
    function: Function[Any, Any, Any],
    inputs: Iterator[tuple[Any, ...]],
    kwargs: dict[str, Any],
    at_hand: bool,
    order_outputs: bool,
    return_exceptions: bool,
) -> Iterator[Any]:
    """Yields the results of `function` for `inputs`."""
    engine = function._running()
    sys.stdout.flush()
    flight = Flight(engine, function, kwargs, Receiver())
    feed = InlineFeed(flight, inputs) if at_hand else ThreadFeed(flight, inputs)
    waiting: dict[int, Any] = {}
    next_index = 0
    try:
        while True:
            feed.refill()
            if not flight.receiver.arrived:
                if flight.indexes:
                    engine.wait(flight.receiver)
                elif feed.has_ended():
                    feed.refill()
                    if not flight.indexes:
                        return
                else:
                    feed.wait()
                continue
            engine.poll(flight.receiver)
            while flight.receiver.arrived:
                index, control, payload = flight.land()
                if not order_outputs:
                    feed.make_room()
                    yield flight.result(control, payload, return_exceptions)
                    continue
                waiting[index] = control, payload
                while next_index in waiting:
                    control, payload = waiting.pop(next_index)
                    next_index += 1
                    feed.make_room()
                    yield flight.result(control, payload, return_exceptions)
    finally:
        feed.stop()
        engine.cancel(list(flight.indexes))


class Flight:
    """The inputs that were sent and not yet answered, and the room for more."""

    def __init__(
        self, engine: Conversation, function: Function[Any, Any, Any], kwargs: dict[str, Any], receiver: Receiver
    ) -> None:
        self.receiver = receiver
        #: Call number -> position among the inputs, size of the arguments.
        self.indexes: dict[int, tuple[int, int]] = {}
        #: The number of the first call.
        self._first: int | None = None
        # Each counter is written by one thread only: the first two by the feeding one, the others by the consumer.
        self._sent = 0
        self._sent_bytes = 0
        self.yielded = 0
        self._landed_bytes = 0
        #: Why an input could not be sent.
        self.failure: BaseException | None = None
        self._engine = engine
        self._function = function
        self._kwargs = kwargs

    def has_room(self) -> bool:
        """Whether one more input may be sent."""
        if self._sent - self.yielded >= WINDOW:
            return False
        return self._sent_bytes - self._landed_bytes < WINDOW_BYTES or not self.indexes

    def prepare(self, args: tuple[Any, ...]) -> tuple[bytes, Payload]:
        """Counts an input in; returns its control part and payload."""
        payload = self._function._pack(args, self._kwargs)
        number, control = self._engine.prepare_call(self.receiver, self._function._wire_name, first=self._first)
        if self._first is None:
            self._first = number
        self.indexes[number] = self._sent, len(payload)
        self._sent += 1
        self._sent_bytes += len(payload)
        return control, payload

    def send(self, args: tuple[Any, ...]) -> None:
        """Sends one input."""
        control, payload = self.prepare(args)
        try:
            self._engine.send_frame(control, payload)
        except (OSError, MemoryError) as error:
            # The consumer already waits for this input: the engine refuses a call of no function, which wakes it.
            self.failure = error
            number = next(reversed(self.indexes))
            self._engine.send_frame(b'{"type":"call","call":%d,"function":""}' % number, b"")

    def cancel_newest(self) -> None:
        """Gives up the input that was sent last."""
        self._engine.cancel(list(self.indexes)[-1:])

    def send_many(self, inputs: Iterator[tuple[Any, ...]]) -> bool:
        """Sends inputs while there is room, small ones together; tells whether there are no more."""
        joined: list[bytes] = []
        ended = False
        while self.has_room():
            args = next(inputs, None)
            if args is None:
                ended = True
                break
            control, payload = self.prepare(args)
            if len(payload) < JOIN_LIMIT // 16:
                joined.append(frame(control, payload))
            else:
                self._engine.send_frame(control, payload)
        if joined:
            self._engine.send_frames(b"".join(joined))
        return ended

    def land(self) -> tuple[int, dict[str, Any], Any]:
        """Counts a result out; returns its input's position, its control part and payload."""
        number, control, payload = self.receiver.arrived.popleft()
        index, size = self.indexes.pop(number)
        self._landed_bytes += size
        return index, control, payload

    def result(self, control: dict[str, Any], payload: Any, return_exceptions: bool) -> Any:
        """The value of a result that has landed; an exception is raised, or returned where that is wanted."""
        if control["status"] == "ok":
            return self._function._unpack(payload)
        error = self._function._failure(control, payload)
        if return_exceptions and isinstance(error, Exception):
            return error
        raise error


class InlineFeed:
    """Takes inputs that are at hand in the consumer's own thread."""

    def __init__(self, flight: Flight, inputs: Iterator[tuple[Any, ...]]) -> None:
        self._flight = flight
        self._inputs = inputs
        self._ended = False

    def refill(self) -> None:
        """Sends what there is room for."""
        if not self._ended:
            self._ended = self._flight.send_many(self._inputs)

    def has_ended(self) -> bool:
        """Whether all inputs were sent."""
        return self._ended

    def make_room(self) -> None:
        """A result is about to be yielded."""
        self._flight.yielded += 1

    def wait(self) -> None:
        """Nothing to wait for: `refill` sends until the inputs end or there is something to receive."""

    def stop(self) -> None:
        """Nothing to stop."""


class ThreadFeed:
    """Takes inputs in a thread of its own: an iterator may wait for whatever it likes, even for earlier results."""

    def __init__(self, flight: Flight, inputs: Iterator[tuple[Any, ...]]) -> None:
        import threading

        self._flight = flight
        self._inputs = inputs
        self._ended = False
        self._stopped = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="modal-map-inputs", daemon=True).start()

    def _run(self) -> None:
        try:
            while self._wait_for_room():
                args = next(self._inputs, None)
                if args is None or self._stopped:
                    break
                self._flight.send(args)
                with self._changed:
                    if self._stopped:
                        # The consumer has cancelled what it knew of; this one came after.
                        self._flight.cancel_newest()
                    self._changed.notify_all()
        except BaseException as error:
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _wait_for_room(self) -> bool:
        with self._changed:
            while not self._stopped and not self._flight.has_room():
                self._changed.wait()
        return not self._stopped

    def refill(self) -> None:
        """Reports what went wrong with the inputs; the thread does the sending."""
        error = self._error or self._flight.failure
        if error is not None:
            raise error

    def has_ended(self) -> bool:
        """Whether all inputs were sent."""
        return self._ended

    def make_room(self) -> None:
        """A result is about to be yielded."""
        self._flight.yielded += 1
        with self._changed:
            self._changed.notify_all()

    def wait(self) -> None:
        """Waits until an input was sent or there are no more."""
        with self._changed:
            while not self._ended and not self._flight.indexes and not self._flight.receiver.arrived:
                self._changed.wait()

    def stop(self) -> None:
        """Lets the thread end as soon as its iterator lets it."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
