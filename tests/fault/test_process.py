"""The life of the parent process: its exit, its sudden end, its limits."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import treadle
from treadle import ProcessPoolExecutor

WORK = """
import os, sys, threading
from treadle import ProcessPoolExecutor, as_completed

def work(n):
    return bytes(n)

{setup}
if __name__ == "__main__":
    with ProcessPoolExecutor(2) as pool:
        assert [len(x) for x in pool.map(work, [0, 10, 100_000, 3_000_000])] == [0, 10, 100_000, 3_000_000]
        assert sorted(f.result() for f in as_completed([pool.submit(pow, i, 2) for i in range(500)])) == [
            i * i for i in range(500)
        ]
        try:
            pool.submit(os._exit, 1).result()
        except Exception as error:
            print(type(error).__name__)
        assert pool.submit(abs, -3).result() == 3
    print("done")
"""


@pytest.mark.parametrize("method", ["zygote", "fork", "forkserver", "spawn"])
@pytest.mark.parametrize("refused", ["", "TREADLE_NO_MEMFD", "TREADLE_NO_PIDFD"])
def test_without_what_a_sandbox_refuses(run_script: Any, method: str, refused: str) -> None:
    environment = {"TREADLE_START_METHOD": method} | ({refused: "1"} if refused else {})
    assert run_script(WORK.format(setup=""), **environment).end() == (0, "WorkerDied\ndone\n", "")


def test_with_few_descriptors(run_script: Any) -> None:
    setup = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))"
    assert run_script(WORK.format(setup=setup)).end() == (0, "WorkerDied\ndone\n", "")


def test_too_few_descriptors_are_one_clear_error(run_script: Any) -> None:
    source = """
        import resource
        from treadle import ProcessPoolExecutor
        resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))
        try:
            with ProcessPoolExecutor(2) as pool:
                pool.submit(abs, 1).result()
        except OSError as error:
            print(error)
        except Exception as error:
            print(repr(error))
    """
    status, out, err = run_script(source).end()
    assert (status, err) == (0, "")
    assert "descriptors" in out


def test_a_script_without_a_guard(run_script: Any) -> None:
    source = """
        from treadle import ProcessPoolExecutor
        def double(x):
            return 2 * x
        with ProcessPoolExecutor(2) as pool:
            print(list(pool.map(double, range(5))))
    """
    assert run_script(source).end() == (0, "[0, 2, 4, 6, 8]\n", "")


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_missing_guard_is_explained_where_main_is_imported(run_script: Any, method: str) -> None:
    source = f"""
        from treadle import ProcessPoolExecutor
        with ProcessPoolExecutor(1, start_method={method!r}) as pool:
            print(pool.submit(abs, -1).result())
    """
    status, _, err = run_script(source).end()
    assert status == 1
    assert "if __name__ == '__main__':" in err


def test_exit_finishes_pending_work(run_script: Any) -> None:
    source = """
        import os
        from treadle import ProcessPoolExecutor
        pool = ProcessPoolExecutor(1)
        def work(n):
            os.write(1, b"%d\\n" % n)
        for i in range(5):
            pool.submit(work, i)
    """
    assert run_script(source).end() == (0, "0\n1\n2\n3\n4\n", "")


def test_exit_finishes_the_work_of_a_pool_that_was_let_go_of(run_script: Any) -> None:
    source = """
        import os
        from treadle import ProcessPoolExecutor
        def work(n):
            os.write(1, b"%d\\n" % n)
        def start():
            pool = ProcessPoolExecutor(1)
            for i in range(5):
                pool.submit(work, i)
        start()
    """
    assert run_script(source).end() == (0, "0\n1\n2\n3\n4\n", "")


def test_submitting_in_an_exit_handler(run_script: Any) -> None:
    source = """
        import atexit
        from treadle import ProcessPoolExecutor
        pool = ProcessPoolExecutor(1)
        pool.submit(abs, 1).result()
        @atexit.register
        def late():
            try:
                pool.submit(abs, 1)
            except RuntimeError as error:
                print(error)
    """
    assert run_script(source).end() == (0, "cannot schedule new futures after interpreter shutdown\n", "")


def test_submitting_when_modules_are_gone(run_script: Any) -> None:
    source = """
        import builtins, os
        from treadle import ProcessPoolExecutor
        class Late:
            def __init__(self, pool):
                self.pool, self.write = pool, os.write
            def __del__(self):
                for call in self.pool.submit, self.pool.map:
                    try:
                        call(abs, [1])
                    except RuntimeError as error:
                        self.write(1, b"%s\\n" % str(error).encode())
                self.pool.shutdown()
        pool = ProcessPoolExecutor(1)
        pool.submit(abs, 1).result()
        builtins.late = Late(pool)
    """
    assert run_script(source).end() == (0, 2 * "cannot schedule new futures after interpreter shutdown\n", "")


@pytest.mark.parametrize(
    "work",
    [
        "future = pool.submit(work, 1); future.add_done_callback(lambda done: print(done.result()))",
        "results = pool.map(work, [1, 2, 3]); print(next(results))",
        "threads = ThreadPoolExecutor(1); threads.submit(lambda: print(pool.submit(work, 1).result()))",
        "future = pool.submit(work, 1); atexit.register(lambda: print(future.result()))",
        "import asyncio; print(asyncio.run(call(asyncio.get_running_loop)))",
        "pool.this = pool; print(pool.submit(work, 1).result()); pool.submit(work, 2); del pool",
    ],
)
def test_exit_with_all_kinds_of_work_pending(run_script: Any, work: str) -> None:
    source = f"""
        import atexit
        from treadle import ProcessPoolExecutor, ThreadPoolExecutor
        def work(n):
            return n
        async def call(get_loop):
            for _ in range(5):
                future = get_loop().run_in_executor(pool, work, 1)
            return await future
        pool = ProcessPoolExecutor(2)
        {work}
    """
    assert run_script(source).end() == (0, "1\n", "")


def test_an_unhandled_exception_ends_the_program_after_its_work(run_script: Any) -> None:
    source = """
        from treadle import ProcessPoolExecutor
        with ProcessPoolExecutor(1) as pool:
            pool.submit(print, "printed")
            raise ValueError("ours")
    """
    status, out, err = run_script(source).end()
    assert (status, out) == (1, "printed\n")
    assert err.count("Traceback") == 1
    assert err.endswith("ValueError: ours\n")


@pytest.mark.parametrize("method", ["zygote", "fork", "forkserver", "spawn"])
def test_a_killed_parent_leaves_nothing(run_script: Any, until_gone: Callable[[int], None], method: str) -> None:
    source = """
        import os, time
        from treadle import ProcessPoolExecutor
        def busy():
            os.write(1, b"%d\\n" % os.getpid())
            while True:
                pass
        if __name__ == "__main__":
            pool = ProcessPoolExecutor(2)
            futures = [pool.submit(busy) for _ in range(2)]
            futures[0].result()
    """
    script = run_script(source, TREADLE_START_METHOD=method)
    workers = [int(script.line()) for _ in range(2)]
    script.process.send_signal(signal.SIGKILL)
    for pid in workers:
        until_gone(pid)


def test_initargs_that_can_only_be_inherited_select_fork(run_script: Any) -> None:
    source = """
        import multiprocessing
        from treadle import ProcessPoolExecutor
        def begin(given):
            global lock
            lock = given
        def work(n):
            with lock:
                return n
        for _ in range(2):
            with ProcessPoolExecutor(2, initializer=begin, initargs=(multiprocessing.Lock(),)) as pool:
                print(list(pool.map(work, range(4))))
    """
    status, out, err = run_script(source).end()
    assert (status, out) == (0, "[0, 1, 2, 3]\n" * 2)
    assert err.count("can only be inherited") == 1


def test_an_initializers_failure_is_reported_with_its_traceback() -> None:
    def fail() -> None:
        raise ValueError("the initializer's own words")

    with ProcessPoolExecutor(1, initializer=fail) as pool:
        with pytest.raises(treadle.PoolBroken, match="the initializer's own words") as caught:
            pool.submit(abs, 1).result()
        assert "in fail" in str(caught.value)


def test_a_preload_that_fails_is_reported() -> None:
    missing = pytest.raises(treadle.PoolBroken, match="No module named 'no_such_module'")
    with ProcessPoolExecutor(1, preload=["no_such_module"]) as pool, missing:
        pool.submit(abs, 1).result()


def test_sigterm_to_the_whole_group_ends_it_quietly(run_script: Any, until_gone: Callable[[int], None]) -> None:
    source = """
        import os, signal
        from treadle import ProcessPoolExecutor
        def busy():
            os.write(1, b"%d\\n" % os.getpid())
            signal.pause()
        with ProcessPoolExecutor(2) as pool:
            list(pool.map(lambda _: busy(), range(2), chunksize=1))
    """
    script = run_script(source)
    workers = [int(script.line()) for _ in range(2)]
    os.killpg(script.process.pid, signal.SIGTERM)
    status, _, err = script.end()
    assert (status, err) == (-signal.SIGTERM, "")
    for pid in workers:
        until_gone(pid)


STOPPED = """
import os, signal, sys
from treadle import ProcessPoolExecutor

def work(gate):
    os.write(1, b"%d\\n" % os.getpid())
    open(gate).close()
    os.write(1, b"finished\\n")

def stop(number, frame):
    sys.exit(7)

def main():
    signal.signal(signal.SIGTERM, stop)
    with ProcessPoolExecutor(2) as pool:
        running = [pool.submit(work, gate) for gate in GATES]
        for future in running:
            future.result()

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("method", ["zygote", "fork", "forkserver", "spawn"])
def test_a_program_that_exits_on_sigterm_finishes_its_tasks_first(
    run_script: Any, until_gone: Callable[[int], None], tmp_path: Path, method: str
) -> None:
    """As systemd and Docker stop a service: the signal reaches every process of it at once."""
    gates = [str(tmp_path / name) for name in ("first", "second")]
    for gate in gates:
        os.mkfifo(gate)
    script = run_script(STOPPED.replace("GATES", repr(gates)), TREADLE_START_METHOD=method)
    workers = [int(script.line()) for _ in gates]
    os.killpg(script.process.pid, signal.SIGTERM)
    for gate in gates:
        open(gate, "w").close()
    assert script.end() == (7, "finished\n" * 2, "")
    for pid in workers:
        until_gone(pid)
