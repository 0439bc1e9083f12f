"""The warm pools behind `treadle.joblib`, its settings and what `n_jobs` means."""

from __future__ import annotations

import gc
import os
import re
import select
import time
from collections.abc import Callable, Iterator
from functools import partial
from operator import neg
from pathlib import Path
from typing import Any

import pytest

np = pytest.importorskip("numpy")

from treadle.joblib import (  # noqa: E402
    Logger,
    Parallel,
    ParallelBackendBase,
    PrintTime,
    _batching,
    _config,
    _counts,
    _log,
    _pools,
    _progress,
    cpu_count,
    delayed,
    effective_n_jobs,
    parallel_backend,
    parallel_config,
    register_parallel_backend,
)


@pytest.fixture(autouse=True)
def no_warm_pools() -> Iterator[None]:
    yield
    _pools.close_all()


def pid_of(_: object = None) -> int:
    return os.getpid()


def pids(**options: Any) -> set[int]:
    return set(Parallel(2, batch_size=1, **options)(delayed(pid_of)() for _ in range(50)))


def variables(*names: str) -> list[str | None]:
    return [os.environ.get(name) for name in names]


def lease_of_processes() -> _pools.Lease:
    return _pools.lease_processes(_pools.Kind(2, "treadle", 1, ()))


def write_down(path: str) -> None:
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")


# --- workers stay


def test_workers_are_kept_between_calls_and_shared_by_those_that_want_the_same() -> None:
    found = pids() | pids() | pids(return_as="generator") | pids(backend="loky")
    with Parallel(2, batch_size=1) as parallel:
        found |= set(parallel(delayed(pid_of)() for _ in range(50)))
    assert len(found) <= 2
    assert not found & pids(backend="multiprocessing")


def test_an_initializer_runs_once_in_each_worker_and_another_one_has_workers_of_its_own(tmp_path: Path) -> None:
    one, other = str(tmp_path / "one"), str(tmp_path / "other")
    with parallel_config("treadle", initializer=write_down, initargs=(one,)):
        found = pids() | pids()
    assert {int(line) for line in Path(one).read_text().split()} >= found
    assert len(Path(one).read_text().split()) <= 2
    others = pids(initializer=write_down, initargs=(other,))
    assert not others & found
    assert {int(line) for line in Path(other).read_text().split()} >= others


@pytest.mark.parametrize("seconds", [0, 0.2])
def test_what_was_idle_for_too_long_ends(seconds: float) -> None:
    (pid, *_) = pids(idle_worker_timeout=seconds)
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    select.select([descriptor], [], [])
    os.close(descriptor)


def test_no_more_than_two_pools_are_kept_that_nobody_uses() -> None:
    leases = [_pools.lease_processes(_pools.Kind(n, "test", 1, ())) for n in range(1, 6)]
    assert len(_pools._processes) == 5
    del leases
    _pools.tidy()
    assert len(_pools._processes) == _pools.KEPT


def test_threads_serve_one_call_at_a_time() -> None:
    one = _pools.lease_threads(2)
    other = _pools.lease_threads(2)
    assert one.pool is not other.pool
    pool = other.pool
    del other
    assert _pools.lease_threads(2).pool is pool


@pytest.mark.parametrize("lease", [partial(_pools.lease_threads, 2), lease_of_processes])
def test_a_lease_that_the_collector_ends_leaves_its_pool_alone(lease: Callable[[], Any]) -> None:
    cycle: list[Any] = [lease()]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert lease().pool.submit(abs, -1).result() == 1


