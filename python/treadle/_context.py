"""What a worker takes over from the parent: captured here, applied by _zygote.py.

The context is a marshalled dict, taken when the pool starts and again when it grows: search path, arguments,
working directory, environment, umask, warning filters, the `__main__` to prepare (forkserver and spawn only), the
initializer and the share of the CPU budget.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import sys
import warnings
from typing import Any

from . import _engine, _zygote

NAME = "TreadleWorker"
THREADS = "TREADLE_THREADS"
"""The option with the CPUs that a worker may use: BLAS, OpenMP and pools made inside it keep to it."""


def capture(
    *,
    threads: int,
    initializer: bytes | None,
    main: dict[str, str] | None,
    output: object,
    imports: list[str] | None,
    added: dict[str, str] | None = None,
) -> bytes:
    """The bytes of a context: how the workers should find this process, and what they need besides.

    `added` is what their environment has more than this process's.
    """
    context: dict[str, Any] = {
        "path": search_path(),
        "argv": [str(argument) for argument in getattr(sys, "argv", [])],
        "umask": current_umask(),
        "environ": {**users_environment(), THREADS: str(threads), **(added or {})},
        "filters": [_zygote.described(item) for item in warnings.filters],
        "name": NAME,
        "parent_pid": os.getpid(),
        "threads": threads,
    }
    with contextlib.suppress(OSError):  # the folder is gone: the workers stay where the zygote is
        context["cwd"] = os.getcwd()
    if "multiprocessing.process" in sys.modules:
        from multiprocessing import process

        context["authkey"] = bytes(process.current_process().authkey)
    if initializer is not None:
        context["initializer"] = initializer
    if main is not None:
        context["main"] = main
    if output is not None:
        context["output"] = output
    if imports:
        context["imports"] = imports
    return marshal.dumps(context)


def capture_inherited(*, threads: int, output: object) -> bytes:
    """The context of processes that were forked from this one just now, and so are where it is."""
    context = {"name": NAME, "parent_pid": os.getpid(), "threads": threads, "added": {THREADS: str(threads)}}
    if output is not None:
        context["output"] = output
    return marshal.dumps(context)


def users_environment() -> dict[str, str]:
    """The environment, less the limits that this process was given where it is a worker."""
    return {name: value for name, value in os.environ.items() if _zygote.limits.get(name) != value}


def search_path() -> list[str]:
    """sys.path, with the folder that holds treadle in any case."""
    path = [entry for entry in sys.path if isinstance(entry, str)]
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if home not in path:
        path.append(home)
    return path


def current_umask() -> int:
    """The umask, read without changing it where the kernel tells."""
    try:
        with open("/proc/self/status", "rb") as status:
            for line in status:
                if line.startswith(b"Umask:"):
                    return int(line.split()[1], 8)
    except OSError:
        pass
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def main_module(name: str) -> dict[str, str]:
    """What `multiprocessing.spawn.prepare` needs to give a worker the parent's `__main__`.

    Raises:
        RuntimeError: this process is still importing the `__main__` of its own parent (the missing
            `if __name__ == "__main__"`), in multiprocessing's words.
    """
    from multiprocessing import spawn

    data = spawn.get_preparation_data(name)
    return {key: value for key, value in data.items() if key.startswith("init_main_from_")}


def cpu_share() -> int | None:
    """The CPUs that this process may use, where it is a worker itself or was told."""
    _engine.reload_options()
    return int(_engine.option("THREADS")) or None
