"""The extension module: Python handles of the engine. Sources: binding/, core/."""

import concurrent.futures
from _socket import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Final, NamedTuple, NoReturn, ParamSpec, Self, TypedDict, TypeVar, final, type_check_only

from typing_extensions import Buffer, disjoint_base

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
def clear_flag(name: str, /) -> None: ...
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
        argv: Iterable[str | bytes] | None = None,
        env: Iterable[str | bytes] | None = None,
    ) -> int: ...
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
    def _engine_start(self) -> None: ...
    def _engine_adopt_worker(self, pid: int, channel: socket) -> None: ...
    def _engine_adopt(self, pid: int, channel: socket) -> None: ...
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

# --- shared memory with a name (named.c)

@final
class Segment:
    @property
    def size(self) -> int: ...
    def unlink(self, name: str, /) -> None: ...

def segment_create(name: str, size: int, track: bool, /) -> tuple[Segment, memoryview]: ...
def segment_attach(name: str, /) -> tuple[Segment, memoryview]: ...
def segments_guardian(program: str, /) -> None: ...
def segments_problem() -> int: ...
def segments_guarded() -> bool: ...
def segments_sweep(clean: bool = False, /) -> list[tuple[str, int, bool, bool]]: ...

# --- the store on disk (cache.c; core/cache/store.h)

LANDED: Final = 0
LEADER: Final = 1
CYCLE: Final = 2
NOLOCKS: Final = 3

@final
class Entry:
    """An entry of a Store, as it was got: it stays good when it is evicted, replaced, or its store is closed."""

    @property
    def parts(self) -> tuple[memoryview, ...]:
        """What put() was given, as bytes; each begins at a multiple of 64 bytes. Any view of one keeps all of them."""
    @property
    def kind(self) -> str: ...
    @property
    def nbytes(self) -> int:
        """Of the file."""
    @property
    def created_ns(self) -> int: ...
    @property
    def stamp(self) -> int:
        """Tells it from what else is, or will be, under its key; never 0. For `enter(stale=...)`."""

@final
class Store:
    """A content-addressed store in a folder, which is made where it is missing (0700), its parents too.

    Any thread may call anything; all stores of a process in one folder, and a forked child's, work together.

    Args:
        cap_bytes: beyond it the least recently used entries go, a tenth of the cap at a time. None or 0: no cap.
        durable: an entry is on the disk, by fsync, when put() returns.
        verify: "full": each entry is checked at this process's first use of it (small ones always); "header": its head.
        shared: other users may write there too, and what they put is trusted. Else such a folder is refused.
        locks: False acts as on a file system without locks.

    Raises:
        PermissionError: another user owns the folder, or can write to it.
        OSError: it is not there and can't be made. One that can't be written to is opened for reading.
    """

    def __new__(
        cls,
        path: str,
        /,
        *,
        cap_bytes: int | None = None,
        durable: bool = False,
        verify: str = "full",
        shared: bool = False,
        locks: bool = True,
    ) -> Store: ...
    @property
    def path(self) -> str: ...
    @property
    def readonly(self) -> bool:
        """put() would raise OSError (EROFS, EACCES). Hits work."""
    @property
    def locks(self) -> bool:
        """False: the file system has no locks, as far as was seen, or the folder is read-only."""
    def get(self, key: bytes, mode: str | None = None, /) -> Entry | None:
        """The entry of a key of 1 to 32 bytes; None: there is none.

        Args:
            key: What it was put under.
            mode: None: the parts are memory of the caller's own, writable: a copy, that no later change of the file
                reaches. "r": read-only, and mapped where that pays. "c": mapped and writable; a page that is written to
                is copied, and nobody else sees it. Each call gives new ones.

        Raises:
            CorruptEntry: it was torn or changed. It is removed, so that the next get() finds none.
            OSError: it can't be read.
        """
    def peek(self, key: bytes, /) -> Entry | None:
        """As get(key, "r"), for who lists what there is.

        It is no use of the entry, a large one's parts are not checked, and nothing is removed.
        """
    def put(self, key: bytes, parts: Sequence[Buffer], kind: str = "", /) -> int:
        """Writes an entry, or replaces one: others see it whole or not at all. The bytes of its file.

        Args:
            key: 1 to 32 bytes.
            parts: contiguous buffers, up to a million.
            kind: what wrote it, up to 16 bytes: for people who list the store.

        Raises:
            OSError: there is no room (ENOSPC, EDQUOT; nothing is left behind), the folder is read-only, ...
        """
    def drop(self, key: bytes, /) -> bool: ...
    def enter(self, key: bytes, /, timeout: float | None = None, *, stale: int = 0, owner: int = 0) -> int:
        """Asks to compute what is under a key, after get() found nothing.

        Waits while somebody else does, in whatever thread or process, with the GIL released; a signal's handler runs
        meanwhile, and what it raises ends the wait.

        LANDED: the entry is there now: get it (None again: it was evicted; enter again).
        LEADER: compute it, put it, and leave() in any case. Nobody has put it since: that was looked at.
        NOLOCKS: as LEADER, leave() too, but other processes may compute it as well.
        CYCLE: compute it without leave(): who asks computes it already, or waiting would be a cycle of waits.

        A leader that dies is followed by one of those who wait.

        Args:
            key: 1 to 32 bytes.
            timeout: seconds; None: for as long as it takes.
            stale: the `stamp` of an entry that get() found and that is of no use: only another one has landed.
            owner: who asks, any number but 0, for those who may leave() in another thread, such as an asyncio task;
                0 is this thread. One owner waits for one key at a time.

        Raises:
            TimeoutError: it is still being computed after so many seconds.
        """
    def leave(self, key: bytes, /, *, owner: int = 0) -> bool:
        """Ends what enter() began, whether it was put or not: who waits gets the entry, or leads.

        False: it was not led, as in a child that was forked meanwhile.
        """
    def entries(self) -> list[tuple[bytes, int, int, int]]:
        """(key, bytes of the file, created, used) of each, in no order; times in ns since 1970, used to a second."""
    def prune(
        self, *, bytes: int | None = None, items: int | None = None, age_s: float | None = None
    ) -> tuple[int, int]:
        """Removes the least recently used entries until the rest is within the limits, and what killed writers left.

        How many went, and their bytes.
        """
    def verify(self, *, remove: bool = False) -> tuple[int, list[bytes]]:
        """Reads every byte of every entry: how many there are, and the keys of those that are torn or changed."""

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

