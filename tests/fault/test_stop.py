"""Running work is stopped: by timeouts, by force, by Ctrl-C."""

from __future__ import annotations

import ctypes
import os
import signal
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
import treadle
from treadle import ProcessPoolExecutor, TaskTimeout


def pause(where: Any = None) -> None:
    if where:
        where.in_task()
    while True:
        signal.pause()


def spin(where: Any = None) -> None:
    if where:
        where.in_task()
    while True:
        pass


def refuse_to_stop(where: Any = None) -> None:
    if where:
        where.in_task()
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass


def clean_up(where: Any, path: str) -> None:
    try:
        where.in_task()
        while True:
            pass
    finally:
        Path(path).touch()


@pytest.mark.parametrize("body", [spin, pause, refuse_to_stop])
def test_a_task_is_stopped_at_its_timeout(body: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREADLE_GRACE", "100ms")
    with ProcessPoolExecutor(1, timeout=0.2) as pool:
        future = pool.submit(body)
        with pytest.raises(TaskTimeout, match=rf"'{body.__name__}' ran longer than its timeout of 0\.2 s"):
            future.result()
        assert isinstance(future.exception(), TimeoutError)
        assert pool.options(timeout=None).submit(abs, -1).result() == 1


def test_a_timeout_counts_running_time_only(meeting: Callable[[], Any]) -> None:
    where = meeting()
    with ProcessPoolExecutor(1) as pool:
        blocker = pool.submit(where.in_task)
        queued = pool.options(timeout=30).submit(abs, -1)
        where.in_test()
        blocker.result()
        assert queued.result() == 1


@pytest.mark.parametrize("body", [spin, pause, refuse_to_stop])
def test_cancel_by_force_stops_a_running_task(
    body: Any, meeting: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TREADLE_GRACE", "100ms")
    where = meeting()
    with ProcessPoolExecutor(1) as pool:
        future = pool.submit(body, where)
        where.in_test()
        assert not future.cancel()
        assert future.cancel(force=True)
        with pytest.raises(CancelledError):
            future.result()
        assert pool.submit(abs, -1).result() == 1


def test_cancel_by_force_lets_the_task_clean_up(
    meeting: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TREADLE_GRACE", "1h")
    where, mark = meeting(), tmp_path / "cleaned"
    with ProcessPoolExecutor(1) as pool:
        worker = pool.submit(os.getpid).result()
        future = pool.submit(clean_up, where, str(mark))
        where.in_test()
        future.cancel(force=True)
        with pytest.raises(CancelledError):
            future.result()
        assert pool.submit(os.getpid).result() == worker
    assert mark.exists()


def miss_the_first(where: Any) -> None:
    heed = signal.getsignal(signal.SIGURG)
    assert callable(heed)
    signal.signal(signal.SIGURG, lambda number, frame: signal.signal(signal.SIGURG, heed) and None)
    pause(where)


def test_a_cancel_whose_first_signal_came_to_nothing_is_not_lost(
    meeting: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TREADLE_GRACE", "1h")
    where = meeting()
    with ProcessPoolExecutor(1) as pool:
        worker = pool.submit(os.getpid).result()
        future = pool.submit(miss_the_first, where)
        where.in_test()
        future.cancel(force=True)
        with pytest.raises(CancelledError):
            future.result()
        assert pool.submit(os.getpid).result() == worker


# --- Ctrl-C


def interrupt(process: int, thread: int, where: Any) -> None:
    """SIGINT to that thread, once the process's main thread sleeps."""
    while Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "S":
        os.sched_yield()
    ctypes.CDLL(None).tgkill(process, thread, signal.SIGINT)
    where.in_task()


@pytest.mark.parametrize(
    "wait",
    [
        lambda future: future.result(),
        lambda future: future.exception(),
        lambda future: treadle.wait([future]),
        lambda future: next(treadle.as_completed([future])),
    ],
    ids=["result", "exception", "wait", "as_completed"],
)
def test_a_ctrl_c_that_ends_no_wait_of_the_kernel_s_ends_ours(wait: Callable[[Any], object], meeting: Any) -> None:
    """As one does that comes right before the sleep: Python notes it, and the main thread is asleep."""
    where, other = meeting(), meeting()
    with ProcessPoolExecutor(1) as pool:
        pool.submit(abs, -1).result()
        thread = threading.Thread(target=other.in_task)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            wait(pool.submit(interrupt, os.getpid(), thread.native_id or 0, where))
        other.in_test()
        thread.join()
        where.in_test()


# --- Ctrl-C, in a process of its own

INTERRUPTED = {
    "result": """
        with ProcessPoolExecutor(2) as pool:
            pool.submit(run, print_ready).result()
        """,
    "result without with": """
        pool = ProcessPoolExecutor(2)
        pool.submit(run, print_ready).result()
        """,
    "map": """
        with ProcessPoolExecutor(2) as pool:
            for _ in pool.map(run, [print_ready] * 4):
                pass
        """,
    "with-exit": """
        with ProcessPoolExecutor(2) as pool:
            pool.submit(run, print_ready)
        """,
    "shutdown": """
        pool = ProcessPoolExecutor(2)
        pool.submit(run, print_ready)
        pool.shutdown()
        """,
}

HEAD = """
import os, sys, time
from treadle import ProcessPoolExecutor

def print_ready():
    os.write(1, b"ready\\n")

def run(start):
    start()
    while True:
        time.sleep(60)
"""


@pytest.mark.parametrize("where", INTERRUPTED)
def test_one_ctrl_c_ends_the_program(run_script: Any, where: str) -> None:
    script = run_script(HEAD + textwrap.dedent(INTERRUPTED[where]))
    assert script.line() == "ready"
    script.press_ctrl_c()
    status, _, errors = script.end()
    assert status in (-signal.SIGINT, 130)
    assert errors.count("Traceback") == 1, errors
    assert errors.rstrip().endswith("KeyboardInterrupt")


def test_ctrl_c_lets_running_tasks_clean_up(run_script: Any) -> None:
    source = """
        import os, time
        from treadle import ProcessPoolExecutor, _executor

        def run():
            try:
                os.write(1, b"ready\\n")
                time.sleep(60)
            finally:
                os.write(1, b"cleaned up\\n")

        _executor.INTERRUPT_GRACE_S = 3600  # this machine may take longer than a user's
        with ProcessPoolExecutor(1) as pool:
            pool.submit(run).result()
    """
    script = run_script(source, TREADLE_GRACE="1h")
    assert script.line() == "ready"
    script.press_ctrl_c()
    status, out, _ = script.end()
    assert status in (-signal.SIGINT, 130)
    assert out == "cleaned up\n"


def test_ctrl_c_ends_a_wait_that_is_busy_with_other_results(run_script: Any) -> None:
    source = """
        import os, time
        from treadle import ProcessPoolExecutor

        def wait():
            while True:
                time.sleep(60)

        def work(number):
            if number == 1000:
                os.write(1, b"ready\\n")
            end = time.perf_counter() + 50e-6
            while time.perf_counter() < end:
                pass

        with ProcessPoolExecutor(2) as pool:
            never = pool.submit(wait)
            for round in range(10):
                others = []
                try:
                    for number in range(2000):
                        others.append(pool.submit(work, number))
                    never.result()
                except KeyboardInterrupt:
                    print("heard", flush=True)
                for other in others:
                    other.result()
            pool.kill_workers()
    """
    script = run_script(source)
    for _ in range(10):
        assert script.line() == "ready"
        script.process.send_signal(signal.SIGINT)
        assert script.line() == "heard"
    status, _, errors = script.end()
    assert (status, errors) == (0, "")


def test_ctrl_c_while_workers_are_on_their_way_is_for_the_parent_alone(run_script: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    (tmp_path / "slow_to_import.py").write_text(f"import os; os.write(1, b'ready\\n'); open({str(gate)!r}).read()")
    source = """
        from treadle import ProcessPoolExecutor

        with ProcessPoolExecutor(1, preload=["slow_to_import"]) as pool:
            future = pool.submit(abs, -1)
            try:
                print("waiting", flush=True)
                future.result()
            except KeyboardInterrupt:
                print("heard", flush=True)
            print(future.result())
    """
    script = run_script(source, PYTHONPATH=str(tmp_path))
    assert {script.line(), script.line()} == {"ready", "waiting"}
    script.press_ctrl_c()
    assert script.line() == "heard"
    gate.write_bytes(b"")
    assert script.end() == (0, "1\n", "")


# --- a terminal that is closed


def test_a_program_that_ignores_the_end_of_its_terminal_keeps_its_workers(run_script: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    source = f"""
        import os, signal
        from treadle import ProcessPoolExecutor

        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does it

        def wait():
            os.write(1, b"ready\\n")
            return open({str(gate)!r}).read()

        with ProcessPoolExecutor(1) as pool:
            print(pool.submit(wait).result())
    """
    script = run_script(source)
    assert script.line() == "ready"
    os.killpg(script.process.pid, signal.SIGHUP)
    gate.write_text("done")
    assert script.end() == (0, "done\n", "")
