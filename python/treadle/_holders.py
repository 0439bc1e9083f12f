"""Which processes have shared memory mapped, as the kernel tells."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from . import _engine

_NAMED = Path("/dev/shm")


def segments() -> list[dict[str, Any]]:
    """The heap of this process, if there is one, and the user's named segments: name, bytes, holders."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    info = _engine.shared_info()
    if info["inode"] != 0:
        key = _key(info["device"], info["inode"])
        found[key] = {"name": None, "bytes": info["committed_bytes"], "holders": []}
    for name, size, *_ in sorted(_engine.segments_sweep()):
        try:
            status = (_NAMED / name).stat()
        except OSError:
            continue  # it went meanwhile
        found[_key(status.st_dev, status.st_ino)] = {"name": name, "bytes": size, "holders": []}
    for pid, keys in _mapped():
        for key in keys & found.keys():
            found[key]["holders"].append(pid)
    return list(found.values())


def _key(device: int, inode: int) -> tuple[int, int]:
    return os.major(device) << 8 | os.minor(device), inode


def _mapped() -> list[tuple[int, set[tuple[int, int]]]]:
    """Each process that may be looked at, in order, and the files that it has mapped."""
    found = []
    for pid in sorted(int(folder) for folder in os.listdir("/proc") if folder.isdigit()):
        try:
            lines = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
        except OSError:
            continue  # another user's, or it has ended
        keys = set()
        for line in lines:
            _, _, _, device, inode, *_ = line.split(maxsplit=5)
            if inode != "0":
                major, _, minor = device.partition(":")
                keys.add((int(major, 16) << 8 | int(minor, 16), int(inode)))
        found.append((pid, keys))
    return found
