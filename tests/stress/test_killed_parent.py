"""A program is killed at a random moment: nothing of it is left."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PROGRAM = """
import itertools, os, sys
from treadle import ProcessPoolExecutor, as_completed

def work(n):
    return bytes(n % 200_000)

def spin(n):
    while True:
        pass

if __name__ == "__main__":
    print("begun", flush=True)
    while True:
        with ProcessPoolExecutor(2, start_method=sys.argv[1]) as pool:
            for _ in range(2 if sys.argv[2] == "spin" else 0):
                pool.submit(spin, 1)
            for future in as_completed([pool.submit(work, i * 997) for i in range(200)]):
                future.result()
            for result in pool.map(work, range(1000)):
                pass
"""


def marked(word: bytes) -> Iterator[int]:
    """The processes that have the word in their environment; zombies have none."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if word in Path(f"/proc/{name}/environ").read_bytes():
                    yield int(name)


def wait_until_gone(word: bytes) -> None:
    """Returns when all these processes have ended."""
    while left := list(marked(word)):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                descriptor = os.pidfd_open(pid)
                select.select([descriptor], [], [])
                os.close(descriptor)


def run_and_kill(program: Path, folder: Path, rng: random.Random) -> None:
    """Starts it, kills it at some moment of its first half second, and looks."""
    word = f"TREADLE_STRESS_RUN={secrets.token_hex(8)}"
    key, _, value = word.partition("=")
    method = rng.choice(["zygote", "zygote", "fork", "forkserver", "spawn"])
    process = subprocess.Popen(
        [sys.executable, str(program), method, rng.choice(["spin", "work"])],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, key: value, "TMPDIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    with process:
        assert process.stdout
        process.stdout.readline()
        # Nothing more is printed: it waits for as long as it is told, or until the program ends by itself.
        select.select([process.stdout], [], [], rng.expovariate(1 / 0.15))
        assert process.poll() is None
        process.kill()
    wait_until_gone(word.encode())
    assert list(folder.iterdir()) == [], method


def test_nothing_is_left_of_killed_programs(tmp_path: Path, rng: random.Random, stress_n: int) -> None:
    program, folder = tmp_path / "program.py", tmp_path / "folder"
    program.write_text(PROGRAM)
    folder.mkdir()
    for _ in range(stress_n):
        run_and_kill(program, folder, rng)
