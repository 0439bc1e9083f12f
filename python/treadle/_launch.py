"""How a pool's processes come to be: the choice of the start method, the command line of the zygote, the fork.

zygote      a fresh interpreter that forks the workers; never sees the user's `__main__`
fork        the zygote is forked from this process at the first submit, and inherits what it has
forkserver  as zygote, and each worker imports the user's `__main__` as multiprocessing's forkserver does
spawn       each worker is a fresh interpreter of its own, with the user's `__main__`
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # not signal, whose enums take 2 ms
import _socket  # socket.py takes 5 ms to import
import contextlib
import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn, Protocol

from . import _context, _engine, _site, _travel, _zygote

METHODS = ("zygote", "fork", "forkserver", "spawn")
BOOT = (
    "import os, sys; sys.path[:] = os.environ.pop('TREADLE_PATH').split(os.pathsep); "
    "from treadle._zygote import main; main()"
)

Inherited = tuple[Callable[..., object], tuple[Any, ...]]
"""An initializer and its arguments, which a forked process has without pickling."""

hinted = False


class StartContext(Protocol):
    """What is used of a multiprocessing context."""

    def get_start_method(self, allow_none: bool = ...) -> str | None: ...


def choose(start_method: str | None, mp_context: StartContext | None) -> str | None:
    """The start method that the user asked for, or None.

    Raises:
        ValueError: there is no such method, or the two arguments contradict each other.
        TypeError: mp_context is no context.
    """
    if mp_context is not None and not hasattr(mp_context, "get_start_method"):
        raise TypeError(f"mp_context must be a multiprocessing context; did you mean start_method={mp_context!r}?")
    asked = None if mp_context is None else mp_context.get_start_method(allow_none=False)
    if start_method is not None and asked is not None and start_method != asked:
        raise ValueError(f"start_method={start_method!r} contradicts mp_context, which is {asked!r}")
    method = start_method or asked or str(_engine.option("START_METHOD")) or None
    if method is not None and method not in METHODS:
        raise ValueError(f"cannot find start method {method!r}: use one of {', '.join(METHODS)}")
    return method


def interpreter() -> str | None:
    """The Python that a fresh process can run, or None where this program is no Python (it is embedded or frozen)."""
    spawn = sys.modules.get("multiprocessing.spawn")
    path = os.fsdecode(spawn.get_executable()) if spawn and spawn.get_executable() else sys.executable
    if not path or getattr(sys, "frozen", False):
        return None
    return path if is_python(path) or is_python(os.path.realpath(path)) else None


def is_python(path: str) -> bool:
    """Does this program's name say that it is a Python?"""
    base = os.path.basename(path).lower()
    return "python" in base or "pypy" in base


def pack_initializer(
    method: str | None, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]
) -> tuple[str, bytes | None]:
    """Settles the start method, and gives the initializer's call as bytes unless it is inherited."""
    if method is None and interpreter() is None:
        method = "fork"
    if initializer is None or method == "fork":
        return method or "zygote", None
    try:
        return method or "zygote", _travel.pack_call(initializer, initargs, method in ("forkserver", "spawn"))
    except Exception as error:
        if not inherited_only(error):
            raise
    hint(method)
    return "fork", None


def inherited_only(error: BaseException | None) -> bool:
    """Is this multiprocessing's refusal to pickle a lock, a queue or a shared value?"""
    while error is not None:
        if isinstance(error, RuntimeError) and "through inheritance" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def hint(method: str | None) -> None:
    """Says once in a process that its workers inherit initargs by fork."""
    global hinted
    if not hinted:
        hinted = True
        print(
            "treadle: initargs hold an object that can only be inherited (a multiprocessing lock, queue or value), so "
            f"the workers are forked from this process{f' instead of {method}' if method else ''}; "
            "start_method='fork' says so without this hint",
            file=sys.stderr,
        )


def command(
    method: str, preload: Sequence[str], ahead: Sequence[str] = (), openmp: str = "1"
) -> tuple[list[str], list[str]]:
    """The command line and the environment of a zygote or a single worker; the engine adds its channel's descriptor.

    `ahead` names modules that a zygote imports, too, if it can be forked with them.

    Raises:
        OSError: there is no interpreter to run.
    """
    executable = interpreter()
    if executable is None:
        raise OSError(
            f"sys.executable is {sys.executable!r}, which is no Python that a fresh process could run: "
            f"use start_method='fork' in place of {method!r}"
        )
    mode = "single" if method == "spawn" else "zygote"
    flags = interpreter_flags()
    own = {**os.environ, "TREADLE_PATH": os.pathsep.join(_context.search_path())}
    if not sys.flags.no_site and _site.is_plain():
        flags.append("-S")
        own[_site.VARIABLE] = _site.describe()
    if ahead and mode == "zygote":
        own[_zygote.AHEAD] = ",".join((openmp, *ahead))
    return [executable, *flags, "-c", BOOT, mode, *preload], [f"{name}={value}" for name, value in own.items()]


