"""Treadle's memory and hash in place of joblib's, for joblib's own tests: a plugin of their pytest.

Their processes, and those that they start, import it by a `sitecustomize.py` in the folder of the run.
TREADLE_UPSTREAM_STORE is "local" for Treadle's own store, "joblib" for joblib's layout.
"""

from __future__ import annotations

import asyncio
import glob
import inspect
import json
import os
from typing import Any

STORE = "TREADLE_UPSTREAM_STORE"
REPORT = "TREADLE_UPSTREAM_REPORT"


def install() -> None:
    import joblib
    import joblib._store_backends
    import joblib.hashing
    import joblib.memory
    import treadle.joblib
    from treadle.joblib import _memory, _memory_calls, _memory_func, _memory_layout, _results, _stores, _stores_known

    if os.environ[STORE] == "joblib":
        _stores_known.STORE_BACKENDS["local"] = _stores.FileSystemStoreBackend
        _memory.place_of = lambda location, backend: location if location is None else place_of(location)
    names: dict[str, Any] = {
        "MemorizedResult": _results.MemorizedResult,
        "Memory": treadle.joblib.Memory,
        "expires_after": treadle.joblib.expires_after,
        "hash": treadle.joblib.hash,
        "register_store_backend": treadle.joblib.register_store_backend,
        "StoreBackendBase": treadle.joblib.StoreBackendBase,
    }
    private: dict[str, Any] = {
        "AsyncMemorizedFunc": _memory_func.AsyncMemorizedFunc,
        "AsyncNotMemorizedFunc": _memory_func.AsyncNotMemorizedFunc,
        "CacheWarning": _stores.CacheWarning,
        "FileSystemStoreBackend": _stores.FileSystemStoreBackend,
        "JobLibCollisionWarning": _stores.JobLibCollisionWarning,
        "MemorizedFunc": _memory_func.MemorizedFunc,
        "NotMemorizedFunc": _memory_func.NotMemorizedFunc,
        "NotMemorizedResult": _results.NotMemorizedResult,
        "_FUNCTION_HASHES": _memory_layout.known_functions,
        "_STORE_BACKENDS": _stores_known.STORE_BACKENDS,
        "_build_func_identifier": _memory_calls.identifier,
        "_store_backend_factory": _stores_known.open_store,
        "concurrency_safe_write": _stores.concurrency_safe_write,
    }
    for module in (joblib, joblib.memory, joblib.hashing, joblib._store_backends):
        for name, value in {**names, **private}.items():
            if hasattr(module, name) and not inspect.ismodule(getattr(module, name)):
                setattr(module, name, value)


def place_of(location: Any) -> Any:
    return os.path.join(location, "joblib") if isinstance(location, str) else location


# --- the plugin


def pytest_addoption(parser: Any) -> None:
    parser.addoption("--left-out", default=os.devnull, help="a file with the ids of tests that are not run")


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    with open(config.option.left_out) as file:
        left_out = set(file.read().splitlines())
    items[:] = [item for item in items if name_of(item) not in left_out]


def pytest_configure() -> None:
    from joblib.test import test_memory, test_memory_async

    test_memory.corrupt_single_cache_item = test_memory_async.corrupt_single_cache_item = corrupt


def corrupt(memory: Any) -> None:
    """As theirs does, where an entry is a file and not a folder."""
    (item,) = memory.store_backend.get_items()
    location, name = os.path.split(item.path)
    files = [os.path.join(item.path, "output.pkl"), *glob.glob(os.path.join(location, "*", "*", name))]
    with open(next(filter(os.path.exists, files)), "w") as opened:
        opened.write("garbage")


def pytest_pyfunc_call(pyfuncitem: Any) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    wanted = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in wanted}))
    return True


def write(*row: object) -> None:
    with open(os.environ[REPORT], "a") as report:
        report.write(json.dumps(row) + "\n")


def name_of(test: Any) -> str:
    """The id of an item or a report without its folders: test_memory.py::test_one[a]."""
    return f"{os.path.basename(test.location[0])}::{test.nodeid.partition('::')[2]}"


def pytest_collection_finish(session: Any) -> None:
    if session.config.option.collectonly:
        for item in session.items:
            write(name_of(item), "listed", "")


def pytest_runtest_logreport(report: Any) -> None:
    if report.when == "call" or report.outcome != "passed":
        write(name_of(report), report.outcome, str(report.longrepr) if report.longrepr else "")
