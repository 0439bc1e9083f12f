"""treadle.joblib.Memory: what hits and what misses, how hits are read, and what is kept for how long."""

from __future__ import annotations

import functools
import os
import pickle
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy
import pytest
from treadle import ProcessPoolExecutor
from treadle.joblib import Memory, NotMemorizedResult, _memory, _memory_local, expires_after

MakeMemory = Callable[..., Any]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeMemory]:
    """Memories in one folder, which this process closes at the end."""
    yield lambda **options: Memory(tmp_path, verbose=0, **options)
    _memory_local._handles.clear()


@pytest.fixture
def memory(make: MakeMemory) -> Any:
    return make()


class Counted:
    """A function that counts its calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.calls: list[Any] = []
        calls = self.calls

        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            calls.append((args, kwargs))
            return function(*args, **kwargs)

        self.function = counted

    @property
    def count(self) -> int:
        return len(self.calls)


def add(x: Any, y: Any = 1, *rest: Any, scale: Any = 1, **more: Any) -> Any:
    return (x, y, rest, scale, more)


def twice(array: Any) -> Any:
    return {"array": array * 2, "small": numpy.arange(3)}


# --- hits


@pytest.mark.parametrize(
    "alike",
    [
        [((1,), {}), ((1, 1), {}), ((), {"x": 1}), ((), {"y": 1, "x": 1}), ((1,), {"scale": 1})],
        [((1, 2, 3), {}), ((1, 2, 3), {"scale": 1})],
        [((1,), {"a": 1, "b": 2}), ((1,), {"b": 2, "a": 1})],
    ],
)
def test_a_call_is_the_same_however_its_arguments_are_passed(memory: Any, alike: Any) -> None:
    counted = Counted(add)
    cached = memory.cache(counted.function)
    results = [cached(*args, **kwargs) for args, kwargs in alike]
    assert counted.count == 1
    assert all(result == results[0] for result in results)


def test_other_arguments_are_other_calls(memory: Any) -> None:
    counted = Counted(add)
    cached = memory.cache(counted.function)
    calls: list[Any] = [(1,), (2,), (1, 2), (1, 1, 2), (True,), (1.0,), (-0.0,), (0.0,), ([1],), ((1,),)]
    for _ in range(2):
        assert [repr(cached(*args)) for args in calls] == [repr(add(*args)) for args in calls]
    assert counted.count == len(calls)
    assert cached(1, more=1) == add(1, more=1)
    assert cached(1, scale=2) == add(1, scale=2)
    assert counted.count == len(calls) + 2


def test_ignored_arguments_make_no_difference(memory: Any) -> None:
    counted = Counted(add)
    one, other = memory.cache(counted.function, ignore=["y"]), memory.cache(ignore=["x", "**"])(counted.function)
    assert one(1, 2) == one(1, 3) == add(1, 2)
    assert other(1, 2, a=1) == other(3, 2, a=2) == add(1, 2, a=1)
    assert one(2, 1) == add(2, 1)
    assert counted.count == 3
    with pytest.raises(ValueError, match="'z' is not defined"):
        memory.cache(add, ignore=["z"])(1)


def test_a_nan_is_the_same_argument_again(memory: Any) -> None:
    counted = Counted(add)
    cached = memory.cache(counted.function)
    for _ in range(2):
        assert cached(float("nan"), [numpy.nan, -0.0])[2:] == ((), 1, {})
    assert counted.count == 1


def test_what_is_passed_by_position_alone_has_no_name(memory: Any) -> None:
    def narrow(a: int, /, b: int = 2, **more: int) -> Any:
        return a, b, more

    cached = memory.cache(narrow)
    for _ in range(2):
        assert cached(1, a=2) == (1, 2, {"a": 2})
        assert cached(1, b=3) == (1, 3, {})
        assert cached(1) == (1, 2, {})
    with pytest.raises(ValueError, match="Wrong number of arguments"):
        cached(a=1)


def test_calls_that_do_not_fit_are_refused_as_joblib_does(memory: Any) -> None:
    def narrow(a: int, *, b: int) -> int:
        return a

    cached = memory.cache(narrow)
    for args, kwargs, text in [
        ((1, 2), {"b": 1}, "Too many arguments"),
        ((1,), {}, "Wrong number of arguments"),
        ((1,), {"a": 1, "b": 1}, "both as positional and as keyword"),
        ((1,), {"b": 1, "c": 1}, "Too many keyword arguments"),
    ]:
        with pytest.raises(ValueError, match=text):
            cached(*args, **kwargs)


def test_defaults_that_change_are_other_arguments(memory: Any) -> None:
    def count_and_append(seen: list[None] = []) -> int:  # noqa: B006 - that is the point
        seen.append(None)
        return len(seen)

    cached = memory.cache(count_and_append)
    assert (cached(), cached()) == (1, 2)


class Model:
    def __init__(self, weight: int) -> None:
        self.weight = weight

    def predict(self, x: int) -> int:
        return x * self.weight


def test_a_methods_object_is_an_argument(memory: Any) -> None:
    models = [Model(2), Model(3), Model(2)]
    results = [memory.cache(model.predict) for model in models]
    assert [cached(5) for cached in results] == [10, 15, 10]
    assert results[2].check_call_in_cache(5)
    models[0].weight = 4
    assert results[0](5) == 20


def test_what_a_partial_or_a_callable_object_holds_is_an_argument(memory: Any) -> None:
    class Adder:
        def __init__(self, n: int) -> None:
            self.n = n

        def __call__(self, x: int) -> int:
            return x + self.n

    assert [memory.cache(functools.partial(add, n))(5)[0] for n in (1, 2)] == [1, 2]
    assert [memory.cache(Adder(n))(5) for n in (1, 2)] == [6, 7]
    assert memory.cache(len)([1, 2]) == memory.cache(len)([3, 4]) == 2
    assert memory.cache(numpy.square)(3) == 9


def test_functions_of_one_name_do_not_meet(memory: Any) -> None:
    def make_function(n: int) -> Any:
        return lambda x: x + n

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            assert [memory.cache(make_function(n))(0) for n in (1, 2)] == [1, 2]
            assert [memory.cache(function)(1) for function in (lambda x: x, lambda x: x + 1)] == [1, 2]


def test_an_exception_is_raised_each_time(memory: Any) -> None:
    def fails() -> None:
        raise LookupError("no")

    counted = Counted(fails)
    cached = memory.cache(counted.function)
    for _ in range(2):
        with pytest.raises(LookupError):
            cached()
    assert counted.count == 2


def test_no_location_keeps_nothing() -> None:
    counted = Counted(add)
    cached = Memory(None).cache(counted.function)
    assert cached(1) == cached(1) == add(1)
    assert counted.count == 2
    shelved = cached.call_and_shelve(1)
    assert isinstance(shelved, NotMemorizedResult) and shelved.get() == add(1)
    assert cached.call(1) == (add(1), {}) and not cached.check_call_in_cache(1)


# --- validity


def test_a_callback_decides_whether_a_result_holds(memory: Any) -> None:
    known: list[dict[str, Any]] = []
    counted = Counted(add)

    def is_valid(metadata: dict[str, Any]) -> bool:
        known.append(metadata)
        return len(known) != 2

    cached = memory.cache(counted.function, cache_validation_callback=is_valid)
    for expected in (1, 1, 2, 2):
        assert cached(1) == add(1)
        assert counted.count == expected
    assert known[0]["duration"] >= 0 and known[0]["input_args"]["x"] == "1" and known[0]["time"] > 0
    with pytest.raises(ValueError, match="needs to be callable"):
        memory.cache(add, cache_validation_callback=True)


def test_results_expire(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(add)
    cached = memory.cache(counted.function, cache_validation_callback=expires_after(minutes=1, seconds=30))
    cached(1)
    made = cached.call_and_shelve(1).metadata["time"]
    for later, expected in [(89, 1), (91, 2)]:
        monkeypatch.setattr(_memory.time, "time", functools.partial(float, made + later))
        cached(1)
        assert counted.count == expected


def test_call_computes_in_any_case(memory: Any) -> None:
    counted = Counted(add)
    cached = memory.cache(counted.function)
    assert cached(1) == add(1)
    result, metadata = cached.call(1)
    assert result == add(1) and metadata["duration"] >= 0
    assert counted.count == 2


# --- references


def test_a_reference_reads_its_result_when_it_is_asked(memory: Any) -> None:
    counted = Counted(twice)
    cached = memory.cache(counted.function)
    assert not cached.check_call_in_cache(numpy.ones(1000))
    shelved = cached.call_and_shelve(numpy.ones(1000))
    assert cached.check_call_in_cache(numpy.ones(1000))
    again = pickle.loads(pickle.dumps(cached.call_and_shelve(numpy.ones(1000))))
    assert repr(again) == repr(shelved)
    assert (shelved.get()["array"] == 2).all() and (again.get()["array"] == 2).all()
    assert counted.count == 1
    again.clear()
    with pytest.raises(KeyError, match="cleared"):
        shelved.get()
    again.clear()


# --- sizes


def fill(memory: Any, count: int) -> Any:
    cached = memory.cache(lambda number: b"x" * 1000)
    for number in range(count):
        cached(number)
    return cached


def test_the_least_recently_used_results_go_first(memory: Any) -> None:
    cached = fill(memory, 10)
    memory.reduce_size()
    assert len(memory.store_backend.get_items()) == 10
    memory.reduce_size(items_limit=3)
    assert len(memory.store_backend.get_items()) == 3
    memory.reduce_size(bytes_limit="3K")
    assert len(memory.store_backend.get_items()) == 2
    with pytest.raises(ValueError, match="positive"):
        memory.reduce_size(age_limit=timedelta(seconds=-1))
    memory.reduce_size(age_limit=timedelta(days=1))
    assert len(memory.store_backend.get_items()) == 2
    for number, file in enumerate(sorted(Path(memory.location).glob("treadle/store-1/??/*"))):
        os.utime(file, (1_700_000_000 if number else time.time(), 1_700_000_000))
    memory.reduce_size(age_limit=timedelta(days=1))
    assert len(memory.store_backend.get_items()) <= 1
    memory.reduce_size(bytes_limit=0)
    assert memory.store_backend.get_items() == []
    assert cached(1) == b"x" * 1000


def test_a_cap_holds_while_results_come(make: MakeMemory) -> None:
    memory = make(bytes_limit="20K")
    fill(memory, 100)
    assert 0 < sum(item.size for item in memory.store_backend.get_items()) <= 20 * 1024


def test_clearing_a_function_leaves_the_others(memory: Any) -> None:
    counted, other = Counted(add), Counted(twice)
    one, two = memory.cache(counted.function), memory.cache(other.function)
    one(1), two(numpy.ones(1))
    one.clear()
    assert not one.check_call_in_cache(1) and two.check_call_in_cache(numpy.ones(1))
    memory.clear(warn=False)
    assert not two.check_call_in_cache(numpy.ones(1))


# --- travelling


@pytest.mark.parametrize("what", ["function", "memory", "lambda"])
def test_a_worker_finds_and_leaves_results(memory: Any, what: str) -> None:
    number = 3
    function = add if what != "lambda" else lambda x: x + number
    cached = memory.cache(function)
    with ProcessPoolExecutor(1) as pool:
        if what == "memory":
            left = pool.submit(lambda given: given.cache(add)(1), memory).result()
        else:
            left = pool.submit(cached, 1).result()
    assert cached.check_call_in_cache(1)
    assert cached(1) == left == function(1)


def test_a_memory_and_a_function_can_be_pickled(memory: Any) -> None:
    cached = memory.cache(add)
    cached(1)
    again = pickle.loads(pickle.dumps(cached))
    assert again.check_call_in_cache(1) and repr(again) == repr(cached)
    assert pickle.loads(pickle.dumps(memory)).cache(add).check_call_in_cache(1)
