"""Functions for `test_run_function.py`, which are at the top level of a module as those of users."""

import functools
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


def traced(function):
    def wrapper():
        return function()

    return wrapper


def retried(times):
    def retry(function):
        @functools.wraps(function)
        def wrapper():
            return [function() for _ in range(times)]

        return wrapper

    return retry


class Lazy:
    SIZE = LIMIT

    def __init__(self) -> None:
        self.names = {"a", "b", "c", "d"}
        self.itself = self

    @property
    def value(self) -> int:
        return double(self.SIZE)


class Outer:
    class Inner:
        @staticmethod
        def value() -> int:
            return double(1)


@traced
def decorated() -> int:
    return double(1)


@retried(3)
def wrapped() -> int:
    return double(1)


@functools.lru_cache
def cached() -> int:
    return double(1)


@app.function()
def of_app() -> int:
    return double(1)


STEPS = [double]
PARTIAL = functools.partial(double, 1)
INSTANCE = Lazy()


def uses_decorated() -> int:
    return decorated()


def uses_wrapped() -> int:
    return wrapped()


def uses_property() -> int:
    return Lazy().value


def uses_nested() -> int:
    return Outer.Inner.value()


def uses_list() -> int:
    return STEPS[0](1)


def uses_partial() -> int:
    return PARTIAL()


def uses_instance() -> int:
    return INSTANCE.value


def uses_cached() -> int:
    return cached()


def uses_function_of_app() -> int:
    return of_app.local()
