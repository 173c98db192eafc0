"""Gates at which functions wait until a test lets them go: connections, so that they need no disk."""

from __future__ import annotations

import socket
import threading
import time
from types import TracebackType

PATIENCE = 60

#: What a program needs to wait at a gate: `wait_at(port)`.
WAIT_AT = """
def wait_at(port):
    import socket

    with socket.create_connection(("127.0.0.1", port)) as gate:
        gate.recv(1)
"""


class Gate:
    """Holds whoever connects until it is opened."""

    def __enter__(self) -> Gate:
        self.waiting: list[socket.socket] = []
        self._is_open = False
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            with self._lock:
                self.waiting.append(client)
                if self._is_open:
                    client.close()

    def wait_for(self, count: int) -> None:
        """Until so many wait."""
        until = time.monotonic() + PATIENCE
        while len(self.waiting) < count:
            assert time.monotonic() < until, f"{len(self.waiting)} of {count} have come"
            time.sleep(0.01)

    def open(self) -> None:
        """Lets all go, also those who come later."""
        with self._lock:
            self._is_open = True
            for client in self.waiting:
                client.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.open()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