# --- shared memory (shared.c)

@final
class SharedBlock:
    @property
    def address(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def name(self) -> bytes: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

def shared_new(nbytes: int, zeros: bool, /) -> SharedBlock: ...
def shared_find(address: int, nbytes: int, /) -> SharedBlock | None: ...
def shared_open(name: bytes, /) -> SharedBlock: ...
def shared_extent(buffer: Any, /) -> tuple[int, int, int] | None: ...
def shared_info() -> dict[str, int]: ...
def shared_trim() -> None: ...
def numpy_allocator(min_bytes: int, /) -> object: ...
def numpy_use_allocator(allocator: object, /) -> object: ...
def use_numpy() -> bool: ...

# --- synchronisation in shared memory (lock.c, sync.c)

@final
class Lock:
    def __new__(cls) -> Lock: ...
    def acquire(self, blocking: bool = True, timeout: float | None = -1) -> bool: ...
    def release(self) -> None: ...
    def locked(self) -> bool: ...
    def __enter__(self) -> bool: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...
    def __reduce__(self) -> NoReturn: ...
    def _block(self) -> SharedBlock: ...
    @classmethod
    def _at(cls, block: SharedBlock, /) -> Lock: ...

def flag_new() -> SharedBlock: ...
def flag_set(block: SharedBlock, /) -> None: ...
def flag_clear(block: SharedBlock, /) -> None: ...
def flag_is_set(block: SharedBlock, /) -> bool: ...
def flag_wait(block: SharedBlock, timeout: float | None, /) -> bool: ...
def barrier_new(parties: int, /) -> SharedBlock: ...
def barrier_wait(block: SharedBlock, timeout: float | None, /) -> int: ...
def barrier_abort(block: SharedBlock, /) -> None: ...
def barrier_reset(block: SharedBlock, /) -> None: ...
def barrier_info(block: SharedBlock, /) -> tuple[int, int, bool]: ...
def counter_new(value: int, /) -> SharedBlock: ...
def counter_add(block: SharedBlock, number: int, /) -> int: ...
def counter_set(block: SharedBlock, value: int, /) -> None: ...
def counter_get(block: SharedBlock, /) -> int: ...

# --- the zygote and its workers (birth.c)

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
    def heed(self, number: int, /) -> None: ...

def zygote_serve(channel: int, /) -> Birth | None: ...
def zygote_forked(channel: int, birth: Birth, pid: int, /) -> None: ...
def zygote_fail(channel: int, reason: str, /) -> None: ...
def fork_dozing(channel: int, *closed: int) -> int: ...
def birth_receive(channel: int, /) -> Birth | None: ...
def after_task(call: Callable[[], object] | None, /) -> None: ...
