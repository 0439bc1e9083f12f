"""The extension module: Python handles of the engine. Sources: binding/, core/."""

import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, ParamSpec, Self, TypedDict, TypeVar, final

_P = ParamSpec("_P")
_T = TypeVar("_T")

CLOSE_CANCEL_QUEUED: int
CLOSE_TERMINATE: int
CLOSE_KILL: int
START_SHARED: int
START_ADOPTED: int
START_SINGLE: int
MAX_WORKERS: int

class _Budget(TypedDict):
    cpus: int
    limit: str
    quota_file: str | None
    online: int
    affinity: int
    quota: float
    memory: int
    memory_total: int

class _Stats(TypedDict):
    submitted: int
    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    died: int
    timed_out: int
    retried: int
    bytes_moved: int
    bytes_copied: int
    argument_bytes_live: int
    result_bytes_live: int
    workers_alive: int
    workers_idle: int
    workers_started: int
    restarts: int
    barren_deaths: int
    zygote_starts: int
    zygote_pid: int

class _Worker(TypedDict):
    pid: int
    state: str
    tasks_done: int
    rss_bytes: int
    busy_ns: int
    started_ns: int

class Timing(NamedTuple):
    queued: float
    transfer: float
    run: float
    worker_pid: int
    attempts: int

def options() -> list[tuple[str, str, str, str, str, bool, str | None]]: ...
def option(name: str, /) -> int | str: ...
def reload_options() -> str | None: ...
def cpus() -> int: ...
def budget() -> _Budget: ...
def now_ns() -> int: ...
def after_fork_child() -> None: ...
def _dispatch_stop() -> None: ...

class Future(concurrent.futures.Future[_T]):
    def cancel(self, force: bool = False) -> bool: ...
    @property
    def timing(self) -> Timing | None: ...

@final
class MapIterator(Iterator[_T]):
    def __iter__(self) -> Self: ...
    def __next__(self) -> _T: ...
    def next(self, timeout: float | None = None) -> _T: ...
    def close(self) -> None: ...

class Executor:
    def __new__(cls, *args: Any, **kwargs: Any) -> Self: ...
    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]: ...
    def _create(
        self,
        *,
        max_workers: int,
        max_tasks: int = 0,
        start: int = 0,
        break_on_death: bool = False,
        timeout: float | None = None,
        retries: int = 0,
        by_reference_main: bool = False,
    ) -> None: ...
    def _submit(
        self,
        fn: Callable[..., _T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        timeout: float | None,
        retries: int,
        name: str | None,
    ) -> Future[_T]: ...
    def _map(
        self,
        fn: Callable[..., _T],
        iterables: tuple[Iterable[Any], ...],
        star: bool,
        chunksize: int | None,
        buffersize: int | None,
        ordered: bool,
        timeout: float | None,
        options: tuple[float | None, int, str | None],
        keep_going: bool,
    ) -> MapIterator[_T]: ...
    def _engine_start(self, argv: Iterable[str | bytes], env: Iterable[str | bytes], /) -> None: ...
    def _engine_adopt(self, pid: int, channel: int) -> None: ...
    def _set_context(self, context: bytes) -> None: ...
    def _prestart(self, workers: int) -> None: ...
    def _close(self, flags: int) -> None: ...
    def _join(self, timeout: float | None = None) -> bool: ...
    def _idle(self, timeout: float | None = None) -> bool: ...
    def _break(self, reason: str) -> None: ...
    def _broken_reason(self) -> str | None: ...
    def _stats(self) -> _Stats: ...
    def _workers(self) -> list[_Worker]: ...

class ThreadQueue:
    def __new__(cls, max_workers: int, start: Callable[[], object], refuse: Callable[[], object]) -> Self: ...
    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]: ...
    def serve(self) -> None: ...
    def close(self, cancel: bool = False) -> list[Future[Any]]: ...
    def qsize(self) -> int: ...

def wait(
    fs: Iterable[concurrent.futures.Future[_T]],
    timeout: float | None = None,
    return_when: str = "ALL_COMPLETED",
) -> concurrent.futures._base.DoneAndNotDoneFutures[_T]: ...
def as_completed(
    fs: Iterable[concurrent.futures.Future[_T]], timeout: float | None = None
) -> Iterator[concurrent.futures.Future[_T]]: ...
