"""map and starmap: lazy input, places of errors, chunks, ends. binding/map.c, binding/feed.c"""

from __future__ import annotations

import gc
import itertools
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import treadle
from treadle import WorkerDied
from treadle._maps import MapCall


@pytest.fixture
def pool() -> Iterator[treadle.ProcessPoolExecutor]:
    with treadle.ProcessPoolExecutor(2) as pool:
        yield pool


def fail_at(item: int, bad: int) -> int:
    if item == bad:
        raise ValueError(f"item {bad}")
    return item


def die_at(item: int, bad: int) -> int:
    if item == bad:
        os._exit(9)
    return item


def record(item: int, folder: Path) -> int:
    (folder / str(item)).touch()
    return item


def wait_at(path: Path) -> str:
    with open(path):
        pass
    return path.name


def open_gate(path: Path) -> None:
    with open(path, "w"):
        pass


def add(*numbers: int) -> int:
    return sum(numbers)


def no_fun(_: int) -> object:
    return lambda: None


def keep_going(pool, fn, *iterables, **options):
    """What Pool.imap asks for: an error is an item's, and the rest follows."""
    return pool._start_map(MapCall(fn, iterables, keep_going=True, **options))


# --- results


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10, 1000, 70_000])
def test_results_are_in_order(pool, count):
    assert list(pool.map(abs, range(-count, 0))) == list(range(count, 0, -1))


@pytest.mark.parametrize("chunksize", [1, 2, 7, 100, 5000])
def test_every_chunk_size_gives_the_same(pool, chunksize):
    assert list(pool.map(abs, range(1000), chunksize=chunksize)) == list(range(1000))


@pytest.mark.parametrize("buffersize", [1, 2, 7, 100])
def test_every_buffer_size_gives_the_same(pool, buffersize):
    assert list(pool.map(abs, iter(range(500)), buffersize=buffersize)) == list(range(500))


def test_iterables_stop_with_the_shortest(pool):
    assert list(pool.map(pow, [2, 3, 4], itertools.count(), range(7, 9))) == [1, 3]
    assert list(pool.map(pow, [2, 3, 4], [])) == []
    assert list(pool.map(add)) == []


def test_many_iterables(pool):
    assert list(pool.map(add, *[range(5)] * 20)) == [i * 20 for i in range(5)]


def test_starmap_spreads_its_items(pool):
    assert list(pool.starmap(pow, [(2, 3), [3, 2], iter((4, 1))])) == [8, 9, 4]


def test_results_as_they_come(pool):
    assert sorted(pool.map(abs, range(5000), ordered=False)) == list(range(5000))
    assert sorted(pool.map(abs, iter(range(500)), ordered=False, chunksize=7)) == list(range(500))


