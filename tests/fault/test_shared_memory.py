"""Shared memory when things go wrong: holders killed, the folder full or not there, no guardian."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from treadle import SharedMemory

FOLDER = Path("/dev/shm")

HOLDER = """
import sys
from treadle import SharedMemory
memory = SharedMemory(create=True, size=1000)
print(memory.name, flush=True)
sys.stdin.readline()
"""

ATTACHER = """
import sys
from treadle import SharedMemory
memory = SharedMemory({name!r})
print("attached", flush=True)
sys.stdin.readline()
"""


# --- holders that are killed


def test_what_a_killed_program_held_is_removed(run_script: Any, until_removed: Callable[[str], None]) -> None:
    script = run_script(HOLDER)
    name = script.line()
    assert (FOLDER / name).exists()
    script.process.kill()
    until_removed(name)


def test_what_another_still_uses_is_not_removed_before_that_is_killed_too(
    run_script: Any, until_removed: Callable[[str], None]
) -> None:
    maker = run_script(HOLDER)
    name = maker.line()
    user = run_script(ATTACHER.format(name=name))
    assert user.line() == "attached"
    maker.process.kill()
    maker.end()
    here = SharedMemory(name)
    user.process.kill()
    user.end()
    assert SharedMemory(name).size == 1000
    here.close()
    until_removed(name)


def test_a_guardian_outlives_ctrl_c_and_the_terminal(run_script: Any, until_removed: Callable[[str], None]) -> None:
    script = run_script(HOLDER)
    name = script.line()
    os.killpg(script.process.pid, signal.SIGINT)
    script.end()
    assert not (FOLDER / name).exists()  # an interrupted program still closes what it has
    script = run_script(HOLDER)
    name = script.line()
    os.killpg(script.process.pid, signal.SIGHUP)
    script.end()
    until_removed(name)


def test_a_forked_child_that_is_killed_last_leaves_nothing(
    run_script: Any, until_removed: Callable[[str], None]
) -> None:
    script = run_script("""
        import os, signal, sys
        from treadle import SharedMemory
        memory = SharedMemory(create=True, size=1000)
        pid = os.fork()
        if pid == 0:
            signal.pause()
        print(memory.name, pid, flush=True)
        memory.close()
        print(os.path.exists("/dev/shm/" + memory.name), flush=True)
        sys.stdin.readline()
        """)
    name, pid = script.line().split()
    assert script.line() == "True"
    os.kill(int(pid), signal.SIGKILL)
    until_removed(name)


# --- the folder, as it may be


def in_folder(mount: str, body: str, **options: Any) -> str:
    """Runs a program in a mount namespace of its own; what it printed."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("needs unshare(1)")
    flags = ["-m"] if os.geteuid() == 0 else ["-Urm"]
    if subprocess.run([unshare, *flags, "sh", "-c", mount], capture_output=True).returncode != 0:
        pytest.skip("needs mount namespaces")
    command = [unshare, *flags, "sh", "-c", mount + ' && exec "$@"', "sh", sys.executable, "-c", textwrap.dedent(body)]
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


ATTEMPTS = """
import errno, os
from treadle import SharedMemory

def attempt(size):
    try:
        memory = SharedMemory(create=True, size=size)
    except OSError as error:
        print(errno.errorcode[error.errno])
    else:
        memory.buf[:] = b"x" * size
        print(size)

"""


def test_a_full_folder_is_an_error_and_no_bus_error() -> None:
    body = ATTEMPTS + "for size in (2 << 20, 64 << 20, 1 << 20, 1 << 20): attempt(size)\nprint(os.listdir('/dev/shm'))"
    shown = in_folder("mount -t tmpfs -o size=1m none /dev/shm", body).split("\n")
    assert shown[:4] == ["ENOSPC", "ENOSPC", str(1 << 20), str(1 << 20)]
    assert [name for name in eval(shown[4]) if not name.startswith("treadle-")] == []


