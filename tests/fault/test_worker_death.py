"""A worker that dies costs the task that it ran, and nothing else."""

from __future__ import annotations

import faulthandler
import os
import signal
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
import treadle
from treadle import ProcessPoolExecutor, WorkerDied
from treadle._maps import MapCall


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crash_in_c() -> None:
    faulthandler._sigsegv()  # type: ignore[attr-defined]


def die_until(path: str, deaths: int) -> str:
    with open(path, "ab") as marks:
        marks.write(b"x")
    if os.path.getsize(path) <= deaths:
        os._exit(7)
    return "alive"


def die_on_five(x: int) -> int:
    if x == 5:
        os._exit(7)
    return x


def meet_and_stay(first: Any, second: Any) -> int:
    first.in_task()
    second.in_task()
    return os.getpid()


def test_a_killed_worker_fails_its_own_task_only(meeting: Callable[[], Any]) -> None:
    first, second = meeting(), meeting()
    with ProcessPoolExecutor(2) as pool:
        other = pool.submit(meet_and_stay, first, second)
        first.in_test()
        victim = pool.submit(kill_self)
        queued = [pool.submit(abs, -i) for i in range(50)]
        with pytest.raises(WorkerDied) as caught:
            victim.result()
        assert [future.result() for future in queued] == list(range(50))
        second.in_test()
        assert other.result() != caught.value.pid
    error = caught.value
    assert error.signal == signal.SIGKILL
    assert error.exit_code is None
    assert error.task == "kill_self"
    assert error.deaths == 1
    assert "SIGKILL" in str(error)
    assert "'kill_self'" in str(error)


def test_worker_died_is_what_existing_handlers_catch() -> None:
    assert issubclass(WorkerDied, BrokenProcessPool)
    assert issubclass(WorkerDied, treadle.TreadleError)


def test_a_worker_that_leaves_tells_its_exit_code() -> None:
    with ProcessPoolExecutor(1) as pool, pytest.raises(WorkerDied) as caught:
        pool.submit(os._exit, 7).result()
    assert caught.value.exit_code == 7
    assert caught.value.signal is None


def test_a_crash_in_c_tells_the_last_python_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    # AddressSanitizer, where it is there, would report the crash and make a SIGABRT of it.
    monkeypatch.setenv("ASAN_OPTIONS", f"{os.environ.get('ASAN_OPTIONS', '')}:handle_segv=0")
    with ProcessPoolExecutor(1) as pool:
        with pytest.raises(WorkerDied) as caught:
            pool.submit(crash_in_c).result()
        assert pool.submit(abs, -1).result() == 1
    assert caught.value.signal == signal.SIGSEGV
    assert "crash_in_c" in caught.value.stack
    assert "crash_in_c" in str(caught.value)


def test_retries_run_the_task_again(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, retries=2) as pool:
        assert pool.submit(die_until, str(tmp_path / "marks"), 2).result() == "alive"
        assert pool.stats()["tasks"]["retried"] == 2


def test_a_task_whose_retries_are_used_up_is_quarantined(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1) as pool:
        future = pool.options(retries=2).submit(die_until, str(tmp_path / "marks"), 10)
        with pytest.raises(WorkerDied, match="quarantined") as caught:
            future.result()
        assert caught.value.quarantined
        assert caught.value.deaths == 3
        assert pool.submit(abs, -1).result() == 1


def test_death_breaks_the_pool_where_that_is_asked_for() -> None:
    with ProcessPoolExecutor(1, on_worker_death="break") as pool:
        futures = [pool.submit(kill_self), *(pool.submit(abs, -1) for _ in range(5))]
        with pytest.raises(WorkerDied, match="Its pool is broken"):
            futures[0].result()
        for future in futures[1:]:
            with pytest.raises(BrokenProcessPool):
                future.result()
        with pytest.raises(BrokenProcessPool):
            pool.submit(abs, 1)


def test_replacements_that_finish_nothing_break_the_pool() -> None:
    with ProcessPoolExecutor(1, initializer=kill_self) as pool, pytest.raises(BrokenProcessPool, match="10"):
        pool.submit(abs, 1).result()


def test_an_idle_worker_that_dies_is_replaced(until_gone: Callable[[int], None]) -> None:
    with ProcessPoolExecutor(1) as pool:
        for _ in range(3):
            pid = pool.submit(os.getpid).result()
            os.kill(pid, signal.SIGKILL)
            until_gone(pid)
            assert pool.submit(os.getpid).result() != pid


def test_a_death_in_map_loses_the_running_item_only() -> None:
    with ProcessPoolExecutor(2) as pool:
        results = pool._start_map(MapCall(die_on_five, (range(20),), chunksize=10, keep_going=True))
        seen: list[Any] = []
        for _ in range(20):
            try:
                seen.append(next(results))
            except WorkerDied:
                seen.append("died")
    assert seen == [*range(5), "died", *range(6, 20)]


@pytest.mark.parametrize("start_method", ["zygote", "forkserver"])
def test_a_dead_zygote_is_replaced(start_method: Any, until_gone: Callable[[int], None]) -> None:
    with ProcessPoolExecutor(1, start_method=start_method) as pool:
        worker = pool.submit(os.getpid).result()
        zygote = pool.stats()["zygote_pid"]
        for pid in (zygote, worker):
            os.kill(pid, signal.SIGKILL)
            until_gone(pid)
        assert pool.submit(os.getpid).result() != worker
        assert pool.stats()["zygote_pid"] != zygote


def test_sigterm_lets_a_worker_finish_its_task(meeting: Callable[[], Any], until_gone: Callable[[int], None]) -> None:
    first, second = meeting(), meeting()
    with ProcessPoolExecutor(1) as pool:
        pid = pool.submit(os.getpid).result()
        future = pool.submit(meet_and_stay, first, second)
        first.in_test()
        os.kill(pid, signal.SIGTERM)
        second.in_test()
        assert future.result() == pid
        until_gone(pid)
        assert pool.submit(os.getpid).result() != pid


def test_sigterm_is_heard_at_whatever_moment(until_gone: Callable[[int], None]) -> None:
    with ProcessPoolExecutor(1) as pool:
        for moment in range(40):
            pid = pool.submit(os.getpid).result()
            for _ in range(moment * 100):  # it ends its task, looks for another one, spins, and falls asleep
                pass
            os.kill(pid, signal.SIGTERM)
            until_gone(pid)


def test_kill_workers_ends_the_pool(meeting: Callable[[], Any]) -> None:
    first, second = meeting(), meeting()
    pool = ProcessPoolExecutor(1)
    running = pool.submit(meet_and_stay, first, second)
    first.in_test()
    queued = [pool.submit(abs, 1) for _ in range(5)]
    pool.kill_workers()
    pool.shutdown()
    assert running.done()
    assert queued[-1].cancelled()
    with pytest.raises(RuntimeError):
        pool.submit(abs, 1)
