"""Shared arrays: made as NumPy's are, and gone with their last view."""

from __future__ import annotations

import gc
import os
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

np = pytest.importorskip("numpy")

import treadle  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from treadle import ProcessPoolExecutor, _engine, shared  # noqa: E402

Array = NDArray[Any]


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1) as pool:
        pool.submit(abs, 1).result()
        yield pool


@pytest.fixture
def single() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1) as pool:
        yield pool


def blocks() -> int:
    gc.collect()
    return shared.info()["blocks"]


def lists_left(pool: ProcessPoolExecutor, *args: object) -> int:
    """Blocks of the size of a short list of pointers that 100 calls which can't be pickled leave behind."""
    tracemalloc.start()
    try:
        for _ in range(100):
            pool.submit(len, *args).exception()
        gc.collect()
        traces = tracemalloc.take_snapshot().traces
        return sum(trace.size <= 32 for trace in traces if trace.traceback[0].filename == __file__)
    finally:
        tracemalloc.stop()


def test_a_call_that_cannot_be_pickled_leaves_nothing(pool: ProcessPoolExecutor) -> None:
    array, lock = shared.zeros(10), threading.Lock()
    before = blocks()
    assert lists_left(pool, array, lock) < 50
    assert blocks() == before


# --- making them


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["f8", "u1", ">i4", "c16", "M8[us]", "S5", "U3", [("a", "i2"), ("b", "f4", 3)]])
@pytest.mark.parametrize("shape", [7, (2, 3, 4), (), (0, 5), (3, 0)])
def test_they_are_made_as_numpys_are(shape: Any, dtype: Any, order: Any) -> None:
    for made, like in (
        (shared.empty(shape, dtype, order), np.empty(shape, dtype, order)),
        (shared.zeros(shape, dtype, order), np.zeros(shape, dtype, order)),
    ):
        assert type(made) is np.ndarray
        assert (made.shape, made.dtype) == (like.shape, like.dtype)
        assert made.strides == like.strides or made.size == 0
        assert made.flags.writeable
    assert np.array_equal(made, like)


def test_ones_and_full_and_their_dtypes() -> None:
    assert np.array_equal(shared.ones((2, 3)), np.ones((2, 3)))
    assert shared.ones(3, "i2").dtype == np.dtype("i2")
    assert np.array_equal(shared.full((2, 2), 7), np.full((2, 2), 7))
    assert shared.full(2, 7).dtype == np.full(2, 7).dtype
    assert np.array_equal(shared.full((2, 3), [1, 2, 3], "f4"), np.full((2, 3), [1, 2, 3], "f4"))


@pytest.mark.parametrize("order", ["C", "F", "A", "K"])
def test_copies_have_the_order_that_numpy_gives(order: Any) -> None:
    base = np.arange(24, dtype="i4").reshape(2, 3, 4)
    for source in (base, np.asfortranarray(base), base.transpose(1, 0, 2), base[:, ::2], base[::-1]):
        like = np.copy(source, order)
        for made in (shared.copy(source, order), shared.array(source, order=order)):
            assert np.array_equal(made, like)
            assert made.strides == like.strides
        assert shared.empty_like(source, order=order).strides == np.empty_like(source, order=order).strides
        assert shared.empty_like(source, "f8", order, (4, 6)).shape == (4, 6)


def test_an_array_is_made_of_anything_that_numpy_takes() -> None:
    assert np.array_equal(shared.array([[1, 2], [3, 4]]), np.array([[1, 2], [3, 4]]))
    assert shared.array([1, 2], "f4").dtype == np.dtype("f4")
    assert shared.array(5, ndmin=2).shape == (1, 1)


def test_memory_that_is_used_again_is_zero_for_zeros() -> None:
    shared.full(100_000, 7.0)
    assert not shared.zeros(100_000).any()