def test_a_folder_that_is_filled_by_others_is_an_error() -> None:
    body = ATTEMPTS + "open('/dev/shm/other', 'wb').write(bytes(1_000_000))\nattempt(200_000)\nattempt(20_000)"
    assert in_folder("mount -t tmpfs -o size=1m none /dev/shm", body).split() == ["ENOSPC", "20000"]


def test_a_folder_that_can_not_be_written_is_an_error() -> None:
    body = ATTEMPTS + "attempt(100)"
    assert in_folder("mount -t tmpfs -o ro none /dev/shm", body).split() == ["EROFS"]


def test_a_missing_folder_is_an_error() -> None:
    body = (
        ATTEMPTS
        + "attempt(100)\nfrom treadle import _engine\ntry: _engine.segments_sweep()\nexcept OSError: print('no')"
    )
    mount = "mount -t tmpfs none /mnt && touch /mnt/null && mount --bind /dev/null /mnt/null && mount --move /mnt /dev"
    assert in_folder(mount, body).split() == ["ENOENT", "no"]


def test_a_guardian_that_can_not_be_started_is_warned_of_once() -> None:
    body = """
        import os, warnings
        from treadle import SharedMemory, _engine
        _engine.segments_guardian("/nonexistent/guardian")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            memory = SharedMemory(create=True, size=10)
            other = SharedMemory(create=True, size=10)
        print(len(caught), caught[0].category.__name__, caught[0].message)
        memory.close()
        print(os.listdir("/dev/shm") == [other.name])
        """
    shown = in_folder("mount -t tmpfs none /dev/shm", body).splitlines()
    assert shown[0].startswith("1 RuntimeWarning the guardian of shared memory can't be started (No such file")
    assert shown[1] == "True"


def test_the_guardian_leaves_with_the_last_segment() -> None:
    body = """
        import ctypes, os
        from treadle import SharedMemory, _engine
        libc = ctypes.CDLL(None)
        changes = libc.inotify_init1(os.O_CLOEXEC)
        assert libc.inotify_add_watch(changes, b"/dev/shm", 0x300) >= 0
        memory = SharedMemory(create=True, size=10)
        assert _engine.segments_guarded()
        memory.close()
        while os.listdir("/dev/shm"):
            os.read(changes, 4096)
        print(_engine.segments_guarded())
        """
    assert in_folder("mount -t tmpfs none /dev/shm", body).split() == ["False"]


def test_the_doctor_shows_and_cleans_what_is_left() -> None:
    body = """
        import os, subprocess, sys
        from treadle import SharedMemory, _engine
        hold = "from treadle import SharedMemory, _engine; import os; _engine.segments_guardian('/nonexistent');" \\
            "m = SharedMemory('left', create=True, size=1000); os._exit(0)"
        subprocess.run([sys.executable, "-W", "ignore", "-c", hold], check=True)
        held = SharedMemory("held", create=True, size=5000, track=False)
        os.chmod("/dev/shm/held", 0o1600)
        def doctor(*arguments):
            command = [sys.executable, "-m", "treadle", "doctor", *arguments]
            return subprocess.run(command, capture_output=True, text=True)
        for arguments in [(), ("--clean",), ()]:
            done = doctor(*arguments)
            print(done.returncode, [line for line in done.stdout.splitlines() if line.startswith("Segments")])
            print([line.strip() for line in done.stdout.splitlines() if "left" in line or "held" in line], done.stderr)
        """
    shown = in_folder("mount -t tmpfs none /dev/shm", body).splitlines()
    assert shown[0] == "0 ['Segments     2, 1 of them left by dead processes: treadle doctor --clean removes those']"
    assert "'left" in shown[1] and "of dead processes" in shown[1] and "held" in shown[1]
    assert shown[2] == "0 ['Segments     2, 1 of them left by dead processes, and removed now']"
    assert shown[4] == "0 ['Segments     1, in use']"
