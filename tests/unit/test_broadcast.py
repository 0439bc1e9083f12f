"""Values that each worker gets once."""

from __future__ import annotations

import gc
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

np = pytest.importorskip("numpy")

from treadle import Broadcast, ProcessPoolExecutor, TravelError, broadcast, shared  # noqa: E402


class Counted:
    """Counts in a file how often it is loaded."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return load, (self.path,)


def load(path: str) -> Counted:
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")
    return Counted(path)


def use(handle: Broadcast[Counted], _: int) -> int:
    assert handle.value is handle.value
    return os.getpid()


def blocks() -> int:
    gc.collect()
    return shared.info()["blocks"]


def test_each_worker_loads_it_once(tmp_path: Any) -> None:
    path = tmp_path / "loads"
    handle = broadcast(Counted(str(path)))
    with ProcessPoolExecutor(2) as pool:
        used = {future.result() for future in [pool.submit(use, handle, i) for i in range(50)]}
        used |= set(pool.map(use, [handle] * 50, range(50)))
    assert sorted(path.read_text().split()) == sorted(map(str, used))


def test_it_is_the_object_itself_where_it_was_made() -> None:
    thing = {"a": [1, 2]}
    handle = broadcast(thing)
    assert handle.value is thing
    assert "bytes" in repr(handle)


def test_arrays_in_it_are_views_of_one_memory_and_read_only() -> None:
    array = np.arange(100_000)
    handle = broadcast({"a": array, "b": "text"})

    def look(where: Broadcast[Any]) -> tuple[int, bool, str, int]:
        value = where.value
        return int(value["a"].sum()), value["a"].flags.writeable, value["b"], value["a"].ctypes.data % 64

    with ProcessPoolExecutor(1) as pool:
        copied = pool.stats()["bytes_copied"]
        for _ in range(5):
            assert pool.submit(look, handle).result() == (int(array.sum()), False, "text", 0)
        assert pool.stats()["bytes_copied"] - copied < 10_000


def test_a_function_may_refer_to_it() -> None:
    handle = broadcast([1, 2, 3])
    with ProcessPoolExecutor(1) as pool:
        assert pool.submit(lambda: sum(handle.value)).result() == 6


def test_workers_drop_it_after_its_last_handle() -> None:
    before = blocks()
    with ProcessPoolExecutor(1) as pool:
        handle = broadcast(b"x" * 100_000)
        assert pool.submit(lambda where: len(where.value), handle).result() == 100_000
        assert blocks() == before + 1
        del handle
        gc.collect()
        pool.submit(abs, 1).result()
        assert blocks() == before


def load_count(handle: Broadcast[Counted]) -> int:
    return len(Path(handle.value.path).read_text().splitlines())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_that_drops_its_copy_of_the_handle_ends_nothing(tmp_path: Path) -> None:
    handle = broadcast(Counted(str(tmp_path / "loads")))
    pid = os.fork()
    if pid == 0:
        del handle
        gc.collect()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with ProcessPoolExecutor(1) as pool:
        assert [pool.submit(load_count, handle).result() for _ in range(3)] == [1, 1, 1]


def test_a_task_that_is_under_way_has_it_to_its_end(meeting: Any) -> None:
    where = meeting()

    def wait(handle: Broadcast[bytes]) -> int:
        where.in_task()
        return len(handle.value)

    with ProcessPoolExecutor(1) as pool:
        future = pool.submit(wait, broadcast(b"x" * 100_000))
        gc.collect()
        where.in_test()
        assert future.result() == 100_000


def nested(handle: Broadcast[list[int]]) -> int:
    with ProcessPoolExecutor(1) as pool:
        return pool.submit(lambda where: sum(where.value), handle).result()


def test_a_worker_passes_it_on() -> None:
    with ProcessPoolExecutor(1) as pool:
        assert pool.submit(nested, broadcast([1, 2, 3])).result() == 6


def test_it_goes_to_tasks_and_nowhere_else() -> None:
    handle = broadcast(5)
    with pytest.raises(TypeError, match="can only be passed to tasks"):
        pickle.dumps(handle)
    with ProcessPoolExecutor(1) as pool, pytest.raises(TravelError, match="the result"):
        pool.submit(lambda where: where, handle).result()
    with pytest.raises(Exception, match="cannot pickle"):
        broadcast(i for i in range(3))
