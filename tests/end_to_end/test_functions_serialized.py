"""Functions that travel by value: nothing of the program is in the container, and nothing is installed in the image."""

from __future__ import annotations

import sys

from conftest import Modal

VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
OTHER = "3.13" if VERSION != "3.13" else "3.11"

APP = f"""
import os
import modal

app = modal.App("serialized", image=modal.Image.debian_slim(python_version="{VERSION}"))
other = modal.Image.debian_slim(python_version="{OTHER}")

class Point:
    def __init__(self, x):
        self.x = x

class Odd(Exception):
    pass

def helper(x):
    return x + 1

@app.function(serialized=True)
def moved(point):
    return Point(helper(point.x))

def make(factor):
    @app.function(serialized=True, name=f"times_{{factor}}")
    def times(x):
        if x < 0:
            raise Odd(f"{{x}} is negative")
        return x * factor, moved.local(Point(x)).x, os.path.exists("/root/app.py")

    return times

times = make(3)
anonymous = app.function(serialized=True, name="anonymous")(lambda x: -x)

@app.function(serialized=True)
def values(n):
    yield from (Point(x) for x in range(n))

@app.function(serialized=True, image=other)
def elsewhere():
    pass

def main():
    point = moved.remote(Point(1))
    print(type(point) is Point, point.x)
    print(times.remote(2), list(anonymous.map([1, 2])), [p.x for p in values.remote_gen(3)])
    try:
        times.remote(-1)
    except Odd as error:
        print("odd:", error, "negative" in str(error.__cause__))
    try:
        elsewhere.remote()
    except modal.exception.ExecutionError as error:
        print(error.message)

entry = app.local_entrypoint()(main)

if __name__ == "__main__":
    with app.run():
        main()
"""

PRINTED = f"""True 2
(6, 3, False) [-1, -2] [0, 1, 2]
odd: -1 is negative True
`elsewhere` is serialized, which needs the caller's Python `{VERSION}` in the container; it has `{OTHER}`
"""


def test_serialized_functions(modal: Modal) -> None:
    modal.write("app.py", APP)
    assert modal("run", "-q", "app.py").stdout == PRINTED


def test_serialized_functions_of_a_plain_script(modal: Modal) -> None:
    modal.write("app.py", APP)
    assert modal.python("app.py").stdout == PRINTED
