"""ProcessPoolExecutor: the stdlib's interface over the engine. What runs per task is in C: binding/executor.c."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from types import EllipsisType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from . import _awaiting, _context, _engine, _errors, _foresight, _launch, _lifetime, _maps, _options, _trace, _travel
from . import _byvalue as _byvalue  # not to be waited for by the first submit

if TYPE_CHECKING:
    from . import _output

T = TypeVar("T")

INTERRUPT_GRACE_S = 0.5
LARGE_FUNCTION = 1 << 20  # bytes from which on a hint is due
"""What running tasks get after Ctrl-C before their workers are killed."""


class ProcessPoolExecutor(_engine.Executor, _maps.Maps, _awaiting.AsyncContext, Executor):
    """A pool of worker processes: `concurrent.futures.ProcessPoolExecutor`'s interface, on Treadle's engine.

    Args:
        max_workers: How many processes at most; the CPU budget (affinity mask and cgroup quota) by default. They start
            when there is work for them.
        mp_context: A multiprocessing context, of which the start method is used.
        initializer: Called once in each worker before its first task. Where it raises, the pool is broken, and the
            error has its traceback.
        initargs: The initializer's arguments.
        max_tasks_per_child: After so many tasks a worker leaves, and another takes its place.
        start_method: "zygote" (the default), "fork", "forkserver" or "spawn"; see _launch.py.
        on_worker_death: "heal": a dead worker fails the task it ran, with WorkerDied. "break": it breaks the whole
            pool, as the stdlib's does.
        retries: How often a task may run again after its worker's death.
        timeout: Seconds that a task may run; then it is stopped and fails with TaskTimeout.
        preload: Names of modules that the zygote imports before it forks workers. When one of their files changed, the
            next worker that a submit asks for comes from a fresh zygote.
        retry_on: Exception types after which a task is run again as well, in the same worker, up to `retries` times.
        forward_output: Whether prints, warnings and log records of the workers go to this process's `sys.stdout`,
            `sys.stderr` and loggers; by default where those are not the process's own descriptors (Jupyter, pytest).

    Raises:
        ValueError, TypeError: an argument is out of range or of the wrong type, in the stdlib's words.

    Sources: python/treadle/_executor.py, binding/executor.c, core/pool/.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        _options.read_environment()
        if _engine.option("INLINE"):
            from . import _inline

            cls = _options.variant(_inline.InlineExecutor, cls)
        elif kwargs.get("retry_on"):
            from . import _retry

            cls = _options.variant(_retry.RetryingSubmit, cls)
        return super().__new__(cls)

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: _launch.StartContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        start_method: str | None = None,
        on_worker_death: Literal["heal", "break"] = "heal",
        retries: int = 0,
        timeout: float | None = None,
        preload: Sequence[str] = (),
        retry_on: type[Exception] | tuple[type[Exception], ...] = (),
        forward_output: bool | None = None,
    ) -> None:
        self._max_workers = _options.check_workers(max_workers)
        self._start_method = _launch.choose(start_method, mp_context)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._initializer = initializer
        self._initargs = _options.check_initargs(initargs)
        self._max_tasks = _options.check_max_tasks(max_tasks_per_child, self._start_method)
        if on_worker_death not in ("heal", "break"):
            raise ValueError(f"on_worker_death must be 'heal' or 'break', not {on_worker_death!r}")
        self._break_on_death = on_worker_death == "break"
        self._retries = _options.check_retries(retries)
        self._timeout = _options.check_timeout(timeout)
        self._retry_on = _options.check_retry_on(retry_on)
        self._preload = _options.check_preload(preload)
        self._forward_output = _options.check_forward_output(forward_output)
        self._forwarder: _output.Forwarder | None = None
        self._by_reference_main = False
        self._capture: Callable[..., bytes] = bytes  # the context for workers that are born now
        self._imports: list[str] | None = None
        self._ahead: tuple[str, ...] = ()  # modules that the zygote imports if it can
        self._openmp = "1"  # OpenMP's threads in the workers, which it reads when it is imported
        self._context = b""
        self._lock = threading.Lock()
        self._started = self._closed = self._forked = False
        _lifetime.pools.add(self)

    # --- submitting

    def _start_map(self, call: _maps.MapCall[T], options: _options.TaskOptions | None = None) -> _engine.MapIterator[T]:
        if self._closed:
            raise _errors.pool_closed()
        if self._forked:
            raise _errors.pool_forked()
        call.check()
        options = options or self.options()
        task = (options.timeout, options.retries, options.name)
        return self._map(
            options.wrap(call.fn),
            call.iterables,
            call.star,
            call.chunksize,
            call.buffersize,
            call.ordered,
            call.timeout,
            task,
            call.keep_going,
        )

    def _submit_with(
        self, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any], options: _options.TaskOptions
    ) -> _engine.Future[T]:
        return self._submit(options.wrap(fn), args, kwargs, options.timeout, options.retries, options.name)

    def options(
        self,
        *,
        timeout: float | EllipsisType | None = ...,
        retries: int | EllipsisType = ...,
        name: str | None = None,
        retry_on: type[Exception] | tuple[type[Exception], ...] | EllipsisType = ...,
    ) -> _options.TaskOptions:
        """A view of this pool whose tasks have these options; what is not given is as in the pool.

        Args:
            timeout: Seconds that a task may run, or None.
            retries: How often a task may run again after its worker's death.
            name: What errors and `stats` call the task; by default the function's name.
            retry_on: Exception types after which it runs again as well.

        Returns:
            An executor with `submit`, `map` and `starmap`.

        Raises:
            ValueError, TypeError: as the pool's constructor.
        """
        return _options.TaskOptions(
            self,
            self._timeout if timeout is ... else _options.check_timeout(timeout),
            self._retries if retries is ... else _options.check_retries(retries),
            _options.check_name(name),
            self._retry_on if retry_on is ... else _options.check_retry_on(retry_on),
        )

    # --- called from C, on slow paths

    def _begin(self) -> None:
        """The first submit: starts the engine."""
        with self._lock:
            if self._closed or _lifetime.exiting:
                raise _errors.pool_closed()
            if self._forked:
                raise _errors.pool_forked()
            if self._started:
                return
            _trace.begin()
            self._launch()
            self._started = True

    def _launch(self) -> None:
        method, initializer = _launch.pack_initializer(self._start_method, self._initializer, self._initargs)
        self._by_reference_main = method != "zygote"
        name = f"{type(self).__name__}Worker"
        main = _context.main_module(name) if method in ("forkserver", "spawn") else None
        self._preload_stamp = _launch.stamp(self._preload)
        if method == "fork":
            with _lifetime.forking:
                self._launch_forked()
        else:
            start = _engine.START_SINGLE if method == "spawn" else _engine.START_SHARED
            cpus = self._create_pool(start, *_launch.command(method, self._preload, self._ahead, self._openmp))
            self._engine_start()
            self._set_capture(cpus, initializer, main)
        if self._forwarder is not None:
            self._forwarder.start()

    def _launch_forked(self) -> None:
        inherited = (self._initializer, self._initargs) if self._initializer else None
        self._imports = []  # they have what this process has
        self._started = True  # as the children see it
        children: list[_launch.Child] = []
        try:
            # Before the pool is made: the first worker comes up meanwhile, and a page that is written to from here on
            # is copied once, not for one child and then for the other.
            children.append(_launch.fork_worker(inherited))
            children.append(_launch.fork_zygote(inherited, children[0]))
            threads, output = self._set_capture(self._create_pool(_engine.START_ADOPTED), None, None)
            self._set_context(_context.capture_inherited(threads=threads, output=output))
            worker, zygote = children
            self._engine_adopt_worker(worker.pid, worker.channel)
            self._engine_adopt(zygote.pid, zygote.channel)
        except BaseException:
            self._started = False
            for child in children:
                child.abandon()
            if self._forwarder is not None:
                self._forwarder.abandon()
                self._forwarder = None
            raise

    def _set_capture(
        self, cpus: int, initializer: bytes | None, main: dict[str, str] | None
    ) -> tuple[int, _output.Address | None]:
        threads = max(1, (_context.cpu_share() or cpus) // self._max_workers)
        output = self._start_forwarding()
        self._capture = partial(_context.capture, threads=threads, initializer=initializer, main=main, output=output)
        return threads, output

    def _create_pool(self, start: int, argv: list[str] | None = None, env: list[str] | None = None) -> int:
        return self._create(
            max_workers=self._max_workers,
            max_tasks=self._max_tasks,
            start=start,
            break_on_death=self._break_on_death,
            timeout=self._timeout,
            retries=self._retries,
            by_reference_main=self._by_reference_main,
            argv=argv,
            env=env,
        )

    def _refresh(self) -> None:
        """Workers born from now on find this process, and preloaded modules, as they are now; called where one is about
        to be.
        """
        if self._preload:
            stamp = _launch.stamp(self._preload)
            if stamp != self._preload_stamp:
                self._restart_zygote()
                self._preload_stamp = stamp
        context = self._capture(imports=self._imports)
        if context != self._context:
            self._set_context(context)
            self._context = context

    def _start_forwarding(self) -> _output.Address | None:
        if not _launch.forwards_output(self._forward_output):
            return None
        from . import _output

        forwarder = self._forwarder = _output.Forwarder()
        # A pool that is let go of without shutdown: the reader ends with the last worker.
        finalizer: Any = weakref.finalize(self, forwarder.let_go)
        finalizer.atexit = False
        return forwarder.address()

    def _pack_function(self, fn: Callable[..., object]) -> tuple[bytes, Any, list[Any] | None]:
        if self._imports is None:
            self._imports = _foresight.imports_of(fn, self._by_reference_main)
        packed = _travel.pack_sharing(fn, self._by_reference_main)
        if len(packed[0]) >= LARGE_FUNCTION:
            from . import _hints

            _hints.large_function(fn, len(packed[0]))
        return packed

    # --- the end

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """No more submits; what was submitted is finished.

        Args:
            wait: Return when everything is done and all processes are gone, rather than at once.
            cancel_futures: Cancel what no worker has begun, or is about to begin.

        Ctrl-C while it waits cancels the running tasks as well, and all processes are gone within a second.
        """
        with self._lock:
            self._closed = True
            if not self._started or self._forked:
                return
        self._close(_engine.CLOSE_CANCEL_QUEUED if cancel_futures else 0)
        if wait:
            self._wait_for_end()
        elif self._forwarder is not None:
            threading.Thread(target=self._wait_for_end, name="treadle-output-end", daemon=True).start()

    def _wait_for_end(self) -> None:
        try:
            self._join(None)
        except KeyboardInterrupt:
            self._interrupt()
            raise
        if self._forwarder is not None:
            self._forwarder.stop()

    def _interrupt(self) -> None:
        """Ends the pool within a second, whatever it runs."""
        self._closed = True
        if not self._started or self._forked:
            return
        try:
            self._close(_engine.CLOSE_CANCEL_RUNNING)
            gone = self._join(INTERRUPT_GRACE_S)
        except BaseException:  # a second Ctrl-C
            self._close(_engine.CLOSE_KILL)
            raise
        if not gone:
            self._close(_engine.CLOSE_KILL)
            self._join(None)
        if self._forwarder is not None:
            self._forwarder.stop()

    def terminate_workers(self) -> None:
        """Ends the pool: SIGTERM to all workers. What they ran fails with PoolBroken, what is queued is cancelled."""
        self._force(_engine.CLOSE_TERMINATE)

    def kill_workers(self) -> None:
        """Ends the pool: SIGKILL to all workers. What they ran fails with PoolBroken, what is queued is cancelled."""
        self._force(_engine.CLOSE_KILL)

    def _force(self, flag: int) -> None:
        with self._lock:
            self._closed = True
            if not self._started or self._forked:
                return
        self._close(_engine.CLOSE_CANCEL_QUEUED | flag)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._interrupt()
        else:
            self.shutdown(wait=True)

    def __del__(self) -> None:
        # Let go of without shutdown: what is pending is finished, as the stdlib's is. Runs also where __init__ raised,
        # and at the very end, when modules are gone.
        if getattr(self, "_started", False) and not self._forked and _lifetime and _lifetime.exiting is False:
            self._close(0)
            _lifetime.abandon(self)

    # --- looking at it

    def stats(self) -> Mapping[str, Any]:
        """Figures of the pool, as they are now; a copy. Bytes are in bytes, times in nanoseconds.

        `tasks` has the number of tasks by state; `queued` those waiting; `restarts` the workers that replaced dead
        ones; `bytes_moved` the bytes of results' arrays that came without a copy, `bytes_copied` those of arguments
        and results that were written into shared memory; `workers` a list with each one's `pid`, `state`,
        `tasks_done`, `rss_bytes`, `busy_ns` and `started_ns`; `deaths` a list of the latest 256 workers that died:
        `pid`, `signal` or `exit_code`, whether a task was `lost`, and then its `name`, its `items` in a map (first and
        end), and its `fate`: "died", "retried", "cancelled" or "timed out".
        """
        figures = dict(self._stats())
        states = ("submitted", "queued", "running", "succeeded", "failed", "cancelled", "died", "timed_out", "retried")
        tasks = {state: figures.pop(state) for state in states}
        now = {"workers": self._workers(), "deaths": self._deaths(), "broken": self._broken_reason()}
        return {"tasks": tasks, "queued": tasks["queued"], **figures, **now}

    def __repr__(self) -> str:
        state = "closed" if self._closed else "started" if self._started else "not started"
        return f"<{type(self).__module__}.{type(self).__qualname__} max_workers={self._max_workers} {state}>"


ProcessPoolExecutor.__module__ = "treadle"
