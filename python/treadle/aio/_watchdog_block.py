"""What the watchdog saw: a turn of an event loop that took too long, its stack, and the line to blame for it."""

from __future__ import annotations

import codecs
import functools
import inspect
import linecache
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from .._errors import TreadleError

_LINE = re.compile(r'  File "(?P<file>.*)", line (?P<line>\d+|\?\?\?) in (?P<function>.*)')
_PACKAGE = f"{Path(__file__).parent.parent}/"
_STDLIB = f"{Path(os.__file__).parent}/"
_HERE = Path(__file__).parent / "_watchdog_loops.py"


class LoopBlocked(TreadleError, RuntimeError):
    """Raised by `watchdog(on_block="raise")` in the callback that blocks its loop. `block` has what was seen.

    A `RuntimeError`. Sources: python/treadle/aio/_watchdog_block.py, _watchdog_loops.py.
    """

    __module__ = "treadle.aio"

    def __init__(self, block: Block) -> None:
        super().__init__(block.headline())
        self.block = block


class LoopBlockedWarning(RuntimeWarning):
    """Given by `watchdog(on_block="warn")`, at the line that blocks its loop."""

    __module__ = "treadle.aio"


class Frame(NamedTuple):
    """A line of a stack."""

    filename: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.filename}:{self.line} in {self.function}"

    def source(self) -> str:
        """The line's text, where its file can be read."""
        return linecache.getline(self.filename, self.line).strip()


def parse_stack(text: str) -> tuple[Frame, ...]:
    """The frames of faulthandler's text, innermost first; it escapes what is not ASCII."""
    frames = []
    for line in text.splitlines():
        if match := _LINE.fullmatch(line):
            file, function = (_unescaped(match[name]) for name in ("file", "function"))
            frames.append(Frame(file, int(match["line"]) if match["line"].isdigit() else 0, function))
    return tuple(frames)


def _unescaped(text: str) -> str:
    try:
        return codecs.decode(text, "unicode_escape") if "\\" in text else text
    except UnicodeDecodeError:
        return text


def frames_of(frame: FrameType | None) -> Iterator[FrameType]:
    """From a frame outwards."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def stack_of(frame: FrameType) -> tuple[Frame, ...]:
    """The same as Frames."""
    return tuple(Frame(one.f_code.co_filename, one.f_lineno or 0, one.f_code.co_name) for one in frames_of(frame))


# --- whose code is it?


@functools.lru_cache(4096)
def is_loop(filename: str, function: str) -> bool:
    """A frame of a loop itself: what stands further in was called by it."""
    path = Path(filename)
    if path.parent.name == "asyncio":
        return (path.name, function) in _LOOP_FRAMES
    return (path.parent.name in _LOOPS and function.startswith("run")) or (path == _HERE and function == "run_forever")


_LOOPS = ("uvloop", "rloop")
_HANDLE = ("events.py", "_run")
_LOOP_FRAMES = {
    _HANDLE,
    ("base_events.py", "_run_once"),
    ("base_events.py", "run_forever"),
    ("base_events.py", "run_until_complete"),
    ("runners.py", "run"),
}
_COROUTINE = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ITERABLE_COROUTINE


def entry_of(frame: FrameType | None) -> FrameType | None:
    """The outermost frame of the callback that a loop runs; None: it runs none, or there is no loop."""
    entry = None
    for one in frames_of(frame):
        if is_loop(one.f_code.co_filename, one.f_code.co_name):
            return entry
        entry = one
    return None


def is_callback(entry: FrameType | None) -> bool:
    """Or is it a function that the loop runs for itself?"""
    if entry is None or entry.f_code.co_flags & _COROUTINE:
        return entry is not None
    caller = entry.f_back and Path(entry.f_back.f_code.co_filename)
    if entry.f_back and caller and caller.parent.name == "asyncio" and caller.name != "runners.py":
        return (caller.name, entry.f_back.f_code.co_name) == _HANDLE
    # A loop in another language has no frames.
    return not is_stdlib(entry.f_code.co_filename) and Path(entry.f_code.co_filename).parent.name not in _LOOPS


def ends_by_exception(frame: FrameType, entry: FrameType) -> bool:
    """Would an exception that is raised in the frame end the callback alone? It could end the loop instead, or come to
    Treadle in the middle of what it does for the loop, such as to end a watch.
    """
    at_work = next((one for one in frames_of(frame) if one is entry or not is_stdlib(one.f_code.co_filename)), entry)
    return is_callback(entry) and not at_work.f_code.co_filename.startswith(_PACKAGE)


def is_stdlib(filename: str) -> bool:
    """The interpreter's own code."""
    return filename.startswith((_STDLIB, "<frozen ")) and "-packages/" not in filename