@pytest.mark.parametrize("make", [shared.empty, shared.zeros, shared.ones])
def test_what_can_not_be_is_refused_as_numpy_does(make: Callable[..., Array]) -> None:
    for dtype in (object, [("a", "i4"), ("b", "O")]):
        with pytest.raises(ValueError, match="pointers to Python objects"):
            make(3, dtype)
    with pytest.raises(ValueError, match="negative dimensions"):
        make((3, -1))
    with pytest.raises(MemoryError, match="no room for a shared array of shape"):
        make((1 << 30, 1 << 20))
    with pytest.raises(ValueError, match="too big"):
        make((1 << 40, 1 << 40))
    with pytest.raises(TypeError):
        make("three")
    with pytest.raises(ValueError, match="pointers"):
        shared.array([None])
    with pytest.raises(ValueError, match="pointers"):
        shared.empty_like([None])


def test_the_memory_goes_with_its_last_view() -> None:
    before = blocks()
    array = shared.zeros((100, 100))
    view = memoryview(array[10:20].view("u1")[::2].T[1:2])
    del array
    assert blocks() == before + 1
    view[0, 0] = 1
    view.release()
    del view
    assert blocks() == before


# --- share


class Table:
    """An object whose arrays pickle out of band, as a DataFrame's do."""

    def __init__(self, **columns: Any) -> None:
        self.columns = columns


def test_share_moves_what_has_a_buffer() -> None:
    for thing in (b"bytes", bytearray(b"more"), memoryview(b"a view"), memoryview(np.arange(6).reshape(2, 3))):
        made = shared.share(thing)
        view = memoryview(thing)
        assert isinstance(made, memoryview)
        assert made.tobytes() == view.tobytes()
        assert (made.format, made.shape, made.readonly) == (view.format, view.shape, view.readonly)
        assert shared.share(made) is made
    array = np.arange(10)
    made = shared.share(array)
    assert np.array_equal(made, array)
    assert shared.share(made) is made
    assert shared.share(made[2:4]).base is not None


def total(table: Table) -> int:
    table.columns["a"][0] = 100
    return int(sum(column.sum() for column in table.columns.values()))


def test_share_moves_the_buffers_of_what_pickles_them_out_of_band(pool: ProcessPoolExecutor) -> None:
    table = shared.share(Table(a=np.arange(1000), b=np.ones(1000, "i8")))
    assert pool.submit(total, table).result() == 499500 + 1000 + 100
    assert table.columns["a"][0] == 100


def test_what_can_be_neither_shared_nor_pickled_says_so() -> None:
    with pytest.raises(TypeError, match="cannot pickle"):
        shared.share(open)  # type: ignore[arg-type]
        shared.share(i for i in range(3))
    with pytest.raises(ValueError, match="pointers"):
        shared.share(np.array([None]))


def test_info_counts_blocks_and_bytes() -> None:
    before = shared.info()
    arrays = [shared.zeros(1000) for _ in range(5)]
    now = shared.info()
    assert now["blocks"] == before["blocks"] + 5
    assert now["bytes"] >= before["bytes"] + 5 * 8000
    assert now["committed_bytes"] >= now["bytes"]
    assert len(arrays) == 5


def test_info_lists_segments_and_who_has_them() -> None:
    array = shared.zeros(100_000)
    named = treadle.SharedMemory(create=True, size=5000)
    with ProcessPoolExecutor(1) as pool:
        worker = pool.submit(lambda: (array[0], os.getpid())[1]).result()
        ours, *others = shared.info()["segments"]
    assert ours["name"] is None
    assert ours["bytes"] >= array.nbytes
    assert {os.getpid(), worker} <= set(ours["holders"])  # and the zygote, where that is a fork of this process
    assert {"name": named.name, "bytes": 5000, "holders": [os.getpid()]} in others
    named.close()


def test_info_may_be_asked_for_while_the_memory_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, look = [shared.zeros(100_000)], _engine.shared_info

    def look_before_it_goes() -> dict[str, int]:
        found = look()
        arrays.clear()
        _engine.shared_trim()
        return found

    monkeypatch.setattr(_engine, "shared_info", look_before_it_goes)
    assert shared.info()["blocks"] >= 1


def test_it_is_an_attribute_of_the_package() -> None:
    assert treadle.shared is shared
