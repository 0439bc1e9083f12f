"""treadle.Future: it is a stdlib future, local ones as the stdlib's, the engine's ones read their task. binding/future.c"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import gc
import os
import threading
import weakref
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


class Gate:
    """A task waits at it until the test opens it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)

    def open(self) -> None:
        with open(self.path, "w"):
            pass


def wait_at(path: Path, began: Path | None = None) -> str:
    """Until the gate is opened; opens another before."""
    if began is not None:
        with open(began, "w"):
            pass
    with open(path):
        pass
    return str(path)


def make(method: str = "pending", value: object = None) -> Future:
    future: Future = Future()
    if method == "running":
        future.set_running_or_notify_cancel()
    elif method == "result":
        future.set_result(value)
    elif method == "exception":
        future.set_exception(value)
    elif method == "cancelled":
        future.cancel()
    return future


# --- local futures


def test_it_is_a_stdlib_future():
    assert issubclass(Future, concurrent.futures.Future)
    assert isinstance(Future(), concurrent.futures.Future)
    assert Future[int].__origin__ is Future


def test_it_takes_no_arguments():
    with pytest.raises(TypeError):
        Future(1)  # type: ignore[call-arg]


@pytest.mark.parametrize("type_", [Future, concurrent.futures.Future])
def test_states_follow_the_stdlib(type_):
    future = type_()
    assert (future._state, future.done(), future.running(), future.cancelled()) == ("PENDING", False, False, False)
    assert future.set_running_or_notify_cancel()
    assert (future._state, future.done(), future.running(), future.cancelled()) == ("RUNNING", False, True, False)
    assert not future.cancel()
    future.set_result(7)
    assert (future._state, future.done(), future.result(), future.exception()) == ("FINISHED", True, 7, None)
    assert not future.cancel()
    future = type_()
    assert future.cancel()
    assert future.cancel()
    assert (future._state, future.done(), future.cancelled()) == ("CANCELLED", True, True)
    assert not future.set_running_or_notify_cancel()
    assert future._state == "CANCELLED_AND_NOTIFIED"
    with pytest.raises(CancelledError):
        future.result()
    with pytest.raises(CancelledError):
        future.exception()


@pytest.mark.parametrize("type_", [Future, concurrent.futures.Future])
def test_setting_twice_is_refused_in_the_same_words(type_):
    future = type_()
    future.set_result(1)
    with pytest.raises(InvalidStateError, match=r"FINISHED: <Future at 0x[0-9a-f]+ state=finished returned int>"):
        future.set_result(2)
    with pytest.raises(InvalidStateError, match="FINISHED"):
        future.set_exception(ValueError())
    with pytest.raises(RuntimeError, match="Future in unexpected state"):
        future.set_running_or_notify_cancel()


def test_repr_has_the_state():
    assert repr(make()).endswith(" state=pending>")
    assert repr(make("running")).endswith(" state=running>")
    assert repr(make("cancelled")).endswith(" state=cancelled>")
    assert repr(make("result", 5)).endswith(" state=finished returned int>")
    assert repr(make("exception", OSError())).endswith(" state=finished raised OSError>")


def test_private_state_of_a_local_future_can_be_set():
    future = Future()
    future._state = "FINISHED"  # type: ignore[misc]
    future._result = 3  # type: ignore[misc]
    assert future.result() == 3
    future._exception = KeyError("k")  # type: ignore[misc]
    with pytest.raises(KeyError):
        future.result()
    with pytest.raises(ValueError, match="no state"):
        future._state = "NOWHERE"  # type: ignore[misc]


@pytest.mark.parametrize("timeout", [0, -1, 0.001, 1e-9])
def test_time_runs_out(timeout):
    for method in "result", "exception":
        with pytest.raises(TimeoutError):
            getattr(Future(), method)(timeout)
        with pytest.raises(TimeoutError):
            getattr(Future(), method)(timeout=timeout)


