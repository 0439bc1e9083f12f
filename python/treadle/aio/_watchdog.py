"""The watchdog: what blocks an event loop is caught while it does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Literal, Self

from .. import _engine
from . import _watchdog_loops as loops
from . import _watchdog_reporter as reporter
from ._watchdog_block import Blame, Block, LoopBlocked, LoopBlockedWarning, Report

__all__ = ["Block", "LoopBlocked", "LoopBlockedWarning", "Report", "watchdog"]

OnBlock = Literal["log", "warn", "raise"] | Callable[[Block], object]

_log = logging.getLogger("treadle.aio")
_KEPT = 1000


class watchdog:
    """Watches event loops, and reports callbacks that block one for `threshold` seconds while they do it.

    Called in a running loop it watches that one, else every loop, of any thread, that starts to run from here on. It
    ends with `stop()`, at the end of a `with` block, or with the loop. asyncio's loops, uvloop's and rloop's alike, and
    any other that has `add_reader`; in debug mode or not.

    `on_block` is what happens, once for each turn of the loop that takes too long:

    - "log": a warning on the logger "treadle.aio", and another one at the end. Where a C function keeps the GIL, so
      that no logger can run, the stack goes to the standard error stream meanwhile.
    - "warn": a `LoopBlockedWarning` at the line that blocks.
    - "raise": `LoopBlocked` is raised there, at the next bytecode. A system call is not interrupted.
    - a callable: is called with the `Block`, in the watchdog's own thread. An exception of it goes to the loop's
      exception handler.

    Raises `ValueError` for a threshold that is not positive, and for an unknown `on_block`.
    Sources: python/treadle/aio/_watchdog.py, _watchdog_loops.py, binding/watchdog.c, core/watch/.
    """

    __module__ = "treadle.aio"

    def __init__(self, threshold: float = 0.05, on_block: OnBlock = "log") -> None:
        if not threshold > 0:
            raise ValueError("threshold must be greater than 0")
        if not callable(on_block) and on_block not in ("log", "warn", "raise"):
            raise ValueError('on_block must be "log", "warn", "raise" or a callable')
        self.threshold = threshold
        self.threshold_ns = max(1, int(min(threshold, 1e9) * 1e9))
        self.on_block = on_block
        self._blocks: deque[Block] = deque(maxlen=_KEPT)
        self._lock = threading.Lock()
        self._sums: dict[object, Blame] = {}
        self._turns: dict[object, Blame] = {}
        self._loops: list[loops.Watched] = []
        self._ending: list[loops.Watched] = []  # there is news of them that was not told yet
        self._stopped = False
        loops.every.add(self)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loops.watch_everywhere(self)
        else:
            self._attach(loop).begin()

    def stop(self) -> None:
        """Watches no longer.

        What has happened by then has been reported when this returns, but for a loop of uvloop's or rloop's kind that
        runs in another thread: it ends its watch itself, at its next turn. In a running loop, and where a loop itself
        ends the watch, that takes a second at most: `on_block` may be waiting for that loop, and goes on alone.
        """
        self._stopped = True
        loops.stop_everywhere(self)
        for one in tuple(self._loops):
            loop = one.loop()
            if loop is not None and one.selector is None and one.ident != threading.get_ident() and loop.is_running():
                loop.call_soon_threadsafe(self._detach, one)
            else:
                self._detach(one)
        if asyncio._get_running_loop() is None:
            for one in self._still_ending():
                reporter.wait_for_last_news(one)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The newest blocks, up to 1,000, those that go on included, oldest first."""
        with self._lock:
            return tuple(self._blocks)

    def report(self) -> Report:
        """What was seen so far, by call site, the costliest first; `str()` makes a table of it."""
        with self._lock:
            sums = [sorted(table.values(), key=lambda blame: -blame.seconds) for table in (self._sums, self._turns)]
        return Report(*sums)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    # --- loops

    def _attach(self, loop: asyncio.AbstractEventLoop) -> loops.Watched:
        one = loops.Watched(self, loop)
        self._loops.append(one)
        return one

    def _detach(self, one: loops.Watched) -> None:
        """And waits until all news of it has been told; not for ever, as whoever hears them may wait for the loop."""
        if one in self._loops:
            self._loops.remove(one)
            with self._lock:
                self._ending.append(one)
            one.detach()
            if one.pid == os.getpid():
                reporter.wait_for_last_news(one, reporter.PATIENCE_S)
            self._still_ending()

    def _still_ending(self) -> list[loops.Watched]:
        with self._lock:
            self._ending = [one for one in self._ending if one.pid == os.getpid() and not one.done.is_set()]
            return self._ending

    @contextlib.contextmanager
    def _running(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """While a loop runs, unless it is watched already."""
        if self._stopped or any(one.loop() is loop for one in self._loops):
            yield
            return
        one = self._attach(loop)
        try:
            yield
        finally:
            self._detach(one)

    # --- blocks, in the watchdog's thread

    def _urgent_fd(self) -> int:
        return 2 if self.on_block in ("log", "warn") else -1

    def _noticed(self, watched: loops.Watched, block: Block) -> None:
        with self._lock:
            self._blocks.append(block)
        if callable(self.on_block):
            self.on_block(block)
        elif self.on_block == "raise":
            watched.raise_in_callback(block)
        elif self.on_block == "warn":
            site = block.site
            place = (site.filename, site.line) if site else ("<unknown>", 0)
            warnings.warn_explicit(block.headline(), LoopBlockedWarning, *place)
        else:
            _log.warning("%s", str(block))  # as it is now

    def _goes_on(self, watched: loops.Watched, block: Block) -> None:
        """What ran when the exception was to be raised had ended by then: now it is for what runs now."""
        if self.on_block == "raise" and not watched.raised:
            watched.raise_in_callback(block)

    def _ended(self, block: Block) -> None:
        several = block.callbacks > 1
        with self._lock:
            table = self._turns if several else self._sums
            for site in dict.fromkeys(block.sites) if several else (block.site,):
                table.setdefault(site, Blame(site)).add(block)
        if self.on_block == "log":
            _log.warning("%s", block.headline())


def from_environment() -> None:
    """TREADLE_WATCHDOG=50ms: every loop of the program is watched, and the sums are printed at its end."""
    problem = _engine.reload_options()
    if problem is not None:
        warnings.warn(f"{problem}; the default is in force", RuntimeWarning, stacklevel=2)
    threshold_ns = int(_engine.option("WATCHDOG"))
    if threshold_ns > 0:
        import atexit

        atexit.register(_print_report, watchdog(threshold_ns / 1e9), os.getpid())


def _print_report(dog: watchdog, pid: int) -> None:
    report = dog.report()
    if report and pid == os.getpid() and sys.stderr is not None:
        print(f"treadle.aio.watchdog: event loops were blocked\n{report}", file=sys.stderr)
