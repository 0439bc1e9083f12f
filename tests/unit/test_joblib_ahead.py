"""What the zygote imports once for all workers: python/treadle/joblib/_ahead.py, _preload.py"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import treadle
from treadle.joblib import Parallel, _ahead, _pools, delayed

np = pytest.importorskip("numpy")


@pytest.fixture(autouse=True)
def no_warm_pools() -> Iterator[None]:
    yield
    _pools.close_all()


def is_mapped_in_zygote(text: str) -> bool:
    return text in Path(f"/proc/{os.getppid()}/maps").read_text()


def variable(name: str) -> str | None:
    return os.environ.get(name)


def write_module(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> Path:
    """A module `ahead_of_all`, which notes each process that imports it."""
    log = folder / "imports"
    note = f"import os\nwith open({str(log)!r}, 'a') as log:\n    log.write(str(os.getpid()) + '\\n')\n"
    (folder / "ahead_of_all.py").write_text(note + text)
    monkeypatch.syspath_prepend(str(folder))
    return log


def test_modules_are_those_of_functions_classes_and_instances_in_tasks() -> None:
    tasks = [delayed(np.linalg.norm)(np.zeros(3)), delayed(sum)([np.float64(1)], start={"a": (np.random.RandomState,)})]
    found = _ahead.modules_of(tasks)
    assert {name.partition(".")[0] for name in found} == {"numpy"}
    assert any(name.startswith("numpy.random") for name in found)


@pytest.mark.parametrize("argument", [lambda: 0, sys.stdout, sys, [[]] * 10_000, Path("a"), os.getpid])
def test_what_is_of_other_packages_is_left_alone(argument: object) -> None:
    assert _ahead.modules_of([delayed(abs)(argument)]) == ()


def test_large_arrays_are_not_looked_into() -> None:
    array = np.broadcast_to(np.zeros(1), (1 << 40,))
    assert _ahead.modules_of([delayed(abs)(array)]) == ("numpy",)


def test_many_objects_are_not_all_looked_at() -> None:
    names = _ahead.Names()
    with pytest.raises(_ahead.Enough):
        names.dump([np.random.RandomState] * 10 + [np.float64(i) for i in range(10 * _ahead.MOST)])


def test_the_zygote_imports_what_the_first_tasks_need() -> None:
    tasks = [delayed(np.add)(1, 2), delayed(is_mapped_in_zygote)("_multiarray_umath")]
    assert Parallel(2)(tasks) == [3, True]


def test_variables_are_the_workers_own_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    monkeypatch.delenv("JE_ARROW_MALLOC_CONF", raising=False)
    tasks = [delayed(variable)(name) for name in ("OPENBLAS_NUM_THREADS", "JE_ARROW_MALLOC_CONF")]
    assert Parallel(2)([delayed(np.add)(1, 2), *tasks]) == [3, "3", None]


def test_a_module_is_imported_once_for_all_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = write_module(tmp_path, monkeypatch, "")
    with treadle.ProcessPoolExecutor(2) as pool:
        pool._ahead = ("ahead_of_all",)
        zygotes = set(pool.map(lambda _: os.getppid(), range(8), chunksize=1))
    assert [int(line) for line in log.read_text().split()] == list(zygotes)


@pytest.mark.parametrize("text", ["raise LookupError", "raise SystemExit(3)", "import not_there_at_all"])
def test_what_can_not_be_imported_ahead_hurts_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    log = write_module(tmp_path, monkeypatch, text)
    with treadle.ProcessPoolExecutor(1) as pool:
        pool._ahead = ("ahead_of_all",)
        assert pool.submit(abs, -1).result() == 1
    assert len(log.read_text().split()) == 1


def test_a_zygote_in_which_a_thread_was_started_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    thread = "import threading, time\nthreading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()\n"
    log = write_module(tmp_path, monkeypatch, thread)
    monkeypatch.setenv("FOR_THE_WORKERS", "x")
    with treadle.ProcessPoolExecutor(2) as pool:
        pool._ahead = ("ahead_of_all",)
        assert pool.submit(variable, "FOR_THE_WORKERS").result() == "x"
        assert pool.submit(lambda: "ahead_of_all" in sys.modules).result() is False
        zygote = pool.submit(os.getppid).result()
    assert [int(line) for line in log.read_text().split()] == [zygote]
