"""SharedMemory: what it is made of, what keeps it, and when it goes. Beside the stdlib's: tests/parity."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import treadle
from treadle import SharedMemory, _engine, shared_memory

FOLDER = Path("/dev/shm")


def is_there(memory: SharedMemory) -> bool:
    return (FOLDER / memory.name).exists()


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    made = SharedMemory(create=True, size=1000)
    yield made
    made.close()


# --- what it is


def test_the_module_has_the_stdlibs_names() -> None:
    assert shared_memory.SharedMemory is treadle.SharedMemory
    assert shared_memory.ShareableList is treadle.ShareableList


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 5_000_000])
def test_the_size_is_what_was_asked_for_on_each_attach(size: int) -> None:
    first = SharedMemory(create=True, size=size)
    second = SharedMemory(first.name, size=7)
    assert (first.size, len(first.buf), second.size, len(second.buf)) == (size,) * 4
    assert os.stat(FOLDER / first.name).st_size == size
    assert not any(first.buf)
    first.buf[size - 1] = 9
    assert second.buf[size - 1] == 9


def test_all_of_it_is_allocated_when_it_is_made() -> None:
    memory = SharedMemory(create=True, size=3_000_000)
    assert os.stat(FOLDER / memory.name).st_blocks * 512 >= 3_000_000


def test_nobody_else_may_open_the_file(memory: SharedMemory) -> None:
    assert os.stat(FOLDER / memory.name).st_mode & 0o777 == 0o600


def test_the_text_names_it(memory: SharedMemory) -> None:
    assert repr(memory) == f"SharedMemory({memory.name!r}, size=1000)"


def test_it_opens_no_descriptor() -> None:
    before = os.listdir("/proc/self/fd")
    kept = [SharedMemory(create=True, size=1) for _ in range(100)]
    assert os.listdir("/proc/self/fd") == before
    del kept


@pytest.mark.parametrize("arguments", [{}, {"create": True, "size": 1}])
def test_a_null_character_in_a_name_is_a_value_error(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="embedded null character"):
        SharedMemory("a\0b", **arguments)


# --- views


VIEWS: list[Callable[[memoryview], Any]] = [
    lambda buf: buf,
    lambda buf: buf[10:20],
    lambda buf: buf.cast("d"),
    lambda buf: pytest.importorskip("numpy").ndarray((1000,), "u1", buffer=buf),
    lambda buf: pytest.importorskip("numpy").frombuffer(buf, "i4")[::2],
    lambda buf: pytest.importorskip("numpy").asarray(buf).reshape(10, 100).T,
]


@pytest.mark.parametrize("make", VIEWS)
def test_a_view_outlives_close_and_the_object(make: Callable[[memoryview], Any]) -> None:
    memory = SharedMemory(create=True, size=1000)
    name = memory.name
    view = make(memory.buf)
    memory.close()
    memory.close()
    assert memory.buf is None
    del memory
    gc.collect()
    view[0] = view[-1]
    assert (FOLDER / name).exists()
    assert SharedMemory(name).size == 1000
    del view
    assert not (FOLDER / name).exists()


def test_a_view_outlives_unlink(memory: SharedMemory) -> None:
    view = memory.buf[:]
    memory.unlink()
    memory.close()
    view[:] = b"3" * 1000
    assert bytes(view) == b"3" * 1000


def test_views_end_in_threads_while_others_close() -> None:
    for _ in range(50):
        memory = SharedMemory(create=True, size=100)
        together = threading.Barrier(5)

        def end(view: memoryview, together: threading.Barrier = together) -> None:
            together.wait()
            view.release()

        threads = [threading.Thread(target=end, args=(memory.buf[i:],)) for i in range(4)]
        for thread in threads:
            thread.start()
        together.wait()
        memory.close()
        for thread in threads:
            thread.join()
        del threads, thread
        assert not is_there(memory)


# --- the end


def test_it_goes_with_the_last_object_of_it() -> None:
    first = SharedMemory(create=True, size=10)
    second = SharedMemory(first.name)
    first.close()
    assert is_there(first)
    second.close()
    assert not is_there(first)
    with pytest.raises(FileNotFoundError):
        SharedMemory(first.name)


def test_an_object_that_is_dropped_is_closed() -> None:
    name = SharedMemory(create=True, size=10).name
    assert not (FOLDER / name).exists()


def test_unlinking_what_went_by_itself_is_silent() -> None:
    first = SharedMemory(create=True, size=10)
    second = SharedMemory(first.name)
    first.close()
    second.close()
    first.unlink()
    second.unlink()
    first.unlink()


def test_unlinking_leaves_another_of_the_name_alone() -> None:
    gone = SharedMemory(create=True, size=10)
    gone.close()
    other = SharedMemory(gone.name, create=True, size=20)
    gone.unlink()
    assert SharedMemory(gone.name).size == 20
    other.close()


def test_a_name_is_free_again_when_the_last_close_returns() -> None:
    for size in range(1, 200):
        memory = SharedMemory(f"treadle-test-again-{os.getpid()}", create=True, size=size)
        memory.close()


def test_what_is_not_tracked_stays_until_it_is_unlinked() -> None:
    memory = SharedMemory(create=True, size=10, track=False)
    memory.buf[:4] = b"kept"
    memory.close()
    again = SharedMemory(memory.name, track=True)
    assert bytes(again.buf[:4]) == b"kept"
    again.close()
    assert is_there(memory)
    memory.unlink()
    with pytest.raises(FileNotFoundError):
        memory.unlink()


def test_attaching_without_tracking_does_not_make_it_stay() -> None:
    memory = SharedMemory(create=True, size=10)
    other = SharedMemory(memory.name, track=False)
    memory.close()
    assert is_there(memory)
    other.close()
    assert not is_there(memory)


# --- other processes


def write_and_leave(memory: Any, text: bytes) -> None:
    if isinstance(memory, str):
        memory = SharedMemory(memory)
    memory.buf[: len(text)] = text
    memory.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("by_name", [True, False])
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_process_of_multiprocessing_writes_into_it(memory: SharedMemory, method: str, by_name: bool) -> None:
    given = memory.name if by_name else memory
    process = multiprocessing.get_context(method).Process(target=write_and_leave, args=(given, b"written"))
    process.start()
    process.join()
    assert (process.exitcode, bytes(memory.buf[:7])) == (0, b"written")
    assert is_there(memory)


@pytest.mark.parametrize("method", ["zygote", "fork", "spawn"])
def test_a_worker_writes_into_it(memory: SharedMemory, method: str) -> None:
    with treadle.ProcessPoolExecutor(1, start_method=method) as pool:
        pool.submit(write_and_leave, memory, b"hello").result()
        assert bytes(memory.buf[:5]) == b"hello"
        pool.submit(write_and_leave, memory.name, b"HELLO").result()
    assert bytes(memory.buf[:5]) == b"HELLO"


def keep_open(name: str) -> None:
    globals()["kept"] = SharedMemory(name)


def test_what_a_worker_keeps_goes_with_the_worker() -> None:
    memory = SharedMemory(create=True, size=10)
    with treadle.ProcessPoolExecutor(1) as pool:
        pool.submit(keep_open, memory.name).result()
        memory.close()
        assert is_there(memory)
    assert_removed(memory.name)


def assert_removed(name: str) -> None:
    """Nobody holds it, whether it has been removed yet or not: a new one can have its name."""
    SharedMemory(name, create=True, size=1).close()


def test_a_pickle_attaches(memory: SharedMemory) -> None:
    memory.buf[:2] = b"ab"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(memory, protocol))
        assert (type(again), again.name, again.size, bytes(again.buf[:2])) == (SharedMemory, memory.name, 1000, b"ab")


LEAVING = {
    "the end": "",
    "sys.exit": "sys.exit(3)",
    "an exception": "raise ValueError",
    "os._exit": "os._exit(0)",
}


@pytest.mark.parametrize("how", LEAVING)
def test_a_program_that_leaves_without_closing_leaves_nothing(how: str) -> None:
    code = f"""
