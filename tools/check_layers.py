"""Includes point down the layers only, and two headers have one home each.

A file of core/<room>/ includes headers of its own room and of rooms below it (the order is in common.py); tests and
fuzz targets include anything of the engine. Python.h is included in binding/ only, <stdatomic.h> in base/atomic.h only.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from common import LAYERS, files, main

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
OUTSIDE = ("tests", "fuzz", "include")


def room_of(path: Path) -> str | None:
    """The room of core/ that a file is in, from its path relative to the root."""
    return path.parts[1] if path.parts[0] == "core" and len(path.parts) > 2 else None


def wrong(path: Path, header: str, *, quoted: bool) -> str | None:
    """Why the file may not include the header, or None."""
    if header in ("Python.h", "structmember.h"):
        return None if path.parts[0] == "binding" else "only binding/ includes Python.h"
    if header == "stdatomic.h":
        return None if path.as_posix() == "core/base/atomic.h" else "only base/atomic.h includes <stdatomic.h>"
    room, target = room_of(path), header.split("/")[0]
    if room is None or room in ("tests", "fuzz") or not quoted or "/" not in header:
        return None
    if room == "include":
        return "treadle.h includes no header of the engine"
    if target not in LAYERS:
        return f"{target}/ is no room of the engine"
    return None if LAYERS.index(target) >= LAYERS.index(room) else f"{room}/ lies below {target}/"


def check(root: Path) -> Iterator[str]:
    for path in files(root, ".c", ".h"):
        relative = path.relative_to(root)
        room = room_of(relative)
        if room is not None and room not in (*LAYERS, *OUTSIDE):
            yield f"{relative}: core/{room}/ is not in the list of layers (tools/common.py)"
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            match = INCLUDE.match(line)
            reason = wrong(relative, match[2], quoted=match[1] == '"') if match else None
            if match and reason:
                yield f"{relative}:{number}: includes {match[2]}: {reason}"


if __name__ == "__main__":
    sys.exit(main(__doc__, check))
