"""Functions for `test_run_function.py`, which are at the top level of a module as those of users."""

import threading

import modal

LIMIT = 3
KINDS = {"b", "a", "c"}
LOCK = threading.Lock()
app = modal.App("programs")


class Base:
    def inherited(self) -> int:
        return LIMIT


class Model(Base):
    size = 7

    def load(self) -> int:
        return double(self.size)


def double(number: int) -> int:
    return number * 2


def plain(count: int = 1) -> None:
    print(count)


def uses_helper() -> int:
    return sum([double(each) for each in range(LIMIT)])


def uses_class() -> int:
    return Model().load()


def uses_set() -> int:
    return len(KINDS)


def uses_lock() -> None:
    with LOCK:
        pass


def uses_app() -> str:
    return str(app.name)
