"""Calls of a function that does nothing: the time of each, and how many a second."""

import json
import time

import modal

app = modal.App("calls", image=modal.Image.debian_slim(python_version="3.11"))


@app.function()
def nothing(x: int) -> int:
    """Returns its argument."""
    return x


@app.local_entrypoint()
def latency(count: int):
    """Prints the seconds of each of `count` calls, one after the other."""
    for x in range(100):
        nothing.remote(x)
    seconds = []
    for x in range(count):
        started = time.perf_counter()
        result = nothing.remote(x)
        seconds.append(time.perf_counter() - started)
        assert result == x
    print(json.dumps(seconds))


@app.local_entrypoint()
def rate(count: int):
    """Prints how many of `count` inputs of one `.map` are done a second."""
    assert list(nothing.map(range(1000))) == list(range(1000))
    started = time.perf_counter()
    results = list(nothing.map(range(count)))
    seconds = time.perf_counter() - started
    assert results == list(range(count))
    print(json.dumps([count / seconds]))
