"""What cannot travel fails its own future, with a reason, and the pool goes on."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import treadle
from treadle import ProcessPoolExecutor


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1) as made:
        made.submit(abs, 1).result()  # its processes belong to no single test
        yield made


@pytest.fixture(autouse=True)
def still_works(pool: ProcessPoolExecutor) -> Iterator[None]:
    yield
    assert pool.submit(abs, -1).result() == 1


class FailsToLoad(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("only one")


class FailsToPickle(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("not me")


class HoldsALock:
    def __init__(self) -> None:
        self.inner = {"key": [1, threading.Lock()]}


def identity(x: object) -> object:
    return x


def make_lock(*_: object) -> object:
    return {"a": [threading.Lock()]}


def raise_one_that_fails_to_load() -> None:
    raise FailsToLoad(1, 2)


def raise_one_that_fails_to_pickle() -> None:
    raise FailsToPickle("the message")


def raise_with_lock() -> None:
    raise ValueError(threading.Lock())


def test_an_argument(pool: ProcessPoolExecutor) -> None:
    future = pool.submit(identity, HoldsALock())
    with pytest.raises(pickle.PicklingError, match="lock") as caught:
        future.result()
    assert isinstance(caught.value, treadle.TravelError)
    assert "inner" in str(caught.value)


def test_a_function(pool: ProcessPoolExecutor) -> None:
    lock = threading.Lock()
    with pytest.raises(treadle.TravelError, match="lock"):
        pool.submit(lambda: lock.locked()).result()


def test_a_result(pool: ProcessPoolExecutor) -> None:
    with pytest.raises(treadle.TravelError, match="lock"):
        pool.submit(make_lock).result()


def test_a_result_in_map_has_its_place(pool: ProcessPoolExecutor) -> None:
    results = pool.map(make_lock, range(2))
    with pytest.raises(treadle.TravelError, match="lock"):
        next(results)


def test_an_argument_in_map(pool: ProcessPoolExecutor) -> None:
    results = pool.map(identity, [1, threading.Lock()])
    assert next(results) == 1
    with pytest.raises(treadle.TravelError, match="lock"):
        next(results)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (raise_one_that_fails_to_load, "FailsToLoad"),
        (raise_one_that_fails_to_pickle, "the message"),
        (raise_with_lock, "ValueError"),
    ],
)
def test_an_exception(pool: ProcessPoolExecutor, body: Any, word: str) -> None:
    error = pool.submit(body).exception()
    assert error is not None
    assert word in f"{type(error).__name__} {error} {error.__cause__}"
    assert body.__name__ in str(error.__cause__)
