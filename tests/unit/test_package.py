"""The installed package: what importing it loads, and what the extension declares."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

import pytest


def run(code: str, folder: Path) -> str:
    command = [sys.executable, "-I", "-W", "error", "-c", code]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert process.stderr == ""
    return process.stdout.strip()


def test_the_package_imports_from_any_folder(tmp_path: Path) -> None:
    assert run("import treadle; print(treadle.__version__)", tmp_path) == version("treadle")


def test_importing_the_package_loads_nothing_of_others(tmp_path: Path) -> None:
    code = """
import sys
before = set(sys.modules)
import treadle
print(sorted({name.partition(".")[0] for name in set(sys.modules) - before} - {"treadle"} - sys.stdlib_module_names))
"""
    assert run(code, tmp_path) == "[]"


def test_without_numpy_all_but_arrays_is_there(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["numpy"] = None
from treadle import *
with shared.Lock(), ProcessPoolExecutor(1) as pool:
    view = shared.share(bytearray(10_000))
    print(pool.submit(view.__class__.tobytes, view).result() == bytes(view), shared.Counter(3).value)
    try:
        shared.zeros(3)
    except ModuleNotFoundError as error:
        print(error)
"""
    assert run(code, tmp_path).splitlines() == ["True 3", "shared arrays need NumPy, which is not installed"]


def test_the_pool_loads_no_third_party_package(tmp_path: Path) -> None:
    code = """
import sys
from treadle import ProcessPoolExecutor
print([name for name in ("cloudpickle", "threadpoolctl", "numpy") if name in sys.modules])
"""
    assert run(code, tmp_path) == "[]"


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="needs a free-threaded interpreter")
def test_the_extension_needs_no_gil(tmp_path: Path) -> None:
    assert run("import sys, treadle._engine; print(sys._is_gil_enabled())", tmp_path) == "False"


def test_the_package_ships_its_types() -> None:
    code = "import pathlib, treadle; print(pathlib.Path(treadle.__file__).parent)"
    folder = Path(run(code, Path.cwd()))
    assert {"py.typed", "_engine.pyi"} <= {path.name for path in folder.iterdir()}