@pytest.mark.parametrize(("timeout", "error"), [("1", TypeError), (float("nan"), ValueError)])
def test_a_timeout_is_a_number(timeout, error):
    with pytest.raises(error):
        Future().result(timeout)


def test_result_takes_one_argument():
    with pytest.raises(TypeError):
        Future().result(1, 2)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Future().result(patience=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("timeout", [None, 50.0, float("inf")])
def test_another_thread_finishes_it(timeout):
    future = Future()
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(future.result(timeout))) for _ in range(4)]
    for thread in threads:
        thread.start()
    future.set_result("done")
    for thread in threads:
        thread.join()
    assert seen == ["done"] * 4


def test_cancelling_wakes_who_waits():
    future = Future()
    seen = []

    def wait():
        try:
            future.result()
        except CancelledError as error:
            seen.append(type(error))

    thread = threading.Thread(target=wait)
    thread.start()
    future.cancel()
    thread.join()
    assert seen == [CancelledError]


def test_callbacks_run_in_order_and_once():
    future = Future()
    calls = []
    for i in range(5):
        future.add_done_callback(lambda done, i=i: calls.append((i, done.result())))
    assert calls == []
    future.set_result("x")
    assert calls == [(i, "x") for i in range(5)]
    future.add_done_callback(lambda _: calls.append("late"))
    assert calls[-1] == "late"
    assert len(calls) == 6


def test_a_callback_that_raises_is_logged(caplog):
    future = Future()
    calls = []
    future.add_done_callback(lambda _: 1 / 0)
    future.add_done_callback(calls.append)
    future.set_result(None)
    assert calls == [future]
    (record,) = caplog.records
    assert record.getMessage().startswith("exception calling callback for <Future")
    assert record.exc_info[0] is ZeroDivisionError
    assert record.name == "concurrent.futures"


def test_a_callback_may_be_no_ordinary_error():
    future = Future()

    def stop(_):
        raise SystemExit(3)

    future.add_done_callback(stop)
    with pytest.raises(SystemExit):
        future.set_result(None)
    assert future.result() is None


def test_cancelling_runs_callbacks():
    future = Future()
    calls = []
    future.add_done_callback(lambda done: calls.append(done.cancelled()))
    future.cancel()
    assert calls == [True]


def test_it_has_attributes_and_weak_references():
    future = Future()
    future.note = "n"  # type: ignore[attr-defined]
    assert future.__dict__ == {"note": "n"}
    reference = weakref.ref(future)
    del future
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("tie", ["attribute", "result", "exception", "callback", "waiters"])
def test_cycles_are_collected(tie):
    future = Future()
    if tie == "attribute":
        future.me = future  # type: ignore[attr-defined]
    elif tie == "result":
        future.set_result([future])
    elif tie == "exception":
        future.set_exception(ValueError(future))
    elif tie == "callback":
        future.add_done_callback(functools.partial(print, future))
    else:
        future._waiters.append(future)
    reference = weakref.ref(future)
    del future
    gc.collect()
    assert reference() is None


def test_a_raised_result_leaves_no_cycle():
    gc.collect()
    gc.disable()
    try:
        future = make("exception", ValueError("v"))
        reference = weakref.ref(future)
        with pytest.raises(ValueError, match="v"):
            future.result()
        del future
        assert reference() is None
    finally:
        gc.enable()


# --- the engine's futures


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


def test_time_runs_out_while_it_runs(pool, tmp_path):
    gate = Gate(tmp_path / "gate")
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


def test_queued_work_is_cancelled_and_running_work_is_not(pool, tmp_path):
    gates = [Gate(tmp_path / f"gate{i}") for i in range(2)]
    began = [Gate(tmp_path / f"began{i}") for i in range(2)]
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


def test_asyncio_cancels_it(pool, tmp_path):
    gates = [Gate(tmp_path / f"gate{i}") for i in range(2)]
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
