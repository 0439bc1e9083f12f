"""What a pool's start leaves out, and how it makes up for it."""

from __future__ import annotations

import builtins
import gc
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from treadle import ForkedPool, PoolBroken, ProcessPoolExecutor, _foresight, _named

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def interpreter() -> dict[str, Any]:
    import site

    return {
        "prefixes": (sys.prefix, sys.exec_prefix, sys.base_prefix, site.PREFIXES),
        "packages": site.getsitepackages(),
        "user": bool(site.ENABLE_USER_SITE),
        "builtins": sorted(name for name in ("exit", "quit", "help", "license") if hasattr(builtins, name)),
        "flags": (sys.flags.no_site, sys.flags.isolated, sys.flags.ignore_environment),
    }


@pytest.mark.parametrize("method", ["zygote", "forkserver", "spawn", "fork"])
def test_a_worker_has_what_the_site_module_gives(method: Any) -> None:
    with ProcessPoolExecutor(1, start_method=method) as pool:
        assert pool.submit(interpreter).result() == interpreter()


def python(folder: Path, program: str) -> Any:
    """Runs a program in a virtual environment of its own, which finds this one's packages."""
    interpreter = folder / "bin" / "python"
    if not interpreter.exists():
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    path = os.pathsep.join(entry for entry in sys.path if entry)
    own = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([interpreter, "-c", program], env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


FLAGS = """
import json, sys
from treadle import ProcessPoolExecutor, _site
def look():
    return [getattr(sys, "from_pth", 0), "-S" in sys.orig_argv]
with ProcessPoolExecutor(1) as pool:
    print(json.dumps([_site.is_plain(), *pool.submit(look).result()]))
"""


def test_what_packages_run_at_the_start_of_an_interpreter_is_run(tmp_path: Path) -> None:
    assert python(tmp_path, FLAGS) == [True, 0, True]
    (packages,) = (tmp_path / "lib").glob("python*/site-packages")
    (packages / "some.pth").write_text("# a comment\n/nowhere\n")
    assert python(tmp_path, FLAGS) == [True, 0, True]
    (packages / "more.pth").write_text("import sys; sys.from_pth = 1\n")
    assert python(tmp_path, FLAGS) == [False, 1, False]
    (packages / "more.pth").unlink()
    (packages / "sitecustomize.py").write_text("import sys; sys.from_pth = 2\n")
    assert python(tmp_path, FLAGS) == [False, 2, False]


def test_a_worker_s_own_children_have_the_site_module() -> None:
    with ProcessPoolExecutor(1) as pool:
        assert "-S" not in pool.submit(subprocess._args_from_interpreter_flags).result()  # type: ignore[attr-defined]


# --- functions by name


@pytest.mark.parametrize("function", [json.dumps, json.JSONDecoder.decode, len, Path, os.path.join])
def test_a_named_function_is_itself_again(function: Any) -> None:
    assert _named.load(_named.pack(function)) is function


def test_a_name_that_is_gone_is_an_error() -> None:
    with pytest.raises(AttributeError):
        _named.load(b"Njson\0gone")
    with pytest.raises(ModuleNotFoundError):
        _named.load(b"Nno_such_module\0gone")


# --- what is imported ahead


def test_the_library_s_modules_that_a_task_s_module_uses_are_known() -> None:
    found = _foresight.imports_of(test_a_name_that_is_gone_is_an_error, False)
    assert {"builtins", "json", "os", "subprocess", "sys", "typing"} <= set(found)
    assert not [name for name in found if name.partition(".")[0] in ("treadle", "pytest", "_pytest", "__main__")]


def test_a_function_by_value_brings_its_own_globals_alone() -> None:
    space: dict[str, Any] = {"__name__": "by_hand", "json": json, "os": os}
    exec("def function(): return json.dumps(1)", space)
    sys.modules["by_hand"] = type(sys)("by_hand")
    try:
        vars(sys.modules["by_hand"]).update(space)
        assert _foresight.imports_of(space["function"], False) == ["json"]
    finally:
        del sys.modules["by_hand"]


def test_a_module_that_only_has_a_library_s_name_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = type(sys)("colorsys")
    stranger.__spec__ = type("Spec", (), {"origin": "/somewhere/colorsys.py"})()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "colorsys", stranger)
    assert not _foresight.is_of_library("colorsys")
    assert _foresight.is_of_library("json.decoder")
    assert not _foresight.is_of_library("pytest")


