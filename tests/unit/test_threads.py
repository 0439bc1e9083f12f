"""treadle.ThreadPoolExecutor: the queue of binding/threads.c behind the stdlib's interface."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import subprocess
import sys
import threading
import weakref
from concurrent.futures.thread import BrokenThreadPool

import pytest
import treadle


def test_is_the_stdlibs_class_and_gives_treadles_futures() -> None:
    with treadle.ThreadPoolExecutor(1) as pool:
        future = pool.submit(pow, 2, 10)
        assert isinstance(pool, concurrent.futures.ThreadPoolExecutor)
        assert isinstance(future, treadle.Future)
        assert future.result() == 1024


def test_calls_begin_in_the_order_of_their_submits() -> None:
    begun: list[int] = []
    with treadle.ThreadPoolExecutor(1) as pool:
        for i in range(10_000):
            pool.submit(begun.append, i)
    assert begun == list(range(10_000))


def test_keywords_and_errors_travel() -> None:
    with treadle.ThreadPoolExecutor(2) as pool:
        assert pool.submit(sorted, [1, 3, 2], reverse=True).result() == [3, 2, 1]
        with pytest.raises(ZeroDivisionError):
            pool.submit(divmod, 1, 0).result()
        assert isinstance(pool.submit(sys.exit, 3).exception(), SystemExit)


def test_all_threads_work_at_once() -> None:
    together = threading.Barrier(4, timeout=30)
    with treadle.ThreadPoolExecutor(4) as pool:
        for _ in range(50):
            concurrent.futures.wait([pool.submit(together.wait) for _ in range(4)])


def test_several_submitters_lose_nothing() -> None:
    with treadle.ThreadPoolExecutor(3) as pool:

        def submit_many(base: int) -> int:
            return sum(f.result() for f in [pool.submit(int, base + i) for i in range(2_000)])

        with concurrent.futures.ThreadPoolExecutor(4) as submitters:
            sums = list(submitters.map(submit_many, [0, 10_000, 20_000, 30_000]))
    assert sums == [sum(range(base, base + 2_000)) for base in (0, 10_000, 20_000, 30_000)]


def test_a_queued_call_can_be_cancelled_and_is_skipped() -> None:
    gate, begun, ran = threading.Event(), threading.Event(), []

    def hold() -> None:
        begun.set()
        gate.wait()

    with treadle.ThreadPoolExecutor(1) as pool:
        running = pool.submit(hold)
        begun.wait()
        queued = pool.submit(ran.append, 1)
        assert queued.cancel() and not running.cancel()
        gate.set()
    assert queued.cancelled() and ran == []


def test_shutdown_refuses_and_can_cancel_what_waits() -> None:
    gate = threading.Event()
    pool = treadle.ThreadPoolExecutor(1)
    pool.submit(gate.wait)
    waiting = [pool.submit(int) for _ in range(5)]
    pool.shutdown(wait=False, cancel_futures=True)
    gate.set()
    done, _ = concurrent.futures.wait(waiting, timeout=30)
    assert sum(future.cancelled() for future in done) >= 4
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        pool.submit(int)
    pool.shutdown()


def test_a_failing_initializer_breaks_the_pool() -> None:
    def fail() -> None:
        raise OSError("no")

    with treadle.ThreadPoolExecutor(1, initializer=fail) as pool:
        with pytest.raises(BrokenThreadPool):
            pool.submit(int).result()
        with pytest.raises(BrokenThreadPool):
            pool.submit(int)


def test_a_thread_that_cannot_be_started_is_started_for_a_later_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with treadle.ThreadPoolExecutor(1) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                pool.submit(abs, -1)
        assert pool.submit(abs, -2).result() == 2


def test_a_pool_that_is_let_go_of_ends_its_threads() -> None:
    pool = treadle.ThreadPoolExecutor(2)
    pool.submit(int).result()
    threads = list(pool._threads)
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert gone() is None


def test_arguments_and_results_are_let_go_of() -> None:
    class Thing:
        pass

    with treadle.ThreadPoolExecutor(1) as pool:
        thing = Thing()
        gone = weakref.ref(thing)
        future = pool.submit(lambda x: None, thing)
        future.result()
        del thing
        pool.submit(int).result()
        gc.collect()
        assert gone() is None


def test_serves_as_asyncios_default_executor() -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(treadle.ThreadPoolExecutor(2))
        return sum(await asyncio.gather(*(asyncio.to_thread(int, i) for i in range(100))))

    assert asyncio.run(main()) == sum(range(100))


def test_work_is_finished_at_interpreter_exit() -> None:
    program = (
        "import treadle, threading\npool = treadle.ThreadPoolExecutor(1)\nfor i in range(100): pool.submit(print, i)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr == "" and done.stdout.split() == [str(i) for i in range(100)]


def test_a_subclass_may_override_submit() -> None:
    class Counting(treadle.ThreadPoolExecutor):
        count = 0

        def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def]
            self.count += 1
            return super().submit(fn, *args, **kwargs)

    with Counting(1) as pool:
        assert list(pool.map(abs, [-1, -2])) == [1, 2] and pool.count == 2


def test_a_failing_initializer_leaves_cancelled_calls_cancelled() -> None:
    gate = threading.Event()

    def fail() -> None:
        gate.wait()
        raise OSError("no")

    with treadle.ThreadPoolExecutor(1, initializer=fail) as pool:
        futures = [pool.submit(int) for _ in range(3)]
        assert futures[1].cancel()
        gate.set()
        concurrent.futures.wait(futures, timeout=30)
    assert [future.cancelled() for future in futures] == [False, True, False]
    assert all(isinstance(future.exception(), BrokenThreadPool) for future in (futures[0], futures[2]))
