"""The same work in a pool of threads of this process: how many inputs are done a second."""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import work


def beside(pool: ThreadPoolExecutor, count: int) -> list:
    """Each input for itself."""
    return list(pool.map(work.wait, range(count)))


def together(pool: ThreadPoolExecutor, count: int) -> list:
    """In batches, which somebody has cut before; one after the other, as in one container."""
    batches = [list(range(start, min(start + work.BATCH, count))) for start in range(0, count, work.BATCH)]
    return [x for batch in pool.map(work.wait_for_all, batches) for x in batch]


what, count = sys.argv[1], int(sys.argv[2])
with ThreadPoolExecutor(work.AT_ONCE if what == "beside" else 1) as executor:
    action = {"beside": beside, "together": together}[what]
    action(executor, 100)
    started = time.perf_counter()
    results = action(executor, count)
    seconds = time.perf_counter() - started
assert results == list(range(count))
print(json.dumps([count / seconds]))