import os, sys
from treadle import SharedMemory
memory = SharedMemory(create=True, size=10)
view = memory.buf[2:]
sys.keep = [memory, view]
print(memory.name, flush=True)
{LEAVING[how]}
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    name = done.stdout.strip()
    if how != "os._exit":
        assert not (FOLDER / name).exists()
    assert_removed(name)


def test_a_sweep_tells_what_is_held(memory: SharedMemory) -> None:
    rows = {row[0]: row[1:] for row in _engine.segments_sweep()}
    assert rows[memory.name] == (1000, True, False)
    rows = {row[0]: row[1:] for row in _engine.segments_sweep(True)}
    assert rows[memory.name] == (1000, True, False)
    assert is_there(memory)


def test_a_guardian_is_on_duty_while_there_is_a_segment(memory: SharedMemory) -> None:
    while not _engine.segments_guarded():  # one that was about to leave comes back
        os.sched_yield()
    assert _engine.segments_problem() == 0


def test_the_guardian_is_found_where_an_editable_installation_has_it(tmp_path: Path) -> None:
    beside = shared_memory._guardian_in(str(Path(shared_memory.__file__).parent))
    assert os.access(beside, os.X_OK)
    assert os.path.samefile(shared_memory._guardian_in(str(tmp_path)), beside)


def test_an_array_outlives_a_buffer_that_is_released_under_it() -> None:
    numpy = pytest.importorskip("numpy")
    memory = SharedMemory(create=True, size=1_000_000)
    array = numpy.ndarray((1_000_000,), "u1", buffer=memory.buf)
    memory.buf.release()
    memory.close()
    array[:] = 1
    assert array.sum() == 1_000_000
