"""Treadle's own store as a store of `Memory`: `backend="local"`, on `_engine.Store`.

An entry's key is 32 bytes: 8 of the function's name, 8 of its code and its parameters, 16 of the arguments. Where the
last 16 are zero, the entry is no result but a note on that code: what it is made of, for `Memory.explain`.
"""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import time
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NoReturn

from .. import _engine
from .._errors import TreadleError
from . import _memory_pack
from ._keys import fingerprint
from ._memory_calls import print_loading
from ._stores import CacheItemInfo, CacheWarning, StoreBackendBase, beyond, byte_count, ignore_in_git

NAME_BYTES, CODE_BYTES, ARGUMENT_BYTES = 8, 8, 16
NOTE = bytes(ARGUMENT_BYTES)
ACCESS = {None: None, "r": "r", "r+": "c", "w+": "c", "c": "c"}
"""What a hit is read into: memory of its own, the file's mapping, or a mapping whose changes stay here."""

LASTING = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES))
"""What another try will not change; anything else may be a folder that somebody has removed."""

Place = tuple[str, int, bool, str, bool]
"""A folder, and the options of the engine's Store."""
_handles: dict[Place, _engine.Store] = {}


def name_key(func_id: str) -> bytes:
    return fingerprint(func_id.encode())[:NAME_BYTES]


def handle(place: Place) -> _engine.Store:
    """The store in a folder; one in each process, however many ask."""
    found = _handles.get(place)
    if found is None:
        path, cap_bytes, durable, verify, shared = place
        found = _handles[place] = _engine.Store(
            path, cap_bytes=cap_bytes, durable=durable, verify=verify, shared=shared
        )
    return found


