"""`treadle cache`: what is in a store on disk, for people."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from . import _engine
from ._errors import TreadleError

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_VERSION = "store-1"


def byte_count(text: str) -> int:
    """The bytes that `1500`, `64K` or `1.5GiB` say; raises ValueError."""
    number = text.lower().removesuffix("b").removesuffix("i")
    unit = number[-1:] if number[-1:] in "kmgt" else ""
    return int(positive(number.removesuffix(unit)) * _UNITS[unit])


def duration(text: str) -> float:
    """The seconds that `90`, `36h` or `30d` say; raises ValueError."""
    unit = text[-1:].lower()
    return positive(text[:-1]) * _SECONDS[unit] if unit in _SECONDS else positive(text)


def positive(text: str) -> float:
    """A number that can limit something; raises ValueError."""
    number = float(text)
    if not 0 <= number < math.inf:
        raise ValueError(text)
    return number


def entry_count(text: str) -> int:
    """A number of entries; raises ValueError."""
    return int(positive(str(int(text))))


def add_parser(commands: Any) -> None:
    """Adds the command to those of `treadle`."""
    cache: argparse.ArgumentParser = commands.add_parser("cache", help="look at, shorten or check a cache on disk")
    actions = cache.add_subparsers(title="actions", metavar="action", dest="action", required=True)
    for name, text in (
        ("ls", "list the entries, the last used first"),
        ("show", "tell all of one entry"),
        ("prune", "remove the least recently used entries, and what killed writers left"),
        ("verify", "read every byte of every entry"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("path", help="the folder: a Memory's location, or the store in it")
        if name in ("ls", "show"):
            action.add_argument("--json", action="store_true", help="as JSON, for programs")
        if name == "show":
            action.add_argument("key", help="the key, or its first digits")
        if name == "prune":
            action.add_argument("--bytes", type=byte_count, help="keep at most so many, such as 500M or 2G")
            action.add_argument("--items", type=entry_count, help="keep at most so many entries")
            action.add_argument("--age", type=duration, help="keep what was used within that time, such as 12h or 30d")
        if name == "verify":
            action.add_argument("--remove", action="store_true", help="remove those that are torn or changed")


def run(options: argparse.Namespace) -> int:
    """Runs the command; the exit status."""
    try:
        store = open_store(options.path)
        action = {"ls": ls, "show": show, "prune": prune, "verify": verify}[options.action]
        return action(store, options)
    except (OSError, LookupError) as error:
        print(f"treadle cache: {error.args[0] if isinstance(error, LookupError) else error}", file=sys.stderr)
        return 2


def open_store(path: str) -> _engine.Store:
    """The store in a folder, or in its folder `treadle`, as a Memory has it.

    Raises:
        FileNotFoundError: there is none; none is made.
    """
    for folder in (path, os.path.join(path, "treadle")):
        if os.path.isdir(os.path.join(folder, _VERSION)):
            return _engine.Store(folder)
    raise FileNotFoundError(2, "no cache of this version of Treadle is in this folder", path)


def about(store: _engine.Store, key: bytes) -> dict[str, Any]:
    """What an entry says of itself: its kind, its parts' lengths, and its first part where that is JSON."""
    try:
        entry = store.peek(key)
    except (TreadleError, OSError) as error:
        return {"problem": str(error)}
    if entry is None:
        return {}
    found: dict[str, Any] = {"kind": entry.kind, "parts": [part.nbytes for part in entry.parts]}
    try:
        note = json.loads(bytes(entry.parts[0])) if entry.parts else None
    except ValueError:
        note = None
    if isinstance(note, dict):
        found["note"] = note
    return found


def rows(store: _engine.Store) -> Iterator[dict[str, Any]]:
    """All entries, the last used first."""
    for key, size, created, used in sorted(store.entries(), key=lambda row: -row[3]):
        yield {"key": key.hex(), "bytes": size, "created": created / 1e9, "used": used / 1e9} | about(store, key)


def size_text(count: float) -> str:
    """A number of bytes in four characters or so."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TB"


def time_text(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def ls(store: _engine.Store, options: argparse.Namespace) -> int:
    found = list(rows(store))
    if options.json:
        print(json.dumps(found, indent=2))
        return 0
    for row in found:
        what = row.get("note", {}).get("func") or row.get("kind") or row.get("problem", "")
        print(f"{row['key'][:16]}  {size_text(row['bytes']):>8}  {time_text(row['used'])}  {what}".rstrip())
    print(f"{len(found)} entries, {size_text(sum(row['bytes'] for row in found))}")
    return 0


def show(store: _engine.Store, options: argparse.Namespace) -> int:
    found = [row for row in store.entries() if row[0].hex().startswith(options.key.lower())]
    if len(found) != 1:
        raise LookupError(f"{len(found)} entries have a key that begins with {options.key!r}: one is needed")
    key, size, created, used = found[0]
    row: dict[str, Any] = {"key": key.hex(), "bytes": size, "created": created / 1e9, "used": used / 1e9}
    row |= about(store, key)
    if options.json:
        print(json.dumps(row, indent=2))
        return 0
    row.update(created=time_text(created / 1e9), used=time_text(used / 1e9), bytes=f"{size} ({size_text(size)})")
    note = row.pop("note", {})
    for name, value in (row | {f"note.{name}": value for name, value in note.items()}).items():
        print(f"{name + ':':16} {value}")
    return 0


def prune(store: _engine.Store, options: argparse.Namespace) -> int:
    count, size = store.prune(bytes=options.bytes, items=options.items, age_s=options.age)
    print(f"{count} entries removed, {size_text(size)}")
    return 0


def verify(store: _engine.Store, options: argparse.Namespace) -> int:
    count, bad = store.verify(remove=options.remove)
    for key in bad:
        print(f"{key.hex()}  torn or changed{', removed' if options.remove else ''}")
    print(f"{count} entries checked, {len(bad)} bad")
    return 1 if bad else 0
