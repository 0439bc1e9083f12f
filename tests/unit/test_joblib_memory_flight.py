"""treadle.joblib.Memory: a call is computed once, by whomever, and who waits blocks nobody and never himself."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from treadle.joblib import CacheWarning, MemorizedResult, Memory, _memory_flight, _memory_local


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Any]:
    yield Memory(tmp_path / "cache", verbose=0)
    assert _memory_flight.flights == {} and _memory_flight.waits == [] and _memory_flight.busy == set()
    _memory_local._handles.clear()


class Computation:
    """Calls that wait until they are let go."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.may_end = threading.Event()
        self.calls: list[int] = []

    def run(self, x: int) -> int:
        self.calls.append(x)
        self.started.set()
        assert self.may_end.wait()
        return x * 2


# --- threads and processes


def test_threads_compute_a_call_once(memory: Any) -> None:
    computation = Computation()
    run = computation.run

    def double(x: int) -> int:
        return run(x)

    cached = memory.cache(double)
    with ThreadPoolExecutor(8) as threads:
        found = [threads.submit(cached, 3) for _ in range(8)]
        computation.started.wait()
        found += [threads.submit(cached, 3) for _ in range(8)]
        computation.may_end.set()
        assert [each.result() for each in found] == [6] * 16
    assert computation.calls == [3]


def test_a_wait_can_be_interrupted(memory: Any) -> None:
    computation = Computation()
    run = computation.run

    def double(x: int) -> int:
        return run(x)

    cached = memory.cache(double)
    main, go = threading.get_ident(), threading.Event()

    def interrupt() -> None:
        go.wait()
        signal.pthread_kill(main, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with ThreadPoolExecutor(2) as threads:
            first = threads.submit(cached, 3)
            computation.started.wait()
            threads.submit(interrupt)
            with pytest.raises(KeyboardInterrupt):
                go.set()
                cached(3)
            computation.may_end.set()
            assert first.result() == cached(3) == 6
    finally:
        signal.signal(signal.SIGINT, before)
    assert computation.calls == [3]


def test_a_computation_that_fails_is_anothers(memory: Any) -> None:
    calls: list[int] = []
    lock = threading.Lock()
    barrier = threading.Barrier(4)

    def fails_at_first(x: int) -> int:
        with lock:
            calls.append(x)
            if len(calls) == 1:
                raise LookupError("the first")
        return x

    cached = memory.cache(fails_at_first)

    def call() -> object:
        barrier.wait()
        try:
            return cached(1)
        except LookupError as error:
            return str(error)

    with ThreadPoolExecutor(4) as threads:
        found = Counter(each.result() for each in [threads.submit(call) for _ in range(4)])
    assert found == {"the first": 1, 1: 3}
    assert len(calls) == 2


def test_a_function_that_calls_itself_with_the_same_arguments_computes(memory: Any) -> None:
    depths: list[int] = []

    def deep(x: int) -> int:
        depths.append(x)
        return cached(x) + 1 if len(depths) < 3 else 0

    cached = memory.cache(deep)
    assert cached(1) == 2
    assert len(depths) == 3


def test_two_that_wait_for_each_other_compute(memory: Any) -> None:
    barrier = threading.Barrier(2)
    state = threading.local()
    calls: list[int] = []

    def other(x: int) -> int:
        calls.append(x)
        if getattr(state, "depth", 0):
            return x
        state.depth = 1
        barrier.wait()
        return cached(1 - x) + 10

    cached = memory.cache(other)
    with ThreadPoolExecutor(2) as threads:
        found = [threads.submit(cached, x) for x in (0, 1)]
        values = [each.result() for each in found]
    # One of them computes the other's call itself, and the other gets what came out, or does so as well.
    assert sorted(values) in ([10, 20], [11, 21], [10, 11])


SCRIPT = """
    import sys
    from treadle.joblib import Memory

    def square(x):
        with open(sys.argv[2], "a") as file:
            file.write(f"{x}\\n")
        return bytes([x]) * 10_000

    cached = Memory(sys.argv[1], verbose=0).cache(square)
    sys.stdin.read()
    order = [(x * int(sys.argv[3])) % 41 for x in range(41)]
    assert all(cached(x) == bytes([x]) * 10_000 for _ in range(3) for x in order)
"""


def test_processes_compute_each_call_once(memory: Any, tmp_path: Path) -> None:
    script, witness = tmp_path / "script.py", tmp_path / "witness"
    script.write_text(textwrap.dedent(SCRIPT))
    path = {**os.environ, "PYTHONPATH": ":".join(entry for entry in sys.path if entry)}
    programs = [
        subprocess.Popen(
            [sys.executable, str(script), memory.location, str(witness), str(number + 1)],
            stdin=subprocess.PIPE,
            env=path,
        )
        for number in range(16)
    ]
    for program in programs:
        assert program.stdin is not None
        program.stdin.close()
    assert [program.wait() for program in programs] == [0] * len(programs)
    assert sorted(map(int, witness.read_text().split())) == list(range(41))


def test_a_killed_computation_is_taken_over(memory: Any, tmp_path: Path, gate: Any) -> None:
    source = """
        import os, signal, sys
        from treadle.joblib import Memory

        def slow(x):
            if sys.argv[2:]:
                open(sys.argv[2]).close()
                signal.pause()
            return x * 2

        print(Memory(sys.argv[1], verbose=0).cache(slow)(21))
    """
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(source))
    path = {**os.environ, "PYTHONPATH": ":".join(entry for entry in sys.path if entry)}
    command = [sys.executable, str(script), str(memory.location)]
    with subprocess.Popen([*command, gate.path], env=path) as first:
        gate.open()  # it computes
        with subprocess.Popen(command, env=path, stdout=subprocess.PIPE, text=True) as second:
            first.kill()
            assert second.communicate()[0] == "42\n"


