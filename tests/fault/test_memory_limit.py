"""A cgroup's memory limit: what can't fit is a MemoryError, and what the OOM killer takes is a worker."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from treadle import SharedMemory, _engine

# There, bytes(n) takes n bytes before anything is written: the limit would end these programs, not the pool.
pytestmark = pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="free-threaded Python touches what it allocates"
)

LIMIT = 192 << 20
PLACES = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]


@pytest.fixture
def cgroup(until_gone: Any) -> Iterator[Path]:
    """A cgroup of our own with a limit, where one can be made."""
    for place, limit in PLACES:
        folder = Path(place, f"treadle-{secrets.token_hex(4)}")
        with contextlib.suppress(OSError):
            folder.mkdir()
            if (folder / limit).exists():
                break
            folder.rmdir()
    else:
        pytest.skip("no cgroup can be made here")
    try:
        (folder / limit).write_text(str(LIMIT))
        yield folder
    finally:
        for pid in (folder / "cgroup.procs").read_text().split():
            until_gone(int(pid))
        for _ in range(100):  # what has ended is taken off its books a little later
            with contextlib.suppress(OSError):
                folder.rmdir()
                break
            select.select([], [], [], 0.05)


def run_in(cgroup: Path, program: Path, body: str) -> str:
    program.write_text(body)
    script = f'echo $$ > {cgroup}/cgroup.procs && exec "$@"'
    command = ["sh", "-c", script, "sh", sys.executable, str(program)]
    # AddressSanitizer, where it is there, keeps the latest 256 MiB that a process frees, on the books of the cgroup.
    environment = {**os.environ, "ASAN_OPTIONS": f"{os.environ.get('ASAN_OPTIONS', '')}:quarantine_size_mb=1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def run_numpy_in(cgroup: Path, program: Path, body: str) -> str:
    """With a higher limit where AddressSanitizer is there: NumPy takes 100 MB more in each process then."""
    if "libasan" in os.environ.get("LD_PRELOAD", ""):
        for _, limit in PLACES:
            if (cgroup / limit).exists():
                (cgroup / limit).write_text(str(LIMIT + (160 << 20)))
    return run_in(cgroup, program, body)


BODY = """
from treadle import ProcessPoolExecutor

def echo(data):
    return data

def use(count):
    return sum(bytearray(b"x") * count)

with ProcessPoolExecutor(2) as pool:
    for call in (len, bytes(400 << 20)), (bytes, 400 << 20), (abs, -1), (use, 400 << 20), (abs, -2):
        try:
            print(pool.submit(*call).result())
        except Exception as error:
            print(type(error).__name__, getattr(error, "oom_suspected", ""))
    total = 0
    for result in pool.map(echo, (bytes(1 << 20) for _ in range(600))):
        total += len(result)
    print(total >> 20)
"""


STREAMS = """
import hashlib
from collections import deque
from treadle import ProcessPoolExecutor

MIB = 1 << 20
COUNT = 400

def late(data):
    "The first takes as long as many others."
    if data[:1] == b"x":
        for _ in range(300):
            hashlib.sha256(bytes(MIB)).digest()
    return data

def fill(number):
    return late(b"x" * MIB if number == 0 else bytes(MIB))

def items():
    yield b"x" * MIB
    for _ in range(COUNT - 1):
        yield bytes(MIB)

def submitted(pool):
    waiting = deque()
    for item in items():
        waiting.append(pool.submit(late, item))
        if len(waiting) > 20:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()

def streams(pool):
    yield pool.map(late, items())
    yield pool.map(fill, iter(range(COUNT)))
    yield pool.map(fill, range(COUNT))
    yield pool.map(fill, range(COUNT), ordered=False)
    yield pool.map(fill, iter(range(COUNT)), chunksize=8)
    yield submitted(pool)

