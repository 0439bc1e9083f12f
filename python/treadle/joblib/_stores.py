"""Stores as joblib's `Memory` knows them: what one has to have, and the one in files as joblib lays them out.

The layout, under the store's location:

    module/function/func_code.py            the function's source as it was
    module/function/HASH/output.pkl         a result, by the md5 of its arguments
    module/function/HASH/metadata.json

`backend="joblib"` uses it, and shares a folder with joblib itself; stores of other kinds are made of the same two
classes. The default, `backend="local"`, is Treadle's own store (_memory_local.py).
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import threading
import time
import uuid
import warnings
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, NamedTuple

from ._memory_calls import print_loading

UNITS = {"K": 1024, "M": 1024**2, "G": 1024**3}
Id = Sequence[str]


class CacheWarning(Warning):
    """A result could not be kept, or one that was kept could not be used: it was computed."""

    __module__ = "treadle.joblib"


class JobLibCollisionWarning(UserWarning):
    """Functions of one name may have each other's results removed."""


class CacheItemInfo(NamedTuple):
    """A result in a store: its place, its bytes, and when it was last used."""

    path: str
    size: int
    last_access: datetime


class StoreBackendBase(metaclass=ABCMeta):
    """What a store has to have, to be registered; `StoreBackendMixin` makes a whole one of it."""

    __module__ = "treadle.joblib"
    location: Any = None

    @abstractmethod
    def _open_item(self, f: str, mode: str) -> Any:
        """Opens an item, as `open` does."""

    @abstractmethod
    def _item_exists(self, location: str) -> bool:
        """Is there an item, or a place for some?"""

    @abstractmethod
    def _move_item(self, src: str, dst: str) -> None:
        """Renames an item, in place of one that is there."""

    @abstractmethod
    def create_location(self, location: str) -> None:
        """Makes a place for items."""

    @abstractmethod
    def clear_location(self, location: str) -> None:
        """Removes an item, or a place with all that is in it."""

    @abstractmethod
    def get_items(self) -> list[CacheItemInfo]:
        """All results that there are."""

    @abstractmethod
    def configure(self, location: str, verbose: int = 0, backend_options: Mapping[str, Any] | None = None) -> None:
        """Takes over where the store is, and the options of `Memory`."""


def byte_count(text: int | str) -> int:
    """Bytes, from a number or a text such as `"10M"`."""
    if not isinstance(text, str):
        return text
    try:
        return int(UNITS[text[-1:]] * float(text[:-1]))
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"Invalid literal for size give: {text} (type {type(text)}) should be alike '10G', '500M', '50K'."
        ) from error


def beyond(
    items: Sequence[CacheItemInfo], bytes_limit: int | str | None, items_limit: int | None, age_limit: timedelta | None
) -> list[CacheItemInfo]:
    """Those that have to go, the least recently used first, so that the rest is within the limits."""
    if age_limit is not None and age_limit.total_seconds() < 0:
        raise ValueError("age_limit has to be a positive timedelta")
    left = sorted(items, key=attrgetter("last_access"), reverse=True)
    size = sum(item.size for item in left)
    oldest = datetime.now() - age_limit if age_limit is not None else None
    cap = byte_count(bytes_limit) if bytes_limit is not None else None
    gone = []
    while left and (
        (cap is not None and size > cap)
        or (items_limit is not None and len(left) > items_limit)
        or (oldest is not None and left[-1].last_access <= oldest)
    ):
        gone.append(left.pop())
        size -= gone[-1].size
    return gone