class LocalStoreBackend(StoreBackendBase):
    """Results in Treadle's own store.

    Source: core/cache/, binding/cache.c and python/treadle/joblib/_memory_local.py.
    """

    def configure(self, location: str, verbose: int = 0, backend_options: Mapping[str, Any] | None = None) -> None:
        """Takes over where the store is, and the options of `Memory`.

        Raises:
            PermissionError: another user can write there.
            OSError: the folder can't be made.
        """
        options = dict(backend_options or {})
        self.location = location
        self.verbose = verbose
        self.compress = options.get("compress", False)
        self.mmap_mode = options.get("mmap_mode")
        if self.mmap_mode not in ACCESS:
            raise ValueError(f"mmap_mode must be one of {', '.join(map(repr, ACCESS))}, not {self.mmap_mode!r}")
        cap = options.get("bytes_limit")
        self.place: Place = (
            os.path.abspath(location),
            byte_count(cap) if cap is not None else 0,
            bool(options.get("durable", False)),
            options.get("verify", "full"),
            bool(options.get("shared", False)),
        )
        _memory_pack.method_and_level(self.compress)
        if self.place in _handles and not os.path.isdir(self.location):
            self.reopen()
        self.open()

    def open(self) -> _engine.Store:
        found = handle(self.place)
        if not found.readonly:
            ignore_in_git(self.location, "treadle", "treadle")
        return found

    def reopen(self) -> _engine.Store:
        """Opens the folder anew; makes it, where somebody has removed it."""
        _handles.pop(self.place, None)
        return self.open()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()

    # --- entries by their keys

    def fetch(self, key: bytes, mmap_mode: str | None) -> _engine.Entry | None:
        """An entry; None where there is none.

        Raises:
            CorruptData: it was torn, or changed, and is gone.
        """
        return handle(self.place).get(key, ACCESS[mmap_mode])

    def note(self, key: bytes) -> dict[str, Any]:
        """What an entry says about its call; empty where it is gone."""
        try:
            entry = self.fetch(key, "r")
            found: dict[str, Any] = json.loads(bytes(entry.parts[0])) if entry is not None else {}
        except (TreadleError, OSError, ValueError):
            return {}
        return found

    def results(self) -> list[tuple[bytes, int, int, int]]:
        """Key, bytes, and when it was made and used, of each result."""
        found = handle(self.place).entries()
        return [each for each in found if each[0][-ARGUMENT_BYTES:] != NOTE]

    def drop(self, prefix: bytes) -> None:
        """Removes all entries whose keys begin so."""
        store = handle(self.place)
        for key, *_ in store.entries():
            if key.startswith(prefix):
                store.drop(key)

    # --- as joblib's stores have it, a result's id being its function's and its key in hexadecimal digits

    def load_item(
        self,
        call_id: Sequence[str],
        verbose: int = 1,
        timestamp: float | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Any:
        """A result.

        Raises:
            KeyError: it is not there any more, or was corrupted.
        """
        inputs = metadata.get("input_args") if metadata is not None else None
        place = self.path_of(call_id[1])
        print_loading(os.path.basename(call_id[0]), place, verbose, timestamp, time.time(), inputs)
        try:
            entry = self.fetch(bytes.fromhex(call_id[1]), self.mmap_mode)
        except TreadleError as error:
            raise KeyError(f"The entry {place} is corrupted, and has been removed: {error}") from error
        if entry is None:
            raise KeyError(f"Non-existing item (may have been cleared).\nThere is no entry {place}")
        return _memory_pack.unpack(entry.kind, entry.parts)

    def contains_item(self, call_id: Sequence[str]) -> bool:
        return self.contains(bytes.fromhex(call_id[1]))

    def contains(self, key: bytes) -> bool:
        try:
            return self.fetch(key, "r") is not None
        except (TreadleError, OSError):
            return False

    def clear_item(self, call_id: Sequence[str]) -> None:
        handle(self.place).drop(bytes.fromhex(call_id[1]))

    def clear_path(self, call_id: Sequence[str]) -> None:
        self.drop(name_key(call_id[0]))

    def get_metadata(self, call_id: Sequence[str]) -> dict[str, Any]:
        return self.note(bytes.fromhex(call_id[1]))

    def get_cached_func_info(self, call_id: Sequence[str]) -> dict[str, str]:
        return {"location": self.location}

    def path_of(self, digits: str) -> str:
        """What stands for an entry's place: the store has more folders than this shows."""
        return os.path.join(self.location, digits)

    def get_items(self) -> list[CacheItemInfo]:
        return [
            CacheItemInfo(self.path_of(key.hex()), size, datetime.fromtimestamp(used / 1e9))
            for key, size, _, used in self.results()
        ]

    def clear(self) -> None:
        self.drop(b"")

    def enforce_store_limits(
        self, bytes_limit: int | str | None, items_limit: int | None = None, age_limit: timedelta | None = None
    ) -> None:
        """Removes what was used least recently, until the rest is within the limits."""
        for item in self._get_items_to_delete(bytes_limit, items_limit, age_limit):
            self.clear_location(item.path)

    def _get_items_to_delete(
        self, bytes_limit: int | str | None, items_limit: int | None = None, age_limit: timedelta | None = None
    ) -> list[CacheItemInfo]:
        return beyond(self.get_items(), bytes_limit, items_limit, age_limit)

    def clear_location(self, location: str) -> None:
        handle(self.place).drop(bytes.fromhex(os.path.basename(location)))

    def create_location(self, location: str) -> None:
        """Places need no making here."""

    def _item_exists(self, location: str) -> bool:
        return self.contains(bytes.fromhex(os.path.basename(location)))

    def _open_item(self, f: str, mode: str) -> NoReturn:
        raise io.UnsupportedOperation("an entry of this store is no file to be opened")

    def _move_item(self, src: str, dst: str) -> NoReturn:
        raise io.UnsupportedOperation("an entry of this store has one place")

    def __repr__(self) -> str:
        return f'{type(self).__name__}(location="{self.location}")'

    # --- writing

    def keep(self, key: bytes, value: object, about: Mapping[str, Any]) -> bool:
        """Writes a result; where that can't be done, warns why, and gives False."""
        try:
            kind, parts = _memory_pack.pack(value, _memory_pack.method_and_level(self.compress))
        except (KeyboardInterrupt, MemoryError):
            raise
        except Exception as error:
            text = f"Unable to cache a result of {about['func']}: it can't be pickled: {type(error).__name__}: {error}"
            warnings.warn(text, CacheWarning, stacklevel=5)
            return False
        return self.put(key, [json.dumps(about).encode(), *parts], kind)

    def put(self, key: bytes, parts: list[Any], kind: str) -> bool:
        try:
            try:
                handle(self.place).put(key, parts, kind)
            except OSError as error:
                if error.errno in LASTING:
                    raise
                self.reopen().put(key, parts, kind)
        except (OSError, TreadleError) as error:
            text = f"Unable to cache to disk in {self.location}: {error}"
            warnings.warn(text, CacheWarning, stacklevel=6)
            return False
        return True

    def keep_note(self, key: bytes, parts: Mapping[str, bytes], untracked: Mapping[str, str], func_id: str) -> None:
        """Writes down once what a code is made of."""
        place = key[:-ARGUMENT_BYTES] + NOTE
        if self.contains(place):
            return
        about = {"func": func_id, "time": time.time()}
        note = {"parts": {name: digest.hex() for name, digest in parts.items()}, "untracked": dict(untracked)}
        self.put(place, [json.dumps(about).encode(), pickle.dumps(note, 5)], "code")
