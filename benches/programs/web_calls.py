"""The same calls with `requests`: of new connections, as `requests.post` makes them, or over one that stays."""

import json
import sys
import time

import requests


def warm(post, address: str, count: int) -> list:
    """The seconds of each of `count` calls, one after the other."""
    for x in range(100):
        post(address, json=x)
    seconds = []
    for x in range(count):
        started = time.perf_counter()
        result = post(address, json=x).json()
        seconds.append(time.perf_counter() - started)
        assert result == x
    return seconds


what, address, *rest = sys.argv[1:]
if what == "once":
    assert requests.post(address, json=7).json() == 7
    print("[]")
else:
    one = requests.post if what == "new-connections" else requests.Session().post
    print(json.dumps(warm(one, address, int(rest[0]))))
