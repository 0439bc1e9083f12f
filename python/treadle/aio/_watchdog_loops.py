"""The loops that watchdogs watch: how their turns are seen, what becomes of news, and how every new loop is found."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from selectors import BaseSelector
from types import FrameType
from typing import TYPE_CHECKING, Any

from .. import _engine
from . import _watchdog_reporter as reporter
from ._watchdog_block import (
    Block,
    LoopBlocked,
    ends_by_exception,
    entry_of,
    frames_of,
    gil_is_there,
    is_callback,
    parse_stack,
    site_of,
    stack_of,
)

if TYPE_CHECKING:
    from ._watchdog import watchdog

Loop = asyncio.AbstractEventLoop


class Watched:
    """A loop that a watchdog watches, from attach() to detach(). Made by the loop's thread.

    The select method of an asyncio loop's selector gets the engine's in its place. Others have no such thing: they wait
    for a descriptor, and are asked by it.
    """

    def __init__(self, watchdog: watchdog, loop: Loop) -> None:
        self.watchdog = watchdog
        self.loop = weakref.ref(loop)
        self.name = f"{type(loop).__module__.partition('.')[0]}.{type(loop).__name__}"
        self.thread = threading.current_thread().name
        self.ident = threading.get_ident()
        self.pid = os.getpid()
        self.done = threading.Event()
        self.block: Block | None = None
        self.turn = 0
        self.raised = False  # in this turn
        self.entry: FrameType | None = None
        self.close: Callable[[], None] | None = None
        self.runs_once = True  # it is watched no longer than it runs
        selector = getattr(loop, "_selector", None)
        self.selector = selector if isinstance(selector, BaseSelector) and hasattr(selector, "__dict__") else None
        self.engine = _engine.LoopWatch(watchdog.threshold_ns, self.selector is None, watchdog._urgent_fd())
        reporter.watched[self.engine.key] = self
        reporter.begin()
        self.hook = self.engine.select
        if self.selector is None:
            loop.add_reader(self.engine.question, self.engine.answer)
        else:
            self.engine.wrapped = self.selector.select
            self.selector.select = self.hook  # type: ignore[method-assign]

    def begin(self) -> None:
        """The loop runs already, and this turn counts, too; so does its end, where nobody else tells of it."""
        if self.selector is not None:
            self.engine.begin()
        loop = self.loop()
        assert loop is not None
        self.close = loop.close
        self.runs_once = False
        with contextlib.suppress(AttributeError):
            loop.close = self._close  # type: ignore[method-assign]

    def _close(self) -> None:
        assert self.close is not None
        self.watchdog._detach(self)
        self.close()

    def detach(self) -> None:
        """Ends it. The loop's thread, or while the loop doesn't run."""
        loop = self.loop()
        if self.pid != os.getpid() or self.engine.closed:
            return
        if self.selector is not None:
            self._unwrap(self.selector)
        elif loop is not None and not loop.is_closed():
            loop.remove_reader(self.engine.question)
        if loop is not None and self.close is not None:
            with contextlib.suppress(AttributeError):
                if vars(loop).get("close") == self._close:
                    del loop.close
                    if getattr(self.close, "__func__", None) is Watched._close:  # an earlier one's
                        loop.close = self.close  # type: ignore[method-assign]
        self.engine.close()

    def _unwrap(self, selector: BaseSelector) -> None:
        """Takes our select method out, if no later one stands before it, and those of the ended ones behind it."""
        if vars(selector).get("select") is not self.hook:
            return
        below = self.engine.wrapped
        while isinstance(owner := getattr(below, "__self__", None), _engine.LoopWatch) and owner.closed:
            below = owner.wrapped
        if isinstance(owner, _engine.LoopWatch):
            selector.select = below  # type: ignore[method-assign]
        else:
            del selector.select

    # --- news, in the watchdog's thread

    def hear(
        self,
        what: int,
        turn: int,
        seconds: float,
        doing: str,
        cpu: float,
        state: str,
        syscall: str | None,
        holds_gil: int,
        text: str,
    ) -> None:
        """What the engine says of it."""
        if what == reporter.ENDED:
            del reporter.watched[self.engine.key]
            self.block = self.entry = None
            self.done.set()
        elif what == reporter.STUCK:
            self.block = None
            loop = self.loop()
            if loop is None or not (self.runs_once or loop.is_running()):
                return
            block = Block(
                self.name, self.thread, self.watchdog.threshold, seconds, doing, cpu, syscall, parse_stack(text)
            )
            self._look(block, turn, loop)
            if not block.sites and (site := site_of(block.stack)):
                block.sites.append(site)
            self.block, self.turn, self.raised = block, turn, False
            self.watchdog._noticed(self, block)
        elif self.block is not None and turn == self.turn:
            self.block.seconds = seconds
            if what == reporter.STILL:  # each of these is about all of the turn so far
                self.block.doing, self.block.cpu, self.block.syscall = doing, cpu, syscall
                self._look_again(self.block, text)
                self.watchdog._goes_on(self, self.block)
            else:
                self.block.ended = True
                self.watchdog._ended(self.block)
                self.block = self.entry = None

    def _look(self, block: Block, turn: int, loop: Loop) -> None:
        """Who is it? Known only if the turn still goes on."""
        frame = sys._current_frames().get(self.ident) if gil_is_there() else None
        self.entry = self._entry(frame, loop)
        task = asyncio.current_task(loop)
        coroutine = task.get_coro() if task is not None else None
        if self.engine.turn != turn:
            self.entry = None
            return
        if task is not None:
            block.task = task.get_name()
            block.callback = getattr(coroutine, "__qualname__", None)
        elif self.entry is not None:
            block.callback = self.entry.f_code.co_qualname
        if not block.stack and frame is not None:
            block.stack = stack_of(frame)

    def _look_again(self, block: Block, text: str) -> None:
        """A turn that another callback is in by now is made of several."""
        frame = sys._current_frames().get(self.ident) if gil_is_there() else None
        entry = self._entry(frame, self.loop())
        if self.engine.turn != self.turn or entry is None or not is_callback(entry):
            return
        if entry is not self.entry and is_callback(self.entry):
            block.callbacks += 1
            if site := site_of(parse_stack(text) or stack_of(entry)):
                block.sites.append(site)
        self.entry = entry

    def _entry(self, frame: FrameType | None, loop: Loop | None) -> FrameType | None:
        """Where neither the loop nor who runs it has a frame, a task's is found still."""
        task = asyncio.current_task(loop) if loop is not None else None
        outermost = getattr(task.get_coro(), "cr_frame", None) if task is not None else None
        return entry_of(frame) or next((one for one in frames_of(frame) if one is outermost), None)

    def raise_in_callback(self, block: Block) -> None:
        """At the next bytecode of what blocks, unless it has ended by then."""
        turn, entry = self.turn, self.entry

        def is_due(frame: FrameType | None) -> bool:
            found = self._entry(frame, self.loop())
            if frame is None or found is None or self.engine.turn != turn or self.engine.closed:
                return False
            return (entry is None or found is entry) and ends_by_exception(frame, found)

        def deliver() -> None:
            if is_due(sys._getframe(1)) and not self.raised:
                self.raised = True
                raise LoopBlocked(block)

        if self.ident == threading.main_thread().ident:
            _engine.at_next_bytecode(deliver)
        elif not gil_is_there() or is_due(sys._current_frames().get(self.ident)):
            self.raised = _engine.raise_in_thread(self.ident, _ready_made(block))
            if self.engine.turn != turn:
                _engine.raise_in_thread(self.ident, None)

    def complain(self, error: BaseException) -> None:
        """An exception of on_block goes to the loop's handler, as those of its callbacks do."""
        context = {"message": "on_block of treadle.aio.watchdog raised an exception", "exception": error}
        loop = self.loop()
        try:
            assert loop is not None
            loop.call_soon_threadsafe(loop.call_exception_handler, context)
        except (AssertionError, RuntimeError):
            reporter.complain(error)