def inside(stack: Iterable[Frame]) -> tuple[Frame, ...]:
    """The part of a stack that a loop has called, innermost first; all of it, where no loop is to be seen."""
    called: list[Frame] = []
    for frame in stack:
        if is_loop(frame.filename, frame.function):
            break
        called.append(frame)
    return tuple(called)


def is_library(filename: str) -> bool:
    """The interpreter's own code, or an installed package's."""
    return filename.startswith((_STDLIB, _PACKAGE, "<frozen ")) or "-packages/" in filename


def site_of(stack: tuple[Frame, ...]) -> Frame | None:
    """The line to blame: the innermost of the program's own, else the innermost."""
    called = inside(stack) or stack
    return next((frame for frame in called if not is_library(frame.filename)), called[0] if called else None)


# --- blocks


@dataclass
class Block:
    """One turn of a loop that lasted for the threshold and more.

    `seconds` is how long it has lasted so far, and in all once it `ended`. `doing` is "computes", "waits" (in the
    system call `syscall`), "gil" (inferred: it sleeps on a futex with a timeout without holding the GIL, while other
    threads of the process compute) or "starves" (it could run, but the machine's CPUs were busy). `cpu` is the share of
    a CPU that the loop's thread had. `stack` is from the first look, innermost frame first, `site` the line to blame.
    `callbacks` counts the different callbacks that looks at this turn have found: where it is more than one, no single
    one of them is to blame, and `sites` has the line of each look.
    """

    loop: str
    thread: str
    threshold: float
    seconds: float
    doing: str
    cpu: float
    syscall: str | None
    stack: tuple[Frame, ...]
    task: str | None = None
    callback: str | None = None
    callbacks: int = 1
    ended: bool = False
    sites: list[Frame] = field(default_factory=list)

    @property
    def site(self) -> Frame | None:
        return self.sites[0] if self.sites else None

    def what(self) -> str:
        """What the thread does, in words."""
        share = f"{self.cpu:.0%} of a CPU".replace("%", " %")
        if self.doing == "computes":
            return f"computes ({share})"
        if self.doing == "starves":
            return f"could run, but got only {share}: other threads or processes had it"
        if self.doing == "gil":
            return "waits for the GIL (inferred: it sleeps without the GIL while other threads compute)"
        return f"waits in {self.syscall}" if self.syscall else "waits"

    def who(self) -> str:
        """Which task, or which callback."""
        name = f"{self.callback}()" if self.callback else "a callback"
        return f"task {self.task!r}, {name}" if self.task else name

    def headline(self) -> str:
        """One line."""
        so_far = "was blocked for" if self.ended else "is blocked, so far for"
        many = f"; {self.callbacks} callbacks were seen in this turn" if self.callbacks > 1 else ""
        where = f", at {self.site}" if self.site else ""
        return f"{self.loop} in {self.thread} {so_far} {self.seconds:.3f} s by {self.who()}: {self.what()}{where}{many}"

    def __str__(self) -> str:
        lines = [self.headline()]
        if self.site and (source := self.site.source()):
            lines.append(f"    {source}")
        called = inside(self.stack)
        if called:
            lines.append("Stack (most recent call first):")
            lines += [f'  File "{frame.filename}", line {frame.line}, in {frame.function}' for frame in called]
        return "\n".join(lines)


# --- sums


@dataclass
class Blame:
    """What one line has cost. `doing` counts what its loop's thread did, `tasks` has some of the tasks' names."""

    site: Frame | None
    count: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    doing: dict[str, int] = field(default_factory=dict)
    tasks: list[str] = field(default_factory=list)

    def add(self, block: Block) -> None:
        self.count += 1
        self.seconds += block.seconds
        self.longest = max(self.longest, block.seconds)
        self.doing[block.doing] = self.doing.get(block.doing, 0) + 1
        if block.task and block.task not in self.tasks and len(self.tasks) < 10:
            self.tasks.append(block.task)

    def __str__(self) -> str:
        what = ", ".join(f"{doing} {count}x" for doing, count in self.doing.items())
        site = str(self.site) if self.site else "(the stack could not be had)"
        source = f"\n        {text}" if self.site and (text := self.site.source()) else ""
        return f"{self.count:6} x  {self.seconds:9.3f} s  longest {self.longest:7.3f} s  {site} ({what}){source}"


@dataclass
class Report:
    """What a watchdog saw, by call site, the costliest first.

    `turns` are those in which looks found several callbacks, none of which is to blame alone; their sites are those of
    the looks.
    """

    sites: list[Blame]
    turns: list[Blame]

    def __bool__(self) -> bool:
        return bool(self.sites or self.turns)

    def __str__(self) -> str:
        if not self:
            return "no event loop was blocked"
        lines = [str(blame) for blame in self.sites]
        if self.turns:
            lines += ["turns made of many callbacks:", *(str(blame) for blame in self.turns)]
        return "\n".join(lines)


def gil_is_there() -> bool:
    """False on a free-threaded interpreter, where another thread's frames may change while one looks."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())
