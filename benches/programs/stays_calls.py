"""Calls the app of `stays.py` from a process of its own, and prints seconds, or how many inputs are done in one."""

import json
import sys
import time

import modal

nothing = modal.Function.from_name("bench-stays", "nothing")


def once() -> list:
    """One call: the whole process is measured."""
    assert nothing.remote(7) == 7
    return []


def warm(count: int) -> list:
    """The seconds of each of `count` calls, one after the other."""
    for x in range(100):
        nothing.remote(x)
    seconds = []
    for x in range(count):
        started = time.perf_counter()
        result = nothing.remote(x)
        seconds.append(time.perf_counter() - started)
        assert result == x
    return seconds


def rate(name: str, count: int) -> list:
    """How many of `count` inputs of one `.map` are done a second."""
    function = modal.Function.from_name("bench-stays", name)
    assert list(function.map(range(100))) == list(range(100))
    started = time.perf_counter()
    results = list(function.map(range(count)))
    seconds = time.perf_counter() - started
    assert results == list(range(count))
    return [count / seconds]


what, *rest = sys.argv[1:]
done = {"once": once, "warm": lambda: warm(int(rest[0])), "rate": lambda: rate(rest[0], int(rest[1]))}[what]()
print(json.dumps(done))
