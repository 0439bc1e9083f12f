"""What every Python test gets: a deadline, a printed seed, meetings with its tasks, a check that it leaves nothing.

A folder's own conftest.py adds kinds of things to the check by the hook `pytest_leak_kinds`:

    def pytest_leak_kinds():
        return {"handles": lambda: set(treadle._engine.live_handles())}

A test that leaves something on purpose says so: `@pytest.mark.leaks_allowed("descriptors")`.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import importlib
import multiprocessing.process
import multiprocessing.resource_tracker
import os
import random
import secrets
import select
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import treadle
import treadle._engine
from hypothesis import settings
from treadle.aio import _loops

from tests.called import Meeting

Snapshot = Callable[[], set[str]]

# For what hangs: no property depends on them.
DEADLINE_S = float(os.environ.get("TREADLE_TEST_SECONDS", "120"))
GRACE_S = DEADLINE_S / 2
SEED = os.environ.get("TREADLE_TEST_SEED") or secrets.token_hex(4)
# Every descendant of the test run inherits this word, wherever it is re-parented to.
RUN = os.environ.setdefault("TREADLE_TEST_RUN", secrets.token_hex(8))

settings.register_profile("treadle", deadline=None, print_blob=True)
settings.load_profile("treadle")


class LeakHooks:
    @pytest.hookspec
    def pytest_leak_kinds(self) -> dict[str, Snapshot]:
        """Kinds of things that a test may not leave behind: a name, and what lists those that are there."""


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(LeakHooks)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--stress-n", type=int, default=5, help="repetitions of each stress test")


def pytest_configure() -> None:
    # A run in the background of a script starts with SIGINT ignored, and every program it starts would too.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    return f"seed {SEED} (TREADLE_TEST_SEED), deadline {DEADLINE_S:g} s (TREADLE_TEST_SECONDS)"


def pytest_sessionstart(session: pytest.Session) -> None:
    # The stdlib's tracker lives as long as this process: start it before the first test that would.
    multiprocessing.resource_tracker.ensure_running()
    start_engine()
    start_loops()
    signal.signal(signal.SIGALRM, on_deadline)


def pytest_collection_finish() -> None:
    # What there is now stays; the collector, which each test may call many times, needs not look at it again.
    gc.collect()
    gc.freeze()


def start_engine() -> None:
    """The engine's own thread and its descriptors also live as long as this process."""
    with treadle.ProcessPoolExecutor(1) as pool:
        pool.submit(abs, 1).result()


def start_loops() -> None:
    """What these libraries open at their first use, and keep."""
    for name in ("uvloop", "rloop"):
        with contextlib.suppress(ImportError):
            loop = _loops.factory_of(name)()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()
            gc.collect()


# --- deadlines


reporting = False


