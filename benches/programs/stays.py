"""An app that is deployed. A web server and a pool of threads do the same work: `work.py`."""

import work

import modal

app = modal.App("bench-stays", image=modal.Image.debian_slim(python_version="3.11").add_local_python_source("work"))


@app.function()
def nothing(x: int) -> int:
    """Returns its argument."""
    return work.nothing(x)


@app.function(max_containers=1)
@modal.concurrent(max_inputs=work.AT_ONCE)
def beside(x: int) -> int:
    """Waits a little, beside others."""
    return work.wait(x)


@app.function(max_containers=1)
@modal.batched(max_batch_size=work.BATCH, wait_ms=5)
def together(xs: list) -> list:
    """Waits a little, once for all of them."""
    return work.wait_for_all(xs)
