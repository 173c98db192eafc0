"""The same as `calls.py` with the processes of Python's own pool, one per core."""

import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor


def nothing(x: int) -> int:
    """Returns its argument."""
    return x


def latency(pool: ProcessPoolExecutor, count: int) -> list:
    """The seconds of each of `count` calls, one after the other."""
    for x in range(100):
        pool.submit(nothing, x).result()
    seconds = []
    for x in range(count):
        started = time.perf_counter()
        result = pool.submit(nothing, x).result()
        seconds.append(time.perf_counter() - started)
        assert result == x
    return seconds


def rate(pool: ProcessPoolExecutor, count: int) -> list:
    """How many of `count` inputs of one `map` are done a second."""
    assert list(pool.map(nothing, range(1000))) == list(range(1000))
    started = time.perf_counter()
    results = list(pool.map(nothing, range(count)))
    seconds = time.perf_counter() - started
    assert results == list(range(count))
    return [count / seconds]


if __name__ == "__main__":
    with ProcessPoolExecutor(os.cpu_count()) as executor:
        print(json.dumps({"latency": latency, "rate": rate}[sys.argv[1]](executor, int(sys.argv[2]))))
