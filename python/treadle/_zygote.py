"""The processes behind a pool: the zygote, which forks workers, and a worker from its birth to its end.

A zygote is a small single-threaded Python that imports what the workers need once, and forks one whenever the parent
asks for it: its orders and its answers go through the engine (core/pool). What workers have of the parent (the context
of _context.py) the zygote takes on before it forks, once for all of them; a worker does the rest, runs the initializer,
and then stays in the engine's loop (binding/worker.c).

As little as possible is imported here: every import is paid for at a pool's start and by each process's memory.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # not signal, whose enums take 2 ms
import errno
import faulthandler
import gc
import marshal
import os
import sys
from _warnings import filters as _filters  # those in force; warnings.py is imported where it has something to do

from . import _engine, _identity, _signals
from . import _named as _named  # for all workers at once

TYPE_CHECKING = False  # as typing has it, whose import takes 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    Inherited = tuple[Callable[..., object], tuple[Any, ...]]
    Context = dict[str, Any]
    Filter = tuple[str, str | None, str, str | None, int]

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "BLIS_NUM_THREADS",
)
NUMERIC = ("numpy", "scipy", "sklearn", "torch", "mkl")  # what brings BLAS or OpenMP along

AHEAD = "TREADLE_AHEAD"
"""The environment variable that names what a zygote imports if it can, after OpenMP's number of threads."""

limits: dict[str, str] = {}
"""Those variables that were set here, and not by the user: pools inside a worker have smaller shares to set."""

WORKER_OOM_SCORE = 500
"""Thousandths of the memory by which a worker seems larger than it is to the kernel's OOM killer."""


def main() -> NoReturn:
    """A fresh interpreter's start: `python -c ... MODE [PRELOAD...] CHANNEL`."""
    mode, *preload, channel = sys.argv[1:]
    _signals.leave_ctrl_c_to_parent()
    _identity.new_main()
    site = os.environ.pop("TREADLE_SITE", None)
    if site is not None:
        from . import _site

        _site.catch_up(site)
    ahead = os.environ.pop(AHEAD, None)
    if mode == "single":
        birth = _engine.birth_receive(int(channel))
        if birth is None:
            os._exit(0)
        settle()
        go_first()
        work(birth, take_over(birth.context, int(channel)), None)
    if ahead is not None:
        from . import _preload

        _preload.import_ahead(ahead, site)
    if preload or site is None:  # where site ran, packages may have imported what they like
        from . import _preload

        _preload.import_all(int(channel), preload)
    settle()
    serve(int(channel), None)


def serve_forked(channel: int, inherited: Inherited | None) -> NoReturn:
    """The life of a zygote that was forked from the user's process, of which some habits have to go."""
    leave_user_behind()
    serve(channel, inherited)


def serve(channel: int, inherited: Inherited | None) -> NoReturn:
    """The zygote's life."""
    data: bytes | None = None
    context: Context = {}
    while True:
        birth = _engine.zygote_serve(channel)
        if birth is None:
            os._exit(0)
        if data != birth.context:
            data = birth.context
            context = take_over(data, channel)
            gc.freeze()  # the collector's marks would unshare every page, and so would a collection first
        try:
            pid = os.fork()
        except OSError as error:
            pid = -(error.errno or 1)
        _engine.zygote_forked(channel, birth, pid)
        if pid == 0:
            go_first()
            work(birth, context, inherited)


def work_alone(channel: int, inherited: Inherited | None) -> NoReturn:
    """The life of a worker that was forked from the user's process, with no zygote in between."""
    leave_user_behind()
    go_first()
    gc.freeze()
    birth = _engine.birth_receive(channel)
    if birth is None:
        os._exit(0)
    work(birth, take_over(birth.context, channel), inherited)


def settle() -> None:
    """What a worker and a zygote have in common."""
    _signals.leave_ctrl_c_to_parent()
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115  (as multiprocessing's workers have it)


def leave_user_behind() -> None:
    """What a process that was forked from the user's must not go on with."""
    import atexit

    atexit._clear()
    _signal.set_wakeup_fd(-1)
    _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
    settle()
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())  # last: before, a signal would meet the user's handler


# --- the worker


def work(birth: _engine.Birth, context: Context, inherited: Inherited | None) -> NoReturn:
    """A worker's life."""
    status = 1
    try:
        birth.attach()
        if prepare(birth, context, inherited):
            birth.run()
            status = 0
    except SystemExit:
        status = 0
    except BaseException as error:
        tell(birth, error)
    leave(status)


def tell(birth: _engine.Birth, error: BaseException) -> None:
    """Leaves word of why this worker ends, where the parent looks for it."""
    if birth.stack_fd < 0:
        sys.stderr.write(formatted())
    else:
        os.write(birth.stack_fd, name_limit(f"{type(error).__name__}: {error}").encode(errors="replace"))


def go_first() -> None:
    """Where memory runs out, the kernel takes a worker, whose death costs a task, rather than the parent."""
    try:
        file = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(file, b"%d" % min(1000, int(os.read(file, 16)) + WORKER_OOM_SCORE))
    except OSError:
        pass
    finally:
        os.close(file)


