"""What a zygote imports before it serves: the modules that the pool was told to preload, and those it foresees."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # not signal, whose enums take 2 ms
import gc
import os
import sys

from . import _engine, _site, _zygote

TYPE_CHECKING = False  # as typing has it, whose import takes 5 ms
if TYPE_CHECKING:
    from typing import NoReturn

ARROW = "JE_ARROW_MALLOC_CONF"
"""Arrow's allocator (pandas brings it along) reads this when it is imported."""


def import_all(channel: int, names: list[str]) -> None:
    """Imports the modules that all workers share; a failure is the pool's failure."""
    before = hold_threads() if names else {}
    name = ""
    try:
        for name in names:
            __import__(name)
    except BaseException:
        _engine.zygote_fail(channel, f"preload: importing {name!r} failed\n{_zygote.formatted()}")
        os._exit(1)
    put_back(before)
    threads = count_threads()
    if threads > 1:
        _engine.zygote_fail(
            channel,
            f"preload: importing {', '.join(names)} started {threads - 1} thread(s), and only a process without "
            "threads can be forked; leave out the module that starts them",
        )
        os._exit(1)


def import_ahead(told: str, site: str | None) -> None:
    """Imports what the workers will need anyway. What fails is left to them; with a thread it starts without anew."""
    openmp, *names = told.split(",")
    before = hold_threads(openmp)
    gc.disable()  # a fifth of the time, and there is nothing to collect
    for name in names:
        _zygote.import_ahead(name)
    gc.enable()
    put_back(before)
    if count_threads() > 1:
        start_again(site)


def start_again(site: str | None) -> NoReturn:
    """Executes the same program from its beginning, with nothing to import ahead."""
    _signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGINT,))
    os.environ["TREADLE_PATH"] = os.pathsep.join(sys.path)
    if site is not None:
        os.environ[_site.VARIABLE] = site
    os.execv(sys.executable, sys.orig_argv)


def hold_threads(openmp: str = "1") -> dict[str, str | None]:
    """BLAS and Arrow start threads when they are imported, and a zygote has none; OpenMP does not.

    Returns what the variables were.
    """
    before = {variable: os.environ.get(variable) for variable in (*_zygote.THREAD_VARIABLES, ARROW)}
    os.environ.update(dict.fromkeys(_zygote.THREAD_VARIABLES, "1"))
    os.environ["OMP_NUM_THREADS"] = openmp
    os.environ[ARROW] = ",".join(filter(None, (before[ARROW], "background_thread:false")))
    return before


def put_back(before: dict[str, str | None]) -> None:
    """The variables as they were."""
    for variable, value in before.items():
        if value is not None:
            os.environ[variable] = value
        else:
            os.environ.pop(variable, None)


def count_threads() -> int:
    """The threads of this process."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:  # /proc is hidden: those that Python made are all that can be counted
        threading = sys.modules.get("threading")
        return threading.active_count() if threading else 1
