"""What others do with signals, forks and exits meanwhile; and what is read from a stack."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import pytest
from treadle import aio
from treadle.aio import _watchdog_reporter as reporter
from treadle.aio._watchdog_block import Frame, parse_stack, site_of

Run = Callable[..., Any]
THRESHOLD_S = 0.002


def test_a_stack_is_written_while_a_call_from_c_begins(run_program: Any) -> None:
    """Of one call in some hundreds faulthandler would read what was never written."""
    program = """
        import asyncio
        from treadle import aio

        reports = []

        def key(item):
            return item

        def blocking(turn):
            while len(reports) < turn:  # each is reported, once
                sorted(range(100), key=key)

        async def main():
            with aio.watchdog(0.001, reports.append):
                for turn in range(1, 201):
                    blocking(turn)
                    await asyncio.sleep(0)

        asyncio.run(main())
        stacks = [report.stack for report in reports]
        assert any(frame.function == "blocking" for stack in stacks for frame in stack)
        assert all(stack[-1].function == "<module>" for stack in stacks if stack)
    """
    ran = run_program(program)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_signal_with_a_handler_of_others_is_left_alone(run_program: Any) -> None:
    program = """
        import asyncio, signal, threading
        from treadle import aio

        used = [number for number in range(signal.SIGRTMIN, signal.SIGRTMAX + 1)]
        for number in used:
            signal.signal(number, lambda *_: None)
        handlers = [signal.getsignal(number) for number in used]
        came = threading.Event()
        stacks = []

        async def guilty():
            came.wait()

        def on_block(block):
            stacks.append(str(block))
            came.set()

        with aio.watchdog(0.01, on_block):
            asyncio.run(guilty())
        assert handlers == [signal.getsignal(number) for number in used]
        assert stacks
    """
    assert run_program(program).returncode == 0


def test_a_handler_that_took_the_signal_away_later_is_never_sent_it(run_program: Any) -> None:
    program = """
        import asyncio, signal, threading
        from treadle import aio
        from treadle.aio import _watchdog_reporter

        came = threading.Event()

        async def guilty():
            number = _watchdog_reporter._signal
            signal.signal(number, signal.SIG_DFL)  # it would end the program
            came.wait()

        with aio.watchdog(0.01, lambda block: came.set()):
            asyncio.run(guilty())
    """
    assert run_program(program).returncode == 0


def test_a_child_of_fork_is_not_watched_and_may_be_anew(run_program: Any) -> None:
    program = """
        import asyncio, os, threading
        from treadle import aio
        from treadle.aio import _watchdog_reporter

        class Wait:
            def __init__(self):
                self.came = threading.Event()

            def __call__(self, block):
                self.came.set()

        async def guilty(waiting):
            waiting.came.wait()

        def watch():
            waiting = Wait()
            with aio.watchdog(0.002, waiting):
                asyncio.run(guilty(waiting))

        async def fork():
            pid = os.fork()
            if pid == 0:
                try:
                    assert not _watchdog_reporter.watched
                    await asyncio.sleep(0)  # the copy of the loop turns, and nobody looks
                    asyncio._set_running_loop(None)
                    watch()
                    os._exit(0)
                finally:
                    os._exit(1)
            assert os.waitpid(pid, 0)[1] == 0

        watch()
        with aio.watchdog(0.002, lambda block: None):
            asyncio.run(fork())
        watch()
    """
    done = run_program(program, PYTHONWARNINGS="ignore")
    assert done.returncode == 0, done.stderr


def test_a_program_may_end_while_its_loop_is_stuck(run_program: Any) -> None:
    program = """
        import asyncio, sys, threading
        from treadle import aio

        came = threading.Event()

        async def guilty():
            came.wait()
            sys.exit(3)

        dog = aio.watchdog(0.001, lambda block: came.set())
        asyncio.run(guilty())
    """
    done = run_program(program)
    assert (done.returncode, done.stderr) == (3, "")


def test_a_program_may_end_while_the_loop_of_a_daemon_thread_is_stuck_for_ever(run_program: Any) -> None:
    program = """
        import asyncio, threading
        from treadle import aio

        came = threading.Event()

        async def guilty():
            threading.Event().wait()

        dog = aio.watchdog(0.001, lambda block: came.set())
        threading.Thread(target=lambda: asyncio.run(guilty()), daemon=True).start()
        came.wait()
    """
    done = run_program(program)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_loop_whose_thread_blocks_the_signal_is_reported_all_the_same(reports: Any) -> None:
    """Once the GIL is free."""

    async def blocking() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {reporter._signal})
        reports.wait()

    with aio.watchdog(THRESHOLD_S, reports):
        try:
            reports.provoke(lambda: asyncio.run(blocking()))
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {reporter._signal})


def test_a_signals_text_is_read_with_what_it_escapes() -> None:
    text = 'Stack (most recent call first):\n  File "/a b/\\xe9.py", line 3 in f\n  File "x", line ??? in <module>\n'
    assert parse_stack(text) == (Frame("/a b/é.py", 3, "f"), Frame("x", 0, "<module>"))


def test_the_line_to_blame_is_the_programs_own() -> None:
    library = asyncio.__file__
    stack = (Frame(library, 1, "inner"), Frame(__file__, 2, "mine"), Frame(__file__, 3, "outer"))
    assert site_of(stack) == stack[1]
    assert site_of(stack[:1]) == stack[0]
    loop = (Frame(library.replace("__init__", "events"), 1, "_run"), Frame(__file__, 9, "caller"))
    assert site_of(stack[:1] + loop) == stack[0]


def test_signals_of_the_program_are_heard_while_it_blocks(reports: Any) -> None:
    async def blocking() -> None:
        reports.wait()
        signal.raise_signal(signal.SIGINT)

    with aio.watchdog(THRESHOLD_S, reports), pytest.raises(KeyboardInterrupt):
        asyncio.run(blocking())


def test_loops_of_threads_may_outlive_the_main_thread(run_program: Any) -> None:
    program = """
        import asyncio, threading
        from treadle import aio

        async def main():
            threading.main_thread().join()
            await asyncio.sleep(0)

        dog = aio.watchdog(0.01)
        threading.Thread(target=lambda: asyncio.run(main())).start()
    """
    done = run_program(program)
    assert done.returncode == 0, done.stderr


def test_a_closed_loop_ends_all_its_watches_whichever_was_stopped(run: Run) -> None:
    dogs = []

    async def main() -> None:
        dogs.extend(aio.watchdog(1) for _ in range(3))
        dogs[1].stop()
        dogs[2].stop()

    run(main())
    assert not any(dog._loops for dog in dogs)


@pytest.mark.parametrize(
    "takes",
    [
        "signal.signal(number, lambda *_: None)",
        "faulthandler.register(number, file=taken, all_threads=False)",
        "faulthandler.unregister(number)",
    ],
)
def test_another_signal_takes_over_from_one_that_the_program_took(run_program: Any, takes: str) -> None:
    program = f"""
        import asyncio, faulthandler, signal, sys, tempfile, threading
        from treadle import aio
        from treadle.aio import _watchdog_reporter as reporter

        holds = []

        class Wait:
            def __init__(self):
                self.came = threading.Event()

            def __call__(self, block):
                if holds[-1]:
                    self.came.set()

        hear = reporter._see_to_dumps

        def see(holds_gil, text):
            holds.append(bool(text) and reporter._signal != number)
            hear(holds_gil, text)

        async def guilty(waiting):
            waiting.came.wait(0.02)

        taken = tempfile.TemporaryFile()
        with aio.watchdog(1):
            asyncio.run(asyncio.sleep(0))
        number = reporter._signal
        {takes}
        reporter._see_to_dumps = see
        while not any(holds):
            waiting = Wait()
            with aio.watchdog(0.002, waiting):
                asyncio.run(guilty(waiting))
        assert reporter._signal != number and number in reporter._lost
    """
    done = run_program(program)
    assert done.returncode == 0, done.stderr


def test_a_forked_child_keeps_the_programs_handler(run_program: Any) -> None:
    program = """
        import asyncio, os, signal
        from treadle import aio
        from treadle.aio import _watchdog_reporter as reporter

        with aio.watchdog(1), asyncio.Runner() as runner:
            runner.run(asyncio.sleep(0))
        handler = lambda *_: None
        signal.signal(reporter._signal, handler)
        number = reporter._signal
        pid = os.fork()
        if pid == 0:
            os._exit(signal.getsignal(number) is not handler)
        assert os.waitpid(pid, 0)[1] == 0
    """
    done = run_program(program, PYTHONWARNINGS="ignore")
    assert done.returncode == 0, done.stderr
