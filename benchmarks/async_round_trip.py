"""How long is a call away in a coroutine: one after the other, and many gathered?"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import importlib
import multiprocessing
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import harness
import work
from harness import ENVIRONMENT, WORKERS, Claim, Figures, Round, Subject

SEQUENTIAL = 3000
GATHERED = 10_000
BATCHES = 3
US = 1e6

Call = Callable[[], Awaitable[Any]]


def figures(times: list[float], rates: list[float], stalls: list[float]) -> Figures:
    times.sort()
    return {
        "median_us": statistics.median(times) * US,
        "p99_us": times[len(times) * 99 // 100] * US,
        "gathered": statistics.median(rates),
        "stall_ms": statistics.median(stalls) * 1e3,
    }


async def worst_stall(over: asyncio.Event) -> float:
    """The longest time between two turns of the loop."""
    worst, last = 0.0, time.perf_counter()
    while not over.is_set():
        await asyncio.sleep(0)
        now = time.perf_counter()
        worst, last = max(worst, now - last), now
    return worst


async def measure(call: Call, sequential: int, gathered: int) -> Figures:
    for _ in range(sequential // 10):
        await call()
    await asyncio.gather(*[call() for _ in range(gathered // 10)])
    times = []
    for _ in range(sequential):
        start = time.perf_counter()
        await call()
        times.append(time.perf_counter() - start)
    rates, stalls = [], []
    for _ in range(BATCHES):
        start = time.perf_counter()
        await asyncio.gather(*[call() for _ in range(gathered)])
        rates.append(gathered / (time.perf_counter() - start))
    for _ in range(BATCHES):
        calls = asyncio.gather(*[call() for _ in range(gathered)])
        over = asyncio.Event()
        watching = asyncio.ensure_future(worst_stall(over))
        await calls
        over.set()
        stalls.append(await watching)
    return figures(times, rates, stalls)


def on(loop: str, main: Callable[[], Any]) -> Figures:
    factory = importlib.import_module(loop).new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        found: Figures = runner.run(main())
    return found


def treadle_run(loop: str, settings: Figures) -> Figures:
    treadle = importlib.import_module("treadle")
    with treadle.ProcessPoolExecutor(WORKERS) as pool:
        return on(loop, lambda: measure(lambda: pool.run(work.noop), SEQUENTIAL, GATHERED))


def treadle_executor(loop: str, settings: Figures) -> Figures:
    treadle = importlib.import_module("treadle")

    async def main(pool: Any) -> Figures:
        run = asyncio.get_running_loop().run_in_executor
        return await measure(lambda: run(pool, work.noop), SEQUENTIAL, GATHERED)

    with treadle.ProcessPoolExecutor(WORKERS) as pool:
        return on(loop, lambda: main(pool))


def stdlib_processes(loop: str, settings: Figures) -> Figures:
    async def main(pool: Any) -> Figures:
        run = asyncio.get_running_loop().run_in_executor
        return await measure(lambda: run(pool, work.noop), SEQUENTIAL // 3, GATHERED)

    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(WORKERS, context) as pool:
        return on(loop, lambda: main(pool))


def to_thread(loop: str, settings: Figures) -> Figures:
    return on(loop, lambda: measure(lambda: asyncio.to_thread(work.noop), SEQUENTIAL, GATHERED))


SUBJECTS = {
    "treadle run": treadle_run,
    "treadle run_in_executor": treadle_executor,
    "stdlib processes": stdlib_processes,
    "to_thread": to_thread,
}
LOOPS = ("asyncio", "uvloop")


def against(figure: str, peer: str, loop: str) -> Callable[[Round], float]:
    return lambda done: done[f"treadle run, {loop}"][figure] / done[f"{peer}, {loop}"][figure]


def claims(loop: str) -> list[Claim]:
    return [
        Claim(f"median, of the stdlib's, {loop}", against("median_us", "stdlib processes", loop), at_most=0.1),
        Claim(f"p99, of the stdlib's, {loop}", against("p99_us", "stdlib processes", loop), at_most=0.2),
        Claim(f"median, of to_thread's, {loop}", against("median_us", "to_thread", loop), at_most=0.5),
        Claim(f"gathered, against the stdlib, {loop}", against("gathered", "stdlib processes", loop), at_least=15),
        Claim(f"gathered, against to_thread, {loop}", against("gathered", "to_thread", loop), at_least=4),
        Claim(
            f"the longest turn while 10,000 results come, {loop}",
            lambda done: done[f"treadle run, {loop}"]["stall_ms"],
            at_most=1,
            unit=" ms",
        ),
    ]


BENCHMARK = harness.Benchmark(
    question="How long is a call away in a coroutine: one after the other, and many gathered?",
    method=f"A function that does nothing, awaited {SEQUENTIAL:,} times one after the other; then {GATHERED:,} calls "
    f"gathered, the median of {BATCHES} such batches; then as many, while another task turns with the loop and notes "
    "the longest time between two turns.",
    subjects=[
        Subject(
            f"{name}, {loop}",
            functools.partial(measured, loop),
            requires=loop if loop != "asyncio" else "treadle" if name.startswith("treadle") else "",
            environment=ENVIRONMENT,
        )
        for loop in LOOPS
        for name, measured in SUBJECTS.items()
    ],
    columns={
        "median_us": "one: median us",
        "p99_us": "p99 us",
        "gathered": "gathered: calls/s",
        "stall_ms": "worst stall ms",
    },
    claims=[claim for loop in LOOPS for claim in claims(loop)],
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
