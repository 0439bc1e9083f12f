"""Arrays, memoryviews, and whatever else has large buffers, there and back: bit by bit, and as writable as they were.

binding/pickled.c, decode.c, lease.c; python/treadle/_views.py
"""

from __future__ import annotations

import contextlib
import os
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

np = pytest.importorskip("numpy")

import treadle  # noqa: E402

DTYPES = (
    "?",
    "b",
    "<i2",
    ">i4",
    "u8",
    "e",
    "<f8",
    ">f8",
    "g",
    "c16",
    "S7",
    "U5",
    "V3",
    "M8[ns]",
    "m8[D]",
    "i4,f8",
    "(2,3)f4",
)
ALIGNED = np.dtype([("a", "i1"), ("b", "f8", (2,))], align=True)
PRIVATE = 40_000_000  # bytes that get a private mapping where they can't be handed over (binding/lease.c)


@pytest.fixture(scope="module")
def pool() -> Iterator[treadle.ProcessPoolExecutor]:
    with treadle.ProcessPoolExecutor(1) as made:
        made.submit(abs, 1).result()  # its processes belong to no single test
        yield made


def same(value: Any) -> Any:
    return value


# --- arrays


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    """Arrays of all kinds of memory: any dtype, shape, order, and step, read-only or not."""
    dtype = np.dtype(draw(st.sampled_from([*DTYPES, ALIGNED])))
    shape = tuple(draw(st.lists(st.integers(0, 24), max_size=3)))
    noise = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = int(np.prod(shape, dtype=int))
    base = np.empty(count, dtype)
    whole = np.frombuffer(noise.bytes(base.nbytes), base.dtype)
    array = np.ndarray(shape, base.dtype, bytearray(whole.tobytes()), order=draw(st.sampled_from("CF")))
    for axis in range(len(shape)):
        step = draw(st.sampled_from((1, 1, -1, 2)))
        array = array[(slice(None),) * axis + (slice(None, None, step),)]
    if draw(st.booleans()):
        array = array.T
    array.flags.writeable = draw(st.booleans())
    return array


def contents(array: np.ndarray[Any, Any]) -> list[bytes]:
    """The bytes of all elements; what lies between the fields of a structure is nobody's."""
    if array.dtype.names is None:
        return [array.tobytes()]
    return [array[name].tobytes() for name in array.dtype.names]


def check_alike(there: np.ndarray[Any, Any], back: np.ndarray[Any, Any]) -> None:
    """Contiguous arrays come back as they were; of others, and of dates, NumPy pickles a copy."""
    exact = there.flags.forc and there.dtype.kind not in "mM"
    expected = there if exact else pickle.loads(pickle.dumps(there, 5))
    assert type(back) is np.ndarray
    assert back.dtype == expected.dtype
    assert back.dtype.isalignedstruct == there.dtype.isalignedstruct
    assert back.shape == there.shape
    assert contents(back) == contents(expected)
    assert (back.flags.c_contiguous, back.flags.f_contiguous) == (
        expected.flags.c_contiguous,
        expected.flags.f_contiguous,
    )
    assert back.flags.writeable == expected.flags.writeable


def test_an_array_comes_back_bit_by_bit(pool: treadle.ProcessPoolExecutor) -> None:
    @given(array=arrays())
    def check(array: np.ndarray[Any, Any]) -> None:
        check_alike(array, pool.submit(same, array).result())

    check()


def test_the_arrays_of_a_map_come_back_bit_by_bit(pool: treadle.ProcessPoolExecutor) -> None:
    @settings(max_examples=30)
    @given(several=st.lists(arrays(), min_size=1, max_size=20))
    def check(several: list[np.ndarray[Any, Any]]) -> None:
        for there, back in zip(several, pool.map(same, several), strict=True):
            check_alike(there, back)

    check()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("writeable", [True, False])
def test_a_large_array_keeps_order_and_writability(
    pool: treadle.ProcessPoolExecutor, order: str, writeable: bool
) -> None:
    array = np.arange(3_000_000.0).reshape((1000, 3000), order=order)  # type: ignore[call-overload]
    array.flags.writeable = writeable
    check_alike(array, pool.submit(same, array).result())


def overwrite(array: np.ndarray[Any, Any]) -> float:
    first = float(array[0])
    array[:] = -1
    return first


