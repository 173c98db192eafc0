"""What is called: by an app that is deployed, by a web server, and by a pool of threads."""

import time

#: Inputs that run at once.
AT_ONCE = 32

#: Inputs of a batch.
BATCH = 64

#: What one input, or one batch, waits for: seconds.
WAIT = 0.01


def nothing(x: int) -> int:
    """Returns its argument."""
    return x


def wait(x: int) -> int:
    """Waits a little."""
    time.sleep(WAIT)
    return x


def wait_for_all(xs: list) -> list:
    """Waits a little, once for all of them."""
    time.sleep(WAIT)
    return xs
