"""A worker is where the user is."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import random
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from treadle import ProcessPoolExecutor

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture(params=["zygote", "fork", "forkserver", "spawn"])
def method(request: pytest.FixtureRequest) -> Any:
    return request.param


def look() -> dict[str, Any]:
    umask = os.umask(0)
    os.umask(umask)
    return {
        "path": sys.path,
        "argv": sys.argv,
        "cwd": os.getcwd(),
        "environ": os.environ.get("TREADLE_TEST_WORD"),
        "umask": umask,
        "flags": (sys.flags.optimize, sys.flags.dev_mode, sys.flags.utf8_mode),
    }


def test_surroundings(method: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "more")])
    monkeypatch.setattr(sys, "argv", ["program", "--option", "é"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TREADLE_TEST_WORD", "ä\udcff")
    before = os.umask(0o027)
    try:
        with ProcessPoolExecutor(1, start_method=method) as pool:
            seen = pool.submit(look).result()
    finally:
        os.umask(before)
    assert seen == {**look(), "umask": 0o027}
    assert [entry for entry in sys.path if entry not in seen["path"]] == []


def warn() -> str:
    with warnings.catch_warnings(record=True) as caught:
        warnings.warn("forgotten", DeprecationWarning, stacklevel=1)
        try:
            warnings.warn("strict", UserWarning, stacklevel=1)
        except UserWarning:
            return f"{len(caught)} caught, then raised"
    return f"{len(caught)} caught"


def test_warning_filters(method: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="forg", category=DeprecationWarning)
        with ProcessPoolExecutor(1, start_method=method) as pool:
            assert pool.submit(warn).result() == "0 caught, then raised"


def warn_of(module: str, category: str) -> tuple[bool, str]:
    loaded = module in sys.modules
    try:
        warnings.warn("strict", getattr(importlib.import_module(module), category), stacklevel=1)
    except Warning as error:
        return loaded, type(error).__name__
    return loaded, ""


def test_a_filter_for_a_modules_warnings_does_not_import_the_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "treadle_test_warnings.py").write_text("class Worry(UserWarning): pass\nclass Doubt(Worry): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("treadle_test_warnings")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", module.Worry)
        with ProcessPoolExecutor(1) as pool:
            found = [pool.submit(warn_of, module.__name__, name).result() for name in ("Worry", "Doubt")]
            assert found == [(False, "Worry"), (True, "Doubt")]
            assert pool.submit(warn_of, "builtins", "UserWarning").result() == (True, "")


def test_a_filter_for_a_warning_of_the_script_itself_holds(method: Any, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"""
import warnings
from treadle import ProcessPoolExecutor

class Worry(UserWarning):
    pass

def warn():
    try:
        warnings.warn("strict", Worry)
    except Worry:
        return "raised"

if __name__ == "__main__":
    warnings.simplefilter("error", Worry)
    with ProcessPoolExecutor(1, start_method={method!r}) as pool:
        print(pool.submit(warn).result())
