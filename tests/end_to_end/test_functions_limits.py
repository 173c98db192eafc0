"""What `@app.function` allows: how many containers, how often a failed input runs again."""

from __future__ import annotations

from conftest import Modal

APP = """
import os, time
import modal

app = modal.App("limits", image=modal.Image.debian_slim(python_version="3.11"))

@app.function(max_containers=2)
def two(x):
    time.sleep(0.05)
    return x

@app.function(retries=modal.Retries(max_retries=2, initial_delay=0.0))
def always():
    raise ValueError("always")

@app.function(retries=modal.Retries(max_retries=3, initial_delay=0.1, backoff_coefficient=2.0))
def sometimes(token):
    # Containers are reused, so that a file of one tells of earlier attempts.
    path = "/tmp/" + token
    with open(path, "a") as file:
        file.write("x")
    if len(open(path).read()) < 3:
        raise ValueError("not yet")
    return len(open(path).read())

@app.function(retries=modal.Retries(max_retries=1, initial_delay=0.0))
def dies():
    os._exit(9)

@app.function(retries=modal.Retries(max_retries=1, initial_delay=0.0), timeout=1)
def slow():
    time.sleep(60)

@app.local_entrypoint()
def main(what: str):
    if what == "two":
        print(sorted(two.map(range(40))) == list(range(40)))
    elif what == "sometimes":
        print(sometimes.remote("a"))
    else:
        try:
            globals()[what].remote()
        except Exception as error:
            print(type(error).__name__)
"""


def at_most(events: list[dict]) -> int:
    """The most containers that were there at a time."""
    present = most = 0
    for event in events:
        present += {"container_started": 1, "container_finished": -1}.get(event["event"], 0)
        most = max(most, present)
    return most


def test_max_containers(modal: Modal) -> None:
    modal.write("app.py", APP)
    result = modal.events("app.py", "--what", "two")
    assert result.stdout == "True\n"
    assert at_most(result.events) == 2
    assert len(result.of("container_started")) == 2


def test_an_exception_is_retried_and_comes_back_in_the_end(modal: Modal) -> None:
    modal.write("app.py", APP)
    result = modal.events("app.py", "--what", "always")
    assert result.stdout == "ValueError\n"
    retried = result.of("call_retried")
    assert [(event["function"], event["attempt"], event["of"]) for event in retried] == [
        ("always", 1, 3),
        ("always", 2, 3),
    ]


def test_a_later_attempt_succeeds_after_growing_pauses(modal: Modal) -> None:
    modal.write("app.py", APP)
    result = modal.events("app.py", "--what", "sometimes")
    assert result.stdout == "3\n"
    assert [round(event["seconds"], 3) for event in result.of("call_retried")] == [0.1, 0.2]


def test_dead_containers_and_timeouts_are_retried(modal: Modal) -> None:
    modal.write("app.py", APP)
    for what, error in (("dies", "InternalFailure"), ("slow", "FunctionTimeoutError")):
        result = modal.events("app.py", "--what", what)
        assert result.stdout == error + "\n"
        assert len(result.of("call_retried")) == 1
        assert len(result.of("container_started")) == 2
