"""What several unit tests need."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from treadle import ProcessPoolExecutor


class ByHand(ModuleType):
    """A module that only this process knows: no fresh interpreter can import it."""

    def define(self, source: str) -> None:
        """Runs source in the module."""
        exec(compile(textwrap.dedent(source), "by_hand.py", "exec", dont_inherit=True), vars(self))


@pytest.fixture
def module() -> Iterator[ByHand]:
    """A module made by hand, for the time of a test."""
    made = ByHand("by_hand")
    sys.modules["by_hand"] = made
    yield made
    del sys.modules["by_hand"]


def play_worker(source: str, *payloads: bytes) -> Any:
    """Runs the source in a fresh interpreter, `payloads` at hand; gives back what it leaves in `result`, by JSON."""
    program = "import json, sys\nfrom treadle import _byvalue, _named, _travel\n"
    program += f"payloads = {list(payloads)!r}\nload = _travel.load_function\n"
    program += textwrap.dedent(source) + "\nprint(json.dumps(result))\n"
    path = {**os.environ, "PYTHONPATH": ":".join(entry for entry in sys.path if entry)}
    done = subprocess.run([sys.executable, "-c", program], env=path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def in_worker() -> Any:
    """play_worker."""
    return play_worker


class Gate:
    """A task waits at it until the test opens it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)

    def open(self) -> None:
        with open(self.path, "w"):
            pass


@pytest.fixture
def make_gate(tmp_path: Path) -> Callable[[], Gate]:
    numbers = iter(range(1000))
    return lambda: Gate(tmp_path / f"gate-{next(numbers)}")


@pytest.fixture
def gate(make_gate: Callable[[], Gate]) -> Gate:
    return make_gate()


@pytest.fixture(scope="module")
def pool_of_one() -> Iterator[ProcessPoolExecutor]:
    """A task that is cancelled gets the time that it needs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TREADLE_GRACE", "1h")
        made = ProcessPoolExecutor(1)
        made.submit(abs, 1).result()  # its processes belong to no single test
    with made:
        yield made


@pytest.fixture
def pool(pool_of_one: ProcessPoolExecutor) -> Iterator[ProcessPoolExecutor]:
    """Whatever a task did, the same worker takes the next one."""
    before = pool_of_one.submit(os.getpid).result()
    yield pool_of_one
    assert pool_of_one.submit(os.getpid).result() == before


class Travelled(NamedTuple):
    """What a result was, and how many bytes of it moved, or were copied, its arguments included."""

    value: Any
    moved: int
    copied: int


class Moving:
    """A pool whose results may move, and its books."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self.pool = pool

    def live(self) -> int:
        """Bytes of results that are still held."""
        live: int = self.pool.stats()["result_bytes_live"]
        return live

    def travel(self, function: Callable[..., object], *args: object) -> Travelled:
        before = self.pool.stats()
        value = self.pool.submit(function, *args).result()
        after = self.pool.stats()
        moved, copied = (after[key] - before[key] for key in ("bytes_moved", "bytes_copied"))
        return Travelled(value, moved, copied)

    def until(self, enough: Callable[[Travelled], object], function: Callable[..., object], *args: object) -> Travelled:
        """What has no warm block is copied, and the next one of its size has one."""
        while not enough(found := self.travel(function, *args)):
            pass
        return found

    def until_moved(self, bytes_moved: int, function: Callable[..., object], *args: object) -> Any:
        """The value, once so many bytes of it have moved."""
        found = self.until(lambda one: one.moved >= bytes_moved, function, *args)
        assert found.moved == bytes_moved
        return found.value


@pytest.fixture
def moving_in() -> Callable[[ProcessPoolExecutor], Moving]:
    return Moving


@pytest.fixture(scope="module")
def moving_pool() -> Iterator[Moving]:
    with ProcessPoolExecutor(1) as made:
        made.submit(abs, 1).result()  # its processes belong to no single test
        yield Moving(made)


@pytest.fixture
def moving(moving_pool: Moving) -> Iterator[Moving]:
    """One worker, which takes the next task whatever this one did, and of whose results nothing is left at the end."""
    before = moving_pool.pool.submit(os.getpid).result()
    yield moving_pool
    assert moving_pool.pool.submit(os.getpid).result() == before
    assert moving_pool.live() == 0


class Capabilities(ctypes.Structure):
    """What capget and capset have: the first 32 capabilities of three sets, then the rest."""

    _fields_ = [
        (name, ctypes.c_uint32) for name in ["effective", "permitted", "inheritable", "more", "more_p", "more_i"]
    ]


@contextlib.contextmanager
def bound_by_modes() -> Iterator[None]:
    libc = ctypes.CDLL(None, use_errno=True)
    head, held = (ctypes.c_uint32 * 2)(0x20080522, 0), Capabilities()
    assert libc.capget(head, ctypes.byref(held)) == 0
    before = held.effective
    held.effective &= ~0b111  # CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(head, ctypes.byref(held)) == 0
    try:
        yield
    finally:
        held.effective = before
        assert libc.capset(head, ctypes.byref(held)) == 0


@pytest.fixture
def obeying_permissions() -> contextlib.AbstractContextManager[None]:
    """Where root's thread, too, is bound to what the modes of files and folders say."""
    return bound_by_modes()
