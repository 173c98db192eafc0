"""Calls over the connection with the engine, and who reads it; of the user's process, and of a container.

Whoever waits for an answer reads the socket itself and hands what belongs to others to them; only one does so at a
time, and passes the turn on when it has what it waited for. A single caller therefore pays no thread switch, which
would cost as much as everything else in a warm call. Only for answers that nobody may wait for (`.spawn`, event loops)
a thread is started that reads whenever nobody else does.
"""

from __future__ import annotations

import os
from _thread import allocate_lock
from collections import deque
from itertools import count

from modal._shared.interpreter import encode_json
from modal._shared.wire import Connection, ConnectionClosed, ProtocolError
from modal.exception import ExecutionError, ServiceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Sequence
    from typing import Any

    from modal._shared.payload import Payload
    from modal.functions import Function

CALL = b'{"type":"call","call":%d,"function":%s}'
MAPPED_CALL = b'{"type":"call","call":%d,"function":%s,"map":%d}'
SPAWNED_CALL = b'{"type":"call","call":%d,"function":%s,"identify":true,"spawned":true}'
AWAIT = b'{"type":"await","call":%d,"id":"%s"}'
SPAWNED_MAPPED_CALL = b'{"type":"call","call":%d,"function":%s,"map":%d,"index":%d,"spawned":true}'
#: Messages that belong to a call of this process.
ANSWERS = ("result", "item", "call.accepted", "call.pending")


class Receiver:
    """Where the answers to one caller arrive, as `(number, control, payload)`."""

    __slots__ = ("arrived", "lock")

    def __init__(self) -> None:
        self.arrived: deque[tuple[int, dict[str, Any], Any]] = deque()
        #: Held while nobody has woken the caller; made when the caller first sleeps.
        self.lock: Any = None

    def identify(self, call_id: str) -> None:
        """Learns under which id the engine knows the call, where it was asked for that."""

    def pending(self) -> None:
        """Learns that the call whose result was asked for has not ended."""

    def wake(self) -> None:
        """Wakes the caller if it sleeps, or keeps it from falling asleep."""
        lock = self.lock
        if lock is not None and lock.locked():
            try:
                lock.release()
            except RuntimeError:
                pass  # Somebody else was faster.


class AsyncReceiver(Receiver):
    """Where answers arrive for a coroutine. The engine's background thread reads them and wakes the event loop."""

    __slots__ = ("_engine", "_event", "_loop")

    def __init__(self, engine: Conversation) -> None:
        import asyncio

        super().__init__()
        self._engine = engine
        self._loop: AbstractEventLoop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        engine.read_in_background()

    def wake(self) -> None:
        """Wakes the coroutine; called by whichever thread reads."""
        if self._event.is_set():
            return  # It looks for what has arrived after it has cleared the event.
        try:
            self._loop.call_soon_threadsafe(self._event.set)
        except RuntimeError:
            pass  # The loop is closed, and with it whoever waited.

    def notify(self) -> None:
        """Wakes the coroutine from within its own loop."""
        self._event.set()

    async def sleep(self) -> None:
        """Waits until somebody wakes or notifies; returns at once if that has happened since the last time."""
        await self._event.wait()
        self._event.clear()

    async def changed(self) -> None:
        """Waits until something has arrived, or somebody notified."""
        if not self.arrived:
            await self.sleep()
            if not self.arrived:
                self._engine.check()


