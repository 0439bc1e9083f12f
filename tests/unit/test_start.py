"""What a pool's start leaves out, and how it makes up for it."""

from __future__ import annotations

import builtins
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from treadle import ProcessPoolExecutor, _foresight, _named

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


def parent() -> int:
    return os.getppid()


def test_a_forked_pool_s_first_worker_is_a_child_of_the_user_s_process() -> None:
    with ProcessPoolExecutor(2, start_method="fork") as pool:
        assert pool.submit(parent).result() == os.getpid()