def interpreter_flags() -> list[str]:
    """The options of the interpreter that repeat ours, as subprocess has them (importing that takes 10 ms)."""
    flags = sys.flags
    letters = {
        "d": flags.debug,
        "B": flags.dont_write_bytecode,
        "S": flags.no_site,
        "v": flags.verbose,
        "b": flags.bytes_warning,
        "q": flags.quiet,
        "O": flags.optimize,
    }
    arguments = ["-" + letter * int(times) for letter, times in letters.items() if times > 0]
    if flags.isolated:
        arguments.append("-I")
    else:
        single = {"-E": flags.ignore_environment, "-s": flags.no_user_site, "-P": flags.safe_path}
        arguments += [flag for flag, value in single.items() if value]
    arguments += ["-W" + text for text in warning_options()]
    if flags.dev_mode:
        arguments += ["-X", "dev"]
    for name in ("faulthandler", "tracemalloc", "importtime", "frozen_modules", "showrefcount", "utf8", "gil"):
        value = sys._xoptions.get(name)
        if value is not None:
            arguments += ["-X", name if value is True else f"{name}={value}"]
    return arguments


def warning_options() -> list[str]:
    """The -W options, less those that -b and -X dev imply."""
    texts = list(sys.warnoptions)
    implied = {1: "default::BytesWarning", 2: "error::BytesWarning"}.get(min(int(sys.flags.bytes_warning), 2))
    for text in (implied, "default" if sys.flags.dev_mode else None):
        if text in texts:
            texts.remove(text)
    return texts


def stamp(modules: Sequence[str]) -> list[tuple[str, int, int]]:
    """The files of modules, each with its time and size, found without importing anything."""
    found: list[tuple[str, int, int]] = []
    if not modules:
        return found
    from importlib.machinery import PathFinder

    for module in modules:
        folders: Sequence[str] | None = None
        name = ""
        for part in module.split("."):
            name = f"{name}.{part}" if name else part
            spec = PathFinder.find_spec(name, folders)
            if spec is None:
                break  # built in, frozen, or not there, which the zygote tells
            folders = spec.submodule_search_locations
            if spec.origin is not None and os.path.isfile(spec.origin):
                status = os.stat(spec.origin)
                found.append((spec.origin, status.st_mtime_ns, status.st_size))
    return found


class Child(NamedTuple):
    """A process that was forked from this one, and our end of its channel."""

    pid: int
    channel: _socket.socket

    def abandon(self) -> None:
        """Ends it, unless the engine has adopted it: it has had no order, and leaves at the end of its channel."""
        if self.channel.fileno() < 0:
            return
        self.channel.shutdown(_socket.SHUT_RDWR)  # whoever else was forked meanwhile may have a copy
        self.channel.close()
        with contextlib.suppress(ChildProcessError):  # the user's process ignores its children, or reaps them all
            os.waitpid(self.pid, 0)


def fork_worker(inherited: Inherited | None) -> Child:
    """Forks the first worker from this process, which waits for its birth."""
    return fork_child(fork, _zygote.work_alone, inherited)


def fork_zygote(inherited: Inherited | None, worker: Child) -> Child:
    """Forks the zygote from this process after the first worker; it sleeps until it gets an order."""
    return fork_child(_engine.fork_dozing, _zygote.serve_forked, inherited, worker.channel.fileno())


def fork_child(
    how: Callable[..., int],
    live: Callable[[int, Inherited | None], NoReturn],
    inherited: Inherited | None,
    *not_its: int,
) -> Child:
    """A child of this process with a channel to it. `how` gets the child's end, and what to close in the child."""
    for stream in (sys.stdout, sys.stderr):  # lest what is buffered be written twice
        if stream is not None:
            stream.flush()
    ours, theirs = channel()
    try:
        pid = how(theirs.fileno(), ours.fileno(), *not_its)
        if pid == 0:
            try:
                live(theirs.detach(), inherited)
            finally:
                os._exit(1)
        return Child(pid, ours)
    except OSError as error:
        ours.close()
        raise limit_reached(error) from None
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()


def fork(channel: int, *closed: int) -> int:
    """os.fork(), as _engine.fork_dozing does it: a handler of the user's may raise, and then the child would go on as
    the user's program. So all signals are blocked there until the package has its own (_zygote.leave_user_behind).
    """
    pid = -1
    before = _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
    try:
        pid = os.fork()
    finally:
        if pid != 0:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, before)
    if pid == 0:
        for descriptor in closed:
            os.close(descriptor)
    return pid


def channel() -> tuple[_socket.socket, _socket.socket]:
    """The two ends of a channel, which block whatever socket.setdefaulttimeout says."""
    try:
        ends = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    except OSError as error:
        raise limit_reached(error) from None
    for end in ends:
        end.setblocking(True)
    return ends


def limit_reached(error: OSError) -> OSError:
    """The error with the way out in its message, where a limit is the cause."""
    text = {
        errno.EMFILE: "the limit of open descriptors is reached: raise it (ulimit -n)",
        errno.EAGAIN: "no process could be forked: ulimit -u or the cgroup's pids.max allows no more",
    }.get(error.errno or 0)
    return OSError(error.errno, text) if text else error


def forwards_output(forward: bool | None) -> bool:
    """Is this pool's output forwarded? By default where Python's streams are not the process's descriptors."""
    if forward is not None:
        return forward
    return not (is_descriptor(sys.stdout, 1) and is_descriptor(sys.stderr, 2))


def is_descriptor(stream: Any, number: int) -> bool:
    """Does this stream write to that descriptor? One that is None writes nowhere, which is as good."""
    try:
        return stream is None or stream.fileno() == number
    except (OSError, ValueError, AttributeError):
        return False
