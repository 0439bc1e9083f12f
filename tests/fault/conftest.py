"""Scripts in processes of their own, and meetings with what they run."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


class Script:
    """A running script, in a process group of its own as a terminal would have it."""

    def __init__(self, path: Path, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
            start_new_session=True,
        )

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout
        return self.process.stdout.readline().rstrip("\n")

    def press_ctrl_c(self) -> None:
        """SIGINT to the whole group, workers included."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> tuple[int, str, str]:
        """Its exit status and what it wrote."""
        out, err = self.process.communicate()
        return self.process.returncode, out, err


RunScript = Callable[..., Script]


@pytest.fixture
def run_script(tmp_path: Path) -> Iterator[RunScript]:
    """Starts a script from its text; what still runs at the end is killed."""
    started: list[Script] = []

    def run(source: str, **environment: str) -> Script:
        path = tmp_path / f"script{len(started)}.py"
        path.write_text(textwrap.dedent(source))
        started.append(Script(path, environment))
        return started[-1]

    yield run
    for script in started:
        script.process.kill()
        script.process.communicate()


def wait_for_end(pid: int) -> None:
    """Returns when this process, which need not be our child, is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        select.select([descriptor], [], [])
    finally:
        os.close(descriptor)


@pytest.fixture
def until_gone() -> Callable[[int], None]:
    return wait_for_end


IN_DELETE = 0x200


def wait_for_removal(name: str) -> None:
    """Returns when there is no such segment."""
    libc = ctypes.CDLL(None)
    changes = libc.inotify_init1(os.O_CLOEXEC)
    try:
        assert libc.inotify_add_watch(changes, b"/dev/shm", IN_DELETE) >= 0
        while os.path.exists(f"/dev/shm/{name}"):
            os.read(changes, 4096)
    finally:
        os.close(changes)


@pytest.fixture
def until_removed() -> Callable[[str], None]:
    return wait_for_removal
