"""What a zygote imports before it serves: the modules that the pool was told to preload."""

from __future__ import annotations

import os
import sys

from . import _engine, _zygote


def import_all(channel: int, names: list[str]) -> None:
    """Imports the modules that all workers share; a failure is the pool's failure."""
    # BLAS starts its threads when it is imported, and a zygote has none.
    before = {variable: os.environ.get(variable) for variable in _zygote.THREAD_VARIABLES} if names else {}
    os.environ.update(dict.fromkeys(before, "1"))
    name = ""
    try:
        for name in names:
            __import__(name)
    except BaseException:
        _engine.zygote_fail(channel, f"preload: importing {name!r} failed\n{_zygote.formatted()}")
        os._exit(1)
    for variable, value in before.items():
        if value is not None:
            os.environ[variable] = value
        else:
            os.environ.pop(variable, None)
    try:
        threads = len(os.listdir("/proc/self/task"))
    except OSError:  # /proc is hidden: those that Python made are all that can be counted
        threading = sys.modules.get("threading")
        threads = threading.active_count() if threading else 1
    if threads > 1:
        _engine.zygote_fail(
            channel,
            f"preload: importing {', '.join(names)} started {threads - 1} thread(s), and only a process without "
            "threads can be forked; leave out the module that starts them",
        )
        os._exit(1)
