"""What the watchdog sees, on each loop, in debug mode or not."""

from __future__ import annotations

import asyncio
import hashlib
import os
import queue
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from treadle import aio
from treadle.aio import _watchdog_reporter as reporter
from treadle.aio._watchdog import Block

Run = Callable[..., Any]
THRESHOLD_S = 0.002


def test_a_coroutine_that_waits_in_a_system_call_is_reported_while_it_does(run: Run, reports: Any) -> None:
    async def blocking() -> None:
        while not reports.have_come():
            os.read(reports.reading, 1)  # until it was reported

    with aio.watchdog(THRESHOLD_S, reports) as watchdog:
        block = reports.provoke(lambda: run(blocking()))
    assert block.site is not None
    assert (block.site.filename, block.site.function) == (__file__, "blocking")
    assert block.ended and block.seconds >= block.threshold == THRESHOLD_S
    report = watchdog.report()
    assert any(
        blame.site == block.site and blame.count >= 1 and blame.longest >= THRESHOLD_S
        for blame in report.sites + report.turns
    )


def test_the_task_and_the_callback_are_named(run: Run, reports: Any) -> None:
    async def blocking() -> None:
        while not reports.have_come():
            pass

    async def main() -> None:
        await asyncio.create_task(blocking(), name="the guilty one")

    with aio.watchdog(THRESHOLD_S, reports):
        block = reports.provoke(lambda: run(main()))
    assert block.task == "the guilty one"
    assert block.callback is not None and block.callback.endswith("blocking")
    assert "the guilty one" in str(block) and "in blocking" in str(block)


def test_a_plain_callback_is_reported(run: Run, reports: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def blocking() -> None:
            reports.wait()
            done.set_result(None)

        loop.call_soon(blocking)
        await done

    with aio.watchdog(THRESHOLD_S, reports):
        assert reports.provoke(lambda: run(main())).task is None


def test_the_running_loop_is_watched_from_the_call_on(run: Run, reports: Any) -> None:
    def blocking() -> None:
        reports.wait()

    async def main() -> None:
        watchdog = aio.watchdog(THRESHOLD_S, reports)
        blocking()
        watchdog.stop()

    reports.provoke(lambda: run(main()))


def test_loops_in_several_threads_are_each_watched(run: Run, make_reports: Callable[[], Any]) -> None:
    def watch(report: Any) -> None:
        async def main() -> None:
            with aio.watchdog(THRESHOLD_S, report):
                blocking()

        def blocking() -> None:
            report.wait()

        report.provoke(lambda: run(main()))

    reports = [make_reports() for _ in range(3)]
    threads = [
        threading.Thread(target=watch, args=(report,), name=f"loop {number}") for number, report in enumerate(reports)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, report in enumerate(reports):
        assert {block.thread for block in report.blocks} == {f"loop {number}"}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (1, 0, 2)])
def test_watchdogs_of_one_loop_may_end_in_any_order(
    run: Run, make_reports: Callable[[], Any], order: tuple[int, ...]
) -> None:
    every = [make_reports() for _ in order]

    def blocking(those: list[Any]) -> None:
        for reports in those:
            reports.wait()

    async def main() -> None:
        dogs = [aio.watchdog(THRESHOLD_S, report) for report in every]
        selector = getattr(asyncio.get_running_loop(), "_selector", None)
        blocking(every)
        for number in order:
            dogs[number].stop()
            await asyncio.sleep(0)
        assert selector is None or "select" not in vars(selector)

    run(main())
    for reports in every:
        assert reports.blocks


def test_nothing_of_it_is_left_behind(run: Run) -> None:
    original = asyncio.BaseEventLoop.run_forever
    for _ in range(3):
        with aio.watchdog(1):
            run(asyncio.sleep(0))
    assert asyncio.BaseEventLoop.run_forever is original
    assert "__init_subclass__" not in vars(asyncio.AbstractEventLoop)
    assert not reporter.watched


def test_a_loop_that_is_closed_ends_its_watch(run: Run) -> None:
    dogs = []

    async def main() -> None:
        dogs.append(aio.watchdog(1))

    run(main())
    assert not dogs[0]._loops and not reporter.watched


def test_a_slow_turn_of_many_callbacks_is_seen_as_such(run: Run) -> None:
    """Each of them waits until the watchdog has looked again, which it does while the turn lasts."""
    dogs: list[aio.watchdog] = []
    seen: list[Block] = []

    def small() -> None:
        looked.wait(0.002)

    looked = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        while not [block for block in seen if block.callbacks > 1]:
            for _ in range(50):
                loop.call_soon(small)
            await asyncio.sleep(0)

    with aio.watchdog(0.01, seen.append) as dog:
        dogs.append(dog)
        run(main())
    assert any(blame.site and blame.site.function == "small" for blame in dog.report().turns)


def test_a_stack_comes_from_inside_c_code(reports: Any) -> None:
    """Its C code lets go of the GIL, and runs no bytecode meanwhile."""

    async def blocking() -> None:
        while not reports.have_come():
            hashlib.pbkdf2_hmac("sha256", b"", b"", 20_000)

    with aio.watchdog(THRESHOLD_S, reports):
        reports.provoke(lambda: asyncio.run(blocking()))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there are no such frames")
def test_a_stack_is_written_while_what_a_callback_had_is_destroyed(run: Run) -> None:
    """The interpreter is between two functions then, and C code is all that runs: see binding/trampoline.c."""
    waiting: queue.SimpleQueue[None] = queue.SimpleQueue()
    references = []

    class Thing:
        pass

    def blocking() -> None:
        thing = Thing()
        references.append(weakref.ref(thing, waiting.get))  # its end waits for the report

    async def main() -> None:
        asyncio.get_running_loop().call_soon(blocking)
        while not references:
            await asyncio.sleep(0)

    with aio.watchdog(THRESHOLD_S, lambda block: waiting.put(None)) as watchdog:
        run(main())
    assert watchdog.blocks
