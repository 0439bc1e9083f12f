"""Arrays that a worker made come back as they are where nobody there keeps them, and as copies where somebody does."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from treadle import Future, ProcessPoolExecutor

np = pytest.importorskip("numpy")
arrays = pytest.importorskip("hypothesis.extra.numpy")

LARGE = 1_000_000
SLACK = 4096
"""Bytes that a result takes beside its arrays: its pickle."""


# --- what moves


def double(array: Any) -> Any:
    return array * 2.0


@pytest.mark.skipif(
    os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 4 << 30, reason="a 16th of the memory is kept warm"
)
def test_a_large_result_is_not_copied(moving: Any) -> None:
    array = np.arange(12_500_000.0)
    found = moving.until(lambda one: one.moved, double, array)
    assert found.moved == array.nbytes
    assert found.copied < array.nbytes + SLACK  # the argument
    assert np.array_equal(found.value, array * 2.0)


def numbered(count: int, size: int = LARGE) -> list[Any]:
    return [np.full(size, i, dtype="u1") for i in range(count)]


def in_containers() -> dict[str, Any]:
    first, second, third, fourth = numbered(4)
    return {"a": [first, (second, {"b": third})], "c": ({"d": [fourth]},), "e": "text", "f": 3}


def test_arrays_move_wherever_in_a_result_they_are(moving: Any) -> None:
    value = moving.until_moved(4 * LARGE, in_containers)
    first, (second, nested) = value["a"]
    for i, array in enumerate((first, second, nested["b"], value["c"][0]["d"][0])):
        assert array.shape == (LARGE,)
        assert (array == i).all()
    assert (value["e"], value["f"]) == ("text", 3)


def view(how: str) -> Any:
    array = np.arange(LARGE)
    return {
        "end": lambda: array[1000:],
        "begin": lambda: array[:-1000],
        "shape": lambda: array.reshape(1000, -1),
        "transposed": lambda: array.reshape(1000, -1).T,
        "retyped": lambda: array.view("u2"),
        "read-only": lambda: np.broadcast_to(array, array.shape),
        "fortran": lambda: np.asfortranarray(array.reshape(10, -1)),
    }[how]()


@pytest.mark.parametrize("how", ["end", "begin", "shape", "transposed", "retyped", "read-only", "fortran"])
def test_views_of_most_of_an_array_move(moving: Any, how: str) -> None:
    expected = view(how)
    found = moving.until(lambda one: one.moved, view, how)
    assert np.array_equal(found.value, expected)
    assert found.value.dtype == expected.dtype
    assert found.value.flags.writeable == expected.flags.writeable
    assert found.value.flags.f_contiguous == expected.flags.f_contiguous
    assert found.copied < SLACK


def read_only() -> Any:
    array = np.arange(LARGE)
    array.flags.writeable = False
    return array


def test_what_was_writable_is_and_what_was_not_is_not(moving: Any) -> None:
    for function, writable in ((read_only, False), (numbered, True)):
        found = moving.until(lambda one: one.moved, function, *(() if function is read_only else (1,)))
        array = found.value if function is read_only else found.value[0]
        assert array.flags.writeable is writable
        if writable:
            array += 1
            assert (array == 1).all()


def structured() -> Any:
    array = np.zeros(100_000, dtype=[("a", "f8"), ("b", "i2", (3,))]).copy()
    array["a"] = np.arange(100_000)
    array["b"][:, 1] = 7
    return array


def test_structured_arrays_move(moving: Any) -> None:
    expected = structured()
    value = moving.until_moved(expected.nbytes, structured)
    assert value.dtype == expected.dtype
    assert np.array_equal(value, expected)


def make_again(array: Any, order: str) -> Any:
    """A copy, with enough around it to be born in the arena."""
    return [array.copy(order=order), np.repeat(array.reshape(-1), max(1, 70_000 // max(1, array.nbytes)))]


numpy_arrays = arrays.arrays(
    arrays.boolean_dtypes() | arrays.integer_dtypes() | arrays.floating_dtypes() | arrays.complex_number_dtypes()
    | arrays.datetime64_dtypes() | arrays.unicode_string_dtypes(max_len=5) | arrays.byte_string_dtypes(max_len=5),
    arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9),
)  # fmt: skip


def pickled(value: Any) -> Any:
    """As it comes out of a pickle, where NumPy forgets the byte order of some dates."""
    return pickle.loads(pickle.dumps(value, 5))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(numpy_arrays, st.sampled_from("CFAK"))
def test_any_array_arrives_bit_by_bit(moving: Any, array: Any, order: str) -> None:
    result = moving.pool.submit(make_again, array, order).result()
    for found, expected in zip(result, pickled(make_again(pickled(array), order)), strict=True):
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        assert found.tobytes() == expected.tobytes()


def odd_ones() -> list[Any]:
    return [
        np.array(1.5), np.empty((0, 5)), np.array([{}, None], dtype=object), np.full(LARGE, None, dtype=object),
        np.arange(LARGE)[::-2], np.ma.masked_array(np.arange(LARGE), np.arange(LARGE) % 2),
    ]  # fmt: skip


def test_what_has_no_buffer_of_its_own_arrives_as_ever(moving: Any) -> None:
    for _ in range(2):
        for found, expected in zip(moving.pool.submit(odd_ones).result(), odd_ones(), strict=True):
            assert type(found) is type(expected)
            assert found.dtype == expected.dtype
            assert (found == expected).all()


def grown(array: Any) -> Any:
    array = array.copy()
    array.resize(3 * LARGE, refcheck=False)
    array.resize(2 * LARGE, refcheck=False)
    array.resize(LARGE + LARGE // 2, refcheck=False)
    return array, np.fromiter(range(LARGE), dtype="i8")


def test_arrays_that_grow_and_shrink_keep_what_they_have(moving: Any) -> None:
    array = np.random.default_rng(0).integers(0, 255, LARGE).astype("u1")
    found = moving.until(lambda one: one.moved, grown, array)
    resized, counted = found.value
    assert np.array_equal(resized[:LARGE], array)
    assert not resized[LARGE:].any()
    assert np.array_equal(counted, np.arange(LARGE))


# --- what does not move

kept: list[Any] = []


def keep_one(value: int) -> tuple[Any, Any]:
    """Two arrays, of which the module keeps the first."""
    kept[:] = []
    mine, yours = np.full(LARGE, value, dtype="u1"), np.full(LARGE, value + 1, dtype="u1")
    kept.append(mine)
    return mine, yours


def look_at_kept(change: int) -> int:
    """Which value all of the kept array has; then gives it another one."""
    values = set(kept[0].tolist())
    kept[0][:] = change
    assert len(values) == 1
    return int(values.pop())


def test_what_the_tasks_module_keeps_is_copied(moving: Any) -> None:
    found = moving.until(lambda one: one.moved, keep_one, 5)
    assert found.moved == LARGE
    assert LARGE <= found.copied < LARGE + SLACK
    mine, yours = found.value
    mine += 100
    assert moving.pool.submit(look_at_kept, 77).result() == 5
    assert (mine == 105).all()
    assert (yours == 6).all()


class Secret:
    """Has an array that does not travel with it."""

    alive: list[Secret] = []  # noqa: RUF012

    def __init__(self, array: Any) -> None:
        self.array = array
        self.alive.append(self)

    def __reduce__(self) -> Any:
        return str, ("a secret",)


def in_a_cycle() -> Any:
    array = np.full(LARGE, 3, dtype="u1")
    loop: list[Any] = [array]
    loop.append(loop)
    return array


def with_a_secret() -> Any:
    array = np.full(LARGE, 3, dtype="u1")
    return array, Secret(array)


def in_a_generator() -> Any:
    array = np.full(LARGE, 3, dtype="u1")

    def generate() -> Any:
        yield array.sum()
        yield array

    generator = generate()
    next(generator)
    kept.append(generator)
    return array


def in_a_traceback() -> Any:
    array = np.full(LARGE, 3, dtype="u1")
    try:
        raise ValueError
    except ValueError as error:
        kept.append(error)
    return array


@pytest.mark.parametrize("function", [in_a_cycle, with_a_secret, in_a_generator, in_a_traceback])
def test_what_something_in_the_worker_still_refers_to_is_copied(moving: Any, function: Callable[[], Any]) -> None:
    for _ in range(3):
        found = moving.travel(function)
        array = found.value[0] if function is with_a_secret else found.value
        assert (array == 3).all()
        assert found.moved == 0


def overlapping() -> list[Any]:
    array = np.full(LARGE, 1, dtype="u1")
    return [array, array[10:], array, array[: LARGE - 10].reshape(10, -1)]


def test_what_arrives_does_not_alias(moving: Any) -> None:
    found = moving.until(lambda one: one.moved, overlapping)
    whole, end, again, begin = found.value
    assert found.moved == LARGE
    assert whole is again
    whole[:] = 2
    end[:] = 3
    assert (whole == 2).all()
    assert (end == 3).all()
    assert (begin == 1).all()


def parts() -> list[Any]:
    array = np.arange(LARGE)
    return [array[: LARGE // 3], array[-5000:], array[:0]]


def test_small_parts_of_an_array_are_copied(moving: Any) -> None:
    for _ in range(3):
        found = moving.travel(parts)
        for part, expected in zip(found.value, parts(), strict=True):
            assert np.array_equal(part, expected)
        assert found.moved == 0


def lazy_zeros() -> Any:
    return np.zeros(LARGE)


def test_zeros_that_nobody_touched_stay_lazy(moving: Any) -> None:
    for _ in range(3):
        found = moving.travel(lazy_zeros)
        assert not found.value.any()
        assert found.moved == 0


def allocators() -> tuple[str, str]:
    handler_name = (np._core if hasattr(np, "_core") else np.core).multiarray.get_handler_name
    return handler_name(), handler_name(np.empty(LARGE))


def test_without_moving_numpy_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, moving_in: Callable[[ProcessPoolExecutor], Any]
) -> None:
    monkeypatch.setenv("TREADLE_MOVE_BYTES", "0")
    with ProcessPoolExecutor(1) as still:
        for _ in range(3):
            assert moving_in(still).travel(double, np.ones(LARGE)).moved == 0
        assert still.submit(allocators).result() == ("default_allocator", "default_allocator")


# --- how long what came lives


def test_one_small_view_keeps_its_own_array_alone(moving: Any) -> None:
    found = moving.until(lambda one: one.moved == 3 * LARGE, numbered, 3)
    corner = found.value[1][:10]
    del found
    assert LARGE <= moving.live() < LARGE + SLACK
    assert (corner == 1).all()
    del corner
    assert moving.live() == 0


def test_results_that_nobody_reads_are_given_back(moving: Any) -> None:
    moving.until_moved(3 * LARGE, numbered, 3)
    futures = [moving.pool.submit(numbered, 3) for _ in range(20)]
    for future in futures:
        future.exception()
    del future, futures
    moving.pool.submit(numbered, 3)
    moving.pool.submit(abs, 1).result()
    assert moving.live() == 0


def test_a_moved_array_outlives_its_pool(moving_in: Callable[[ProcessPoolExecutor], Any]) -> None:
    with ProcessPoolExecutor(1) as short:
        array = moving_in(short).until_moved(LARGE, numbered, 1)[0]
    del short
    array += 5
    assert (array == 5).all()


def test_many_threads_may_read_the_same_result(moving: Any) -> None:
    moving.until_moved(4 * LARGE, numbered, 4)
    for _ in range(20):
        future: Future[list[Any]] = moving.pool.submit(numbered, 4)
        seen: list[Any] = []

        def read(future: Future[list[Any]] = future, seen: list[Any] = seen) -> None:
            seen.append(future.result())

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(value is seen[0] for value in seen)
        assert [int(array[-1]) for array in seen[0]] == [0, 1, 2, 3]
        del read