def on_deadline(*_: object) -> None:
    if reporting:  # the test is over; if its teardown hangs, the timer comes again
        return
    faulthandler.dump_traceback(2, all_threads=True)
    pytest.fail("the deadline has passed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    marker = item.get_closest_marker("deadline")
    seconds = float(marker.args[0]) * DEADLINE_S / 120 if marker else DEADLINE_S
    # Again and again, so that a teardown that hangs ends too.
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Iterator[None]:
    global reporting
    reporting = True
    try:
        return (yield)
    finally:
        reporting = False


# --- seeds


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """A generator of this test's own, repeatable from the printed seed."""
    return random.Random(f"{SEED} {request.node.nodeid}")


@pytest.fixture
def stress_n(request: pytest.FixtureRequest) -> int:
    """How often a stress test repeats its work: --stress-n."""
    return int(request.config.getoption("--stress-n"))


# --- meetings


@pytest.fixture
def meeting(tmp_path: Path) -> Callable[[], Meeting]:
    numbers = iter(range(1000))
    return lambda: Meeting(tmp_path / f"meeting-{next(numbers)}")


# --- leaks


def read(path: str) -> bytes:
    """What a file in /proc says, in the fewest calls: every test reads hundreds of them."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 1 << 20)
    finally:
        os.close(descriptor)


# Processes, by pid and start, that have an environment without this run's word: they have never been ours, nor will be.
strangers: set[tuple[str, bytes]] = set()


def descendants() -> set[str]:
    """Our children, and every process that inherited this run's word; zombies among the children count."""
    found = set()
    word = f"TREADLE_TEST_RUN={RUN}".encode()
    own = str(os.getpid())
    for pid in os.listdir("/proc"):
        if not pid.isdigit() or pid == own:
            continue
        with contextlib.suppress(OSError):
            head, _, rest = read(f"/proc/{pid}/stat").rpartition(b")")
            state, parent, *fields = rest.split()
            ours = parent == own.encode()
            if not ours and (pid, fields[17]) not in strangers:
                environment = read(f"/proc/{pid}/environ")
                ours = word in environment
                if environment and not ours:  # without any, it may be in the midst of an exec
                    strangers.add((pid, fields[17]))
            if ours:
                found.add(f"{pid} {head.partition(b'(')[2].decode(errors='replace')} {state.decode()}")
    return found


def descriptors() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(f"{name} -> {os.readlink(f'/proc/self/fd/{name}')}")
    return found


OTHERS = ("joblib_memmapping_folder_", "sem.loky-")


def segments() -> set[str]:
    """What we have in /dev/shm: names, and inodes."""
    found = set()
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir("/dev/shm"):
            # The guardian's, which all our programs share; and what joblib, which no test uses, leaves when it ends.
            if entry.name == f"treadle-{os.geteuid()}" or entry.name.startswith(OTHERS):
                continue
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                if status.st_uid == os.geteuid():
                    found.add(f"{entry.name} {status.st_ino}")
    return found


def mapped_elsewhere() -> set[str]:
    """The inodes in /dev/shm that processes map which are not of this run; a semaphore was mapped by another name."""
    found: set[str] = set()
    word = f"TREADLE_TEST_RUN={RUN}".encode()
    for pid in os.listdir("/proc"):
        if pid.isdigit() and pid != str(os.getpid()):
            with contextlib.suppress(OSError):
                if word not in read(f"/proc/{pid}/environ"):
                    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
                    found.update(line.split()[4] for line in maps if "/dev/shm/" in line)
    return found


def shared_blocks() -> set[str]:
    """Blocks of shared memory: without one, the memory goes as a whole, with its descriptors."""
    treadle._engine.shared_trim()
    info = treadle._engine.shared_info()
    return {f"{name} {number}" for name in ("blocks", "foreign_blocks") for number in range(info[name])}


def pytest_leak_kinds() -> dict[str, Snapshot]:
    return {
        "shared blocks": shared_blocks,
        "processes": descendants,
        "descriptors": descriptors,
        "segments": segments,
    }


def pids(processes: set[str]) -> set[int]:
    return {int(process.split()[0]) for process in processes}


def new_things(kind: str, snapshot: Snapshot, before: set[str]) -> set[str]:
    now = snapshot() - before
    if kind == "processes":  # its state is part of a process's description, and changes
        known = pids(before)
        now = {process for process in now if int(process.split()[0]) not in known}
    if kind == "segments" and now:  # but for what only processes outside this run have mapped: another run may go on
        elsewhere = mapped_elsewhere()
        now = {segment for segment in now if segment.split()[-1] not in elsewhere}
    return now


def wait_for_exit(processes: set[str], seconds: float) -> None:
    """Wait until one of the processes ends, at most so long; with no process it waits that long."""
    with contextlib.ExitStack() as stack:
        poll = select.poll()
        for pid in pids(processes):
            with contextlib.suppress(OSError):
                descriptor = os.pidfd_open(pid)
                stack.callback(os.close, descriptor)
                poll.register(descriptor, select.POLLIN)
        poll.poll(seconds * 1000)


@pytest.fixture(autouse=True)
def leaves_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    marker = request.node.get_closest_marker("leaks_allowed")
    kinds: dict[str, Snapshot] = {}
    for more in request.node.ihook.pytest_leak_kinds():
        kinds.update(more)
    for kind in marker.args if marker else ():
        del kinds[kind]
    before = {kind: snapshot() for kind, snapshot in kinds.items()}
    yield
    end = time.monotonic() + GRACE_S
    while True:
        left = {kind: new_things(kind, snapshot, before[kind]) for kind, snapshot in kinds.items()}
        if not any(left.values()):
            return
        if time.monotonic() > end:
            break
        gc.collect()
        wait_for_exit(left.get("processes", set()), 0.01)
    pytest.fail("left behind: " + "; ".join(f"{kind}: {sorted(things)}" for kind, things in left.items() if things))


# --- event loops

Main = Callable[[], Coroutine[Any, Any, Any]]


class Loops:
    """Runs coroutines on loops of one kind; whatever a loop complains of, and callbacks left over, fail the test."""

    def __init__(self, kind: str) -> None:
        name, _, debug = kind.partition(" ")
        self.module = importlib.import_module(name)
        self.make = _loops.factory_of(name)
        self.debug = bool(debug)
        self.complaints: list[dict[str, Any]] = []

    def new(self) -> asyncio.AbstractEventLoop:
        loop = self.make()
        loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        return loop

    def run(self, main: Main) -> Any:
        with asyncio.Runner(loop_factory=self.new) as runner:
            assert runner.get_loop().get_debug() or not self.debug
            try:
                return runner.run(main())
            finally:
                for _ in range(3):
                    runner.run(asyncio.sleep(0))
                pending = self.pending(runner.get_loop())
                assert not pending

    def pending(self, loop: Any) -> list[asyncio.Handle]:
        """What is still to be called, where the loop has that in Python."""
        handles = (*loop._ready, *loop._scheduled) if self.module is asyncio else ()
        return [handle for handle in handles if not handle.cancelled()]


# rloop leaves its poller open when a loop is closed.
RLOOP = pytest.param("rloop", marks=pytest.mark.leaks_allowed("descriptors"))


# A sanitizer looks at our side of a loop, which these two show as well.
KINDS = (
    ["asyncio", "uvloop"]
    if "libasan" in os.environ.get("LD_PRELOAD", "")
    else ["asyncio", "asyncio debug", "uvloop", RLOOP]
)


@pytest.fixture(params=KINDS)
def loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loops]:
    pytest.importorskip(request.param.partition(" ")[0])
    made = Loops(request.param)
    if made.debug:
        monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    else:
        monkeypatch.delenv("PYTHONASYNCIODEBUG", raising=False)
    yield made
    gc.collect()
    assert not made.complaints
