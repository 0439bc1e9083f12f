"""treadle.joblib.Memory: values of every kind as arguments and results, and how hits are read."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from treadle.joblib import Memory, _memory_local
from treadle.joblib import hash as joblib_hash

MakeMemory = Callable[..., Any]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeMemory]:
    """Memories in one folder, which this process closes at the end."""
    yield lambda **options: Memory(tmp_path, verbose=0, **options)
    _memory_local._handles.clear()


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


def twice(array: Any) -> Any:
    return {"array": array * 2, "small": numpy.arange(3)}


class Own:
    def __init__(self, weight: int) -> None:
        self.weight = weight


# --- values


def ring() -> list[Any]:
    made: list[Any] = [1, {"a": ()}]
    made[1]["ring"] = made
    return made


def frame() -> Any:
    pandas = pytest.importorskip("pandas")
    columns = {"a": [1.0, None], "b": pandas.Categorical(["x", "y"], ["y", "x", "z"]), "c": ["u", "v"]}
    return pandas.DataFrame(columns, index=pandas.date_range("2020", periods=2))


KINDS: dict[str, Callable[[], Any]] = {
    "objects": lambda: numpy.array([1, "a", None, numpy.arange(300)], object),
    "masked": lambda: numpy.ma.masked_array(numpy.arange(300.0), numpy.arange(300) % 2),
    "sparse": lambda: pytest.importorskip("scipy.sparse").csr_matrix(numpy.eye(100)),
    "frame": frame,
    "ring": ring,
    "own": lambda: Own(3),
}


@pytest.mark.parametrize("mode", [None, "r", "c"])
@pytest.mark.parametrize("kind", KINDS)
def test_values_of_any_kind_are_arguments_and_results(make: MakeMemory, kind: str, mode: str | None) -> None:
    counted = Counted(lambda value: value)
    cached = make(mmap_mode=mode).cache(counted.function)
    value = KINDS[kind]()
    expected = joblib_hash(value, "xxh3_128")
    for _ in range(3):
        assert joblib_hash(cached(KINDS[kind]()), "xxh3_128") == expected
    assert counted.count == 1


def test_the_part_of_a_key_that_stands_for_plain_arguments_is_that_of_every_python(make: MakeMemory) -> None:
    """It is their hash, which tests/unit/test_joblib_hash.py has known values of."""
    given: Any = (1, "a", {"b": [None, 2.5]}, numpy.arange(3))
    assert make().explain(lambda a, b, c, d: 1, *given).key[-32:] == joblib_hash(given, "xxh3_128")


# --- hits


@pytest.mark.parametrize(("mode", "writable"), [(None, True), ("r", False), ("c", True), ("r+", True)])
def test_arrays_are_plain_and_changes_stay_here(make: MakeMemory, mode: str | None, writable: bool) -> None:
    counted = Counted(twice)
    cached = make(mmap_mode=mode).cache(counted.function)
    argument = numpy.ones(100_000)
    first, second = cached(argument), cached(argument)
    assert counted.count == 1
    for result in (first, second):
        assert type(result["array"]) is numpy.ndarray and (result["array"] == 2).all()
        assert result["small"].tolist() == [0, 1, 2]
    assert second["array"].flags.writeable is writable
    if writable:
        second["array"][:] = 3
    assert (cached(argument)["array"] == 2).all()
    assert (make().cache(counted.function)(argument)["array"] == 2).all()
    assert counted.count == 1


def test_a_mapped_array_outlives_its_entry(make: MakeMemory) -> None:
    memory = make(mmap_mode="r")
    cached = memory.cache(twice)
    found = cached(numpy.ones(100_000))["array"]
    memory.clear(warn=False)
    assert (found == 2).all()


@pytest.mark.parametrize("compress", [True, 9, ("zlib", 1), ("gzip", 3), ("bz2", 3), ("lzma", 1), ("xz", 1)])
def test_compressed_results_come_back(make: MakeMemory, compress: Any) -> None:
    counted = Counted(twice)
    memory = make(compress=compress)
    cached = memory.cache(counted.function)
    for _ in range(2):
        assert (cached(numpy.zeros(100_000))["array"] == 0).all()
    assert counted.count == 1
    (item,) = memory.store_backend.get_items()
    assert item.size < 50_000


def test_options_are_checked(make: MakeMemory) -> None:
    for options, text in [
        ({"compress": ("brotli", 1)}, "no method 'brotli'"),
        ({"compress": 10}, "0 to 9"),
        ({"mmap_mode": "x"}, "mmap_mode must be"),
        ({"track": "all"}, "track must be"),
        ({"verify": "no"}, "verify must be"),
        ({"bytes_limit": "10X"}, "alike '10G'"),
    ]:
        with pytest.raises(ValueError, match=text):
            make(**options)


def test_options_reach_the_store(make: MakeMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []
    made = _memory_local._engine.Store

    def store(path: str, **options: Any) -> Any:
        given.append(options)
        return made(path, **options)

    monkeypatch.setattr(_memory_local._engine, "Store", store)
    make(durable=True, verify="header", shared=True, bytes_limit="1K")
    assert given == [{"cap_bytes": 1024, "durable": True, "verify": "header", "shared": True}]
