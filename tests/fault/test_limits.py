"""What a sandbox refuses and what limits leave: the pool works, or ends with one error that names the limit."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

WORK = """
import ctypes, os, resource, struct, sys, threading
from treadle import ProcessPoolExecutor

def work(n):
    return bytes(n)

def refuse(*numbers):
    "A seccomp filter: these system calls fail with EPERM, as under Docker's profiles."
    def op(code, yes, no, k):
        return struct.pack("HBBI", code, yes, no, k)
    load, equals, answer = 0x20, 0x15, 0x06
    text = op(load, 0, 0, 0)
    for number in numbers:
        text += op(equals, 0, 1, number) + op(answer, 0, 0, 0x00050001)
    text += op(answer, 0, 0, 0x7FFF0000)
    code = ctypes.create_string_buffer(text, len(text))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(text) // 8, ctypes.addressof(code)))
    libc = ctypes.CDLL(None)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, program, 0, 0) == 0

def limit(what, value):
    resource.setrlimit(what, (value, value))

def size():
    return int(open("/proc/self/statm").read().split()[0]) * 4096

def main():
    with ProcessPoolExecutor(2) as pool:
        assert [len(x) for x in pool.map(work, [0, 10, 100_000, 3_000_000])] == [0, 10, 100_000, 3_000_000]
        assert [f.result() for f in [pool.submit(pow, i, 2) for i in range(300)]] == [i * i for i in range(300)]
        try:
            pool.submit(os._exit, 1).result()
        except Exception as error:
            assert type(error).__name__ == "WorkerDied", error
        assert pool.submit(abs, -3).result() == 3

if __name__ == "__main__":
    SETUP
    try:
        main()
    except Exception as error:
        print(type(error).__name__, error)
    else:
        print("works")
"""
MEMFD = {"x86_64": 319, "aarch64": 279}
PIDFD = {"x86_64": 434, "aarch64": 434}


def outcome(run_script: Any, setup: str, **environment: str) -> str:
    status, out, err = run_script(WORK.replace("SETUP", setup), **environment).end()
    assert (status, err) == (0, "")
    return str(out).rstrip("\n")


@pytest.mark.parametrize("method", ["zygote", "fork", "forkserver", "spawn"])
@pytest.mark.parametrize("calls", ["memfd", "pidfd", "memfd, pidfd"])
def test_under_a_seccomp_filter(run_script: Any, method: str, calls: str) -> None:
    machine = platform.machine()
    setup = f"memfd, pidfd = {MEMFD[machine]}, {PIDFD[machine]}; refuse({calls})"
    assert outcome(run_script, setup, TREADLE_START_METHOD=method) == "works"


@pytest.mark.parametrize(("method", "descriptors"), [("zygote", 32), ("fork", 40), ("forkserver", 32), ("spawn", 40)])
def test_with_so_few_descriptors(run_script: Any, method: str, descriptors: int) -> None:
    setup = f"limit(resource.RLIMIT_NOFILE, {descriptors})"
    assert outcome(run_script, setup, TREADLE_START_METHOD=method) == "works"


@pytest.mark.parametrize("method", ["zygote", "fork", "forkserver", "spawn"])
@pytest.mark.parametrize("descriptors", [*range(8, 25, 4), 26, 30, 33])
def test_with_too_few_descriptors(run_script: Any, method: str, descriptors: int) -> None:
    found = outcome(run_script, f"limit(resource.RLIMIT_NOFILE, {descriptors})", TREADLE_START_METHOD=method)
    assert found == "works" or "ulimit -n" in found


# Another user, whom process limits bind, but who can read the interpreter wherever it is; none that a test run beside
# this one uses, whose processes would count.
USER = 20_000 + os.getpid() % 40_000
NOBODY = f"--reuid={USER} --regid={USER} --clear-groups --inh-caps=+dac_read_search --ambient-caps=+dac_read_search"


@pytest.mark.parametrize("method", ["zygote", "fork", "forkserver", "spawn"])
@pytest.mark.parametrize("processes", range(1, 7))
def test_with_few_processes(tmp_path: Path, method: str, processes: int) -> None:
    as_nobody = [shutil.which("setpriv") or "setpriv", *NOBODY.split()]
    if not shutil.which("setpriv") or subprocess.run([*as_nobody, "true"], capture_output=True).returncode != 0:
        pytest.skip("it takes root to become another user")
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(WORK.replace("SETUP", f"limit(resource.RLIMIT_NPROC, {processes})")))
    environment = {**os.environ, "TREADLE_START_METHOD": method, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*as_nobody, sys.executable, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "works\n" or "ulimit -u" in done.stdout


# Its own memory (a thread's FakeStack, say) is nothing that AddressSanitizer does without: it ends the process.
@pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="AddressSanitizer needs address space")
@pytest.mark.parametrize("more", [20, 100, 300, 1000])
def test_with_little_address_space(run_script: Any, more: int) -> None:
    found = outcome(run_script, f"limit(resource.RLIMIT_AS, size() + ({more} << 20))")
    assert found == "works" or "ulimit -v" in found or found.startswith("MemoryError")


@pytest.mark.parametrize("bytes_", [0, 1 << 20, 100 << 20])
def test_with_small_files_only(run_script: Any, bytes_: int) -> None:
    found = outcome(run_script, f"limit(resource.RLIMIT_FSIZE, {bytes_})")
    assert found == "works" or "ulimit -f" in found


SUBMITTERS = """
import threading
from treadle import NoRoom, ProcessPoolExecutor

