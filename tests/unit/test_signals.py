"""Signals in a worker: those that are not for its task, and the one that stops it."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
from treadle import ProcessPoolExecutor, TaskCancelled


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGURG], ids=lambda number: number.name)
def test_a_signal_that_is_not_for_the_task_does_nothing(pool: ProcessPoolExecutor, number: signal.Signals) -> None:
    def kick() -> int:
        for _ in range(10):
            os.kill(os.getpid(), number)
        return 1

    assert pool.submit(kick).result() == 1
    os.kill(pool.submit(os.getpid).result(), number)


def test_a_subprocess_of_a_worker_can_be_interrupted(pool: ProcessPoolExecutor) -> None:
    def handlers() -> bool:
        import subprocess

        source = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
        return subprocess.check_output([sys.executable, "-c", source]).strip() == b"True"

    assert pool.submit(handlers).result()


def test_a_cancelled_task_sees_it_as_an_exception(pool: ProcessPoolExecutor, tmp_path: Path) -> None:
    fifo, seen = tmp_path / "fifo", tmp_path / "seen"
    os.mkfifo(fifo)

    def wait() -> None:
        try:
            fifo.open("w").close()
            while True:
                pass
        except TaskCancelled as error:
            seen.write_text(str(error))
            raise

    future = pool.submit(wait)
    fifo.open().close()
    assert future.cancel(force=True)
    with pytest.raises(CancelledError):
        future.result()
    assert pool.submit(seen.read_text).result().startswith("the task was cancelled")


def test_a_cancel_whose_exception_is_dropped_comes_again(pool: ProcessPoolExecutor, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    class Slow:
        """Its finalizer is where the first exception comes, which Python drops there."""

        def __del__(self) -> None:
            fifo.open("w").close()
            while True:
                time.sleep(60)

    def wait() -> None:
        thing = Slow()
        del thing
        while True:
            time.sleep(60)

    future = pool.submit(wait)
    fifo.open().close()
    assert future.cancel(force=True)
    with pytest.raises(CancelledError):
        future.result()


def test_a_cancel_waits_for_the_end_of_an_import(pool: ProcessPoolExecutor, tmp_path: Path) -> None:
    """A package whose import fails half-way can't be imported any more."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    package = tmp_path / "halfway"
    package.mkdir()
    (package / "part.py").write_text("value = 1")
    (package / "__init__.py").write_text(f"""
import os, signal
from .part import *
heard = []
handler = signal.getsignal(signal.SIGURG)
def hear(number, frame):
    heard.append(number)
    handler(number, frame)
signal.signal(signal.SIGURG, hear)
try:
    if os.path.exists({str(fifo)!r}):
        open({str(fifo)!r}, "w").close()
        while not heard:
            pass
finally:
    signal.signal(signal.SIGURG, handler)
value = part.value
""")

    def value() -> object:
        sys.path.insert(0, str(tmp_path))
        try:
            return importlib.import_module("halfway").value
        finally:
            sys.path.remove(str(tmp_path))

    def wait() -> None:
        value()
        while True:
            time.sleep(60)

    future = pool.submit(wait)
    fifo.open().close()
    fifo.unlink()
    assert future.cancel(force=True)
    with pytest.raises(CancelledError):
        future.result()
    assert pool.submit(value).result() == 1
