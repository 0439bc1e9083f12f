"""The worker's loop: what happens around the calls it makes."""

from __future__ import annotations

import os
import pickle
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from treadle import NoRoom, ProcessPoolExecutor, TravelError


def same(value: object) -> object:
    return value


class Block:
    """Bytes that travel out of band where they are many."""

    def __init__(self, size: int, value: int = 0) -> None:
        self.data: Any = bytearray([value]) * size

    def __reduce_ex__(self, protocol: Any) -> Any:
        return rebuild, (pickle.PickleBuffer(self.data),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Block) and self.data == other.data


def rebuild(data: Any) -> Block:
    block = Block(0)
    block.data = data
    return block


def raise_it(error: BaseException) -> None:
    raise error


# --- results


@pytest.mark.parametrize("size", [0, 1, 50, 61, 62, 63, 64, 65, 1000, 100_000, 5_000_000])
def test_results_of_all_sizes_come_back(pool: ProcessPoolExecutor, size: int) -> None:
    for value in ("x" * size, b"x" * size, list(range(size // 100)), Block(size)):
        result = pool.submit(same, value).result()
        assert type(result) is type(value)
        assert result == value


@pytest.mark.parametrize("chunksize", [1, 3, 100])
def test_a_chunks_results_of_all_sizes_come_back(pool: ProcessPoolExecutor, chunksize: int) -> None:
    sizes = (0, 1, 7, 8, 60, 300, 4000, 70_000)
    values: list[object] = [value for size in sizes for value in (size, "x" * size, Block(size))]
    for result, value in zip(pool.map(same, values, chunksize=chunksize), values, strict=True):
        assert type(result) is type(value)
        assert result == value


@pytest.mark.parametrize("error", [KeyboardInterrupt("k"), SystemExit(3), GeneratorExit()], ids=repr)
def test_what_is_no_exception_comes_back_and_ends_nothing(pool: ProcessPoolExecutor, error: BaseException) -> None:
    found = pool.submit(raise_it, error).exception()
    assert type(found) is type(error)
    assert found.args == error.args


def test_errors_in_a_chunk_are_at_their_places(pool: ProcessPoolExecutor) -> None:
    futures = [pool.submit(int, text) for text in ("1", "x", "3")]
    assert [future.exception() is None for future in futures] == [True, False, True]


def test_a_result_that_cannot_travel_fails_at_its_place(pool: ProcessPoolExecutor) -> None:
    results = pool.map(lambda n: threading.Lock() if n == 1 else n, range(2), chunksize=2)
    assert next(results) == 0
    with pytest.raises(TravelError, match="the result: cannot pickle"):
        next(results)


class Greedy:
    """Its pickle is more than memory holds."""

    def __reduce__(self) -> Any:
        raise MemoryError("too much")


def test_no_memory_for_a_result_is_a_memory_error(pool: ProcessPoolExecutor) -> None:
    assert type(pool.submit(Greedy).exception()) in (MemoryError, NoRoom)


# --- arguments


def fill(block: Block) -> int:
    block.data[:] = b"\7" * len(block.data)
    return sum(block.data)


def test_a_buffer_is_writable_in_the_worker_and_not_shared(pool: ProcessPoolExecutor) -> None:
    source = Block(10_000)
    assert pool.submit(fill, source).result() == 70_000
    assert source == Block(10_000)
    assert sum(pool.map(fill, [source] * 10)) == 700_000


def test_arguments_that_a_task_keeps_outlive_it(pool: ProcessPoolExecutor, module: Any) -> None:
    module.define("kept = []\ndef keep(block): kept.append(block)\ndef look(): return [set(b.data) for b in kept]")
    for number in range(5):
        pool.submit(module.keep, Block(10_000, number)).result()
    list(pool.map(module.keep, [Block(10_000, number) for number in range(5, 10)]))
    for _ in range(20):
        pool.submit(same, Block(10_000, 100)).result()
    assert pool.submit(module.look).result() == [{number} for number in range(10)]


def test_what_one_part_of_a_chunk_keeps_outlives_the_other_parts(module: Any, meeting: Callable[[], Any]) -> None:
    here, parted, read, apart = meeting(), meeting(), meeting(), meeting()
    module.define("""
        kept, met = [], []
        def keep_first(block, parted, read):
            if block.data[0] == 0:
                kept.append(block)
                parted.in_test()
            elif not kept and not met:
                met.append(True)
                parted.in_task()
                read.in_task()
        def look(meet, first):
            (meet.in_task if first else meet.in_test)()
            return [set(block.data) for block in kept]
    """)

    def fixed(value: int) -> Block:
        block = Block(10_000, value)
        block.data = bytes(block.data)
        return block

    def look_in_both(pool: ProcessPoolExecutor, meet: Any) -> list[list[set[int]]]:
        return [future.result() for future in [pool.submit(module.look, meet, first) for first in (True, False)]]

    with ProcessPoolExecutor(2) as pool:
        assert look_in_both(pool, here) == [[], []]
        results = pool.map(module.keep_first, map(fixed, range(40)), [parted] * 40, [read] * 40, chunksize=40)
        next(results)  # the part of the worker that kept something has ended
        read.in_test()
        list(results)
        for _ in range(3):
            list(pool.map(same, map(fixed, [100] * 40), chunksize=40))
        assert sorted(look_in_both(pool, apart)) == [[], [{0}]]


def test_a_result_may_be_a_view_of_an_argument(pool: ProcessPoolExecutor) -> None:
    result = pool.submit(lambda block: pickle.PickleBuffer(memoryview(block.data)[:5000]), Block(10_000, 3)).result()
    assert bytes(result) == b"\3" * 5000


def test_a_buffer_in_a_result_is_writable(pool: ProcessPoolExecutor) -> None:
    assert fill(pool.submit(Block, 10_000).result()) == 70_000
    assert [fill(block) for block in pool.map(Block, [10_000] * 10)] == [70_000] * 10


def test_results_outlive_the_pool() -> None:
    with ProcessPoolExecutor(1) as pool:
        result = pool.submit(Block, 100_000, 5).result()
    assert result == Block(100_000, 5)


def test_numpys_arrays_come_back_without_a_copy(pool: ProcessPoolExecutor) -> None:
    numpy = pytest.importorskip("numpy")
    result = pool.submit(numpy.full, (100, 1000), 2.5).result()
    assert (result == 2.5).all()
    assert not result.flags.owndata
    assert result.flags.writeable


# --- functions


def test_state_of_a_function_stays_with_it(pool: ProcessPoolExecutor) -> None:
    def count() -> int:
        count.calls += 1  # type: ignore[attr-defined]
        return count.calls  # type: ignore[attr-defined, no-any-return]

    count.calls = 0  # type: ignore[attr-defined]
    assert [pool.submit(count).result() for _ in range(3)] == [1, 2, 3]


def test_more_functions_than_a_worker_remembers(pool: ProcessPoolExecutor) -> None:
    functions = [lambda n=n: n for n in range(600)]
    futures = [pool.submit(function) for function in functions * 2]
    assert [future.result() for future in futures] == list(range(600)) * 2


def test_a_function_that_cannot_be_loaded_fails_its_task(pool: ProcessPoolExecutor) -> None:
    class Refuses:
        def __reduce__(self) -> Any:
            return raise_it, (ValueError("not here"),)

        def __call__(self) -> None: ...

    error = pool.submit(Refuses()).exception()
    assert isinstance(error, TravelError)
    assert "the function could not be loaded in the worker: ValueError: not here" in str(error)


def test_a_version_of_a_global_goes_with_its_submit(pool: ProcessPoolExecutor, module: Any) -> None:
    module.define("def task(): return value")
    futures = []
    for module.value in (1, 2, 1, 3, 2, 1):
        futures.append(pool.submit(module.task))
    assert [future.result() for future in futures] == [1, 2, 1, 3, 2, 1]


def test_what_an_initializer_sets_is_there_for_tasks(module: Any) -> None:
    module.define("state = None\ndef begin(value): global state; state = [value]\ndef task(): return state")
    with ProcessPoolExecutor(1, initializer=module.begin, initargs=(5,)) as pool:
        assert pool.submit(module.task).result() == [5]
        module.state = "changed here"
        assert pool.submit(module.task).result() == "changed here"


def test_an_instance_comes_back_as_one_of_our_own_class(pool: ProcessPoolExecutor, module: Any) -> None:
    module.define("class Point:\n  def __init__(self, x): self.x = x\ndef moved(p): return Point(p.x + 1)")
    for _ in range(2):
        result = pool.submit(module.moved, module.Point(1)).result()
        assert type(result) is module.Point
        assert result.x == 2
    assert [p.x for p in pool.map(module.moved, map(module.Point, range(50)))] == list(range(1, 51))


# --- streams


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_is_there_when_the_result_is(tmp_path: Path, stream: str) -> None:
    target = tmp_path / "output"

    def begin() -> None:
        setattr(sys, stream, open(target, "w", buffering=10_000))  # noqa: SIM115

    def write(number: int) -> None:
        getattr(sys, stream).write(f"{number}.")

    with ProcessPoolExecutor(1, initializer=begin, forward_output=False) as pool:
        for number in range(3):
            pool.submit(write, number).result()
            assert target.read_text().endswith(f"{number}.")
        assert list(pool.map(write, range(3), chunksize=3)) == [None] * 3
        assert target.read_text() == "0.1.2.0.1.2."


def test_a_stream_that_a_task_broke_is_no_matter(pool: ProcessPoolExecutor) -> None:
    def break_streams() -> None:
        sys.stdout = object()  # type: ignore[assignment]
        sys.stderr = None  # type: ignore[assignment]

    def mend_streams() -> None:
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # type: ignore[assignment]

    pool.submit(break_streams).result()
    assert pool.submit(abs, -1).result() == 1
    pool.submit(mend_streams).result()


def test_standard_input_is_empty(pool: ProcessPoolExecutor) -> None:
    assert pool.submit(lambda: sys.stdin.read()).result() == ""


def test_exit_handlers_run_when_a_worker_leaves(tmp_path: Path) -> None:
    target = tmp_path / "left"

    def register() -> None:
        import atexit

        atexit.register(target.write_text, "yes")

    with ProcessPoolExecutor(1) as pool:
        pool.submit(register).result()
    assert target.read_text() == "yes"


def test_a_worker_waits_for_the_threads_that_its_tasks_started(tmp_path: Path) -> None:
    target, fifo = tmp_path / "written", tmp_path / "fifo"
    os.mkfifo(fifo)

    def start() -> None:
        def body() -> None:
            fifo.open().close()
            target.write_text("yes")

        threading.Thread(target=body).start()

    with ProcessPoolExecutor(1) as pool:
        pool.submit(start).result()
        pool.shutdown(wait=False)
        fifo.open("w").close()
    pool.shutdown()
    assert target.read_text() == "yes"