def test_without_locks_a_warning_says_so_once(memory: Any) -> None:
    engine = _memory_local._engine
    place = memory.store_backend.place
    _memory_local._handles[place] = engine.Store(place[0], locks=False)
    with pytest.warns(CacheWarning, match="no locks") as caught:
        for cached in (memory.cache(lambda x: x), memory.cache(lambda y: y)):
            assert [cached(x) for x in (1, 2, 1)] == [1, 2, 1]
    assert len(caught) == 1


# --- asynchronous functions


class Slow:
    """An asynchronous function that waits until it is let go."""

    def __init__(self, memory: Any) -> None:
        self.started = asyncio.Event()
        self.may_end = asyncio.Event()
        self.calls: list[int] = []
        mine = self

        async def slow(x: int) -> int:
            mine.calls.append(x)
            mine.started.set()
            await mine.may_end.wait()
            return x * 2

        self.cached = memory.cache(slow)


def test_tasks_compute_a_call_once(memory: Any) -> None:
    async def main() -> None:
        slow = Slow(memory)
        tasks = [asyncio.create_task(slow.cached(3)) for _ in range(5)]
        await slow.started.wait()
        tasks += [asyncio.create_task(slow.cached(3)) for _ in range(5)]
        slow.may_end.set()
        assert await asyncio.gather(*tasks) == [6] * 10
        assert await slow.cached(3) == 6
        assert slow.calls == [3]

    asyncio.run(main())


def test_a_wait_for_another_thread_does_not_block_the_loop(memory: Any) -> None:
    computation = Computation()
    run = computation.run
    ticks: list[int] = []

    async def double(x: int) -> int:
        return await asyncio.to_thread(run, x)

    cached = memory.cache(double)

    async def main() -> int:
        waiting = asyncio.create_task(cached(3))
        while len(ticks) < 100:  # the loop goes on, while another loop's thread computes
            await asyncio.sleep(0)
            ticks.append(1)
        assert not waiting.done()
        computation.may_end.set()
        return int(await waiting)

    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(lambda: asyncio.run(cached(3)))
        computation.started.wait()
        assert asyncio.run(main()) == 6
        assert other.result() == 6
    assert computation.calls == [3]


def test_who_is_cancelled_while_it_waits_leaves_the_others_alone(memory: Any) -> None:
    computation = Computation()
    run = computation.run

    async def double(x: int) -> int:
        return await asyncio.to_thread(run, x)

    cached = memory.cache(double)

    async def main() -> None:
        tasks = [asyncio.create_task(cached(3)) for _ in range(3)]
        for _ in range(10):
            await asyncio.sleep(0)
        tasks[0].cancel()  # which waited for all of them
        tasks[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        computation.may_end.set()
        assert await tasks[2] == 6

    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(lambda: asyncio.run(cached(3)))
        computation.started.wait()
        asyncio.run(main())
        assert other.result() == 6
    assert computation.calls == [3]
    assert cached.check_call_in_cache(3)


def test_who_is_thrown_away_while_it_waits_leads_nothing(memory: Any) -> None:
    way = memory.cache(abs)._way
    calls = [way.look((-3,), {}) for _ in range(3)]
    role = way.enter(calls[0], 1)

    async def main() -> None:
        waiting = _memory_flight.Waiting(way, calls[1], 2).role()
        waiting.send(None)
        waiting.close()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    (thread,) = [each for each in threading.enumerate() if each.name == "treadle-memory"]
    way.leave(calls[0], role, 1)
    thread.join()
    assert way.enter(calls[2], 3) == role
    way.leave(calls[2], role, 3)
    loop.close()


def test_a_cancelled_computation_is_anothers(memory: Any) -> None:
    async def main() -> None:
        slow = Slow(memory)
        first = asyncio.create_task(slow.cached(3))
        await slow.started.wait()
        second = asyncio.create_task(slow.cached(3))
        await asyncio.sleep(0)
        first.cancel()
        slow.may_end.set()
        assert await second == 6
        assert first.cancelled()
        assert slow.calls == [3, 3]

    asyncio.run(main())


def test_tasks_that_wait_for_each_other_compute(memory: Any) -> None:
    async def main() -> None:
        both = asyncio.Barrier(2)
        first = {0, 1}

        async def other(x: int) -> int:
            if x not in first:
                return x
            first.discard(x)
            await both.wait()
            return await cached(1 - x) + 10

        cached = memory.cache(other)
        values = await asyncio.gather(cached(0), cached(1))
        assert all(value in (10, 11, 20, 21) for value in values)

    asyncio.run(main())


def test_an_asynchronous_function_has_references_too(memory: Any) -> None:
    async def double(x: int) -> int:
        return x * 2

    async def main() -> None:
        cached = memory.cache(double)
        shelved = await cached.call_and_shelve(2)
        assert isinstance(shelved, MemorizedResult) and shelved.get() == 4
        assert (await cached.call(2))[0] == 4
        assert cached.check_call_in_cache(2) and await memory.eval(double, 2) == 4
        loose = Memory(None).cache(double)
        assert await loose(2) == 4 and (await loose.call_and_shelve(2)).get() == 4
        assert await loose.call(2) == (4, {})

    asyncio.run(main())


def test_an_asynchronous_function_works_on_joblibs_layout(tmp_path: Path) -> None:
    calls: list[int] = []

    async def double(x: int) -> int:
        calls.append(x)
        return x * 2

    async def main() -> None:
        cached = Memory(tmp_path, verbose=0, backend="joblib").cache(double)
        assert [await cached(2) for _ in range(3)] == [4, 4, 4]

    asyncio.run(main())
    assert calls == [2]
