"""A worker was killed: how long until its place is taken?"""

from __future__ import annotations

import concurrent.futures.process
import functools
import multiprocessing
import os
import signal
import statistics
import time

import harness
from harness import Claim, Figures, Subject
from peers import Loky, MultiprocessingPool, Peer, StdlibFork, StdlibForkserver, Treadle

KILLS = 20
PATIENCE_S = 3


class PatientPool(MultiprocessingPool):
    """Its call gives up after a while: a worker that dies idle takes the lock of the queue with it."""

    def stop(self) -> None:
        """Would wait for that lock: left to the end of the sample's process."""

    def call(self, fn: object, *args: object) -> object:
        return self.pool.apply_async(fn, args).get(PATIENCE_S)


def measure(peer: type[Peer], settings: Figures) -> Figures:
    times = []
    with peer(1) as pool:
        for _ in range(KILLS):
            victim = pool.call(os.getpid)
            start = time.perf_counter()
            os.kill(victim, signal.SIGKILL)
            try:
                wait_for_another(pool, victim)
            except multiprocessing.TimeoutError:
                return {"ms": float("inf")}
            times.append(time.perf_counter() - start)
    return {"ms": statistics.median(times) * 1e3, "worst": max(times) * 1e3}


def wait_for_another(pool: Peer, victim: int) -> None:
    """Until a call is served by another worker; where the death broke the pool, a new one is made."""
    while True:
        try:
            if pool.call(os.getpid) != victim:
                return
        except concurrent.futures.process.BrokenProcessPool:
            if not isinstance(pool, Treadle):
                pool.stop()
                pool.start()


POOLS = {
    "treadle": Treadle,
    "stdlib, fork: a new pool": StdlibFork,
    "stdlib, forkserver: a new pool": StdlibForkserver,
    "multiprocessing.Pool": PatientPool,
    "loky: a new pool": Loky,
}

BENCHMARK = harness.Benchmark(
    question="A worker was killed: how long until its place is taken?",
    method=f"The only worker of a pool, idle, is killed with SIGKILL; the time until a call is served by another one. "
    f"{KILLS} times in each sample. Where a death breaks the pool, a new pool is made as soon as a call says so; "
    f"*never*: no answer within {PATIENCE_S} s.",
    subjects=[
        Subject(name, functools.partial(measure, peer), requires=harness.requirement(name))
        for name, peer in POOLS.items()
    ],
    columns={"ms": "median, ms", "worst": "longest, ms"},
    claims=[Claim("a killed worker's replacement serves", lambda done: done["treadle"]["ms"], at_most=20, unit=" ms")],
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
