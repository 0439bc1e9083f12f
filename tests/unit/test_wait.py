"""wait and as_completed: the stdlib's meaning on Treadle's futures, others, and both. binding/group.c"""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Iterator
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
from pathlib import Path

import pytest
import treadle
from treadle import Future


@pytest.fixture
def pool() -> Iterator[treadle.ProcessPoolExecutor]:
    with treadle.ProcessPoolExecutor(2) as pool:
        yield pool


def wait_at(path: Path) -> str:
    with open(path):
        pass
    return path.name


def fail() -> None:
    raise ValueError("on purpose")


def foreign(value: object = 0) -> concurrent.futures.Future:
    future: concurrent.futures.Future = concurrent.futures.Future()
    future.set_result(value)
    return future


# --- wait


def test_all_are_waited_for(pool):
    futures = [pool.submit(abs, -i) for i in range(100)]
    done, not_done = treadle.wait(futures)
    assert done == set(futures)
    assert not_done == set()
    assert type(treadle.wait(futures)).__name__ == "DoneAndNotDoneFutures"


def test_nothing_is_waited_for(pool):
    assert treadle.wait([]) == (set(), set())
    assert list(treadle.as_completed([])) == []


def test_duplicates_count_once(pool):
    future = pool.submit(abs, 1)
    assert treadle.wait([future] * 3).done == {future}
    other = pool.submit(abs, 1)
    assert list(treadle.as_completed([other] * 3)) == [other]
    assert list(treadle.as_completed([other] * 3)) == [other]


def test_time_runs_out(pool, gate):
    slow, quick = pool.submit(wait_at, gate.path), pool.submit(abs, 1)
    quick.result()
    done, not_done = treadle.wait([slow, quick], timeout=0)
    assert (done, not_done) == ({quick}, {slow})
    done, not_done = treadle.wait([slow, quick], timeout=0.01)
    assert (done, not_done) == ({quick}, {slow})
    completed = treadle.as_completed([slow, quick], timeout=0.01)
    assert next(completed) is quick
    with pytest.raises(TimeoutError, match=r"^1 \(of 2\) futures unfinished$"):
        next(completed)
    assert list(completed) == []
    gate.open()
    assert treadle.wait([slow]).done == {slow}


def test_the_first_is_enough(pool, gate):
    slow, quick = pool.submit(wait_at, gate.path), pool.submit(abs, 1)
    done, not_done = treadle.wait([slow, quick], return_when=FIRST_COMPLETED)
    assert (done, not_done) == ({quick}, {slow})
    assert treadle.wait([slow, quick], return_when=FIRST_COMPLETED).done == {quick}
    gate.open()
    slow.result()


def test_the_first_error_is_enough(pool, gate):
    slow, good, bad = pool.submit(wait_at, gate.path), pool.submit(abs, 1), pool.submit(fail)
    done, not_done = treadle.wait([slow, good, bad], return_when=FIRST_EXCEPTION)
    assert bad in done
    assert slow in not_done
    assert treadle.wait([slow, bad], return_when=FIRST_EXCEPTION).not_done == {slow}
    gate.open()
    slow.result()


def test_without_an_error_all_are_waited_for(pool):
    futures = [pool.submit(abs, i) for i in range(10)]
    assert treadle.wait(futures, return_when=FIRST_EXCEPTION) == (set(futures), set())


@pytest.mark.parametrize("count", [1, 2, 100])
@pytest.mark.parametrize("return_when", [FIRST_COMPLETED, FIRST_EXCEPTION])
def test_what_ends_while_the_wait_begins_counts(pool, count, return_when):
    for _ in range(3000 // count):
        futures = [pool.submit(abs, -i) for i in range(count)]
        done, not_done = treadle.wait(futures, return_when=return_when)
        assert done
        assert not_done == set() or return_when == FIRST_COMPLETED


def test_the_condition_must_be_known(pool):
    with pytest.raises(ValueError, match="Invalid return condition: 'SOME'"):
        treadle.wait([pool.submit(abs, 1)], return_when="SOME")


@pytest.mark.parametrize("return_when", [ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION])
def test_others_may_be_among_them(pool, return_when):
    futures = [pool.submit(abs, 1), foreign(), Future()]
    futures[2].set_result(0)
    done, not_done = treadle.wait(futures, return_when=return_when)
    assert done | not_done == set(futures)
    assert futures[1] in done
    assert set(treadle.as_completed(futures, 50)) == set(futures)


def test_a_local_future_is_waited_for(pool):
    local = Future()
    quick = pool.submit(abs, 1)
    thread = threading.Thread(target=local.set_result, args=(5,))
    thread.start()
    assert treadle.wait([local, quick], timeout=50) == ({local, quick}, set())
    thread.join()


def test_what_is_no_future_is_refused(pool):
    with pytest.raises(AttributeError):
        treadle.wait([5])
    with pytest.raises(AttributeError):
        list(treadle.as_completed([5]))
    with pytest.raises(TypeError):
        treadle.wait(5)


def test_a_cancelled_one_is_done(pool, make_gate):
    gates = [make_gate() for _ in range(2)]
    running = [pool.submit(wait_at, gate.path) for gate in gates]
    queued = pool.submit(abs, 1)
    assert queued.cancel()
    assert treadle.wait([queued]).done == {queued}
    assert list(treadle.as_completed([queued])) == [queued]
    assert treadle.wait([queued, running[0]], return_when=FIRST_COMPLETED).done == {queued}
    for gate in gates:
        gate.open()
    assert treadle.wait(running).not_done == set()


# --- as_completed


def test_each_comes_once_when_it_is_done(pool, gate):
    slow = pool.submit(wait_at, gate.path)
    futures = [pool.submit(abs, -i) for i in range(50)]
    completed = treadle.as_completed([slow, *futures])
    assert {next(completed) for _ in range(50)} == set(futures)
    gate.open()
    assert list(completed) == [slow]


def test_two_iterators_share_futures(pool):
    futures = [pool.submit(abs, -i) for i in range(200)]
    first, second = treadle.as_completed(futures), treadle.as_completed(futures)
    assert set(second) == set(futures)
    assert set(first) == set(futures)


def test_two_threads_wait_for_the_same(pool):
    futures = [pool.submit(abs, -i) for i in range(500)]
    seen: list[set[Future]] = []
    waits = [
        lambda: seen.append(set(treadle.as_completed(futures))),
        lambda: seen.append(treadle.wait(futures).done),
        lambda: seen.append(set(concurrent.futures.as_completed(futures))),
        lambda: seen.append(concurrent.futures.wait(futures).done),
    ]
    threads = [threading.Thread(target=wait) for wait in waits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [set(futures)] * 4


def test_letting_go_of_the_iterator_frees_the_futures_for_another(pool, gate):
    slow = pool.submit(wait_at, gate.path)
    completed = treadle.as_completed([slow])
    del completed
    again = treadle.as_completed([slow])
    assert type(again).__name__ == "CompletedIterator"
    gate.open()
    assert list(again) == [slow]


def test_pools_mix(pool):
    with treadle.ProcessPoolExecutor(1) as other:
        futures = [p.submit(abs, i) for i in range(50) for p in (pool, other)]
        assert set(treadle.as_completed(futures)) == set(futures)
