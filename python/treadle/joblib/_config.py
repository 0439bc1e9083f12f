"""Which backend is active, with what settings: `parallel_config`, `parallel_backend`, and the registry of backends."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from ._backends import LokyBackend, MultiprocessingBackend, ThreadingBackend, TreadleBackend
from ._base import ParallelBackendBase, SequentialBackend

Config = dict[str, Any]


class Unset:
    """A parameter that was not given, and what it is then."""

    def __init__(self, default_value: object) -> None:
        self.default_value = default_value

    def __repr__(self) -> str:
        return f"default({self.default_value!r})"


DEFAULTS: Config = {
    "backend": Unset(None),
    "n_jobs": Unset(None),
    "verbose": Unset(0),
    "temp_folder": Unset(None),
    "max_nbytes": Unset("1M"),
    "mmap_mode": Unset("r"),
    "prefer": Unset(None),
    "require": Unset(None),
}
UNSET = cast("Any", DEFAULTS)
"""The same, as the defaults of parameters, which have types of their own."""

BACKENDS: dict[str, Callable[..., Any]] = {
    "treadle": TreadleBackend,
    "loky": LokyBackend,
    "multiprocessing": MultiprocessingBackend,
    "threading": ThreadingBackend,
    "sequential": SequentialBackend,
}
DEFAULT_BACKEND = "treadle"
DEFAULT_THREAD_BACKEND = "threading"
DEFAULT_PROCESS_BACKEND = "treadle"
HINTS = ("processes", "threads", None)
CONSTRAINTS = ("sharedmem", None)


class _Active(threading.local):
    """The settings of this thread, where it has some."""

    config: Config | None = None


_active = _Active()
_everywhere = DEFAULTS
"""The settings of threads that have none; a worker of `Parallel` is born with others (_pools.py)."""


def set_for_process(config: Config) -> None:
    """Changes the settings of all threads that have none of their own."""
    global _everywhere
    _everywhere = {**DEFAULTS, **config}


def current() -> Config:
    """The settings in force."""
    config = _active.config
    return _everywhere if config is None else config


def value_of(given: Any, config: Config, key: str) -> Any:
    """A parameter: as given, or else as configured, or else its default."""
    if given is not DEFAULTS[key]:
        return given
    found = config[key]
    return found.default_value if found is DEFAULTS[key] else found


# --- the registry


def register_parallel_backend(name: str, factory: Callable[..., Any], make_default: bool = False) -> None:
    """Makes a backend known by a name; `factory()` makes one. With `make_default` it is what others don't override.

    Source: python/treadle/joblib/_config.py.
    """
    global DEFAULT_BACKEND
    BACKENDS[name] = factory
    if make_default:
        DEFAULT_BACKEND = name


def factory_of(name: Any) -> Callable[..., Any]:
    """What makes the backend of that name: one of ours, or one that was registered with joblib.

    Raises:
        ValueError: there is none.
    """
    if name in BACKENDS:
        return BACKENDS[name]
    if isinstance(name, str) and importlib.util.find_spec("joblib") is not None:
        parallel: Any = importlib.import_module("joblib.parallel")
        if name in parallel.EXTERNAL_BACKENDS and name not in parallel.BACKENDS:
            parallel.EXTERNAL_BACKENDS[name]()
        if name in BACKENDS:
            return BACKENDS[name]
        if name in parallel.BACKENDS:
            theirs: Callable[..., Any] = parallel.BACKENDS[name]
            return theirs
    raise ValueError(f"Invalid backend: {name}, expected one of {sorted(BACKENDS)}")


def is_backend(thing: object) -> bool:
    """Is this a backend, ours or one made for joblib?"""
    if isinstance(thing, ParallelBackendBase):
        return True
    theirs = sys.modules.get("joblib._parallel_backends")
    return theirs is not None and isinstance(thing, theirs.ParallelBackendBase)


# --- what is active


class Choice(NamedTuple):
    """A backend, and the settings that go with it."""

    backend: Any
    config: Config


def choose(prefer: Any = UNSET["prefer"], require: Any = UNSET["require"], verbose: Any = UNSET["verbose"]) -> Choice:
    """The active backend, or another one where the hint or the constraint ask for that.

    Raises:
        ValueError: they are not valid, or contradict each other.
    """
    config = current()
    backend = value_of(DEFAULTS["backend"], config, "backend")
    prefer, require = value_of(prefer, config, "prefer"), value_of(require, config, "require")
    check_hints(prefer, require)
    explicit = backend is not None
    if backend is None:
        backend = BACKENDS[DEFAULT_BACKEND](nesting_level=0)
    threads = bool(getattr(backend, "uses_threads", False))
    level = backend.nesting_level
    if (require == "sharedmem" and not getattr(backend, "supports_sharedmem", False)) or (
        not explicit and prefer == "threads" and not threads
    ):
        other = BACKENDS[DEFAULT_THREAD_BACKEND](nesting_level=level)
        if value_of(verbose, config, "verbose") >= 10 and explicit:
            print(
                f"Using {type(other).__name__} as joblib backend instead of {type(backend).__name__} as the latter "
                "does not provide shared memory semantics."
            )
        return Choice(other, {**config, "n_jobs": 1})
    if not explicit and prefer == "processes" and threads:
        return Choice(BACKENDS[DEFAULT_PROCESS_BACKEND](nesting_level=level), config)
    return Choice(backend, config)


def check_hints(prefer: Any, require: Any) -> None:
    """Refuses what joblib refuses, in its words."""
    if prefer not in HINTS:
        raise ValueError(f"prefer={prefer} is not a valid backend hint, expected one of {HINTS}")
    if require not in CONSTRAINTS:
        raise ValueError(f"require={require} is not a valid backend constraint, expected one of {CONSTRAINTS}")
    if prefer == "processes" and require == "sharedmem":
        raise ValueError("prefer == 'processes' and require == 'sharedmem' are inconsistent settings")


def get_active_backend(
    prefer: Any = UNSET["prefer"], require: Any = UNSET["require"], verbose: Any = UNSET["verbose"]
) -> tuple[Any, int | None]:
    """The active backend and its `n_jobs`."""
    backend, config = choose(prefer, require, verbose)
    return backend, value_of(DEFAULTS["n_jobs"], config, "n_jobs")


class parallel_config:
    """Sets the backend and the settings of `Parallel` in this thread, for a `with` block or until `unregister()`.

    Args:
        backend: A name ("treadle", "threading", "sequential"; "loky" and "multiprocessing" are served by Treadle), one
            that was registered here or with joblib, or a backend.
        n_jobs, verbose, temp_folder, max_nbytes, mmap_mode, prefer, require: As `Parallel` has them.
        inner_max_num_threads: Threads of BLAS and OpenMP in each worker process.
        **backend_params: For the backend's constructor, where `backend` is a name.

    Raises:
        ValueError: there is no such backend, or it has parameters and no name.

    Source: python/treadle/joblib/_config.py.
    """

    __module__ = "treadle.joblib"

    def __init__(
        self,
        backend: Any = UNSET["backend"],
        *,
        n_jobs: int | None = UNSET["n_jobs"],
        verbose: int = UNSET["verbose"],
        temp_folder: Any = UNSET["temp_folder"],
        max_nbytes: int | str | None = UNSET["max_nbytes"],
        mmap_mode: str | None = UNSET["mmap_mode"],
        prefer: str | None = UNSET["prefer"],
        require: str | None = UNSET["require"],
        inner_max_num_threads: int | None = None,
        **backend_params: Any,
    ) -> None:
        self._before = _active.config
        self.old_parallel_config = current()
        given = {
            "n_jobs": n_jobs,
            "verbose": verbose,
            "temp_folder": temp_folder,
            "max_nbytes": max_nbytes,
            "mmap_mode": mmap_mode,
            "prefer": prefer,
            "require": require,
            "backend": self._make_backend(backend, inner_max_num_threads, backend_params),
        }
        set_here = {key: value for key, value in given.items() if value is not DEFAULTS[key]}
        self.parallel_config = {**self.old_parallel_config, **set_here}
        _active.config = self.parallel_config

    def _make_backend(self, backend: Any, threads: int | None, params: dict[str, Any]) -> Any:
        if backend is DEFAULTS["backend"]:
            if threads is not None or params:
                raise ValueError(
                    "inner_max_num_threads and other constructor parameters backend_params are only supported when "
                    "backend is not None."
                )
            return backend
        if isinstance(backend, str):
            backend = factory_of(backend)(**params)
        elif params:
            raise ValueError("Constructor parameters backend_params are only supported when backend is a string.")
        if threads is not None:
            if not backend.supports_inner_max_num_threads:
                raise AssertionError(
                    f"{type(backend).__name__} does not accept setting the inner_max_num_threads argument."
                )
            backend.inner_max_num_threads = threads
        if backend.nesting_level is None:
            outer = value_of(DEFAULTS["backend"], self.old_parallel_config, "backend")
            backend.nesting_level = 0 if outer is None else outer.nesting_level
        return backend

    def __enter__(self) -> Any:
        return self.parallel_config

    def __exit__(self, *_: object) -> None:
        self.unregister()

    def unregister(self) -> None:
        """Puts back what was in force before."""
        _active.config = self._before


class parallel_backend(parallel_config):
    """The older form of `parallel_config`: `n_jobs` is -1 where it is not given.

    Source: python/treadle/joblib/_config.py.
    """

    def __init__(
        self, backend: Any, n_jobs: int | None = -1, inner_max_num_threads: int | None = None, **backend_params: Any
    ) -> None:
        super().__init__(backend, n_jobs=n_jobs, inner_max_num_threads=inner_max_num_threads, **backend_params)
        old, new = self.old_parallel_config, self.parallel_config
        self.old_backend_and_jobs = (old["backend"], old["n_jobs"])
        self.new_backend_and_jobs = (new["backend"], new["n_jobs"])

    def __enter__(self) -> Any:
        """The backend and `n_jobs`."""
        return self.new_backend_and_jobs


def nested_config(nested: Any) -> Config:
    """The settings of what a backend runs, from its `get_nested_backend()`; older ones give the backend alone."""
    backend, n_jobs = nested if isinstance(nested, tuple) else (nested, None)
    return {"backend": backend, "n_jobs": n_jobs}


def run_all(tasks: list[Any], nested: Any) -> list[Any]:
    """The results of tasks, with the settings that a backend has for what it runs."""
    before = _active.config
    _active.config = {**current(), **nested_config(nested)}
    try:
        return [function(*args, **kwargs) for function, args, kwargs in tasks]
    finally:
        _active.config = before


class BatchedCalls:
    """Tasks as one callable: what foreign backends are given."""

    def __init__(self, items: list[Any], backend_and_jobs: Any) -> None:
        self.items = items
        self._nested = backend_and_jobs

    def __call__(self) -> list[Any]:
        return run_all(self.items, self._nested)

    def __len__(self) -> int:
        return len(self.items)