def prepare(birth: _engine.Birth, context: Context, inherited: Inherited | None) -> bool:
    """Makes the process what the user expects of a worker; False when that failed, which the pool was told."""
    _signals.prepare(birth)
    if birth.stack_fd >= 0:
        faulthandler.enable(birth.stack_fd)
    try:
        become(context, birth.index)
        if _engine.option("TRACE"):
            from . import _trace

            _trace.begin()
        if "initializer" in context:
            from . import _travel

            function, arguments = _travel.load_call(context["initializer"])
            function(*arguments)
        if inherited is not None:
            inherited[0](*inherited[1])
    except BaseException:
        _identity.log_failure()
        birth.failed(formatted())
        return False
    birth.ready()
    return True


def leave(status: int) -> NoReturn:
    """Ends the process as the stdlib's workers end, and with the exit handlers, so that coverage is saved."""
    import atexit

    try:
        threading = sys.modules.get("threading")
        if threading is not None:
            threading._shutdown()
        _identity.end_multiprocessing()
        atexit._run_exitfuncs()
    except BaseException:
        status = status or 1
    for stream in (sys.stdout, sys.stderr):
        try:  # noqa: SIM105  (contextlib is one more import)
            stream.flush()
        except Exception:
            pass  # closed, or its reader is gone
    os._exit(status)


def formatted() -> str:
    """The traceback of the exception at hand; where a limit lets no module be imported any more, only what it says."""
    try:
        import traceback

        text = traceback.format_exc()
    except BaseException as second:
        error = second.__context__ or second
        text = f"{type(error).__name__}: {error}\n"
    return name_limit(text)


def name_limit(text: str) -> str:
    """An error's text, with the way out where it is a limit of the system's."""
    if os.strerror(errno.EMFILE) in text:
        text = text.rstrip("\n") + "\nthe limit of open descriptors is reached: raise it (ulimit -n)"
    return text


# --- the context


def take_over(data: bytes, channel: int) -> Context:
    """Puts a process that will be a worker, or will fork workers, where the user is, as far as that is inherited."""
    context: Context = marshal.loads(data) if data else {}
    try:
        if "path" in context:
            sys.path[:] = context["path"]
        if "argv" in context:
            sys.argv[:] = context["argv"]
        if "environ" in context:
            set_environment(context["environ"])
        else:  # it is there already
            drop_limits()
            for name, value in context.get("added", {}).items():
                os.environ[name] = value
        if "umask" in context:
            os.umask(context["umask"])
        if "cwd" in context:
            try:  # noqa: SIM105
                os.chdir(context["cwd"])
            except OSError:
                pass  # it is gone: stay
        if "filters" in context:
            set_filters(context["filters"])
        for name in context.get("imports", ()):
            import_ahead(name)
        set_thread_variables(str(context.get("threads", 1)))
        return context
    except BaseException:
        _engine.zygote_fail(channel, f"no worker could be put where this process is\n{formatted()}")
        os._exit(1)


def import_ahead(name: str) -> None:
    """Imports, for all workers at once, a module that each of them would import."""
    try:  # noqa: SIM105
        __import__(name)
    except BaseException:
        pass  # a worker that needs it finds out, and tells whom it concerns


def become(context: Context, index: int) -> None:
    """Makes a process that took over the context the worker of that number."""
    if any(name in sys.modules for name in NUMERIC):
        from . import _share

        _share.limit_loaded(context.get("threads", 1))
    _identity.set_identity(context, index)
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()  # `random` reseeds itself after a fork
    if "output" in context:
        from . import _output

        _output.start_worker(context["output"])
    if "main" in context:
        _identity.prepare_main(context["main"])


def set_environment(wanted: dict[str, str]) -> None:
    """The parent's environment, variable by variable, because C code reads it too."""
    for name in [name for name in os.environ if name not in wanted]:
        del os.environ[name]
    for name, value in wanted.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def drop_limits() -> None:
    """Leaves the environment as the user made it."""
    for name, value in limits.items():
        if os.environ.get(name) == value:
            del os.environ[name]


def set_thread_variables(count: str) -> None:
    """Holds BLAS and OpenMP to so many threads where the user says nothing."""
    limits.clear()
    if "OMP_NUM_THREADS" not in os.environ:  # which all of them heed that have no variable of their own
        for name in THREAD_VARIABLES:
            if name not in os.environ:
                os.environ[name] = limits[name] = count


def set_filters(wanted: list[Filter]) -> None:
    """The parent's warning filters, where they are not those that there are."""
    loaded = sys.modules.get("warnings")
    if wanted != [described(item) for item in (_filters if loaded is None else loaded.filters)]:
        from ._filters import set_all

        set_all(wanted)


def described(item: Any) -> Filter:
    """A filter as the context has it."""
    action, message, category, module, line = item
    message, module = getattr(message, "pattern", message), getattr(module, "pattern", module)
    return action, message, category_name(category), module, line


def category_name(category: type) -> str:
    """Its module and its name there; of the user's `__main__` multiprocessing may have made `__mp_main__`."""
    home = "__main__" if category.__module__ == "__mp_main__" else category.__module__
    return f"{home}:{category.__qualname__}"