with ProcessPoolExecutor(2) as pool:
    for stream in streams(pool):
        print(sum(map(len, stream)) // MIB)
"""


SPARE = """
import mmap, os, pickle, sys
from concurrent.futures import wait
from treadle import ProcessPoolExecutor

MIB = 1 << 20

def hold(gate):
    open(gate).close()

def take(count):
    "What is never written to takes no memory but that of the result's block."
    return pickle.PickleBuffer(mmap.mmap(-1, count, mmap.MAP_PRIVATE))

with ProcessPoolExecutor(2) as pool:
    for name in "abcdef":
        gate = sys.argv[0] + name
        os.mkfifo(gate)
        held = pool.submit(hold, gate)
        with open(gate, "w"):
            wait([pool.submit(bytes, MIB) for _ in range(100)])
        held.result()
        print(len(pool.submit(take, 80 * MIB).result()) // MIB)
"""


def test_what_one_worker_has_to_spare_is_there_for_another(cgroup: Path, tmp_path: Path) -> None:
    assert run_in(cgroup, tmp_path / "program.py", SPARE).split() == ["80"] * 6


def test_streams_of_any_length_under_a_cgroups_memory_limit(cgroup: Path, tmp_path: Path) -> None:
    assert run_in(cgroup, tmp_path / "program.py", STREAMS).split() == ["400"] * 6


def test_under_a_cgroups_memory_limit(cgroup: Path, tmp_path: Path) -> None:
    found = run_in(cgroup, tmp_path / "program.py", BODY).splitlines()
    assert [line.strip() for line in found] == ["NoRoom", "NoRoom", "1", "WorkerDied True", "2", "600"]


SHARED = """
import errno
from treadle import SharedMemory

try:
    SharedMemory(create=True, size=400 << 20)
except OSError as error:
    print(errno.errorcode[error.errno])
memory = SharedMemory(create=True, size=20 << 20)
memory.buf[-1] = 1
print(memory.size >> 20)
many = []
try:  # in steps so large that the last one leaves room for the program itself
    while True:
        many.append(SharedMemory(create=True, size=40 << 20))
except OSError as error:
    print(errno.errorcode[error.errno], len(many) > 1)
"""


def test_shared_memory_over_the_limit_is_an_error(cgroup: Path, tmp_path: Path) -> None:
    kept = SharedMemory(create=True, size=1)
    while not _engine.segments_guarded():  # the guardian is on duty, and none is started in the cgroup
        os.sched_yield()
    assert run_in(cgroup, tmp_path / "shared.py", SHARED).split() == ["ENOMEM", "20", "ENOMEM", "True"]
    kept.close()


KEPT = """
import ctypes
import numpy as np
from treadle import ProcessPoolExecutor

BYTES = 4 << 20
kept = []
results = []  # they hold their blocks: room for a copy is looked for, whatever was given back since the one before

def make(keep):
    array = np.empty(BYTES, "u1")
    array[:] = len(kept)
    kept.extend([array] * keep)
    return array

def forget():
    kept.clear()
    ctypes.CDLL(None).malloc_trim(0)  # or it may keep what lies between other memory

def attempt(keep):
    try:
        results.append(pool.submit(make, keep).result())
        return str(results[-1][::4096].max())
    except MemoryError:
        return "refused"

with ProcessPoolExecutor(1) as pool:
    while pool.stats()["bytes_moved"] == 0:
        attempt(False)
        results.clear()
    found = [attempt(True)]
    while found[-1] != "refused":
        found.append(attempt(True))
    results.clear()
    pool.submit(forget).result()
    print(found == [*map(str, range(len(found) - 1)), "refused"], attempt(False))
"""


def test_an_array_that_is_kept_and_cannot_be_copied_is_an_error(cgroup: Path, tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    assert run_numpy_in(cgroup, tmp_path / "program.py", KEPT).split() == ["True", "0"]


ARRAYS = """
import hashlib
import numpy as np
from treadle import ProcessPoolExecutor

MIB = 1 << 20
COUNT = 400

def fill(number):
    "The first takes as long as many others."
    if number == 0:
        for _ in range(300):
            hashlib.sha256(bytes(MIB)).digest()
    return np.full(MIB, number % 100, "u1")

with ProcessPoolExecutor(2) as pool:
    for chunksize in (None, 8):
        results = pool.map(fill, range(COUNT), chunksize=chunksize)
        print(sum(bool((array == i % 100).all()) for i, array in enumerate(results)))
    print(pool.stats()["bytes_moved"] > 0)
"""


def test_a_stream_of_arrays_that_move_stays_under_the_limit(cgroup: Path, tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    assert run_numpy_in(cgroup, tmp_path / "program.py", ARRAYS).split() == ["400", "400", "True"]


SHARED_ARRAYS = """
import numpy as np
import treadle
from treadle import ProcessPoolExecutor, shared

MIB = 1 << 20

def fill(array):
    array[:] = 7

with ProcessPoolExecutor(1) as pool:
    for make in (shared.zeros, shared.empty, np.zeros):
        with shared.allocator():
            try:
                make(400 * MIB, "u1")
            except MemoryError as error:
                print(type(error).__mro__[-4].__name__)
    for _ in range(6):
        array = shared.zeros(64 * MIB, "u1")
        pool.submit(fill, array).result()
        print(array[:: MIB].sum())
"""


def test_a_shared_array_that_cannot_fit_is_an_error_and_others_come_and_go(cgroup: Path, tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    assert run_numpy_in(cgroup, tmp_path / "program.py", SHARED_ARRAYS).split() == ["MemoryError"] * 3 + ["448"] * 6
