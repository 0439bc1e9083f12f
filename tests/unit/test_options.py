"""Options of pools and tasks, TREADLE_INLINE, and the command."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import treadle
from treadle import Pool, ProcessPoolExecutor, ThreadPoolExecutor


def fail_until(path: str, failures: int, kind: type[Exception]) -> str:
    with open(path, "ab") as marks:
        marks.write(b"x")
    if os.path.getsize(path) <= failures:
        raise kind("again")
    return "done"


def die() -> None:
    os._exit(1)


def test_a_view_submits_to_the_same_pool() -> None:
    with ProcessPoolExecutor(1) as pool:
        view = pool.options(timeout=5, retries=1, name="mine")
        assert view.submit(os.getpid).result() == pool.submit(os.getpid).result()
        assert list(view.map(pow, [2, 3], [2, 2])) == [4, 9]
        assert list(view.starmap(pow, [(2, 3)])) == [8]


def test_a_tasks_name_is_in_its_errors() -> None:
    with ProcessPoolExecutor(1) as pool:
        assert pool.options(name="the nightly import").submit(die).exception().task == "the nightly import"


def test_retry_on_runs_a_task_again(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, retries=2, retry_on=(OSError, ValueError)) as pool:
        assert isinstance(pool, ProcessPoolExecutor)
        assert pool.submit(fail_until, str(tmp_path / "a"), 2, ValueError).result() == "done"
        with pytest.raises(ValueError, match="again"):
            pool.submit(fail_until, str(tmp_path / "b"), 3, ValueError).result()
        with pytest.raises(KeyError):
            pool.submit(fail_until, str(tmp_path / "c"), 1, KeyError).result()
        once = pool.options(retries=0)
        with pytest.raises(ValueError, match="again"):
            once.submit(fail_until, str(tmp_path / "d"), 1, ValueError).result()


def test_retry_on_in_map(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1) as pool:
        view = pool.options(retries=1, retry_on=ValueError)
        assert list(view.map(fail_until, [str(tmp_path / "a")], [1], [ValueError])) == ["done"]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"max_workers": 2.0}, TypeError, "'float' object cannot be interpreted as an integer"),
        ({"max_workers": 100_000}, ValueError, "max_workers must be <= 1024"),
        ({"timeout": 0}, ValueError, "timeout must be greater than 0"),
        ({"timeout": -1.0}, ValueError, "timeout must be greater than 0"),
        ({"timeout": float("nan")}, ValueError, "timeout must be greater than 0"),
        ({"timeout": "1"}, TypeError, "timeout must be a number of seconds or None"),
        ({"retries": -1}, ValueError, "retries must be >= 0"),
        ({"retries": 1.0}, TypeError, "retries must be an integer"),
        ({"start_method": "thread"}, ValueError, "cannot find start method 'thread'"),
        ({"on_worker_death": "cry"}, ValueError, "on_worker_death must be 'heal' or 'break', not 'cry'"),
        ({"preload": "json"}, TypeError, "preload must be a sequence of module names"),
        ({"retry_on": "ValueError"}, TypeError, "retry_on must be an exception type or a tuple of them"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        ProcessPoolExecutor(**arguments)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"buffersize": 0}, ValueError, "buffersize must be None or > 0"),
        ({"buffersize": 1.0}, TypeError, "buffersize must be an integer or None"),
        ({"chunksize": -1}, ValueError, "chunksize must be >= 1."),
    ],
)
def test_bad_arguments_of_map(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    with ProcessPoolExecutor(1) as pool, pytest.raises(kind) as caught:
        pool.map(abs, [1], **arguments)
    assert str(caught.value) == message


def test_stats() -> None:
    with ProcessPoolExecutor(2) as pool:
        assert pool.stats()["tasks"]["submitted"] == 0
        assert pool.stats()["workers"] == []
        pid = pool.submit(os.getpid).result()
        pool.submit(int, "x").exception()
        stats = pool.stats()
    assert stats["tasks"]["submitted"] == 2
    assert (stats["tasks"]["succeeded"], stats["tasks"]["failed"]) == (1, 1)
    assert stats["queued"] == stats["restarts"] == 0
    worker = next(worker for worker in stats["workers"] if worker["pid"] == pid)
    assert worker["tasks_done"] >= 1
    assert worker["rss_bytes"] > 1_000_000
    assert {"bytes_moved", "bytes_copied", "zygote_pid"} <= stats.keys()


def test_repr() -> None:
    pool = ProcessPoolExecutor(3)
    assert repr(pool) == "<treadle.ProcessPoolExecutor max_workers=3 not started>"
    pool.shutdown()
    assert repr(pool) == "<treadle.ProcessPoolExecutor max_workers=3 closed>"


def test_inline_runs_tasks_in_the_caller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TREADLE_INLINE", "1")
    with ProcessPoolExecutor(2, initializer=lambda: None, retries=1, retry_on=ValueError) as pool:
        assert isinstance(pool, ProcessPoolExecutor)
        future = pool.submit(os.getpid)
        assert future.done()
        assert future.result() == os.getpid()
        assert isinstance(pool.submit(int, "x").exception(), ValueError)
        assert list(pool.map(pow, [2, 3], [2, 2])) == [4, 9]
        assert list(pool.starmap(pow, [(2, 3)])) == [8]
        assert pool.submit(fail_until, str(tmp_path / "a"), 1, ValueError).result() == "done"
    with pytest.raises(treadle.PoolClosed):
        pool.submit(abs, 1)
    with Pool(2) as classic:
        assert classic.map(abs, [-1, -2]) == [1, 2]
        assert list(classic.imap(abs, [-1, -2])) == [1, 2]
    monkeypatch.delenv("TREADLE_INLINE")
    with ProcessPoolExecutor(1) as pool:
        assert pool.submit(os.getpid).result() != os.getpid()


def test_worker_died_survives_pickling() -> None:
    from treadle._errors import worker_died

    error = worker_died("work", 12, 9, -1, True, False, 1, "a stack\n")
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, treadle.WorkerDied)
    assert str(copy) == str(error)
    assert (copy.task, copy.pid, copy.signal, copy.exit_code, copy.oom_suspected) == ("work", 12, 9, None, True)
    assert "out-of-memory" in str(error)
    assert str(error).endswith("a stack")


def test_all_public_names_are_there() -> None:
    assert sorted(treadle.__all__) == sorted(set(treadle.__all__))
    for name in treadle.__all__:
        public = getattr(treadle, name)
        home = public.__name__ if isinstance(public, ModuleType) else getattr(public, "__module__", "treadle")
        assert home.split(".")[0] == "treadle"
        assert name in dir(treadle)
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        treadle.missing  # type: ignore[attr-defined]  # noqa: B018


def test_threads_give_treadles_futures() -> None:
    with ThreadPoolExecutor(2) as threads:
        future = threads.submit(pow, 2, exp=3)
        assert isinstance(future, treadle.Future)
        assert future.result() == 8
        assert isinstance(threads.submit(int, "x").exception(), ValueError)
    with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
        threads.submit(abs, 1)


def run_command(*arguments: str, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "treadle", *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    ).stdout


def test_doctor_tells_the_budget_and_the_options() -> None:
    text = run_command("doctor", TREADLE_SPIN="0", TREADLE_SLOTS="many")
    assert "CPU budget" in text
    assert "* TREADLE_SPIN" in text
    assert "TREADLE_SLOTS=many" in text
    found = json.loads(run_command("doctor", "--json"))
    assert 1 <= found["cpus"]["cpus"] <= found["cpus"]["online"]
    assert found["system"] == {"memfd_create": "yes", "pidfd_open": "yes"}
    assert {option["name"] for option in found["options"]} >= {"TREADLE_SPIN", "TREADLE_WORKERS"}


def test_a_process_can_be_told_its_share_of_the_cpus() -> None:
    found = json.loads(run_command("doctor", "--json", TREADLE_THREADS="3"))
    assert found["cpus"]["cpus"] == 3
    assert "TREADLE_THREADS" in found["cpus"]["limit"]
    program = "import treadle; print(treadle.ProcessPoolExecutor()._max_workers)"
    environment = {**os.environ, "TREADLE_THREADS": "3"}
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert told.stdout.split() == ["3"]


def test_the_command_alone_tells_what_there_is() -> None:
    assert "doctor" in run_command()


def test_a_reader_that_leaves_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "treadle", "doctor"], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    "wrong", [{"mp_context": "spawn"}, {"initargs": 5}, {"preload": 3}, {"preload": [3]}, {"forward_output": "yes"}]
)
def test_an_argument_of_a_wrong_type_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=f"^{next(iter(wrong))} must be "):
        ProcessPoolExecutor(1, **wrong)


def test_a_variable_that_is_not_understood_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREADLE_GRACE", "soon")
    refusal = "^TREADLE_GRACE=soon: expected a duration.*the default is in force$"
    with pytest.warns(RuntimeWarning, match=refusal) as told, ProcessPoolExecutor(1) as pool:
        assert pool.submit(abs, -1).result() == 1
    assert [warning.filename for warning in told] == [__file__]


def test_the_command_tells_its_version() -> None:
    assert run_command("--version") == f"treadle {treadle.__version__}\n"