def test_workers_hold_blas_to_their_share_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "ENABLE_IPC")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    share = str(max(1, cpu_count() // 2))
    assert Parallel(2)([delayed(variables)(*names)]) == [[share, share, share, "1"]]
    with parallel_config("loky", inner_max_num_threads=3):
        assert Parallel(2)([delayed(variables)(*names)]) == [["3", "3", "3", "1"]]
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert Parallel(2)([delayed(variables)(*names)]) == [["7", share, share, "1"]]


# --- arrays


def look(array: Any) -> tuple[bool, str, float]:
    return bool(array.flags.writeable), type(array).__name__, float(array.sum())


def write(array: Any, place: int, value: float) -> float:
    array[place] = value
    return float(array[place])


def test_large_arrays_are_copied_once_and_are_read_only_in_workers() -> None:
    array = np.arange(300_000.0)
    frozen = [delayed(look)(array), delayed(look)(array=array), delayed(look)(array)]
    assert Parallel(2, batch_size=1)(frozen) == [(False, "ndarray", array.sum())] * 3
    assert Parallel(2, batch_size=1, max_nbytes=None)(frozen) == [(True, "ndarray", array.sum())] * 3
    assert Parallel(2, batch_size=1, mmap_mode=None)(frozen) == [(True, "ndarray", array.sum())] * 3
    assert Parallel(2, batch_size=1, max_nbytes="10M")(frozen) == [(True, "ndarray", array.sum())] * 3


def test_one_copy_serves_all_tasks_of_a_call() -> None:
    array = np.zeros(1000)
    tasks = [delayed(write)(array, i, i + 1.0) for i in range(10)]
    parallel = Parallel(2, max_nbytes=1, mmap_mode="r+", batch_size=1)
    assert parallel(tasks) == [i + 1.0 for i in range(10)]
    assert not array.any()
    with Parallel(2, max_nbytes=1, mmap_mode="r+", batch_size=1, pre_dispatch=1) as parallel:
        values = parallel([delayed(write)(array, 0, 5.0), delayed(float.__add__)(0.0, 1.0), delayed(first)(array)])
    assert values[2] == 5.0


def first(array: Any) -> float:
    return float(array[0])


def test_a_copy_of_its_own_may_be_written_to() -> None:
    array = np.zeros(1000)
    parallel = Parallel(2, max_nbytes=1, mmap_mode="c", batch_size=1)
    assert parallel([delayed(write)(array, 0, 1.0), delayed(first)(array)]) == [1.0, 0.0]


def test_arrays_inside_of_other_objects_are_found_and_those_of_objects_left_alone() -> None:
    array, objects = np.arange(1000), np.array([{"a": 1}, None] * 500)
    (found,) = Parallel(2, max_nbytes=1)([delayed(flags)({"a": [array, (array, objects)]})])
    assert found == (False, False, True)


def flags(value: Any) -> tuple[bool, ...]:
    one, (two, objects) = value["a"]
    return one.flags.writeable, two.flags.writeable, objects.flags.writeable


def test_arrays_that_come_one_after_another_are_each_their_own() -> None:
    sums = Parallel(2, max_nbytes=1, batch_size=1)(delayed(np.sum)(np.full(100, i)) for i in range(200))
    assert sums == [100 * i for i in range(200)]


def look_at_file(array: Any) -> tuple[str, str, bool, float]:
    return type(array).__name__, str(array.filename), bool(array.flags.writeable), float(array.sum())


def test_a_memory_map_travels_by_its_file(tmp_path: Path) -> None:
    path = str(tmp_path / "numbers")
    np.arange(100_000.0).tofile(path)
    found = np.memmap(path, "f8", "r+", 80, (1000, 9), "F")
    parts = [found, found[:, 2:4], np.memmap(path, "f8", "r")]
    looked = Parallel(2, batch_size=1)(delayed(look_at_file)(part) for part in parts)
    assert looked == [("memmap", path, part.flags.writeable, part.sum()) for part in parts]
    assert Parallel(2)([delayed(np.sum)(found[::2])]) == [found[::2].sum()]


def test_what_changes_between_two_calls_is_seen() -> None:
    array = np.zeros(1000)
    with Parallel(2, max_nbytes=1) as parallel:
        assert parallel([delayed(np.sum)(array)]) == [0]
        array[:] = 1
        assert parallel([delayed(np.sum)(array)]) == [1000]


# --- counts and settings


def test_n_jobs_counts_from_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_counts, "cpu_count", lambda: 4)
    assert [_counts.workers_of(n) for n in (-1, -2, -4, -9, 1, 7, None)] == [4, 3, 1, 1, 1, 7, 1]
    with pytest.raises(ValueError, match="n_jobs == 0 in Parallel has no meaning"):
        _counts.workers_of(0)


def test_variables_limit_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= cpu_count(only_physical_cores=True) <= cpu_count()
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert cpu_count() == 1
    monkeypatch.delenv("LOKY_MAX_CPU_COUNT")
    monkeypatch.setenv("JOBLIB_MULTIPROCESSING", "0")
    assert (cpu_count(), effective_n_jobs(7)) == (1, 1)
    assert pids() == {os.getpid()}


def test_the_start_method_of_multiprocessing_is_joblibs_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBLIB_START_METHOD", "forkserver")
    with Parallel(2, "multiprocessing"):
        assert _pools._processes[-1].pool._start_method == "forkserver"


def test_settings_are_those_of_the_innermost_block() -> None:
    with parallel_config("threading", n_jobs=3, verbose=1):
        with parallel_config(n_jobs=2):
            parallel = Parallel()
            assert (type(parallel._backend).__name__, parallel.n_jobs, parallel.verbose) == ("ThreadingBackend", 2, 1)
            assert Parallel(n_jobs=5, verbose=0).n_jobs == 5
        assert effective_n_jobs(None) == 3
    with parallel_backend("loky") as (backend, n_jobs):
        assert (type(backend).__name__, n_jobs) == ("LokyBackend", -1)
    assert Parallel().n_jobs == 1


@pytest.mark.parametrize(
    "options, message",
    [
        ({"backend": "nonsense"}, "Invalid backend: nonsense"),
        ({"prefer": "nonsense"}, "prefer=nonsense is not a valid backend hint"),
        ({"require": "nonsense"}, "require=nonsense is not a valid backend constraint"),
        ({"prefer": "processes", "require": "sharedmem"}, "inconsistent"),
        ({"backend": "treadle", "require": "sharedmem"}, "does not support shared memory"),
        ({"return_as": "nonsense"}, "Expected `return_as`"),
        ({"batch_size": 0}, "batch_size must be 'auto' or a positive integer"),
        ({"n_jobs": "nonsense"}, "n_jobs could not be converted to int"),
        ({"max_nbytes": "nonsense"}, "Invalid literal for size"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Parallel(**options)


def test_pre_dispatch_is_arithmetic_and_nothing_else() -> None:
    assert _progress.evaluate("2 * 8 + -1") == 15
    for text in ("__import__('os')", "2 **", "9**9**9", "1 / 0", "(" * 40, "[1]", "'a' * 3"):
        with pytest.raises(ValueError):
            _progress.evaluate(text)


# --- batches


def test_batches_grow_until_they_take_long_enough() -> None:
    sizes = _batching.Sizes("auto", True, None)
    seen = [sizes.size]
    for _ in range(6):
        sizes.note(sizes.size, sizes.size * 1e-6)
        seen.append(sizes.size)
    assert seen == sorted(seen)
    assert sizes.size * 1e-6 <= 2 * _batching.IDEAL_S
    sizes.note(sizes.size, sizes.size * 1.0)
    assert sizes.size < seen[-1]


def test_a_given_size_stays() -> None:
    sizes = _batching.Sizes(7, True, None)
    sizes.note(7, 1e-9)
    assert sizes.size == 7


def test_the_last_tasks_are_spread_over_the_workers() -> None:
    slices = _batching.Slices(_batching.Sizes(100, True, None), 2)
    tasks = iter([delayed(neg)(i) for i in range(260)])
    lengths = []
    while batch := slices.next(tasks, True):
        lengths.append(len(batch))
    assert lengths[:2] == [100, 100]
    assert sum(lengths) == 260
    assert len(lengths) == 22


# --- backends that others write


class CallsBack(ParallelBackendBase):
    """Runs each batch at once, and calls back from there."""

    supports_retrieve_callback = True

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        return 2

    def submit(self, func: Callable[[], Any], callback: Callable[..., object] | None = None) -> Any:
        assert callback is not None
        try:
            callback(func())
        except BaseException as error:
            callback(error)

    def retrieve_result_callback(self, out: Any) -> Any:
        if isinstance(out, BaseException):
            raise out
        return out


class IsAsked(CallsBack):
    """The older protocol: the result is fetched."""

    supports_retrieve_callback = False

    def submit(self, func: Callable[[], Any], callback: Callable[..., object] | None = None) -> Any:
        assert callback is not None
        callback(None)
        return func

    def retrieve_result(self, out: Any, timeout: float | None = None) -> Any:
        return out()


@pytest.mark.parametrize("made", [CallsBack, IsAsked])
def test_backends_of_others_are_served(made: type[ParallelBackendBase]) -> None:
    register_parallel_backend("of others", made)
    try:
        assert Parallel(2, "of others")(delayed(neg)(i) for i in range(30)) == [-i for i in range(30)]
        with pytest.raises(ZeroDivisionError):
            Parallel(2, made())(delayed(divmod)(1, i) for i in (1, 0, 1))
        if made.supports_retrieve_callback:
            found = Parallel(2, made(), "generator_unordered")(delayed(neg)(i) for i in range(30))
            assert sorted(found) == [-i for i in range(29, -1, -1)]
    finally:
        del _config.BACKENDS["of others"]


# --- what it says


def test_progress_is_said_as_joblib_says_it(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = r"elapsed: [ \d.]+(s|min)"
    Parallel(2, verbose=11)(delayed(time.sleep)(0) for _ in range(3))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "[Parallel(n_jobs=2)]: Using backend TreadleBackend with 2 concurrent workers."
    assert re.fullmatch(rf"\[Parallel\(n_jobs=2\)\]: Done   3 out of   3 \| {seconds} finished", lines[-1])
    Parallel(1, verbose=51)([delayed(neg)(1)])
    assert re.search(rf"Done 1 out of 1 \| {seconds} finished", capsys.readouterr().out)
    Parallel(2)([delayed(neg)(1)])
    assert capsys.readouterr() == ("", "")


def test_durations_are_written_as_joblib_writes_them() -> None:
    assert [_log.short_format_time(seconds) for seconds in (0.12, 42, 72)] == ["   0.1s", "  42.0s", " 1.2min"]


def test_print_time_keeps_older_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "logs" / "joblib.log"
    for _ in range(3):
        PrintTime(logdir=str(path.parent))("done")
    assert re.search(r"done: \d+\.\ds, \d+\.\dmin", path.read_text())
    assert {item.name for item in path.parent.iterdir()} == {"joblib.log", "joblib.log.1", "joblib.log.2"}
    assert capsys.readouterr().err.count("done") == 3
    with pytest.raises(ValueError, match="both"):
        PrintTime("a", "b")


def test_a_logger_formats_arrays_short() -> None:
    assert len(Logger().format(np.arange(1000))) < 100
