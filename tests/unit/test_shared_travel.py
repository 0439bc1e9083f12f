"""Shared arrays as arguments: one memory to all processes, as long as anybody looks."""

from __future__ import annotations

import gc
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

np = pytest.importorskip("numpy")

import treadle  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from treadle import CorruptData, ProcessPoolExecutor, _engine, shared  # noqa: E402

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


# --- passing them


def add(array: Array, number: float) -> tuple[tuple[int, ...], tuple[int, ...], str, bool]:
    array += number
    return array.shape, array.strides, str(array.dtype), array.flags.writeable


VIEWS: dict[str, Callable[[Array], Array]] = {
    "whole": lambda a: a,
    "rows": lambda a: a[3:7],
    "steps": lambda a: a[::3, 1::2],
    "backwards": lambda a: a[::-1, ::-2],
    "transposed": lambda a: a.T,
    "one item": lambda a: a[3, 4, ...],
    "another dtype": lambda a: a.view("i8"),
    "a new axis": lambda a: a[:, None, :],
    "many axes": lambda a: a.reshape(2, 5, 1, 2, 1, 5, 1, 1, 1),
    "diagonal": lambda a: np.lib.stride_tricks.as_strided(a, (10,), (88,)),
}


@pytest.mark.parametrize("way", [lambda a: a, lambda a: (a,), lambda a: [a], lambda a: {"a": a}])
@pytest.mark.parametrize("name", VIEWS)
def test_a_view_arrives_as_it_is_and_is_written_in_place(pool: ProcessPoolExecutor, name: str, way: Any) -> None:
    whole, like = shared.zeros((10, 10)), np.zeros((10, 10))
    view = VIEWS[name](whole)

    def add_inside(thing: Any) -> object:
        array = thing if isinstance(thing, np.ndarray) else thing["a"] if isinstance(thing, dict) else thing[0]
        return add(array, 3)

    told = pool.submit(add_inside, way(view)).result()
    expected = VIEWS[name](like)
    expected += 3
    assert np.array_equal(whole.view("i8"), like.view("i8"))
    assert told == (view.shape, view.strides, str(view.dtype), True)


def write(array: Array, values: Array) -> None:
    array[...] = values


@pytest.mark.parametrize(
    "dtype", ["M8[us]", "m8[s]", "S5", "U3", ">f8", "c16", "f2", "?", [("a", "i2"), ("b", "M8[D]")]]
)
def test_arrays_of_any_dtype_are_written_in_place(pool: ProcessPoolExecutor, dtype: Any) -> None:
    array, values = shared.zeros(10, dtype), np.ones(5).astype("i8").astype(np.dtype(dtype))
    pool.submit(write, array[::2], values).result()
    assert np.array_equal(array[::2], values)
    assert np.array_equal(array[1::2], np.zeros(5, dtype))


def test_a_read_only_view_stays_read_only(pool: ProcessPoolExecutor) -> None:
    array = shared.zeros(100)
    view = array[10:]
    view.flags.writeable = False
    for argument in (view, [view]):
        with pytest.raises(ValueError, match="read-only"):
            pool.submit(lambda a: add(a[0] if isinstance(a, list) else a, 1), argument).result()
    with pytest.raises(TypeError, match=r"read-only|readonly"):
        pool.submit(fill_view, memoryview(array).toreadonly()).result()
    assert not array.any()


def fill_view(view: memoryview) -> tuple[Any, ...]:
    flat = view.cast("B") if view.contiguous else view
    flat[0] = 255
    return view.format, view.shape, view.strides


def test_memoryviews_and_blocks_of_bytes_are_written_in_place(pool: ProcessPoolExecutor) -> None:
    array = shared.zeros((4, 6), "u2")
    view = memoryview(array[1:3])
    assert pool.submit(fill_view, view).result() == (view.format, view.shape, view.strides)
    assert array[1, 0] == 255
    buffer = shared.share(bytearray(b"hello"))
    pool.submit(fill_view, buffer).result()
    assert bytes(buffer) == b"\xffello"


def test_empty_arrays_travel_too(pool: ProcessPoolExecutor) -> None:
    array = shared.zeros((3, 0, 2), "i4")
    assert pool.submit(add, array, 1).result()[0] == (3, 0, 2)