def test_workers_share_what_they_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module's import of the library is the zygote's: the worker finds it done."""
    (tmp_path / "tasks.py").write_text(
        "import sys\nDONE = 'zipapp' in sys.modules\nimport zipapp\ndef look(): return DONE\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import tasks  # type: ignore[import-not-found]

    try:
        with ProcessPoolExecutor(1) as pool:
            assert pool.submit(tasks.look).result() is True
    finally:
        del sys.modules["tasks"]


# --- fork


state = "as it was"


def parent() -> int:
    return os.getppid()


def see(gate: int | None = None) -> str:
    if gate is not None:
        os.read(gate, 1)
    return state


def see_in_two_workers(pool: ProcessPoolExecutor, before_the_second: Callable[[], object]) -> tuple[str, str]:
    """What the first worker sees and, while that is busy, the second."""
    gate, key = os.pipe()
    try:
        first = pool.submit(see, gate)
        before_the_second()
        second = pool.submit(see).result()
        os.write(key, b"!")
        return first.result(), second
    finally:
        os.close(gate)
        os.close(key)


def test_a_forked_pool_s_first_worker_is_a_child_of_the_user_s_process() -> None:
    with ProcessPoolExecutor(2, start_method="fork") as pool:
        assert pool.submit(parent).result() == os.getpid()


def test_all_workers_of_a_forked_pool_find_the_process_as_it_was_at_the_first_submit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ProcessPoolExecutor(2, start_method="fork") as pool:
        seen = see_in_two_workers(pool, lambda: monkeypatch.setattr(sys.modules[__name__], "state", "changed"))
    assert seen == ("as it was", "as it was")


def complain(number: int, frame: object) -> None:
    raise RuntimeError("the user's handler, in a process that is not the user's")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_forked_zygote_that_nobody_needs_yet_lets_signals_pass(number: signal.Signals) -> None:
    before = signal.signal(signal.SIGUSR1, complain)
    try:
        with ProcessPoolExecutor(2, start_method="fork") as pool:
            seen = see_in_two_workers(pool, lambda: os.kill(pool.stats()["zygote_pid"], number))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == ("as it was", "as it was")


def test_a_forked_zygote_that_dies_before_somebody_needs_it_breaks_the_pool() -> None:
    with ProcessPoolExecutor(2, start_method="fork") as pool, pytest.raises(PoolBroken, match="forked from this one"):
        see_in_two_workers(pool, lambda: os.kill(pool.stats()["zygote_pid"], signal.SIGKILL))


def refused() -> str:
    try:
        made[0].submit(see)
    except ForkedPool as error:
        return str(error)
    return "nothing was refused"


made: list[ProcessPoolExecutor] = []


def test_a_forked_worker_finds_the_pool_that_it_serves_to_be_its_parent_s() -> None:
    with ProcessPoolExecutor(2, start_method="fork") as pool:
        made.append(pool)
        try:
            assert "belongs to the parent process" in pool.submit(refused).result()
        finally:
            made.clear()


def children_of_this() -> set[str]:
    """With those that nobody has reaped."""
    return {pid for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}


@pytest.mark.parametrize("children", [signal.SIG_DFL, signal.SIG_IGN])
def test_a_pool_that_cannot_be_made_leaves_no_forked_process(
    monkeypatch: pytest.MonkeyPatch, children: signal.Handlers
) -> None:
    def refuse(*args: object) -> None:
        raise MemoryError

    pool = ProcessPoolExecutor(2, start_method="fork")
    others = children_of_this()
    before = signal.signal(signal.SIGCHLD, children)
    try:
        with monkeypatch.context() as patch, pytest.raises(MemoryError):
            patch.setattr(pool, "_create_pool", refuse)
            pool.submit(see)
        assert children_of_this() == others
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert pool.submit(see).result() == "as it was"
    pool.shutdown()


STARTS_AT_ONCE = """
import os, signal, sys, threading
from treadle import ProcessPoolExecutor
sys.setswitchinterval(1e-6)
pools = [ProcessPoolExecutor(2, start_method="fork") for _ in range(4)]
together = threading.Barrier(len(pools))
def start(pool):
    together.wait()
    pool.submit(os.getpid).result()
threads = [threading.Thread(target=start, args=(pool,)) for pool in pools]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_forked_pools_that_started_at_the_same_time_end_with_the_process() -> None:
    for _ in range(5):
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", STARTS_AT_ONCE], stdout=subprocess.PIPE)
        assert done.returncode == -signal.SIGKILL  # and nobody has its output any more


@pytest.mark.parametrize("step", ["_engine_adopt_worker", "_engine_adopt"])
def test_a_start_that_ctrl_c_ends_once_the_engine_has_a_process_leaves_none(
    monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    ends: list[int] = []

    def interrupt(pool: ProcessPoolExecutor) -> None:
        adopt = getattr(pool, step)

        def adopt_and_raise(pid: int, channel: Any) -> None:
            ends.append(os.pidfd_open(pid))
            adopt(pid, channel)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(pool, step, adopt_and_raise)
            pool.submit(see)

    interrupt(ProcessPoolExecutor(2, start_method="fork"))
    gc.collect()
    for end in ends:
        assert select.select([end], [], [])[0] == [end]
        os.close(end)
