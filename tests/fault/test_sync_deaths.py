"""Who holds a lock, or waits at a barrier, is killed: the others are told, and nobody waits for the dead."""

from __future__ import annotations

import contextlib
import os
import signal
from concurrent.futures import Future, wait

import pytest
import treadle
from treadle import ProcessPoolExecutor
from treadle.shared import Barrier, Counter, Event, Lock

WAITERS = 4


def hold(lock: Lock, pid: Counter, taken: Event) -> None:
    with lock:
        pid.set(os.getpid())
        taken.set()
        signal.pause()


def take(lock: Lock, comers: Counter) -> str:
    comers.add()
    try:
        lock.acquire()
    except treadle.LockHolderDied:
        told = "told"
    else:
        told = "not told"
    lock.release()
    return told


def enter(lock: Lock) -> None:
    with lock:
        pass


def test_exactly_one_of_those_who_wait_is_told_and_holds_the_lock() -> None:
    lock, pid, comers, taken = Lock(), Counter(), Counter(), Event()
    with ProcessPoolExecutor(WAITERS + 1) as pool:
        holder = pool.submit(hold, lock, pid, taken)
        taken.wait()
        waiters = [pool.submit(take, lock, comers) for _ in range(WAITERS)]
        while comers.value < WAITERS:
            os.sched_yield()
        assert not any(waiter.done() for waiter in waiters)
        os.kill(pid.value, signal.SIGKILL)
        assert sorted(waiter.result() for waiter in waiters) == ["not told"] * (WAITERS - 1) + ["told"]
        with pytest.raises(treadle.WorkerDied):
            holder.result()
        with lock:
            pass
        pool.submit(enter, lock).result()


def test_tasks_that_use_with_all_fail_until_the_program_has_looked() -> None:
    lock, pid, taken = Lock(), Counter(), Event()
    with ProcessPoolExecutor(2) as pool:
        holder = pool.submit(hold, lock, pid, taken)
        taken.wait()
        os.kill(pid.value, signal.SIGKILL)
        for _ in range(3):
            with pytest.raises(treadle.LockHolderDied):
                pool.submit(enter, lock).result()
        with pytest.raises(treadle.LockHolderDied):
            lock.acquire()
        lock.release()
        pool.submit(enter, lock).result()
        assert isinstance(holder.exception(), treadle.WorkerDied)


def keep(lock: Lock) -> int:
    lock.acquire()
    return os.getpid()


def test_a_worker_that_leaves_with_a_lock_is_reported() -> None:
    lock = Lock()
    with ProcessPoolExecutor(1) as pool:
        pool.submit(keep, lock).result()
        assert lock.locked()
    with pytest.raises(treadle.LockHolderDied):
        lock.acquire()
    lock.release()


def meet(barrier: Barrier, pids: list[Counter], number: int) -> int:
    pids[number].set(os.getpid())
    return barrier.wait()


def waiting(barrier: Barrier, count: int) -> None:
    while barrier.n_waiting != count:
        os.sched_yield()


def test_the_death_of_a_party_breaks_the_barrier_for_those_who_wait() -> None:
    barrier, pids = Barrier(WAITERS + 1), [Counter() for _ in range(WAITERS)]
    with ProcessPoolExecutor(WAITERS) as pool:
        parties = [pool.submit(meet, barrier, pids, number) for number in range(WAITERS)]
        waiting(barrier, WAITERS)
        os.kill(pids[1].value, signal.SIGKILL)
        wait(parties)
        kinds: list[type[BaseException | None]] = [type(party.exception()) for party in parties]
        assert kinds.pop(1) is treadle.WorkerDied
        assert kinds == [treadle.BrokenBarrier] * (WAITERS - 1)
        with pytest.raises(treadle.BrokenBarrier):
            barrier.wait()
        barrier.reset()
        parties = [pool.submit(meet, barrier, pids, number) for number in range(WAITERS)]
        assert sorted([barrier.wait(), *(party.result() for party in parties)]) == list(range(WAITERS + 1))


def test_the_memory_of_a_lock_outlives_the_process_that_made_it_for_those_who_have_it() -> None:
    read, write = os.pipe()
    lock = Lock()
    child = os.fork()
    if child == 0:
        lock.acquire()
        os.write(write, b"x")
        signal.pause()
    os.read(read, 1)
    os.kill(child, signal.SIGKILL)
    with pytest.raises(treadle.LockHolderDied):
        lock.acquire()
    lock.release()
    os.waitpid(child, 0)
    os.close(read)
    os.close(write)


def add_both(lock: Lock, pair: list[Counter]) -> bool:
    """Both are the same wherever nobody holds the lock; the others see it where that was broken."""
    try:
        lock.acquire()
    except treadle.LockHolderDied:
        pair[0].set(pair[1].value)
    try:
        same = pair[0].value == pair[1].value
        pair[0].add()
        pair[1].add()
    finally:
        lock.release()
    return same


def test_a_storm_of_deaths_leaves_the_lock_usable() -> None:
    lock, pair = Lock(), [Counter(), Counter()]
    with ProcessPoolExecutor(3, retries=100) as pool:
        futures: list[Future[bool]] = []
        for _ in range(15):
            futures += [pool.submit(add_both, lock, pair) for _ in range(40)]
            futures[-30].result()
            busy = [worker["pid"] for worker in pool.stats()["workers"] if worker["state"] == "busy"]
            for pid in busy[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        assert all(future.result() for future in futures)
        assert pool.submit(add_both, lock, pair).result()
