"""The futures of a pool: they read their task, others are told by the dispatcher. binding/settle.c, dispatch.c"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, InvalidStateError
from pathlib import Path

import pytest
import treadle
from treadle import Future


@pytest.fixture
def pool() -> Iterator[treadle.ProcessPoolExecutor]:
    with treadle.ProcessPoolExecutor(2) as pool:
        yield pool


def wait_at(path: Path, began: Path | None = None) -> str:
    """Until the gate is opened; opens another before."""
    if began is not None:
        with open(began, "w"):
            pass
    with open(path):
        pass
    return str(path)


def test_a_result(pool):
    future = pool.submit(pow, 2, 10)
    assert isinstance(future, Future)
    assert future.result() == 1024
    assert future.result(0) == 1024
    assert future.exception() is None
    assert (future.done(), future.running(), future.cancelled()) == (True, False, False)
    assert future._state == "FINISHED"
    assert repr(future).endswith(" state=finished returned int task=pow>")


def test_a_result_is_one_object(pool):
    future = pool.submit(list, "abc")
    assert future.result() is future.result()
    assert future._result is future.result()


def test_an_exception(pool):
    future = pool.submit(int, "x")
    with pytest.raises(ValueError, match="invalid literal"):
        future.result()
    assert future.exception() is future.exception()
    assert isinstance(future.exception(), ValueError)
    assert repr(future).endswith(" state=finished raised ValueError task=int>")


def test_timing_tells_where_time_went(pool):
    future = pool.submit(abs, 1)
    future.result()
    timing = future.timing
    assert timing.worker_pid in {worker["pid"] for worker in pool.stats()["workers"]}
    assert timing.queued >= 0
    assert timing.transfer >= 0
    assert timing.run > 0
    assert timing.attempts == 1
    assert Future().timing is None
    with treadle.ThreadPoolExecutor(1) as threads:
        future = threads.submit(abs, -1)
        assert future.result() == 1
        assert future.timing is None


def test_time_runs_out_while_it_runs(pool, make_gate):
    gate = make_gate()
    future = pool.submit(wait_at, gate.path)
    with pytest.raises(TimeoutError):
        future.result(0.01)
    with pytest.raises(TimeoutError):
        future.exception(0)
    assert not future.done()
    gate.open()
    assert future.result(50) == str(gate.path)


def test_its_outcome_cannot_be_set(pool):
    future = pool.submit(abs, -1)
    with pytest.raises(AttributeError):
        future._state = "FINISHED"
    with pytest.raises(InvalidStateError):
        future.set_result(1)
    assert future.result() == 1


def test_queued_work_is_cancelled_and_running_work_is_not(pool, make_gate):
    gates = [make_gate() for _ in range(2)]
    began = [make_gate() for _ in range(2)]
    running = [pool.submit(wait_at, gates[i].path, began[i].path) for i in range(2)]
    for i in range(2):
        wait_at(began[i].path)
    queued = pool.submit(abs, 1)
    calls = []
    queued.add_done_callback(calls.append)
    assert queued.cancel()
    assert queued.cancel()
    assert calls == [queued]
    assert queued.cancelled()
    assert queued._state == "CANCELLED_AND_NOTIFIED"
    with pytest.raises(CancelledError):
        queued.result()
    assert not running[0].cancel()
    for gate in gates:
        gate.open()
    assert [future.result() for future in running] == [str(gate.path) for gate in gates]
    assert not running[0].cancel()


def test_callbacks_run_in_the_dispatcher(pool):
    future = pool.submit(abs, -5)
    seen = []
    ran = threading.Event()

    def callback(done):
        seen.append((done is future, done.result(), threading.current_thread().name))
        ran.set()

    future.add_done_callback(callback)
    assert ran.wait(50)
    ((same, result, name),) = seen
    assert same
    assert result == 5
    assert name in ("treadle-dispatch", "MainThread")


def test_callbacks_of_many_futures_all_run(pool):
    counter = threading.Semaphore(0)
    for i in range(500):
        pool.submit(abs, i).add_done_callback(lambda _: counter.release())
    for _ in range(500):
        assert counter.acquire(timeout=50)


def test_the_stdlib_waits_for_it(pool):
    futures = [pool.submit(abs, -i) for i in range(50)]
    local = concurrent.futures.Future()
    local.set_result(99)
    done, not_done = concurrent.futures.wait([*futures, local], timeout=50)
    assert not not_done
    assert done == {*futures, local}
    more = [pool.submit(abs, -i) for i in range(50)]
    assert {future.result() for future in concurrent.futures.as_completed(more, 50)} == set(range(50))


def test_asyncio_waits_for_it(pool):
    async def main():
        wrapped = [asyncio.wrap_future(pool.submit(abs, -i)) for i in range(20)]
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*wrapped, loop.run_in_executor(pool, abs, -77))

    assert asyncio.run(main()) == [*range(20), 77]


def test_asyncio_cancels_it(pool, make_gate):
    gates = [make_gate() for _ in range(2)]
    blockers = [pool.submit(wait_at, gate.path) for gate in gates]

    async def main():
        future = pool.submit(abs, 1)
        wrapped = asyncio.wrap_future(future)
        wrapped.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wrapped
        return future

    future = asyncio.run(main())
    for gate in gates:
        gate.open()
    assert future.cancelled()
    assert [blocker.result() for blocker in blockers] == [str(gate.path) for gate in gates]


def test_threads_read_one_future(pool):
    for _ in range(50):
        future = pool.submit(list, range(50))
        seen = []
        threads = [threading.Thread(target=lambda f=future, s=seen: s.append(f.result())) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(result is seen[0] for result in seen)
        assert seen[0] == list(range(50))


def test_futures_hold_nothing_that_leaks(pool):
    def round_of_work():
        for i in range(200):
            pool.submit(list, range(20)).result()
            pool.submit(abs, i)
            failing = pool.submit(int, "x")
            with pytest.raises(ValueError, match="invalid"):
                failing.result()
            failing.add_done_callback(print_nothing)
        concurrent.futures.wait([pool.submit(abs, i) for i in range(100)])
        gc.collect()

    round_of_work()
    before = len(gc.get_objects())
    for _ in range(3):
        round_of_work()
    assert len(gc.get_objects()) - before < 100


def print_nothing(_):
    pass


def test_a_pool_that_is_gone_leaves_its_futures():
    pool = treadle.ProcessPoolExecutor(1)
    futures = [pool.submit(list, range(100)) for _ in range(20)]
    pool.shutdown()
    del pool
    gc.collect()
    assert all(future.result() == list(range(100)) for future in futures)
