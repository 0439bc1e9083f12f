"""Shared arrays where there is little of something: descriptors, memory, /proc."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("numpy")

DESCRIPTORS = """
    import resource
    from treadle import ProcessPoolExecutor, shared

    kept = []

    def keep(array):
        kept.append(array)
        return float(array.sum())

    def keep_all(arrays):
        return sum(keep(array) for array in arrays)

    if __name__ == "__main__":
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        arrays = [shared.full(10, number) for number in range(1000)]
        with ProcessPoolExecutor(2) as pool:
            assert pool.submit(keep_all, arrays).result() == 10 * sum(range(1000))
            assert list(pool.map(keep, arrays)) == [10 * number for number in range(1000)]
            del arrays
            assert shared.info()["blocks"] == 1000
        assert shared.info()["blocks"] == 0
"""


def test_64_descriptors_suffice_for_1000_arrays(run_script: Any) -> None:
    assert run_script(DESCRIPTORS).end() == (0, "", "")


ADDRESSES = """
    import resource
    from treadle import ProcessPoolExecutor, shared

    if __name__ == "__main__":
        shared.zeros(10)
        try:
            shared.zeros(1 << 45)
        except MemoryError as error:
            print(error)
        assert shared.info()["blocks"] == 0
        array = shared.ones(10)
        with ProcessPoolExecutor(1) as pool:
            assert pool.submit(sum, array).result() == 10
"""


def test_more_than_there_is_is_a_memory_error_and_nothing_else_is_lost(run_script: Any) -> None:
    status, out, err = run_script(ADDRESSES).end()
    assert (status, err) == (0, "")
    assert "no room for a shared array" in out


NO_PROC = """
    from treadle import ProcessPoolExecutor, shared

    if __name__ == "__main__":
        array = shared.ones(10)
        with ProcessPoolExecutor(1) as pool:
            print(pool.submit(sum, array).exception())
        assert shared.info()["blocks"] == 1
"""


@pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="AddressSanitizer needs /proc itself")
def test_without_proc_an_array_is_refused_with_the_reason(tmp_path: Path) -> None:
    unshare = shutil.which("unshare") or "unshare"
    alone = [unshare, "--map-root-user", "--mount"]
    if not shutil.which("unshare"):
        pytest.skip("there is no unshare here")
    if subprocess.run([*alone, "mount", "-t", "tmpfs", "none", "/proc"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace can be made here")
    path = tmp_path / "script.py"
    path.write_text("\n".join(line[4:] for line in NO_PROC.splitlines()))
    command = f"mount -t tmpfs none /proc && exec {sys.executable} {path}"
    done = subprocess.run([*alone, "sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "shared arrays are opened through /proc, which is not mounted here\n",
        "",
    )