def test_keywords_maps_and_starmaps_carry_them(pool: ProcessPoolExecutor) -> None:
    array = shared.zeros((40, 8))
    pool.submit(add, number=1, array=array).result()
    list(pool.map(add, array, range(40), chunksize=7))
    list(pool.starmap(add, [(row, 1) for row in array], chunksize=3))
    assert np.array_equal(array, np.arange(40)[:, None] + 2 + np.zeros((40, 8)))


def test_arrays_in_globals_and_closures_of_functions_are_the_same_memory(single: ProcessPoolExecutor) -> None:
    array = shared.zeros(1000)

    def by_closure(index: int) -> None:
        array[index] = index

    list(single.map(by_closure, range(1000)))
    assert np.array_equal(array, np.arange(1000))


def test_a_result_is_a_copy(pool: ProcessPoolExecutor) -> None:
    array = shared.zeros(1000)
    back = pool.submit(lambda a: a, array).result()
    back += 1
    assert not array.any()


def test_another_pickle_of_one_is_a_copy() -> None:
    array = shared.zeros(10)
    copy = pickle.loads(pickle.dumps(array, 5))
    copy += 1
    assert not array.any()


@pytest.mark.parametrize("start_method", ["zygote", "fork", "forkserver", "spawn"])
def test_any_start_method_will_do(start_method: str) -> None:
    array = shared.zeros(100)
    with ProcessPoolExecutor(2, start_method=start_method) as pool:
        list(pool.map(add, [array[i : i + 1] for i in range(100)], range(100)))
        late = shared.zeros(100)
        pool.submit(add, late, 1).result()
    assert np.array_equal(array, np.arange(100))
    assert late.all()


def set_up(array: Array) -> None:
    global given
    given = array


def write_given(index: int) -> None:
    given[index] = index


@pytest.mark.parametrize("start_method", ["zygote", "fork", "forkserver", "spawn"])
def test_initializers_take_them(start_method: str) -> None:
    array = shared.zeros(100)
    with ProcessPoolExecutor(2, start_method=start_method, initializer=set_up, initargs=(array,)) as pool:
        list(pool.map(write_given, range(100)))
    assert np.array_equal(array, np.arange(100))


def nested(array: Array) -> None:
    with ProcessPoolExecutor(1) as pool:
        pool.submit(add, array[1:], 1).result()


def test_a_worker_passes_them_on_to_workers_of_its_own(single: ProcessPoolExecutor) -> None:
    array = shared.zeros(10)
    single.submit(nested, array).result()
    assert array.tolist() == [0] + [1] * 9


def test_a_worker_makes_its_own_and_their_values_come_back(single: ProcessPoolExecutor) -> None:
    def make() -> Any:

        return treadle.shared.full(5000, 3.0)

    assert np.array_equal(single.submit(make).result(), np.full(5000, 3.0))


def test_inline_pools_take_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREADLE_INLINE", "1")
    array = shared.zeros(10)
    with ProcessPoolExecutor(1) as pool:
        pool.submit(add, array, 1).result()
    assert array.all()


@st.composite
def layouts(draw: st.DrawFn) -> tuple[str, tuple[int, ...], tuple[Any, ...]]:
    """A dtype, a shape, and how a view of such an array is cut."""
    dtype = draw(st.sampled_from(["i1", "u2", "<i4", ">i4", "f8", "c8", "f2", "?", "S3", "M8[ns]"]))
    shape = draw(st.lists(st.integers(0, 6), max_size=4).map(tuple))
    steps = st.integers(-3, 3).filter(bool)
    places = st.none() | st.integers(-7, 7)
    cut = tuple(draw(st.builds(slice, places, places, steps)) for _ in shape)
    return dtype, shape, cut


def contents(array: Array) -> tuple[bytes, str, tuple[int, ...]]:
    return array.tobytes(), array.dtype.str, array.shape


@given(layouts(), st.randoms(use_true_random=False))
def test_what_is_seen_there_is_what_is_here(pool: ProcessPoolExecutor, layout: Any, random: Any) -> None:
    dtype, shape, cut = layout
    plain = np.frombuffer(random.randbytes(np.dtype(dtype).itemsize * int(np.prod(shape, dtype=int))), dtype)
    array = shared.copy(plain.reshape(shape))
    view = array[cut].T
    for argument, pick in ((view, contents), ([view], lambda a: contents(a[0]))):
        assert pool.submit(pick, argument).result() == contents(view)


# --- how long they live


def keep(array: Array) -> None:
    global kept
    kept = array


def look() -> float:
    return float(kept.sum())


def let_go() -> None:
    global kept
    del kept


