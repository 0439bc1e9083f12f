"""What multiprocessing finds in a worker: who it is, who its parent is, and the user's `__main__` where it has one."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # as typing has it, whose import takes 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def set_identity(context: dict[str, Any], index: int) -> None:
    """Makes multiprocessing's current_process() and parent_process() tell the truth, now or when it is imported."""

    def identify(process: Any) -> None:
        # As a Process sets itself up in the child (BaseProcess.__init__ and _bootstrap).
        own = process.BaseProcess.__new__(process.BaseProcess)
        authkey = context.get("authkey")
        own.__dict__.update(
            _identity=(index + 1,),
            _config=process.current_process()._config.copy(),
            _parent_pid=context.get("parent_pid", os.getppid()),
            _parent_name="MainProcess",
            _popen=None,
            _closed=False,
            _target=None,
            _args=(),
            _kwargs={},
            _name=f"{context.get('name', 'TreadleWorker')}-{index + 1}",
        )
        if authkey is not None:
            own.authkey = authkey
        process._current_process = own
        process._children = set()
        try:
            sentinel: int | None = os.pidfd_open(own._parent_pid)
        except OSError:
            sentinel = None  # refused, or it is gone: is_alive() can't be answered
        process._parent_process = process._ParentProcess("MainProcess", own._parent_pid, sentinel)

    loaded = sys.modules.get("multiprocessing.process")
    if loaded is None:
        sys.meta_path.insert(0, AfterImport("multiprocessing.process", identify))
        return
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util._finalizer_registry.clear()  # the parent's affairs
        util._run_after_forkers()
    identify(loaded)


class AfterImport:
    """Calls a function once with a module, right after its first import."""

    def __init__(self, name: str, call: Callable[[Any], None]) -> None:
        self.name = name
        self.call = call

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The spec that the next finder finds, its loader wrapped."""
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        from importlib.util import find_spec

        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            inner = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                inner(module)
                self.call(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def new_main() -> None:
    """An empty `__main__`, where the user's names find room."""
    kind = type(sys)
    sys.modules["__main__"] = kind("__main__")


def prepare_main(main: dict[str, str]) -> None:
    """The user's `__main__`, imported under another name, as multiprocessing's spawn does it."""
    from multiprocessing import process, spawn

    current: Any = process.current_process()
    current._inheriting = True
    try:
        spawn.prepare(main)
    finally:
        del current._inheriting


def end_multiprocessing() -> None:
    """What multiprocessing does at the end of its processes: queues are flushed, children joined."""
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util._exit_function()


def log_failure() -> None:
    """To the stdlib's logger of a failing initializer, where somebody listens to it, and with it what is under way."""
    logging = sys.modules.get("logging")
    logger = logging.getLogger("concurrent.futures") if logging is not None else None
    if logger is None or not logger.hasHandlers():
        return
    try:
        logger.critical("Exception in initializer:", exc_info=True)
        end_multiprocessing()
    except Exception:
        pass  # what the initializer raised is of more interest