class StoreBackendMixin:
    """Results, what is known about them and the functions' sources, on the few operations that a store has."""

    location: str
    compress: Any
    verbose: int

    def place(self, call_id: Id, *more: str) -> str:
        return os.path.join(self.location, *call_id, *more)

    def load_item(
        self, call_id: Id, verbose: int = 1, timestamp: float | None = None, metadata: Mapping[str, Any] | None = None
    ) -> Any:
        """A result.

        Raises:
            KeyError: there is none; or what reading it raises.
        """
        inputs = metadata.get("input_args") if metadata is not None else None
        print_loading(os.path.basename(call_id[0]), self.place(call_id), verbose, timestamp, time.time(), inputs)
        file = self.place(call_id, "output.pkl")
        if not self._item_exists(file):
            raise KeyError(f"Non-existing item (may have been cleared).\nFile {file} does not exist")
        mmap_mode = getattr(self, "mmap_mode", None)
        if mmap_mode is not None:
            return joblib_pickle("joblib's files in mmap_mode").load(file, mmap_mode=mmap_mode)
        with self._open_item(file, "rb") as opened:
            return joblib_or_pickle().load(opened)

    def dump_item(self, call_id: Id, item: object, verbose: int = 1) -> None:
        """Keeps a result, or warns why it couldn't."""
        if verbose > 10:
            print(f"Persisting in {self.place(call_id)}")

        def write(value: object, file: str) -> None:
            with self._open_item(file, "wb") as opened:
                try:
                    if self.compress:
                        joblib_pickle("compress").dump(value, opened, compress=self.compress)
                    else:
                        joblib_or_pickle().dump(value, opened)
                except pickle.PicklingError as error:
                    text = f"Unable to cache to disk: failed to pickle output. Exception: {error}."
                    warnings.warn(text, FutureWarning, stacklevel=8)

        try:
            if not self._item_exists(self.place(call_id)):
                self.create_location(self.place(call_id))
            self._concurrency_safe_write(item, self.place(call_id, "output.pkl"), write)
        except Exception as error:
            text = f"Unable to cache to disk. Possibly a race condition in creating the directory. Exception: {error}."
            warnings.warn(text, CacheWarning, stacklevel=5)

    def clear_item(self, call_id: Id) -> None:
        self.clear_path(call_id)

    def contains_item(self, call_id: Id) -> bool:
        return self._item_exists(self.place(call_id, "output.pkl"))

    def get_item_info(self, call_id: Id) -> dict[str, str]:
        return {"location": self.place(call_id)}

    def get_metadata(self, call_id: Id) -> dict[str, Any]:
        """What is known about a result; empty where nothing is."""
        try:
            with self._open_item(self.place(call_id, "metadata.json"), "rb") as opened:
                found: dict[str, Any] = json.loads(opened.read().decode("utf-8"))
                return found
        except Exception:
            return {}

    def store_metadata(self, call_id: Id, metadata: Mapping[str, Any]) -> None:
        try:
            self.create_location(self.place(call_id))
            self._concurrency_safe_write(json.dumps(metadata), self.place(call_id, "metadata.json"), self._write_text)
        except Exception:
            return  # the result is there without it

    def contains_path(self, call_id: Id) -> bool:
        return self._item_exists(self.place(call_id))

    def clear_path(self, call_id: Id) -> None:
        """Removes what is under an id: a result, or all of a function's."""
        if self._item_exists(self.place(call_id)):
            self.clear_location(self.place(call_id))

    def store_cached_func_code(self, call_id: Id, func_code: str | None = None) -> None:
        """Makes a function's place; keeps its source where that is given."""
        if not self._item_exists(self.place(call_id)):
            self.create_location(self.place(call_id))
        if func_code is not None:
            self._concurrency_safe_write(func_code, self.place(call_id, "func_code.py"), self._write_text)

    def get_cached_func_code(self, call_id: Id) -> str:
        """A function's source as it was.

        Raises:
            OSError: there is none.
        """
        with self._open_item(self.place(call_id, "func_code.py"), "rb") as opened:
            text: str = opened.read().decode("utf-8")
            return text

    def get_cached_func_info(self, call_id: Id) -> dict[str, str]:
        return {"location": self.place(call_id)}

    def clear(self) -> None:
        """Removes everything."""
        self.clear_location(self.location)

    def enforce_store_limits(
        self, bytes_limit: int | str | None, items_limit: int | None = None, age_limit: timedelta | None = None
    ) -> None:
        """Removes what was used least recently, until the rest is within the limits."""
        for item in self._get_items_to_delete(bytes_limit, items_limit, age_limit):
            if self.verbose > 10:
                print(f"Deleting item {item}")
            try:
                self.clear_location(item.path)
            except OSError:
                continue  # another process was faster

    def _get_items_to_delete(
        self, bytes_limit: int | str | None, items_limit: int | None = None, age_limit: timedelta | None = None
    ) -> list[CacheItemInfo]:
        return beyond(self.get_items(), bytes_limit, items_limit, age_limit)

    def _write_text(self, text: str, file: str) -> None:
        with self._open_item(file, "wb") as opened:
            opened.write(text.encode("utf-8"))

    def _concurrency_safe_write(self, value: Any, file: str, write: Callable[[Any, str], None]) -> None:
        self._move_item(concurrency_safe_write(value, file, write), file)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(location="{self.location}")'

    # what the class that this is mixed into has
    _open_item: Callable[..., Any]
    _item_exists: Callable[[str], bool]
    _move_item: Callable[[str, str], None]
    create_location: Callable[[str], None]
    clear_location: Callable[[str], None]
    get_items: Callable[[], list[CacheItemInfo]]