def test_a_slow_item_holds_up_nobody_when_unordered(pool, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    quick = tmp_path / "quick"
    quick.touch()
    results = pool.map(wait_at, [gate, quick, quick, quick], ordered=False, chunksize=1)
    assert [next(results) for _ in range(3)] == ["quick"] * 3
    open_gate(gate)
    assert list(results) == ["gate"]


def wait_or_fill(item: Path | int) -> bytes:
    if isinstance(item, Path):
        wait_at(item)
        return b""
    return bytes(item)


def test_what_was_read_is_not_kept_when_unordered(pool, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    results = pool.map(wait_or_fill, [gate, *[1 << 20] * 100], ordered=False)
    most = 0
    for read, result in enumerate(results, 1):
        del result
        if read == 100:
            most = pool.stats()["result_bytes_live"]
            open_gate(gate)
    assert most < 10 << 20


def test_all_kinds_of_values_come_back(pool):
    values = [None, True, -5, 2**70, 1.5, "ü", b"b" * 100, (1, (2, 3)), [1], {"k": 1}, "x" * 100_000, b"y" * 200_000]
    assert list(pool.map(same, values)) == values
    assert list(pool.map(same, values * 20, chunksize=50)) == values * 20


def same(value: object) -> object:
    return value


# --- input


def test_an_endless_input_is_read_as_needed(pool):
    results = pool.map(abs, itertools.count())
    assert list(itertools.islice(results, 10_000)) == list(range(10_000))
    results.close()


class Numbers:
    """1, 2, 3 and so on; `read` tells how far."""

    def __init__(self) -> None:
        self.read = 0

    def __iter__(self):
        while True:
            self.read += 1
            yield self.read


def test_no_more_is_read_than_the_buffer_holds(pool):
    numbers = Numbers()
    results = pool.map(abs, numbers, buffersize=10)
    assert numbers.read == 10
    for i in range(1, 50):
        assert next(results) == i
        assert numbers.read <= i + 10
    results.close()


def test_an_iterator_is_not_read_far_ahead_at_the_call(pool):
    numbers = Numbers()
    results = pool.map(abs, numbers)
    assert 1 <= numbers.read < 100
    results.close()


def test_an_input_that_raises_does_so_at_its_place(pool):
    def items():
        yield from range(10)
        raise KeyError("input")

    results = pool.map(abs, items())
    assert [next(results) for _ in range(10)] == list(range(10))
    with pytest.raises(KeyError, match="input"):
        next(results)
    assert list(results) == []


def test_a_map_that_nobody_reads_runs(tmp_path):
    with treadle.ProcessPoolExecutor(2) as pool:
        pool.map(record, range(200), itertools.repeat(tmp_path))
        pool.map(record, range(200, 300), [tmp_path] * 100)
    assert {int(name) for name in os.listdir(tmp_path)} == set(range(300))


def test_a_sized_input_is_read_to_its_end_at_shutdown(tmp_path):
    pool = treadle.ProcessPoolExecutor(2)
    results = pool.map(abs, range(150_000))
    assert next(results) == 0
    pool.shutdown()
    assert list(results) == list(range(1, 150_000))


@pytest.mark.leaks_allowed("descriptors")  # until the next pool ends, or the interpreter
def test_a_map_outlives_the_name_of_its_pool():
    pool = treadle.ProcessPoolExecutor(2)
    results = pool.map(abs, range(1000))
    del pool
    gc.collect()
    assert list(results) == list(range(1000))


# --- errors


@pytest.mark.parametrize("ordered", [True, False])
def test_an_error_ends_the_iteration(pool, ordered):
    results = pool.map(fail_at, range(100), itertools.repeat(30), ordered=ordered)
    got = []
    with pytest.raises(ValueError, match="item 30"):
        got.extend(iter_into(results, got))
    assert 30 not in got
    if ordered:
        assert got == list(range(30))
    assert list(results) == []


def iter_into(results, got):
    for result in results:
        got.append(result)
    return ()


@pytest.mark.parametrize("chunksize", [None, 1, 7, 100])
def test_an_error_is_at_its_place_and_the_rest_follows(pool, chunksize):
    results = keep_going(pool, fail_at, range(100), itertools.repeat(30), chunksize=chunksize)
    assert [next(results) for _ in range(30)] == list(range(30))
    with pytest.raises(ValueError, match="item 30"):
        next(results)
    assert list(results) == list(range(31, 100))


@pytest.mark.parametrize("chunksize", [None, 1, 7, 100])
def test_a_death_costs_its_item(pool, chunksize):
    results = keep_going(pool, die_at, range(100), itertools.repeat(30), chunksize=chunksize)
    assert [next(results) for _ in range(30)] == list(range(30))
    with pytest.raises(WorkerDied):
        next(results)
    assert list(results) == list(range(31, 100))


def test_what_cannot_be_sent_fails_at_its_place(pool):
    lock = threading.Lock()
    results = keep_going(pool, same, [1, 2, lock, 3])
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(treadle.TravelError):
        next(results)
    assert list(results) == [3]


def test_what_cannot_come_back_fails_at_its_place(pool):
    results = keep_going(pool, lock_at, range(5))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(treadle.TravelError):
        next(results)
    assert list(results) == [3, 4]


def lock_at(item: int) -> object:
    return threading.Lock() if item == 2 else item


@pytest.mark.parametrize("name", ["chunksize", "buffersize"])
@pytest.mark.parametrize("value", [0, -1])
def test_sizes_are_positive(pool, name, value):
    with pytest.raises(ValueError, match=name):
        pool.map(abs, [1], **{name: value})


def test_an_input_must_be_iterable(pool):
    with pytest.raises(TypeError):
        pool.map(abs, 5)


# --- time


def test_time_runs_out_and_ends_the_iteration(pool, tmp_path):
    gates = [tmp_path / f"gate{i}" for i in range(2)]
    for gate in gates:
        os.mkfifo(gate)
    results = pool.map(wait_at, gates, timeout=0.02, chunksize=1)
    with pytest.raises(TimeoutError):
        next(results)
    assert list(results) == []
    # Those that began wait on: both ends are open now, for whoever comes.
    ends = [os.open(gate, os.O_RDWR) for gate in gates]
    pool.shutdown()
    for end in ends:
        os.close(end)


def test_patience_can_be_asked_for_one_result(pool, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    results = pool.map(wait_at, [gate])
    with pytest.raises(TimeoutError):
        results.next(timeout=0)
    open_gate(gate)
    assert results.next(timeout=50) == "gate"
    with pytest.raises(StopIteration):
        results.next(timeout=50)


# --- ends


def test_abandoning_it_cancels_the_rest(tmp_path):
    gates = [tmp_path / f"gate{i}" for i in range(2)]
    for gate in gates:
        os.mkfifo(gate)
    folder = tmp_path / "ran"
    folder.mkdir()
    with treadle.ProcessPoolExecutor(2) as pool:
        pool.submit(abs, 1).result()
        blockers = [pool.submit(wait_at, gate) for gate in gates]
        results = pool.map(record, range(100), itertools.repeat(folder), timeout=0)
        with pytest.raises(TimeoutError):
            next(results)
        for gate in gates:
            open_gate(gate)
        assert [blocker.result() for blocker in blockers] == ["gate0", "gate1"]
    assert os.listdir(folder) == []


def test_closing_it_ends_it(pool):
    results = pool.map(abs, range(1000))
    assert next(results) == 0
    results.close()
    results.close()
    assert list(results) == []


def test_an_input_may_not_read_its_own_map(pool):
    def items():
        yield 1
        yield next(results)

    results = pool.map(abs, items(), buffersize=1)
    assert next(results) == 1
    with pytest.raises(ValueError, match="already executing"):
        next(results)


def test_maps_leak_nothing(pool):
    def round_of_work():
        list(pool.map(abs, range(2000)))
        list(pool.map(same, ["x" * 500] * 200, ordered=False))
        next(pool.map(abs, itertools.count()))
        with pytest.raises(ValueError, match="item"):
            list(pool.map(fail_at, range(50), itertools.repeat(20)))
        gc.collect()

    round_of_work()
    before = len(gc.get_objects())
    for _ in range(5):
        round_of_work()
    assert len(gc.get_objects()) - before < 50


@pytest.mark.parametrize("ordered", [True, False])
def test_random_maps_give_what_map_gives(pool, rng: random.Random, ordered):
    for _ in range(30):
        count = rng.choice([0, 1, 5, 50, 700])
        items = [rng.choice([rng.randrange(-99, 99), "s" * rng.randrange(200), (1, 2.5), [3]]) for _ in range(count)]
        source = iter(items) if rng.random() < 0.5 else items
        chunksize = rng.choice([None, 1, 3, 64])
        buffersize = rng.choice([None, 1, 10, 100])
        results = list(pool.map(same, source, chunksize=chunksize, buffersize=buffersize, ordered=ordered))
        if ordered:
            assert results == items
        else:
            assert sorted(map(repr, results)) == sorted(map(repr, items))


# --- reading while another thread feeds
