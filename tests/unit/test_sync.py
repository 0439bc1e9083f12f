"""Lock, Event, Barrier and Counter in shared memory: the stdlib's to the program, one to all processes."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import treadle
from treadle import ProcessPoolExecutor, shared
from treadle.shared import Barrier, Counter, Event, Lock

Kind = Callable[[], Any]
KINDS: list[Kind] = [Lock, Event, lambda: Barrier(2), Counter]


@pytest.fixture
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2) as pool:
        yield pool


# --- the lock


def test_a_lock_is_the_stdlibs_to_its_user() -> None:
    lock = Lock()
    assert not lock.locked()
    assert lock.acquire() is True
    assert lock.locked()
    assert lock.acquire(False) is False
    assert lock.acquire(blocking=False) is False
    assert "locked" in repr(lock)
    lock.release()
    assert "unlocked" in repr(lock)
    with lock as entered:
        assert entered is True
        assert lock.locked()
    assert not lock.locked()
    assert lock.acquire(timeout=3)
    lock.release()
    assert lock.acquire(True, None)
    lock.release()


def test_a_lock_takes_the_arguments_that_the_stdlibs_takes() -> None:
    lock = Lock()
    for arguments in ((False, 1), (True, -2), (False, 0), (True, float("nan"))):
        with pytest.raises(ValueError, match=r"timeout|NaN"):
            lock.acquire(*arguments)
    with pytest.raises(TypeError):
        lock.acquire(True, "soon")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unexpected keyword argument 'wait'"):
        lock.acquire(wait=True)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="multiple values for argument 'blocking'"):
        lock.acquire(True, blocking=True)  # type: ignore[misc]
    with pytest.raises(TypeError, match="at most 2"):
        lock.acquire(True, 1, 2)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Lock(1)  # type: ignore[call-arg]
    assert not lock.locked()


def test_a_lock_belongs_to_its_thread() -> None:
    lock = Lock()
    with pytest.raises(RuntimeError, match="does not hold the lock"):
        lock.release()
    lock.acquire()
    with pytest.raises(RuntimeError, match="holds the lock already"):
        lock.acquire()
    with pytest.raises(RuntimeError, match="holds the lock already"):
        lock.acquire(timeout=10)
    failures: list[BaseException] = []

    def release() -> None:
        try:
            lock.release()
        except RuntimeError as error:
            failures.append(error)

    thread = threading.Thread(target=release)
    thread.start()
    thread.join()
    assert len(failures) == 1
    lock.release()


def test_a_lock_waits_for_another_thread_and_no_longer_than_its_timeout() -> None:
    lock, taken, free = Lock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            free.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    assert lock.acquire(timeout=0.001) is False
    assert lock.acquire(timeout=0) is False
    threading.Timer(0.0, free.set).start()
    assert lock.acquire() is True
    lock.release()
    thread.join()


def end_with(lock: Lock) -> None:
    lock.acquire()


def test_a_thread_that_ends_with_the_lock_is_reported_once() -> None:
    lock = Lock()
    thread = threading.Thread(target=end_with, args=(lock,))
    thread.start()
    thread.join()
    with pytest.raises(treadle.LockHolderDied, match="This thread holds it now"):
        lock.acquire()
    assert lock.locked()
    lock.release()
    with lock:
        pass


def test_with_passes_the_report_on() -> None:
    lock = Lock()
    thread = threading.Thread(target=end_with, args=(lock,))
    thread.start()
    thread.join()
    for _ in range(3):
        with pytest.raises(treadle.LockHolderDied, match="`with` has not taken it"), lock:
            pytest.fail("it is not entered")
        assert not lock.locked()
    with pytest.raises(treadle.LockHolderDied):
        lock.acquire(blocking=False)
    lock.release()
    with lock:
        pass


def test_the_errors_are_what_handlers_catch() -> None:
    assert issubclass(treadle.LockHolderDied, treadle.TreadleError)
    assert issubclass(treadle.LockHolderDied, RuntimeError)
    assert issubclass(treadle.BrokenBarrier, treadle.TreadleError)
    assert issubclass(treadle.BrokenBarrier, threading.BrokenBarrierError)


class Interrupt(Exception):
    pass


@pytest.fixture
def alarms() -> Iterator[None]:
    """An exception in the main thread, again and again until it has come."""

    def on_alarm(number: int, frame: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise Interrupt

    before = signal.signal(signal.SIGALRM, on_alarm)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("alarms")
def test_every_wait_ends_with_what_a_signals_handler_raises() -> None:
    lock, event, barrier, done = Lock(), Event(), Barrier(2), threading.Event()
    taken = threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    for wait in (lock.acquire, event.wait, barrier.wait):
        with pytest.raises(Interrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
            wait()
    done.set()
    thread.join()
    assert not barrier.broken
    assert barrier.n_waiting == 0
    assert lock.acquire(timeout=10)
    lock.release()


def test_a_wait_goes_on_after_a_signals_handler() -> None:
    event, handled = Event(), []

    def on_alarm(number: int, frame: object) -> None:
        handled.append(number)
        if len(handled) == 3:
            event.set()
            event.clear()

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        assert event.wait() is True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(handled) >= 3


# --- the event, the barrier and the counter


def test_an_event_is_set_cleared_and_waited_for() -> None:
    event = Event()
    assert not event.is_set()
    assert "unset" in repr(event)
    assert event.wait(0) is False
    assert event.wait(timeout=0.001) is False
    event.set()
    assert event.is_set()
    assert event.wait() is True
    event.clear()
    assert event.wait(0) is False


def test_a_barrier_numbers_those_who_pass() -> None:
    barrier, indices = Barrier(4), []
    threads = [threading.Thread(target=lambda: indices.append(barrier.wait())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(indices) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert (barrier.parties, barrier.n_waiting, barrier.broken) == (4, 0, False)
    assert "waiters=0/4" in repr(barrier)


def test_a_barrier_breaks_at_its_timeout_until_it_is_reset() -> None:
    barrier = Barrier(2, timeout=0.001)
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()
    assert barrier.broken
    assert "broken" in repr(barrier)
    with pytest.raises(treadle.BrokenBarrier, match="the barrier is broken"):
        barrier.wait(60)
    barrier.reset()
    assert "waiters=0/2" in repr(barrier)
    barrier.abort()
    assert "broken" in repr(barrier)


@pytest.mark.parametrize("parties", [0, -1, 4097])
def test_a_barrier_has_parties_and_not_too_many(parties: int) -> None:
    with pytest.raises(ValueError, match="1 to 4096 parties"):
        Barrier(parties)


def test_a_counter_adds_in_64_bits() -> None:
    counter = Counter(5)
    assert counter.add() == 6
    assert counter.add(-10) == -4
    assert counter.value == -4
    counter.set((1 << 63) - 1)
    assert counter.add(1) == -(1 << 63)
    assert Counter().value == 0
    for method in (counter.add, counter.set, Counter):
        with pytest.raises(OverflowError):
            method(1 << 63)
        with pytest.raises(TypeError):
            method("one")  # type: ignore[arg-type]


# --- passing them to tasks


def add(lock: Lock, counter: Counter, table: list[Counter]) -> None:
    for _ in range(50):
        with lock:
            counter.set(counter.value + 1)
        table[0].add(2)


def test_arguments_are_the_same_objects_in_all_processes(pool: ProcessPoolExecutor) -> None:
    lock, counter, other = Lock(), Counter(), Counter()
    for future in [pool.submit(add, lock, counter, [other]) for _ in range(20)]:
        future.result()
    assert counter.value == 1000
    assert other.value == 2000


def test_containers_keywords_globals_and_closures_carry_them(pool: ProcessPoolExecutor) -> None:
    lock, counter = Lock(), Counter()

    def by_closure(number: int) -> int:
        with lock:
            return counter.add(number)

    assert pool.submit(by_closure, 3).result() == 3
    assert pool.submit(lambda **named: named["deep"][0]["counter"].add(4), deep=[{"counter": counter}]).result() == 7
    assert sorted(pool.map(lambda c: c.add(1), [counter] * 3)) == [8, 9, 10]


def test_tasks_meet_at_a_barrier_and_wait_for_an_event(pool: ProcessPoolExecutor) -> None:
    barrier, event, counter = Barrier(3, timeout=500), Event(), Counter()

    def meet() -> int:
        index = barrier.wait()
        if index == 0:
            event.set()
        event.wait()
        return counter.add(1)

    futures = [pool.submit(meet) for _ in range(2)]
    assert sorted([meet(), *(future.result() for future in futures)]) == [1, 2, 3]


@pytest.mark.parametrize("method", ["zygote", "fork", "forkserver", "spawn"])
def test_every_way_to_start_carries_them(method: Any) -> None:
    lock, counter = Lock(), Counter()
    with ProcessPoolExecutor(1, start_method=method) as pool:
        pool.submit(add, lock, counter, [counter]).result()
    assert counter.value == 150


def nested(lock: Lock, counter: Counter) -> None:
    with ProcessPoolExecutor(1) as inner:
        inner.submit(add, lock, counter, [counter]).result()


def test_pools_in_workers_carry_them_on(pool: ProcessPoolExecutor) -> None:
    lock, counter = Lock(), Counter()
    pool.submit(nested, lock, counter).result()
    assert counter.value == 150


@pytest.mark.parametrize("kind", KINDS)
def test_they_go_to_tasks_and_nowhere_else(pool: ProcessPoolExecutor, kind: Kind) -> None:
    thing = kind()
    for send in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"can only be passed to tasks"):
            send(thing)
    with pytest.raises(treadle.TravelError, match=r"the result.*can only be passed to tasks"):
        pool.submit(lambda thing: thing, thing).result()


@pytest.mark.parametrize("kind", KINDS)
def test_their_memory_goes_with_them(pool: ProcessPoolExecutor, kind: Kind) -> None:
    gc.collect()
    before = shared.info()["blocks"]
    thing = kind()
    assert shared.info()["blocks"] == before + 1
    pool.submit(repr, thing).result()
    del thing
    gc.collect()
    pool.submit(gc.collect).result()
    pool.submit(gc.collect).result()
    assert shared.info()["blocks"] <= before + 1  # a worker tells what it still holds with its next reply


def test_a_child_of_multiprocessing_inherits_them() -> None:
    context = multiprocessing.get_context("fork")
    lock, counter, event = Lock(), Counter(), Event()

    def use() -> None:
        with lock:
            counter.add(os.getpid())
        event.set()

    process = context.Process(target=use)
    process.start()
    assert event.wait()
    process.join()
    assert counter.value == process.pid


def test_a_task_that_is_cancelled_leaves_its_wait() -> None:
    lock, event, here = Lock(), Event(), Event()

    def wait_inside() -> None:
        with lock:
            here.set()
            event.wait()

    with ProcessPoolExecutor(1) as pool:
        future = pool.submit(wait_inside)
        here.wait()
        assert future.cancel(force=True)
        assert lock.acquire()
        lock.release()
        assert pool.submit(abs, -1).result() == 1
