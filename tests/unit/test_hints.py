"""A function that carries much along is worth a hint, once, which says what it is."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import treadle
from treadle import PerformanceHint, Pool, ProcessPoolExecutor

MUCH = 2 << 20


@pytest.fixture
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1) as pool:
        yield pool


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("treadle._hints._said", set())


def closure(value: Any) -> Callable[[], int]:
    return lambda: len(value)


class Holder:
    def __init__(self, value: Any) -> None:
        self.value = value

    def length(self) -> int:
        return len(self.value)


def length(value: Any) -> int:
    return len(value)


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda: closure(bytes(MUCH)), r"takes 2\.1 MB along, most of it in its closure's 'value' \(2\.1 MB\)"),
        (lambda: closure([b"x" * 1000] * 100 + [bytes(MUCH)]), "its closure's 'value'"),
        (lambda: partial(length, bytes(MUCH)), "its argument 0"),
        (lambda: partial(length, value=bytes(MUCH)), "its argument 'value'"),
        (lambda: Holder(bytes(MUCH)).length, "its object, a Holder"),
        (lambda: lambda value=bytes(MUCH): len(value), "its defaults"),
    ],
    ids=["closure", "list", "partial", "keyword", "method", "default"],
)
def test_the_hint_says_what_is_large(make: Callable[[], Any], cause: str, pool: ProcessPoolExecutor) -> None:
    with pytest.warns(PerformanceHint, match=cause) as caught:
        assert pool.submit(make()).result() > 0
    assert [warning.filename for warning in caught] == [__file__]
    assert "treadle.broadcast" in str(caught[0].message)


def test_a_large_global_of_the_script(pool: ProcessPoolExecutor, module: Any) -> None:
    module.define("table = bytes(3 << 20)\ndef look(): return len(table)")
    homeless = partial(eval, "lambda: len(table)", {"table": bytes(MUCH), "__name__": "nowhere"})()
    with pytest.warns(PerformanceHint, match=r"most of it in the global 'table' \(2\.1 MB\)"):
        assert pool.submit(homeless).result() == MUCH


def test_it_comes_once_for_each_function(pool: ProcessPoolExecutor) -> None:
    function = closure(bytearray(MUCH))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            assert pool.submit(function).result() == MUCH
        assert list(pool.map(lambda _, f=function: f(), range(3))) == [MUCH] * 3
    assert len(caught) == 2


def test_map_and_the_other_pool_give_it_too() -> None:
    with Pool(1) as pool, pytest.warns(PerformanceHint, match="its argument 0"):
        assert pool.apply(partial(max, bytes(MUCH), b"a")) == b"a"
    with ProcessPoolExecutor(1) as executor, pytest.warns(PerformanceHint, match="its closure's 'much'"):
        much = bytes(MUCH)
        assert list(executor.map(lambda n: len(much) + n, range(2))) == [MUCH, MUCH + 1]


def test_none_for_arguments_broadcasts_and_small_functions(pool: ProcessPoolExecutor) -> None:
    handle = treadle.broadcast(bytes(MUCH))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pool.submit(len, bytes(MUCH)).result() == MUCH
        assert pool.submit(lambda: len(handle.value)).result() == MUCH
        assert pool.submit(closure(bytes(1000))).result() == 1000
