"""Stores of joblib's kind under treadle.joblib.Memory: its layout, shared with joblib, and stores that users add."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy
import pytest
from treadle.joblib import Memory, StoreBackendBase, _memory_layout, _stores, _stores_known, register_store_backend

joblib = pytest.importorskip("joblib")


def plus(x: Any, y: int = 1) -> Any:
    calls.append(y)
    return x + y


calls: list[int] = []


class InMemory(StoreBackendBase, _stores.StoreBackendMixin):
    """Items in a dict."""

    items: dict[str, bytes]

    def configure(self, location: str, verbose: int = 0, backend_options: Mapping[str, Any] | None = None) -> None:
        self.location = location
        self.verbose = verbose
        self.compress = False
        self.items = shelves.setdefault(location, {})

    def _open_item(self, f: str, mode: str) -> Any:
        if mode == "rb":
            if f not in self.items:
                raise OSError(f)
            return io.BytesIO(self.items[f])
        items = self.items

        class Written(io.BytesIO):
            def close(self) -> None:
                items[f] = self.getvalue()
                super().close()

        return Written()

    def _item_exists(self, location: str) -> bool:
        return any(name.startswith(location) for name in self.items)

    def _move_item(self, src: str, dst: str) -> None:
        self.items[dst] = self.items.pop(src)

    def create_location(self, location: str) -> None:
        """Nothing is to be made."""

    def clear_location(self, location: str) -> None:
        for name in [name for name in self.items if name.startswith(location)]:
            del self.items[name]

    def get_items(self) -> list[Any]:
        names = {os.path.dirname(name) for name in self.items if name.endswith("output.pkl")}
        return [_stores.CacheItemInfo(name, 1, datetime.now()) for name in sorted(names)]


shelves: dict[str, dict[str, bytes]] = {}


@pytest.fixture
def in_memory() -> Iterator[Any]:
    register_store_backend("in memory", InMemory)
    calls.clear()
    yield Memory("somewhere", backend="in memory", verbose=0)
    del _stores_known.STORE_BACKENDS["in memory"]
    shelves.clear()


def test_a_registered_store_keeps_results(in_memory: Any) -> None:
    cached = in_memory.cache(plus)
    assert [cached(1), cached(1), cached(x=1, y=1), cached(2)] == [2, 2, 2, 3]
    assert calls == [1, 1]
    shelved = cached.call_and_shelve(1)
    assert shelved.get() == 2 and shelved.metadata["input_args"] == {"x": "1", "y": "1"}
    assert cached.check_call_in_cache(2)
    in_memory.reduce_size(items_limit=1)
    assert len(in_memory.store_backend.get_items()) == 1
    cached.clear()
    assert not cached.check_call_in_cache(1) and not cached.check_call_in_cache(2)


def test_a_registered_store_validates_results(in_memory: Any) -> None:
    cached = in_memory.cache(plus, cache_validation_callback=lambda metadata: metadata["duration"] < 0)
    assert [cached(1), cached(1)] == [2, 2]
    assert calls == [1, 1]


def test_a_store_made_for_joblib_is_taken() -> None:
    class Theirs(joblib._store_backends.FileSystemStoreBackend):  # type: ignore[misc]
        """One of joblib's own."""

    register_store_backend("theirs", Theirs)
    try:
        assert _stores_known.STORE_BACKENDS["theirs"] is Theirs
    finally:
        del _stores_known.STORE_BACKENDS["theirs"]


def test_what_is_no_store_is_refused() -> None:
    with pytest.raises(ValueError, match="should be a string"):
        register_store_backend(None, InMemory)  # type: ignore[arg-type]
    for store in (None, dict, InMemory()):
        with pytest.raises(ValueError, match="should inherit StoreBackendBase"):
            register_store_backend("x", store)
    with pytest.raises(TypeError, match="Unknown location"):
        Memory("somewhere", backend="unknown")


def forget() -> None:
    """Both sides remember in a process whose source they have compared."""
    joblib.memory._FUNCTION_HASHES.clear()
    _memory_layout.known_functions.clear()
    calls.clear()


@pytest.mark.parametrize("value", [1, numpy.arange(1000)], ids=["number", "array"])
def test_joblib_and_its_layout_here_share_a_folder(tmp_path: Path, value: Any) -> None:
    ours = Memory(str(tmp_path), backend="joblib", verbose=0).cache(plus)
    theirs = joblib.Memory(str(tmp_path), verbose=0).cache(plus)
    for first, second in ((ours, theirs), (theirs, ours)):
        forget()
        first(value, y=2)
        assert calls == [2]
        assert numpy.array_equal(second(value, 2), value + 2)
        assert calls == [2]
        first.clear(warn=False)
        assert not second.check_call_in_cache(value, 2)


def test_compressed_and_mapped_results_come_back_from_joblibs_layout(tmp_path: Path) -> None:
    calls.clear()
    compressed = Memory(str(tmp_path), backend="joblib", verbose=0, compress=3).cache(plus)
    mapped = Memory(str(tmp_path / "mapped"), backend="joblib", verbose=0, mmap_mode="r").cache(plus)
    for cached in (compressed, mapped):
        for _ in range(2):
            assert (cached(numpy.zeros(10_000)) == 1).all()
    assert len(calls) == 2
    assert isinstance(mapped(numpy.zeros(10_000)), numpy.memmap)