class Conversation:
    """Calls that a process makes over its connection with the engine."""

    #: Whether what is at the other end keeps results of spawned calls by their ids.
    keeps_results = False
    #: Whether the calls that are spawned here are kept, and whoever spawns one waits until it is.
    waits_until_kept = False

    def __init__(self, connection: Connection, read_lock: Any = None, send_lock: Any = None) -> None:
        self._connection = connection
        self._numbers = count(1)
        #: Spawned calls by id, whose ids somebody has asked for and may come back with.
        self.known_calls: dict[str, object] = {}
        self._pending: dict[Any, Receiver] = {}
        self._sleepers: list[Receiver] = []
        self._send_lock = send_lock or allocate_lock()
        #: Calls given up, which the engine is yet to be told.
        self._cancelled: deque[int] = deque()
        self._read_lock = read_lock or allocate_lock()
        self._failure: Exception | None = None
        self._reads_in_background = False
        #: The variants of services that the engine knows, by what makes them.
        self._variants: dict[str, int] = {}
        os.register_at_fork(after_in_child=self._forget)

    @staticmethod
    def receiver() -> Receiver:
        """Where answers to a thread's call arrive."""
        return Receiver()

    def start_call(
        self,
        receiver: Receiver,
        function: bytes,
        payload: Payload,
        spawned: bool = False,
        first: int | None = None,
        index: int = 0,
    ) -> int:
        """Sends one input; its result will arrive at `receiver` under the number that is returned.

        A call that is `spawned` gets an id, unless it is a part of an earlier one, and goes on without whoever made it.
        """
        number, control = self.prepare_call(receiver, function, spawned, first, index)
        self.send_frame(control, payload)
        return number

    def start_waiting(self, receiver: Receiver, call_id: str) -> int:
        """Asks for the result of a call that was spawned before; it will arrive under the number that is returned."""
        number = next(self._numbers)
        self._pending[number] = receiver
        self.send_frame(AWAIT % (number, call_id.encode()))
        return number

    def start_errand(self, receiver: Receiver, body: dict[str, Any], payload: Payload) -> int:
        """Asks for something that is answered like a call, and given up like one."""
        number = next(self._numbers)
        self._pending[number] = receiver
        self.send_frame(encode_json({"type": "collection", "call": number, **body}).encode(), payload)
        return number

    def prepare_call(
        self, receiver: Receiver, function: bytes, spawned: bool = False, first: int | None = None, index: int = 0
    ) -> tuple[int, bytes]:
        """A call's number and control part, for those who send several frames at once with `send_frames`.

        `first` is the number of the first call of the `.map` that it is a part of, `index` its place in one that is
        spawned.
        """
        number = next(self._numbers)
        self._pending[number] = receiver
        if first is not None:
            if spawned:
                return number, SPAWNED_MAPPED_CALL % (number, function, first, index)
            return number, MAPPED_CALL % (number, function, first)
        return number, (SPAWNED_CALL if spawned else CALL) % (number, function)

    def name_variant(self, variant: dict[str, Any]) -> int:
        """The label under which calls name a variant of a service; the engine is told of a new one."""
        key = encode_json(variant)
        label = self._variants.get(key)
        if label is None:
            label = next(self._numbers)
            self.send_frame(f'{{"type":"variant","variant":{label},{key[1:]}'.encode())
            # Not earlier: another thread would call it before the engine knows it.
            self._variants[key] = label
        return label

    def send_frames(self, frames: bytes | bytearray, fds: Sequence[int] = ()) -> None:
        """Sends whole frames made by `modal._shared.wire.frame`; the first has these descriptors."""
        self.check()
        try:
            with self._send_lock:
                self._connection.send_bytes(frames, self._make_room, fds)
        except ConnectionClosed:
            raise self._cut_off() from None
        if self._cancelled:
            self._send_cancelled()

    def cancel(self, numbers: list[int]) -> None:
        """Gives up calls; results that arrive nevertheless are dropped."""
        self._cancelled.extend(number for number in numbers if self._pending.pop(number, None) is not None)
        self._send_cancelled()

    def terminate(self, number: int) -> None:
        """Gives up a call, together with the container that runs it."""
        if self._pending.pop(number, None) is not None:
            self.send_frame(b'{"type":"cancel","call":%d,"terminate":true}' % number)

    def cancel_calls_of(self, receiver: Receiver) -> None:
        """Gives up whatever was to be answered to a caller, who may have been interrupted before it knew the number."""
        self.cancel([number for number, known in list(self._pending.items()) if known is receiver])

    def _send_cancelled(self) -> None:
        """Tells the engine of calls given up, unless somebody is sending, who will do so afterwards.

        It may be the garbage collector that gives up a call, while this very thread is sending.
        """
        while self._cancelled and self._failure is None and self._send_lock.acquire(False):
            try:
                if self._cancelled:
                    frame = b'{"type":"cancel","call":%d}' % self._cancelled.popleft()
                    self._connection.send(frame, b"", self._make_room)
            except ConnectionClosed:
                self._fail()  # Nothing is left to cancel.
            finally:
                self._send_lock.release()

    def wait(self, receiver: Receiver) -> None:
        """Returns as soon as something has arrived at `receiver`."""
        while not receiver.arrived:
            if self._read_lock.acquire(False):
                try:
                    while not receiver.arrived:
                        self._read_one()
                finally:
                    self._read_lock.release()
                    self._offer_turn()
            else:
                self._sleep(receiver)

    def read_in_background(self) -> None:
        """From now on a thread reads whenever nobody waits: answers come in although nobody asks for them yet."""
        if not self._reads_in_background:
            import threading

            self._reads_in_background = True
            threading.Thread(target=self._read_always, name="modal-answers", daemon=True).start()

    def _read_always(self) -> None:
        try:
            self.wait(Receiver())
        except Exception:
            pass  # The engine is lost, which those who need it are told.

    def poll(self, receiver: Receiver) -> None:
        """Takes in what can be had without waiting."""
        if self._read_lock.acquire(False):
            try:
                while self._connection.has_frame():
                    self._read_one()
            finally:
                self._read_lock.release()
                self._offer_turn()

    def give_up(self) -> None:
        """Ends the conversation for whoever waits for something, in any thread."""
        if self._failure is None:
            self._failure = ServiceError("the app has stopped")
            self._connection.shut_down()
            self._wake_all()

    def send_frame(self, control: bytes, payload: Payload = b"") -> None:
        """Sends one frame."""
        self.check()
        try:
            with self._send_lock:
                self._connection.send(control, payload, self._make_room)
        except ConnectionClosed:
            raise self._cut_off() from None
        if self._cancelled:
            self._send_cancelled()

    def check(self) -> None:
        """Raises what made the engine unreachable, if something did."""
        if self._failure is not None:
            raise self._failure

    def _make_room(self) -> None:
        """The socket is full: reads meanwhile, or both sides might wait for each other for ever."""
        if self._read_lock.acquire(False):
            try:
                if self._connection.has_frame() or self._connection.wait_either():
                    self._read_one()
            finally:
                self._read_lock.release()
                self._offer_turn()
        else:
            self._connection.wait_writable()

    def _sleep(self, receiver: Receiver) -> None:
        """Waits while another thread reads, until woken by an answer or to take over the reading."""
        lock = receiver.lock = receiver.lock or allocate_lock()
        lock.acquire(False)
        self._sleepers.append(receiver)
        try:
            # The reader may have finished before it could see this sleeper.
            if not receiver.arrived and self._read_lock.locked():
                lock.acquire()
        finally:
            self._sleepers.remove(receiver)
            if not self._read_lock.locked():
                # The turn to read may have been offered to this thread, which may not need it any more.
                self._offer_turn()
        if not receiver.arrived:
            self.check()

    def _offer_turn(self) -> None:
        if self._sleepers:
            self._sleepers[0].wake()

    def _read_one(self) -> None:
        """Reads a frame and hands it to whom it belongs."""
        self.check()
        try:
            control, payload = self._connection.receive()
        except ConnectionClosed:
            raise self._fail() from None
        except (ProtocolError, ValueError) as error:
            raise self._fail(f"the engine sent something unreadable: {error}") from None
        self._dispatch(control, payload)

    def _dispatch(self, control: dict[str, Any], payload: Any) -> None:
        """Hands what was read to whom it belongs."""
        number, kind = control.get("call"), control["type"]
        if number is None or kind not in ANSWERS:
            self._take(control, payload)
            return
        receiver = self._pending.pop(number, None) if kind == "result" else self._pending.get(number)
        if receiver is None:
            return  # Given up.
        if kind == "call.accepted":
            receiver.identify(control["id"])
            return
        if kind == "call.pending":
            receiver.pending()
            return
        receiver.arrived.append((number, control, payload))
        receiver.wake()

    def _take(self, control: dict[str, Any], payload: Any) -> None:
        """Takes a message that answers no call."""

    def _fail(self, message: str | None = None) -> Exception:
        """Notes that the engine is lost and wakes everybody to hear it."""
        if self._failure is None:
            self._failure = ServiceError(
                message or f"the engine ended while it was needed{self._how_it_ended()}",
                hint="run `modal doctor` to check this machine; the build's messages above may say more",
            )
        self._wake_all()
        return self._failure

    def _cut_off(self) -> Exception:
        """Notes that the engine takes nothing any more; it may have said why before."""
        if self._read_lock.acquire(False):
            try:
                while self._connection.has_frame() or self._connection.is_readable():
                    self._read_one()
            except Exception:
                pass  # It is noted.
            finally:
                self._read_lock.release()
                self._offer_turn()
        return self._fail()

    def _wake_all(self) -> None:
        for receiver in [*self._sleepers, *list(self._pending.values())]:
            receiver.wake()

    def _how_it_ended(self) -> str:
        return ""

    def _forget(self) -> None:
        """In a forked child: leaves the conversation to the parent."""
        if self._failure is None:
            self._failure = ServiceError(
                "a forked process cannot call functions of its parent's app",
                hint="use threads, or call `.map` in the parent",
            )
            self._connection.close()


def find_engine(function: Function[Any, Any, Any]) -> Conversation:
    """The engine of the app that runs, or of the container, or that of the app which was deployed from here."""
    service = function._service or function
    if service._engine is None:
        from modal import _in_container

        if _in_container():
            from modal._runner.client import reach

            service._connect(reach(service))
        elif function._app._deployed is not None:
            from modal._client.deployed import reach as reach_deployed

            # Looked for at every call: its process may have ended.
            host = reach_deployed(*function._app._deployed, None)
            function._wire_name = function._named(host)
            return host
        else:
            raise ExecutionError(
                f"`{function._name}` cannot be called in a container: its app is not running",
                hint="start this script with `modal run`, or call inside `with app.run():`; the app runs until the "
                "entrypoint, or that block, ends, and does not wait for threads and exit handlers",
            )
    engine = service._engine
    assert engine is not None
    if service is not function:
        function._connect(engine)
    return engine