def _ready_made(block: Block) -> type[LoopBlocked]:
    """Another thread is given a class, and makes the exception itself."""

    def make(self: LoopBlocked) -> None:
        LoopBlocked.__init__(self, block)

    return type("LoopBlocked", (LoopBlocked,), {"__init__": make, "__module__": "treadle.aio"})


# --- every loop that runs


everywhere: list[watchdog] = []
"""Watchdogs of all loops."""

every: weakref.WeakSet[watchdog] = weakref.WeakSet()
"""And of single ones."""


def _in_forked_child() -> None:
    """Whoever held a lock is not there; loops that start in the child are watched as in the parent."""
    global _lock
    _lock = threading.RLock()
    for one in every:
        one._lock = threading.Lock()


os.register_at_fork(after_in_child=_in_forked_child)

_changed: dict[type[Any], tuple[Any, bool]] = {}
_lock = threading.RLock()


def watch_everywhere(one: watchdog) -> None:
    """From here on each loop that starts to run is watched, whatever made it."""
    with _lock:
        everywhere.append(one)
        if len(everywhere) == 1:
            for cls in _subclasses(Loop):
                _change(cls)
            Loop.__init_subclass__ = classmethod(_on_new_class)  # type: ignore[assignment,arg-type]


def stop_everywhere(one: watchdog) -> None:
    """No longer by this one."""
    with _lock:
        if one not in everywhere:
            return
        everywhere.remove(one)
        if not everywhere:
            del Loop.__init_subclass__
            for cls, (original, own) in _changed.items():
                if own:
                    cls.run_forever = original
                else:
                    del cls.run_forever
            _changed.clear()


def _subclasses(cls: type[Any]) -> Iterator[type[Any]]:
    for one in cls.__subclasses__():
        yield one
        yield from _subclasses(one)


def _on_new_class(cls: type[Loop], **kwargs: Any) -> None:
    super(Loop, cls).__init_subclass__(**kwargs)
    with _lock:
        _change(cls)


def _change(cls: type[Any]) -> None:
    """Where run_forever is a C base's, which can't be changed, the class itself gets one."""
    owner = next(one for one in cls.__mro__ if "run_forever" in vars(one))
    target = owner if issubclass(owner, Loop) else cls
    if target is Loop or target in _changed:
        return
    original = target.run_forever
    _changed[target] = (original, target is owner)

    @functools.wraps(original)
    def run_forever(self: Loop) -> None:
        with contextlib.ExitStack() as stack:
            for one in tuple(everywhere):
                stack.enter_context(one._running(self))
            original(self)

    target.run_forever = run_forever  # type: ignore[method-assign]