def size(data):
    return len(data)

def submit(sizes):
    try:
        done = [pool.submit(size, bytes(n)).result() for n in sizes for _ in range(100)]
        assert done == [n for n in sizes for _ in range(100)], done
        assert pool.submit(lambda data, sizes=sizes: len(data), bytes(sizes[0])).result() == sizes[0]
    except BaseException as error:
        print(type(error).__name__, error)

with ProcessPoolExecutor(2) as pool:
    threads = [threading.Thread(target=submit, args=(sizes,)) for sizes in ((30_000,), (20_000, 40_000), (45_000,)) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        pool.submit(size, bytes(70_000)).result()
    except NoRoom:
        print("works")
"""


def test_many_submitters_share_a_tiny_arena(run_script: Any) -> None:
    status, out, err = run_script(SUBMITTERS, TREADLE_ARENA_BYTES="65536").end()
    assert (status, out, err) == (0, "works\n", "")


@pytest.mark.parametrize(
    "mount_it",
    [
        *(f"mount -t tmpfs -o {options} none /dev/shm" for options in ("size=64m", "size=4k", "ro")),
        "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3",  # there is no /dev/shm
        "mount --bind /tmp /tmp && mount -o remount,bind,ro /tmp",
    ],
)
def test_whatever_dev_shm_and_tmp_are(tmp_path: Path, mount_it: str) -> None:
    """The engine has no use for them."""
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(WORK.replace("SETUP", "pass")))
    unshare = shutil.which("unshare") or "unshare"
    mount = [unshare, "--mount", "sh", "-c", f'{mount_it} && exec "$@"', "sh"]
    if not shutil.which("unshare") or subprocess.run([*mount, "true"], capture_output=True).returncode != 0:
        pytest.skip("mount namespaces are not allowed here")
    done = subprocess.run([*mount, sys.executable, str(program)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "works\n", "")


def test_without_proc(tmp_path: Path) -> None:
    """What workers say then goes to the descriptors, forwarded or not."""
    program = tmp_path / "program.py"
    work = WORK.replace("ProcessPoolExecutor(2)", "ProcessPoolExecutor(2, forward_output=True)")
    work = work.replace("pool.submit(abs, -3).result() == 3", "pool.submit(print, 'said').result() is None")
    program.write_text(textwrap.dedent(work.replace("SETUP", "pass")))
    mount = [
        shutil.which("unshare") or "unshare",
        "--mount",
        "sh",
        "-c",
        'mount -t tmpfs none /proc && exec "$@"',
        "sh",
    ]
    if not shutil.which("unshare") or subprocess.run([*mount, "true"], capture_output=True).returncode != 0:
        pytest.skip("mount namespaces are not allowed here")
    done = subprocess.run([*mount, sys.executable, str(program)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "said\nworks\n", "")
