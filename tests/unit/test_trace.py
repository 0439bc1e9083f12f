"""TREADLE_TRACE: what the parent and its workers append to the file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import treadle
with treadle.ProcessPoolExecutor(1) as pool:
    assert pool.submit(abs, -3).result() == 3
"""


def test_parent_and_worker_append_their_events(tmp_path: Path) -> None:
    file = tmp_path / "trace"
    environment = {**os.environ, "TREADLE_TRACE": str(file)}
    subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True)
    rows = [line.split() for line in file.read_text().splitlines()]
    by_process = {pid: {row[3] for row in rows if row[1] == pid} for pid in {row[1] for row in rows}}
    assert any({"SUBMIT", "COMPLETE"} <= events for events in by_process.values())
    assert any({"CLAIM", "FINISH"} <= events for events in by_process.values())
    assert file.stat().st_mode & 0o777 == 0o600
