"""What happens when a loop is blocked: log, warn, raise, a callable, the environment's."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from treadle import aio
from treadle.aio import _watchdog_block as block_module
from treadle.aio import _watchdog_reporter as reporter
from treadle.aio._watchdog import Block, LoopBlocked, LoopBlockedWarning

Run = Callable[..., Any]
THRESHOLD_S = 0.002


def test_raise_ends_the_task_that_blocks_with_its_stack(run: Run) -> None:
    def blocking() -> None:
        while True:
            pass

    async def main() -> str:
        with aio.watchdog(THRESHOLD_S, "raise"):  # the loop's own end is not watched
            try:
                await asyncio.create_task(forever())
            except LoopBlocked as error:
                return str(error)
        return ""

    async def forever() -> None:
        blocking()

    def attempt() -> str:
        try:
            return str(run(main()))
        except LoopBlocked:
            return ""  # one that the machine made hit another line

    while "blocking" not in (text := attempt()):
        pass
    assert "in blocking" in text


def test_raise_reaches_loops_of_other_threads(run: Run) -> None:
    caught: list[BaseException] = []

    async def main() -> None:
        with aio.watchdog(THRESHOLD_S, "raise"):
            try:
                while True:
                    pass
            except LoopBlocked as error:
                caught.append(error)

    def attempt() -> None:
        with contextlib.suppress(LoopBlocked):  # one that the machine made hit another line
            run(main())

    while not caught:
        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()


def function_in(filename: str, function: str, inner: Callable[[], object]) -> Callable[[], object]:
    """One of such a file, which calls inner()."""
    namespace: dict[str, Any] = {"inner": inner}
    exec(compile(f"def {function}():\n    return inner()\n", filename, "exec"), namespace)
    made: Callable[[], object] = namespace[function]
    return made


@pytest.mark.parametrize(
    ("caller", "function", "ends_callback"),
    [
        ("/lib/asyncio/events.py", "_run", True),
        ("/lib/asyncio/base_events.py", "_run_once", False),  # logs, or adds callbacks
        ("/lib/uvloop/__init__.py", "run", True),
    ],
)
def test_raise_hits_callbacks_and_never_the_loop_itself(caller: str, function: str, ends_callback: bool) -> None:
    seen = []

    def callback() -> None:
        frame = sys._getframe()
        seen.append((block_module.entry_of(frame) is frame, block_module.ends_by_exception(frame, frame)))

    function_in(caller, function, callback)()
    assert seen == [(True, ends_callback)]


@pytest.mark.parametrize("library", [logging.__file__, aio.__file__])
def test_raise_leaves_alone_what_a_loop_of_another_language_runs_for_itself(library: str) -> None:
    seen = []

    def look() -> None:
        frame = sys._getframe(1)
        entry = block_module.entry_of(frame)
        assert entry is frame
        seen.append(block_module.ends_by_exception(frame, entry))

    function_in("/lib/uvloop/__init__.py", "run", function_in(library, "call", look))()
    assert seen == [False]


def test_warn_points_at_the_line(run: Run) -> None:
    async def main(before: int) -> None:
        with aio.watchdog(THRESHOLD_S, "warn"):
            while len(caught) == before:
                pass

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", LoopBlockedWarning)
        while not (ours := [warning for warning in caught if "in main" in str(warning.message)]):
            run(main(len(caught)))
    assert ours[0].category is LoopBlockedWarning
    assert ours[0].filename == __file__


def test_log_says_it_twice(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main(before: int) -> None:
        with aio.watchdog(THRESHOLD_S):
            while len(caplog.records) == before:
                pass

    with caplog.at_level(logging.WARNING, logger="treadle.aio"):
        while not [text for text in caplog.messages if "is blocked" in text and "in main" in text]:
            run(main(len(caplog.records)))
    assert [text for text in caplog.messages if "was blocked" in text and "in main" in text]


def test_an_exception_of_on_block_goes_to_the_loops_handler(run: Run) -> None:
    async def main() -> BaseException:
        loop = asyncio.get_running_loop()
        told: asyncio.Future[BaseException] = loop.create_future()

        def handler(*args: Any) -> None:  # rloop leaves the loop out
            if not told.done():
                told.set_result(args[-1]["exception"])

        def fail(block: Block) -> None:
            came.set()
            raise ZeroDivisionError("mine")

        came = threading.Event()
        loop.set_exception_handler(handler)
        with aio.watchdog(THRESHOLD_S, fail):
            came.wait()
            return await told

    assert isinstance(run(main()), ZeroDivisionError)


def test_on_block_may_stop_its_watchdog(run: Run) -> None:
    made, stopped = threading.Event(), threading.Event()

    async def main() -> None:
        def stop(block: Block) -> None:
            made.wait()
            dog.stop()
            stopped.set()

        dog = aio.watchdog(THRESHOLD_S, stop)
        made.set()
        stopped.wait()
        await asyncio.sleep(0)
        dog.stop()

    run(main())


def test_on_block_may_wait_for_the_loop_that_stops_its_watchdog(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter, "PATIENCE_S", 0)
    called, done = threading.Event(), threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def wait_for_loop(block: Block) -> None:
            called.set()
            with contextlib.suppress(RuntimeError):  # a second one may come too late
                loop.call_soon_threadsafe(done.set)
                done.wait()

        with aio.watchdog(THRESHOLD_S, wait_for_loop):
            called.wait()
        while not done.is_set():
            await asyncio.sleep(0)

    run(main())


@pytest.mark.parametrize("others", [0, 3])
def test_what_its_thread_does_is_told(run: Run, make_reports: Callable[[], Any], others: int) -> None:
    """Beside threads that compute in Python it waits for the GIL; that is inferred, and said so."""
    expected = "gil" if others else "computes"
    over = threading.Event()

    def compute() -> None:
        while not over.is_set():
            pass

    threads = [threading.Thread(target=compute) for _ in range(others)]
    for thread in threads:
        thread.start()
    try:
        found: list[Block] = []
        while not found:
            reports = make_reports()

            async def blocking(reports: Any = reports) -> None:
                while not reports.have_come():
                    pass

            with aio.watchdog(THRESHOLD_S, reports):
                run(blocking())
            found = [block for block in reports.blocks if block.doing == expected]
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert ("inferred" in found[0].what()) == bool(others)


@pytest.mark.parametrize("threshold", [0, -1])
def test_a_threshold_that_is_not_positive_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        aio.watchdog(threshold)


def test_an_unknown_reaction_is_refused() -> None:
    with pytest.raises(ValueError, match="on_block"):
        aio.watchdog(1, "shout")  # type: ignore[arg-type]


def test_the_environment_starts_it(run_program: Any) -> None:
    program = """
        import asyncio, logging, sys, treadle

        class Handler(logging.Handler):
            def emit(self, record):
                texts.append(record.getMessage())

        texts = []
        logging.getLogger("treadle.aio").addHandler(Handler())

        async def guilty():
            while not [text for text in texts if "in guilty" in text]:
                pass

        asyncio.run(guilty())
    """
    done = run_program(program, TREADLE_WATCHDOG="5ms")
    assert done.returncode == 0, done.stderr
    assert "in guilty" in done.stderr  # the sums, at the end


def test_where_the_gil_is_not_free_the_stack_is_written_to_the_standard_error_stream() -> None:
    """The module re keeps the GIL; the pattern is exponential, and the program is ended once its stack was seen."""
    program = """
        import asyncio, re, sys
        from treadle import aio

        async def guilty():
            re.match(r"(a|aa)+$", "a" * 200 + "b")

        with aio.watchdog(0.01):
            asyncio.run(guilty())
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    written = ""
    while "in guilty" not in written:  # else the machine stopped the turn before it came to that
        with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            written = ""
            while "the GIL is not free" not in written:
                written = os.read(process.stderr.fileno(), 1 << 16).decode()
                assert written, "it has ended"
            process.kill()
