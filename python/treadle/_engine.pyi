"""The extension module: Python handles of the engine. Sources: binding/, core/."""

import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, ParamSpec, Self, TypedDict, TypeVar, final, type_check_only

from typing_extensions import disjoint_base

_P = ParamSpec("_P")
_T = TypeVar("_T")

CLOSE_CANCEL_QUEUED: int
CLOSE_TERMINATE: int
CLOSE_KILL: int
CLOSE_CANCEL_RUNNING: int
START_SHARED: int
START_ADOPTED: int
START_SINGLE: int
MAX_WORKERS: int

@type_check_only
class _Budget(TypedDict):
    cpus: int
    limit: str
    quota_file: str | None
    online: int
    affinity: int
    quota: float
    memory: int
    memory_total: int

@type_check_only
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

@type_check_only
class _Worker(TypedDict):
    pid: int
    state: str
    tasks_done: int
    rss_bytes: int
    busy_ns: int
    started_ns: int

@type_check_only
class _Death(TypedDict):
    number: int
    pid: int
    worker: int
    signal: int | None
    exit_code: int | None
    lost: bool
    fate: str | None
    name: str
    items: tuple[int, int] | None
    tag: int
    position: int
    attempt: int

@type_check_only
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
def trace_on() -> None: ...
def trace_dump(fd: int, /) -> None: ...
def now_ns() -> int: ...
def after_fork_child() -> None: ...
def _dispatch_stop() -> None: ...

@final
class Future(concurrent.futures.Future[_T]):
    def cancel(self, force: bool = False) -> bool: ...
    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[_T]], object], /) -> None: ...  # pyright: ignore[reportIncompatibleMethodOverride]
    def set_result(self, result: _T, /) -> None: ...  # pyright: ignore[reportIncompatibleMethodOverride]
    def set_exception(self, exception: BaseException | None, /) -> None: ...  # pyright: ignore[reportIncompatibleMethodOverride]
    @property
    def timing(self) -> Timing | None: ...

@final
class MapIterator(Iterator[_T]):
    def __iter__(self) -> Self: ...
    def __next__(self) -> _T: ...
    def next(self, timeout: float | None = None) -> _T: ...
    def close(self) -> None: ...

@disjoint_base
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
    def _set_context(self, context: bytes, /) -> None: ...
    def _restart_zygote(self) -> None: ...
    def _prestart(self, workers: int, /) -> None: ...
    def _close(self, flags: int) -> None: ...
    def _join(self, timeout: float | None = None) -> bool: ...
    def _idle(self, timeout: float | None = None) -> bool: ...
    def _break(self, reason: str, /) -> None: ...
    def _broken_reason(self) -> str | None: ...
    def _stats(self) -> _Stats: ...
    def _workers(self) -> list[_Worker]: ...
    def _deaths(self) -> list[_Death]: ...

@final
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

# --- functions that travel by value (watch.c)

@final
class Watch:
    def __new__(cls, places: list[Any]) -> Self: ...
    def holds(self) -> bool: ...

def globals_changed() -> None: ...

# --- payloads (codec.c)

def encode_call(args: tuple[Any, ...], kwargs: dict[str, Any] = {}, by_reference_main: bool = False, /) -> bytes: ...
def encode_value(value: object, /) -> bytes: ...
def encode_chunk(items: list[tuple[Any, ...]], /) -> bytes: ...
def decode_call(payload: bytes, /) -> tuple[tuple[Any, ...], dict[str, Any]]: ...
def decode_value(payload: bytes, /) -> Any: ...
def decode_error(payload: bytes, /) -> BaseException: ...
def decode_chunk_item(payload: bytes, item: int, /) -> tuple[tuple[Any, ...], dict[str, Any]]: ...
def check_payload(payload: bytes, /) -> bool: ...

# --- the zygote and its workers (worker.c)

@final
class Birth:
    @property
    def context(self) -> bytes: ...
    @property
    def index(self) -> int: ...
    @property
    def stack_fd(self) -> int: ...
    def attach(self) -> None: ...
    def ready(self) -> None: ...
    def failed(self, reason: str, /) -> None: ...
    def run(self) -> None: ...
    def interrupted(self) -> bool: ...
    def disown(self) -> None: ...
    def leave(self) -> None: ...

def zygote_serve(channel: int, /) -> Birth | None: ...
def zygote_forked(channel: int, birth: Birth, pid: int, /) -> None: ...
def zygote_fail(channel: int, reason: str, /) -> None: ...
def birth_receive(channel: int, /) -> Birth | None: ...