def test_a_worker_that_keeps_a_view_keeps_the_memory(single: ProcessPoolExecutor) -> None:
    before = blocks()
    array = shared.ones(1000)
    single.submit(keep, array[:500]).result()
    del array
    assert blocks() == before + 1
    assert single.submit(look).result() == 500
    single.submit(let_go).result()
    assert blocks() == before


def test_what_a_killed_worker_kept_is_free(single: ProcessPoolExecutor) -> None:
    before = blocks()
    array = shared.ones(1000)
    single.submit(keep, array).result()
    del array
    assert single.submit(os.kill, single.submit(os.getpid).result(), signal.SIGKILL).exception()
    assert blocks() == before


def test_what_workers_keep_goes_with_their_pool() -> None:
    before = blocks()
    array = shared.ones(1000)
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(keep, [array] * 10))
        del array
        assert blocks() == before + 1
    assert blocks() == before


def test_queued_tasks_hold_what_they_are_to_see(single: ProcessPoolExecutor, tmp_path: Any) -> None:
    before = blocks()
    gate = str(tmp_path / "gate")
    os.mkfifo(gate)

    def wait() -> None:
        open(gate).close()

    waiting = single.submit(wait)
    futures = [single.submit(lambda a: float(a[0].sum()), [shared.full(100, i)]) for i in range(20)]
    assert blocks() >= before + 20
    cancelled = single.submit(look)
    cancelled.cancel()
    with open(gate, "w"):
        pass
    waiting.result()
    assert [future.result() for future in futures] == [100.0 * i for i in range(20)]
    assert blocks() == before


def test_one_that_is_gone_can_not_be_opened() -> None:
    array = shared.zeros(10)
    extent = _engine.shared_extent(array)
    assert extent is not None
    block = _engine.shared_find(*extent[:2])
    assert block is not None
    name = block.name()
    del array, block
    gc.collect()
    with pytest.raises(CorruptData, match="freed before it arrived"):
        _engine.shared_open(name)
    with pytest.raises(CorruptData, match="no name"):
        _engine.shared_open(b"some name")


def metadata(array: Array) -> dict[str, str]:
    return dict(array.dtype.metadata or {})


def test_a_dtype_keeps_what_it_says_besides(single: ProcessPoolExecutor) -> None:
    kind = np.dtype("f8", metadata={"unit": "m"})
    assert single.submit(metadata, shared.zeros(10, kind)).result() == {"unit": "m"}
    assert single.submit(metadata, shared.zeros(10)).result() == {}


def test_a_dtype_that_came_out_of_a_pickle_is_as_good_as_another() -> None:
    kind = pickle.loads(pickle.dumps(np.dtype("f4")))
    assert shared.zeros(10, kind).dtype is np.dtype("f4")


# --- names that lie

SHOWN = shared.array(np.arange(600, dtype="i4").reshape(20, 30))
PAYLOADS = [
    _engine.encode_call((SHOWN,)),
    _engine.encode_call((SHOWN[3:9, ::-2],)),
    _engine.encode_call((SHOWN.T, (1, SHOWN[5, 6, ...]))),
]


def arrays_in(value: object) -> Iterator[Array]:
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from arrays_in(part)


@given(
    st.sampled_from(PAYLOADS),
    st.lists(
        st.tuples(st.integers(0, 150), st.one_of(st.binary(min_size=1, max_size=1), st.just(bytes(8)))), max_size=4
    ),
    st.integers(0, 160),
)
def test_an_array_that_is_told_of_wrongly_is_an_error_or_lies_in_its_memory(
    payload: bytes, changes: list[tuple[int, bytes]], end: int
) -> None:
    for at, data in changes:
        payload = payload[:at] + data + payload[at + len(data) :]
    try:
        found = _engine.decode_call(payload[:end])
    except (CorruptData, TypeError, ValueError, OSError):
        return
    for array in arrays_in(found):
        extent = _engine.shared_extent(array)
        assert extent is not None
        assert _engine.shared_find(*extent[:2]) is not None
        array.sum()


# --- a plain fork


def test_a_forked_child_sees_the_memory_and_frees_none_of_it() -> None:
    array = shared.zeros(1000)
    pid = os.fork()
    if pid == 0:
        array[0] = 7
        fine = shared.info()["blocks"] == 0
        own = shared.ones(10)
        del array
        os._exit(0 if fine and own.all() and shared.info()["blocks"] == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert array[0] == 7
    assert shared.copy(array)[0] == 7