""")
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.stderr) == ("raised\n", "")


def who() -> tuple[str, int, int | None]:
    parent = multiprocessing.parent_process()
    return multiprocessing.current_process().name, multiprocessing.current_process().pid or 0, parent and parent.pid


def test_multiprocessing_knows_the_worker(method: Any) -> None:
    with ProcessPoolExecutor(1, start_method=method) as pool:
        name, pid, parent = pool.submit(who).result()
        assert pid == pool.submit(os.getpid).result()
    assert name == "TreadleWorker-1"
    assert parent == os.getpid()


def draw() -> tuple[int, float]:
    return os.getpid(), random.random()


def test_workers_draw_different_random_numbers(method: Any) -> None:
    random.seed(1)
    with ProcessPoolExecutor(2, start_method=method, max_tasks_per_child=None) as pool:
        drawn = dict(pool.submit(draw).result() for _ in range(20))
    assert len(set(drawn.values())) == len(drawn)
    random.seed(1)
    assert random.random() not in drawn.values()


def nested() -> list[int]:
    with ProcessPoolExecutor() as pool:
        return [pool._max_workers, *pool.map(abs, [-1, -2])]


def test_a_pool_inside_a_worker_keeps_to_its_share() -> None:
    with ProcessPoolExecutor(2) as pool:
        workers, *rest = pool.submit(nested).result()
    assert rest == [1, 2]
    budget = len(os.sched_getaffinity(0))
    assert workers <= max(1, budget // 2)


def thread_variables() -> list[str | None]:
    return [os.environ.get(f"{name}_NUM_THREADS") for name in ("OMP", "OPENBLAS", "MKL")]


def test_blas_and_openmp_keep_to_the_workers_share(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    with ProcessPoolExecutor(1000) as pool:
        assert pool.submit(thread_variables).result() == ["1", "1", "7"]


def thread_variables_of_nested() -> tuple[list[str | None], list[str | None]]:
    with ProcessPoolExecutor(1000) as pool:
        return thread_variables(), pool.submit(thread_variables).result()


def test_a_pool_inside_a_worker_divides_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    monkeypatch.setenv("TREADLE_THREADS", "4")
    with ProcessPoolExecutor(2) as pool:
        assert pool.submit(thread_variables_of_nested).result() == (["2", "2", "7"], ["1", "1", "7"])


def threads_of_numpy() -> int:
    importlib.import_module("numpy")
    [library] = importlib.import_module("threadpoolctl").threadpool_info()
    return int(library["num_threads"])


@pytest.mark.parametrize("variable", ["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", None])
def test_what_the_user_says_of_threads_holds(
    method: Any, variable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("numpy")
    found = importlib.import_module("threadpoolctl").threadpool_info()
    if {library["internal_api"] for library in found} != {"openblas"} or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("it takes NumPy with OpenBLAS and two CPUs")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    if variable is not None:
        monkeypatch.setenv(variable, "2")
    for preload in ((), ("numpy",)):
        with ProcessPoolExecutor(1000, start_method=method, preload=preload) as pool:
            assert pool.submit(threads_of_numpy).result() == (1 if variable is None else 2)


def test_preloaded_modules_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "treadle_test_preloaded.py").write_text("import os\nPID = os.getpid()\n")
    monkeypatch.syspath_prepend(tmp_path)
    with ProcessPoolExecutor(1, preload=["treadle_test_preloaded"]) as pool:
        imported_in = pool.submit(eval, "__import__('treadle_test_preloaded').PID").result()
        assert imported_in == pool.stats()["zygote_pid"]


def meet(fifo: str, flags: int) -> tuple[int, str, str | None]:
    """Opening one end of a FIFO waits for the other: two calls of this run at the same time, in two workers."""
    os.close(os.open(fifo, flags))
    return os.getpid(), os.getcwd(), os.environ.get("TREADLE_TEST_MARK")


def test_a_worker_that_starts_later_is_where_the_user_is_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    with ProcessPoolExecutor(2) as pool:
        first = pool.submit(os.getpid).result()
        before = os.getcwd()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("TREADLE_TEST_MARK", "new")
        met = [pool.submit(meet, fifo, flags) for flags in (os.O_RDONLY, os.O_WRONLY)]
        found = {pid: (folder, mark) for pid, folder, mark in (future.result() for future in met)}
    assert found.pop(first) == (before, None)
    assert list(found.values()) == [(str(tmp_path), "new")]


def meet_and_tell(fifo: str, flags: int) -> tuple[int, str]:
    return meet(fifo, flags)[0], __import__("treadle_test_edited").TEXT


def test_the_successor_of_a_worker_that_had_its_tasks_finds_things_as_they_are_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "treadle_test_followed.py"
    module.write_text("TEXT = 'old'\n")
    monkeypatch.syspath_prepend(tmp_path)
    with ProcessPoolExecutor(1, preload=["treadle_test_followed"], max_tasks_per_child=1) as pool:
        look = "__import__('treadle_test_followed').TEXT, __import__('os').getcwd()"
        assert pool.submit(eval, look).result() == ("old", os.getcwd())
        module.write_text("TEXT = 'edited'\n")
        monkeypatch.chdir(tmp_path)
        assert pool.submit(eval, look).result() == ("edited", str(tmp_path))


def test_a_preloaded_module_that_changed_is_imported_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, fifo = tmp_path / "treadle_test_edited.py", str(tmp_path / "fifo")
    os.mkfifo(fifo)
    module.write_text("TEXT = 'old'\n")
    monkeypatch.syspath_prepend(tmp_path)
    with ProcessPoolExecutor(2, preload=["treadle_test_edited"]) as pool:
        first = pool.submit(os.getpid).result()
        zygote = pool.stats()["zygote_pid"]
        module.write_text("TEXT = 'edited'\n")
        found = dict(
            f.result() for f in [pool.submit(meet_and_tell, fifo, flag) for flag in (os.O_RDONLY, os.O_WRONLY)]
        )
        assert found.pop(first) == "old"
        assert list(found.values()) == ["edited"]
        assert pool.stats()["zygote_pid"] != zygote
