"""What blocks a loop here waits for its report, so that nothing depends on how fast anything is."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from treadle import aio
from treadle.aio import _loops
from treadle.aio._watchdog import Block

LOOPS = ("asyncio", "uvloop", "rloop")
Run = Callable[..., Any]


def factory_of(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Skips where the loop is not installed."""
    if name == "asyncio":
        return None
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    return _loops.factory_of(name)


@pytest.fixture(autouse=True, scope="module")
def what_lives_as_long_as_this_process() -> None:
    """The watchdog's thread and its pipe; the pipe of libuv's signals."""

    async def watch() -> None:
        aio.watchdog(100).stop()

    for name in LOOPS:
        if name == "asyncio" or importlib.util.find_spec(name) is not None:
            with warnings.catch_warnings(action="ignore"), asyncio.Runner(loop_factory=factory_of(name)) as runner:
                runner.run(watch())


def each_loop() -> Iterator[Any]:
    for name in LOOPS:
        # rloop 0.5 leaves closing its sockets to the garbage collector, and its poller open.
        ignored = (pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),)
        marks = (*ignored, pytest.mark.leaks_allowed("descriptors")) if name == "rloop" else ()
        for debug in (False, True):
            yield pytest.param((name, debug), id=f"{name}-debug" if debug else name, marks=marks)


@pytest.fixture(params=each_loop())
def run(request: pytest.FixtureRequest) -> Run:
    """asyncio.run, on each loop, in debug mode or not."""
    name, debug = request.param
    factory = factory_of(name)

    def run(main: Any) -> Any:
        with asyncio.Runner(debug=debug, loop_factory=factory) as runner:
            return runner.run(main)

    return run


class Reports:
    """What on_block was called with.

    A turn is reported once: also where it is the machine that does not run its thread, before it comes to what is meant
    to block. So what blocks waits for any report since `provoke` has begun a run, and runs are begun until there was
    one of the function that is meant.
    """

    def __init__(self, function: str = "blocking") -> None:
        self.function = function
        self.blocks: list[Block] = []
        self.expected = 1
        self.changed = threading.Condition()
        self.reading, self.writing = os.pipe()

    def __call__(self, block: Block) -> None:
        with self.changed:
            self.blocks.append(block)
            self.changed.notify_all()
        os.write(self.writing, b"x")

    def own(self) -> list[Block]:
        """Those of the function that is meant to block."""
        return [block for block in self.blocks if any(frame.function == self.function for frame in block.stack)]

    def provoke(self, run: Callable[[], object]) -> Block:
        while not self.own():
            self.expected = len(self.blocks) + 1
            run()
        return self.own()[0]

    def have_come(self) -> bool:
        return len(self.blocks) >= self.expected

    def wait(self) -> None:
        with self.changed:
            self.changed.wait_for(self.have_come)

    def read(self) -> None:
        while not self.have_come():
            os.read(self.reading, 1)

    def close(self) -> None:
        os.close(self.reading)
        os.close(self.writing)


@pytest.fixture
def reports() -> Iterator[Reports]:
    made = Reports()
    yield made
    made.close()


def run_program(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONWARNINGS": "error", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def make_reports() -> Iterator[Callable[[], Reports]]:
    made: list[Reports] = []

    def make() -> Reports:
        made.append(Reports())
        return made[-1]

    yield make
    for reports in made:
        reports.close()


@pytest.fixture(name="run_program")
def program_runner() -> Callable[..., subprocess.CompletedProcess[str]]:
    return run_program
