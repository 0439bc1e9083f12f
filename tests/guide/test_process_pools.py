"""The guide's programs on ProcessPoolExecutor, as its reader would write them with Treadle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FUTURES = """
from treadle import ProcessPoolExecutor, as_completed

def expensive(x):
    return sum(i * i for i in range(x))

with ProcessPoolExecutor(max_workers=4) as executor:
    futures = {executor.submit(expensive, n): n for n in range(10_000, 10_010)}
    for future in as_completed(futures):
        n = futures[future]
        result = future.result()  # raises if the worker raised
        print(f"{n} -> {result}")
"""

ASYNCIO = """
import asyncio
from treadle import ProcessPoolExecutor

def cpu_work(n):
    return sum(i * i for i in range(n))

async def main():
    loop = asyncio.get_event_loop()
    with ProcessPoolExecutor() as pool:
        result = await loop.run_in_executor(pool, cpu_work, 10_000_000)
    print(result)

asyncio.run(main())
"""


def run(program: str, folder: Path) -> list[str]:
    path = folder / "program.py"
    path.write_text(program)
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_submit_and_as_completed(tmp_path: Path) -> None:
    expected = [f"{n} -> {sum(i * i for i in range(n))}" for n in range(10_000, 10_010)]
    assert sorted(run(FUTURES, tmp_path)) == expected


def test_run_in_executor(tmp_path: Path) -> None:
    n = 10_000_000
    assert run(ASYNCIO, tmp_path) == [str((n - 1) * n * (2 * n - 1) // 6)]