@pytest.mark.parametrize("size", [1_000, 200_000, PRIVATE // 8])
def test_what_a_task_writes_into_an_argument_is_its_own(pool: treadle.ProcessPoolExecutor, size: int) -> None:
    array = np.full(size, 3.0)
    assert pool.submit(overwrite, array).result() == 3.0
    assert pool.options(retries=1).submit(overwrite, array).result() == 3.0
    assert list(pool.map(overwrite, [array] * 4)) == [3.0] * 4
    assert array.min() == 3.0


def test_a_read_only_array_is_read_only_in_the_task(pool: treadle.ProcessPoolExecutor) -> None:
    array = np.zeros(10_000)
    array.flags.writeable = False
    for submit in (pool.submit, pool.options(retries=1).submit):
        with pytest.raises(ValueError, match="read-only"):
            submit(overwrite, array).result()


def overwrite_and_die_once(array: np.ndarray[Any, Any], mark: str) -> tuple[float, float]:
    seen = float(array.min()), float(array.max())
    array[:] = -1
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return seen
    os._exit(1)


@pytest.mark.parametrize("size", [1_000, 200_000, PRIVATE // 8])
def test_a_second_attempt_sees_the_argument_as_it_was(tmp_path: Any, size: int) -> None:
    array = np.full(size, 3.0)
    with treadle.ProcessPoolExecutor(1, retries=1) as retrying:
        assert retrying.submit(overwrite_and_die_once, array, str(tmp_path / "mark")).result() == (3.0, 3.0)


kept: list[np.ndarray[Any, Any]] = []


def keep_two(array: np.ndarray[Any, Any]) -> list[float]:
    """Keeps the last two arguments; what both hold."""
    kept.append(array)
    del kept[:-2]
    return [float(value) for old in kept for value in (old.min(), old.max())]


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("size", [100_000, PRIVATE // 8])
def test_an_argument_that_a_task_keeps_stays_as_it_is(retries: int, size: int) -> None:
    with treadle.ProcessPoolExecutor(1, retries=retries) as single:
        single.submit(keep_two, np.full(size, 0.0)).result()
        for number in range(1, 5):
            last, now = float(number - 1), float(number)
            assert single.submit(keep_two, np.full(size, now)).result() == [last, last, now, now]


# --- memoryviews and bytes

VIEWS = {
    "bytes": memoryview(b"b" * 5000),
    "bytearray": memoryview(bytearray(b"w" * 5000)),
    "small": memoryview(bytearray(b"small")),
    "empty": memoryview(b""),
    "doubles": memoryview(np.arange(1000.0)),
    "two dimensions": memoryview(np.arange(600, dtype="i4").reshape(20, 30)),
    "no dimension": memoryview(np.array(3.5)),
    "no doubles": memoryview(np.empty(0)),
    "steps": memoryview(np.arange(2000.0))[::2],
    "backwards": memoryview(bytes(range(256)) * 8)[::-1],
    "Fortran": memoryview(np.asfortranarray(np.arange(600.0).reshape(20, 30))),
    "megabytes": memoryview(np.arange(500_000)),
}


def describe(view: memoryview) -> tuple[Any, ...]:
    return type(view).__name__, view.format, view.shape, view.readonly, view.tobytes()


@pytest.mark.parametrize("name", VIEWS)
def test_a_memoryview_arrives_as_one(pool: treadle.ProcessPoolExecutor, name: str) -> None:
    view = VIEWS[name]
    assert pool.submit(describe, view).result() == describe(view)
    back = pool.submit(same, [view]).result()[0]
    assert describe(back) == describe(view)


def write_into_view(view: memoryview) -> bytes:
    view[:2] = b"ok"
    return bytes(view[:3])


def test_a_memoryview_is_written_to_in_the_task_alone(pool: treadle.ProcessPoolExecutor) -> None:
    data = bytearray(b"parent" * 1000)
    assert pool.submit(write_into_view, memoryview(data)).result() == b"okr"
    assert data == b"parent" * 1000
    with pytest.raises(TypeError, match="read-only"):
        pool.submit(write_into_view, memoryview(bytes(data))).result()


@pytest.mark.parametrize(
    "view",
    [memoryview(np.zeros(300, ">f8")), memoryview(np.zeros(300, "i4,f8")), memoryview(np.zeros((0, 3)))],
    ids=["byte order", "structure", "several dimensions and no element"],
)
def test_a_memoryview_that_cannot_be_made_anew_is_an_error(pool: treadle.ProcessPoolExecutor, view: memoryview) -> None:
    with pytest.raises(treadle.TravelError, match=r"argument 1.*memoryview"):
        pool.submit(same, view).result()


def test_a_released_memoryview_is_an_error(pool: treadle.ProcessPoolExecutor) -> None:
    view = memoryview(b"gone")
    view.release()
    with pytest.raises(treadle.TravelError, match="released"):
        pool.submit(same, view).result()


@pytest.mark.parametrize("size", [0, 10, 5000, 3_000_000])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_bytes_of_all_sizes_come_back(pool: treadle.ProcessPoolExecutor, kind: type, size: int) -> None:
    value = kind(os.urandom(size))
    for there in (value, [value], {"key": (value, value)}):
        back = pool.submit(same, there).result()
        assert back == there
    assert type(pool.submit(same, value).result()) is kind


def are_one(first: Any, second: Any) -> bool:
    return first is second


@pytest.mark.parametrize("size", [5000, 3_000_000])
@pytest.mark.parametrize("kind", [bytearray, np.zeros])
def test_what_is_passed_twice_arrives_once(pool: treadle.ProcessPoolExecutor, kind: Any, size: int) -> None:
    value = kind(size)
    assert pool.submit(are_one, value, value).result()


# --- other packages


def test_a_data_frame_comes_back(pool: treadle.ProcessPoolExecutor) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(
        {
            "number": np.arange(20_000.0),
            "count": np.arange(20_000) % 7,
            "when": pandas.date_range("2020-01-01", periods=20_000, freq="min"),
            "kind": pandas.Categorical(["a", "b"] * 10_000),
            "text": [f"row {i}" for i in range(20_000)],
        }
    )
    back = pool.submit(same, frame).result()
    pandas.testing.assert_frame_equal(back, frame)
    back.loc[0, "number"] = 7.0
    assert frame.loc[0, "number"] == 0.0


def test_a_table_of_arrow_comes_back(pool: treadle.ProcessPoolExecutor) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    table = pyarrow.table(
        {"number": np.arange(20_000.0), "text": [f"row {i}" for i in range(20_000)], "nothing": [None] * 20_000}
    )
    back = pool.submit(same, table).result()
    assert back.equals(table)
    assert back.schema == table.schema


# --- buffers that their owner takes back


class Lends:
    """Pickles as a buffer that it keeps a hand on."""

    def __init__(self, data: bytearray) -> None:
        self.data = data
        self.lent: list[pickle.PickleBuffer] = []

    def __reduce_ex__(self, _: object) -> Any:
        self.lent.append(pickle.PickleBuffer(self.data))
        return bytearray, (self.lent[-1],)


class TakesBack:
    """Releases, when it is pickled itself, what another one has lent."""

    def __init__(self, lender: Lends) -> None:
        self.lender = lender

    def __reduce__(self) -> Any:
        self.lender.lent[-1].release()
        return bytes, ()


def test_a_buffer_that_is_released_before_its_chunk_is_sent_is_an_error(pool: treadle.ProcessPoolExecutor) -> None:
    lender = Lends(bytearray(b"x" * 10_000))
    with pytest.raises(ValueError, match="released"):
        list(pool.map(len, [lender, TakesBack(lender)], chunksize=2))
    assert list(pool.map(len, [lender, lender], chunksize=2)) == [10_000] * 2


def test_a_buffer_is_kept_while_it_is_copied(pool: treadle.ProcessPoolExecutor) -> None:
    lender = Lends(bytearray(64_000_000))
    sent: Any = lender

    def take_back() -> None:
        while lender.data:
            for lent in lender.lent:
                lent.release()
            if lender.lent:
                with contextlib.suppress(BufferError):  # it is being copied
                    lender.data.clear()

    thread = threading.Thread(target=take_back)
    thread.start()
    future = pool.submit(len, sent)
    thread.join()
    try:
        assert future.result() in (0, 64_000_000)
    except ValueError as error:
        assert "released" in str(error)
