"""What was loaded before a worker was born keeps to its share of the CPUs, too, though the variables come too late."""

from __future__ import annotations

import os

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]


def limit_loaded(share: int) -> None:
    """Tells BLAS and OpenMP what the variables would: the user's number, or the share."""
    for library in ThreadpoolController().lib_controllers:
        library.set_num_threads(threads_of(library.internal_api, share))


def threads_of(library: str, share: int) -> int:
    """What the variables give a library, by the name that threadpoolctl has for it."""
    text = os.environ.get(f"{library.upper()}_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS", "")
    try:
        return max(1, int(text.partition(",")[0]))  # OpenMP's may be a list, by depth
    except ValueError:
        return share
