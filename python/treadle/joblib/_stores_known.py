"""The kinds of stores that `Memory(backend=...)` can name."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._memory_local import LocalStoreBackend
from ._stores import FileSystemStoreBackend, StoreBackendBase

STORE_BACKENDS: dict[str, Any] = {"local": LocalStoreBackend, "joblib": FileSystemStoreBackend}


def is_store_class(backend: Any) -> bool:
    if not isinstance(backend, type):
        return False
    theirs = getattr(sys.modules.get("joblib._store_backends"), "StoreBackendBase", StoreBackendBase)
    return issubclass(backend, StoreBackendBase | theirs)


def register_store_backend(backend_name: str, backend: Any) -> None:
    """Adds a kind of store that `Memory(backend=...)` can name.

    Args:
        backend_name: its name.
        backend: a class derived from `StoreBackendBase`, of this module or of joblib.

    Raises:
        ValueError: the name is no string, or the class no store.

    Source: python/treadle/joblib/_stores_known.py.
    """
    if not isinstance(backend_name, str):
        raise ValueError(f"Store backend name should be a string, '{backend_name}' given.")
    if not is_store_class(backend):
        raise ValueError(f"Store backend should inherit StoreBackendBase, '{backend}' given.")
    STORE_BACKENDS[backend_name] = backend


def open_store(backend: str, location: Any, verbose: int = 0, backend_options: Mapping[str, Any] | None = None) -> Any:
    """The store of a location; a store is one already; None stands for none."""
    if location is None:
        return None
    if isinstance(location, Path):
        location = str(location)
    if is_store_class(type(location)):
        return location
    if not isinstance(location, str):
        text = f"Instantiating a backend using a {type(location).__name__} as a location is not supported by joblib."
        warnings.warn(f"{text} Returning None instead.", UserWarning, stacklevel=3)
        return None
    location = os.path.expanduser(location)
    if backend not in STORE_BACKENDS:
        raise TypeError(f"Unknown location {location} or backend {backend}")
    store = STORE_BACKENDS[backend]()
    store.configure(location, verbose=verbose, backend_options=dict(backend_options or {}))
    return store
