"""Treadle in joblib's place, for joblib's own suites, which import it by its own names.

`install` runs from a .pth file in each interpreter of the suite, so in workers and in programs that tests start, and
takes effect when joblib is imported. The environment variable says how: "names" puts what `treadle.joblib` has in the
places of joblib's own, "backend" leaves joblib as it is and registers Treadle's backends as its default. Private parts
that the tests use as tools, and that have an equivalent, are answered here.
"""

import contextlib
import importlib.util
import os
import sys
from types import ModuleType
from typing import Any

MODE = "TREADLE_UPSTREAM_JOBLIB"


class Reusable:
    """loky's reusable executor, as far as tests look at it: which one it is, and how to be rid of it."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reusable) and self.pool is other.pool

    __hash__ = None  # type: ignore[assignment]

    def shutdown(self) -> None:
        from treadle.joblib import _pools

        _pools.close_all()


def get_reusable_executor(reuse: bool = True) -> Reusable:
    """The pool of processes that was used last."""
    from treadle.joblib import _pools

    return Reusable(_pools._processes[-1].pool if _pools._processes else None)


def put(module: str, **names: Any) -> None:
    """Puts names into a module of joblib's, which is imported for it."""
    __import__(module)
    vars(sys.modules[module]).update(names)


def install_backend() -> None:
    from treadle.joblib import _register

    _register.register()
    from joblib import parallel  # type: ignore[import-untyped]

    # The tests hold the default against the names of joblib's classes.
    parallel.DEFAULT_BACKEND = "loky"
    classes = {name: getattr(_register, name) for name in ("LokyBackend", "MultiprocessingBackend", "ThreadingBackend")}
    put("joblib._parallel_backends", **classes)
    put("joblib.parallel", MultiprocessingBackend=_register.MultiprocessingBackend)
    put("joblib.externals.loky", get_reusable_executor=get_reusable_executor)


def install_names() -> None:
    import joblib
    import treadle.joblib as ours
    from joblib._multiprocessing_helpers import mp  # type: ignore[import-untyped]
    from treadle.joblib import _backends, _base, _config

    parallel: Any = _config  # where the registry is, which tests read and write
    for name in ("Parallel", "cpu_count", "delayed", "effective_n_jobs"):
        setattr(parallel, name, getattr(ours, name))
    parallel.mp = mp
    parallel.EXTERNAL_BACKENDS = joblib.parallel.EXTERNAL_BACKENDS
    parallel.DEFAULT_BACKEND = parallel.DEFAULT_PROCESS_BACKEND = "loky"
    sys.modules["joblib.parallel"] = joblib.parallel = parallel
    backends = ModuleType("joblib._parallel_backends")
    vars(backends).update(vars(_base))
    vars(backends).update(vars(_backends))
    sys.modules["joblib._parallel_backends"] = joblib._parallel_backends = backends
    put("joblib.externals.loky", get_reusable_executor=get_reusable_executor)
    for name in joblib.__all__:
        if name not in ("dump", "load", "register_compressor"):
            with contextlib.suppress(ModuleNotFoundError):
                setattr(joblib, name, getattr(ours, name))


REGISTER = "treadle.joblib._register"


class Finder:
    """Waits for the import of joblib, which brings NumPy: a process that forks workers must not have it.

    Where Treadle's backends for joblib are imported first, as in workers, their turn comes when both are there.
    """

    def __init__(self) -> None:
        self.looking = False
        self.loading: set[str] = set()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in ("joblib", REGISTER) or self.looking:
            return None
        self.looking = True
        spec = importlib.util.find_spec(name)
        self.looking = False
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            self.loading.add(name)
            execute(module)
            self.loading.discard(name)
            if not self.loading:
                install_names() if os.environ[MODE] == "names" else install_backend()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def install() -> None:
    if MODE in os.environ:
        sys.meta_path.insert(0, Finder())  # type: ignore[arg-type]