def concurrency_safe_write(value: Any, file: str, write: Callable[[Any, str], None]) -> str:
    """Writes beside a file, under a name that nobody else uses; that name."""
    temporary = f"{file}.{uuid.uuid4().hex}-{os.getpid()}-{threading.get_ident()}"
    write(value, temporary)
    return temporary


def joblib_pickle(what: str) -> Any:
    """The `dump` and `load` of joblib itself."""
    try:
        from joblib import numpy_pickle  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise ImportError(f"{what} needs the package joblib: pip install joblib") from error
    return numpy_pickle


def joblib_or_pickle() -> Any:
    try:
        return joblib_pickle("")
    except ImportError:
        return pickle


class FileSystemStoreBackend(StoreBackendBase, StoreBackendMixin):
    """A store in joblib's own layout, `backend="joblib"`: joblib itself can use it, at the same time."""

    _open_item = staticmethod(open)  # type: ignore[assignment]
    _item_exists = staticmethod(os.path.exists)  # type: ignore[assignment]

    def _move_item(self, src: str, dst: str) -> None:
        os.replace(src, dst)

    def clear_location(self, location: str) -> None:
        if location != self.location:
            shutil.rmtree(location, ignore_errors=True)
            return
        for name in os.listdir(location):
            path = os.path.join(location, name)
            if os.path.isdir(path):
                shutil.rmtree(path, ignore_errors=True)

    def create_location(self, location: str) -> None:
        os.makedirs(location, exist_ok=True)

    def get_items(self) -> list[CacheItemInfo]:
        found = []
        for folder, _, files in os.walk(self.location or ""):
            if not re.match("[a-f0-9]{32}", os.path.basename(folder)):
                continue
            output = os.path.join(folder, "output.pkl")
            try:
                used = os.path.getatime(output if "output.pkl" in files else folder)
                size = sum(os.path.getsize(os.path.join(folder, name)) for name in files)
            except OSError:
                continue  # somebody removes it
            found.append(CacheItemInfo(folder, size, datetime.fromtimestamp(used)))
        return found

    def configure(self, location: str, verbose: int = 1, backend_options: Mapping[str, Any] | None = None) -> None:
        options = backend_options or {}
        self.location = location
        self.verbose = verbose
        self.compress = options.get("compress", False)
        self.mmap_mode = options.get("mmap_mode")
        os.makedirs(location, exist_ok=True)
        ignore_in_git(location, "joblib", "joblib")
        if self.compress and self.mmap_mode is not None:
            text = "Compressed items cannot be memmapped in a filesystem store. Option will be ignored."
            warnings.warn(text, stacklevel=2)


def ignore_in_git(location: str, own: str, creator: str) -> None:
    """Keeps a cache out of git, the folder above where the store is in one that only it has."""
    above, name = os.path.split(location)
    file = os.path.join(above if above and name == own else location, ".gitignore")
    if os.path.exists(file):
        return
    try:
        with open(file, "x") as opened:
            opened.write(f"# Created by {creator} automatically.\n*\n")
    except FileExistsError:
        return
    except OSError as error:
        warnings.warn(f"Unable to write {file}. Exception: {error}.", stacklevel=5)
