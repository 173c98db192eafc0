"""What is printed beside other inputs says which of them printed it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from modal._runner import inputs, marks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def marked() -> Iterator[Callable[[], bytes]]:
    """Standard output with marks; what was written there. Not a fixture, because pytest sets the stream before the test."""
    reading, writing = os.pipe()
    former = sys.stdout, sys.stderr
    with open(writing, "w", encoding="utf-8", newline="") as stream:
        sys.stdout, sys.stderr = stream, None  # type: ignore[assignment]
        try:
            marks.install("T")
            sys.stdout.flush()

            def read() -> bytes:
                sys.stdout.flush()
                return os.read(reading, 1 << 16)

            yield read
        finally:
            sys.stdout, sys.stderr = former
    os.close(reading)


def as_input(call: int, work: Callable[[], object]) -> None:
    """Does something as an input of its own would."""

    def run() -> None:
        inputs.enter({"call": call})
        work()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def test_every_input_has_its_mark() -> None:
    with marked() as printed:
        print("nobody")
        as_input(7, lambda: print("seven", 7))
        as_input(8, lambda: sys.stdout.buffer.write(b"\xff\0"))
        as_input(7, lambda: sys.stdout.writelines(["a", "b"]))
        subprocess.run(["echo", "child"], stdout=sys.stdout, check=True)
        text = printed()
    assert text == b"nobody\n\0T:7\0seven 7\n\0T:0\0\0T:8\0\xff\0\0T:0\0child\n\0T:7\0ab\0T:0\0"


def test_tasks_of_one_loop_are_told_apart() -> None:
    async def work(call: int) -> None:
        inputs.enter({"call": call})
        print("begin", end=" ")
        await asyncio.sleep(0)
        print("end")

    async def both() -> None:
        await asyncio.gather(asyncio.create_task(work(1)), asyncio.create_task(work(2)))

    with marked() as printed:
        asyncio.run(both())
        text = printed()
    assert text == b"".join(b"\0T:%d\0%s\0T:0\0" % (call, text) for text in (b"begin ", b"end\n") for call in (1, 2))


def test_threads_that_print_at_the_same_time_do_not_mix() -> None:
    def work(call: int) -> None:
        inputs.enter({"call": call})
        for _ in range(200):
            print(f"of {call}")

    threads = [threading.Thread(target=work, args=(call,)) for call in (1, 2, 3)]
    text = b""
    with marked() as printed:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        while text.count(b"of ") < 600:
            text += printed()
    for piece in text.split(b"\0T:0\0"):
        mark, _, rest = piece.partition(b"\0T:")
        assert not mark
        call, _, lines = rest.partition(b"\0")
        assert set(lines.split(b"\n")) <= {b"of " + call, b""}, piece
