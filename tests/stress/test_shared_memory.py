"""Programs that make, attach and pass on shared memory are killed at random moments: nothing is left of it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import secrets
import subprocess
import sys
from pathlib import Path

from treadle import SharedMemory

FOLDER = Path("/dev/shm")

PROGRAM = """
import random, sys
from treadle import SharedMemory

prefix, seed = sys.argv[1:]
rng = random.Random(seed)
kept = []
print("begun", flush=True)
while True:
    name = f"{prefix}-{rng.randrange(4)}"
    try:
        if rng.random() < 0.5:
            kept.append(SharedMemory(name, create=True, size=5000).buf)
        else:
            memory = SharedMemory(name)
            assert memory.size == 5000
            kept.append(memory.buf)
            if rng.random() < 0.1:
                memory.unlink()
        kept[-1][-1] = 7
    except (FileExistsError, FileNotFoundError):
        pass
    if rng.random() < 0.6 and kept:
        view = kept.pop(rng.randrange(len(kept)))
        assert view[-1] == 7
        del view
    if rng.random() < 0.2:
        print(len(kept), flush=True)
"""


def wait_for_removal(prefix: str) -> None:
    """Returns when no segment has a name that begins so."""
    libc = ctypes.CDLL(None)
    changes = libc.inotify_init1(os.O_CLOEXEC)
    try:
        assert libc.inotify_add_watch(changes, b"/dev/shm", 0x200) >= 0
        while list(FOLDER.glob(prefix + "*")):
            os.read(changes, 4096)
    finally:
        os.close(changes)


def test_nothing_is_left_of_programs_that_are_killed(stress_n: int, rng: random.Random) -> None:
    prefix = f"treadle-stress-{secrets.token_hex(4)}"
    ours = SharedMemory(prefix + "-ours", create=True, size=5000)
    programs: list[subprocess.Popen[str]] = []
    with contextlib.ExitStack() as stack:
        for _ in range(5 * stress_n):
            command = [sys.executable, "-c", PROGRAM, prefix, str(rng.random())]
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            programs.append(process)
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            victim = programs[rng.randrange(len(programs))]
            assert victim.stdout is not None
            for _ in range(rng.randrange(20)):
                assert victim.stdout.readline()
            if len(programs) == 3:
                victim.kill()
                programs.remove(victim)
        for process in programs:
            process.kill()
    assert (FOLDER / (prefix + "-ours")).exists()
    ours.close()
    wait_for_removal(prefix)
