"""treadle.joblib.Memory(import_joblib=True): results that joblib has left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from treadle.joblib import CacheWarning, Memory, _memory_local

joblib = pytest.importorskip("joblib")
MakeMemory = Callable[..., Any]


@pytest.fixture(autouse=True)
def closing() -> Iterator[None]:
    yield
    _memory_local._handles.clear()


def plus(x: int, y: int = 1) -> Any:
    calls.append((x, y))
    return numpy.full(1000, x + y)


calls: list[tuple[int, int]] = []


def leave(folder: Path) -> Any:
    """Has joblib leave the result of plus(1)."""
    theirs = joblib.Memory(str(folder), verbose=0)
    theirs.clear(warn=False)  # it writes a function's source once in a process, or after this
    theirs.cache(plus)(1)
    calls.clear()
    return theirs


def test_results_of_joblib_are_taken_over(tmp_path: Path) -> None:
    theirs = leave(tmp_path)
    cached = Memory(str(tmp_path), verbose=0, import_joblib=True, mmap_mode="r").cache(plus)
    assert (cached(1, y=1) == 2).all() and calls == []
    assert (cached(2) == 3).all() and calls == [(2, 1)]
    theirs.clear(warn=False)
    assert (cached(1) == 2).all() and calls == [(2, 1)]


def test_results_of_other_code_are_not_taken_over(tmp_path: Path) -> None:
    leave(tmp_path)
    (code,) = (tmp_path / "joblib").rglob("func_code.py")
    code.write_text(code.read_text().replace("x + y", "x - y"))
    cached = Memory(str(tmp_path), verbose=0, import_joblib=True).cache(plus)
    assert (cached(1) == 2).all() and calls == [(1, 1)]


def test_results_that_others_could_have_written_are_not_taken_over(tmp_path: Path) -> None:
    leave(tmp_path)
    (tmp_path / "joblib").chmod(0o777)
    with pytest.warns(CacheWarning, match="other users can write"):
        assert (Memory(str(tmp_path), verbose=0, import_joblib=True).cache(plus)(1) == 2).all()
    assert calls == [(1, 1)]
