"""The watchdog's thread, which takes the engine's news, and the signal by which stuck threads write their stack."""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import logging
import os
import signal
import threading
from typing import TYPE_CHECKING

from .. import _engine

if TYPE_CHECKING:
    from ._watchdog_loops import Watched

STUCK, STILL, OVER, ENDED = range(4)
_PIPE_BYTES = 1 << 18
PATIENCE_S = 1.0
"""Whoever keeps a loop from running waits no longer for a reaction, which may wait for that loop."""
_EMPTY_STACKS = 3  # in a row: the signal is somebody else's

watched: dict[int, Watched] = {}
"""By the engine's key: from attach() until the engine's last news of it."""

_lock = threading.Lock()
_over = False  # the interpreter ends
_thread: threading.Thread | None = None
_signal = 0  # by which stacks are asked for; 0: none is left
_descriptors: tuple[int, ...] = ()  # the pipe's ends and its bell, for the life of the process
_empty_stacks = 0
_lost: set[int] = set()  # signals that the program took for itself; faulthandler knows them still


def begin() -> None:
    """Starts the thread, and has stacks written; there must be a LoopWatch."""
    global _thread
    with _lock:
        if not _signal:
            _open_dumps()
        if _thread is None and not _over:
            _engine.watch_close_news(False)
            _thread = threading.Thread(target=_run, name="treadle-watchdog", daemon=True)
            _thread.start()


def is_current_thread() -> bool:
    """Does the watchdog's own thread ask?"""
    return threading.current_thread() is _thread


def wait_for_last_news(one: Watched, timeout: float | None = None) -> None:
    """Until all news of a loop whose watch has ended was told; at the interpreter's end nobody tells any."""
    if not is_current_thread():
        with _lock:
            if _over:
                one.done.set()
        one.done.wait(timeout)


def _run() -> None:
    while (news := _engine.watch_next()) is not None:
        one = watched.get(news[0])
        if one is None:
            continue
        try:
            _see_to_dumps(*news[-2:])
            one.hear(*news[1:])
        except BaseException as error:
            one.complain(error)
        del one


def _open_dumps() -> None:
    """Where there is no signal left, blocks have no stack until the GIL is free."""
    global _signal, _descriptors
    # What is waited for, by sigwait or a signalfd, is in use, too: it is blocked.
    others = signal.pthread_sigmask(signal.SIG_BLOCK, ()) | _lost
    candidates = (number for number in range(signal.SIGRTMAX, signal.SIGRTMIN - 1, -1) if number not in others)
    _signal = next(filter(_engine.ignore_signal, candidates), 0)
    if not _signal:
        return
    if not _descriptors:
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        with contextlib.suppress(OSError):  # over the user's limit: a very deep stack is lost
            fcntl.fcntl(write_fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        _descriptors = (read_fd, write_fd, os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
    read_fd, write_fd, bell = _descriptors
    faulthandler.register(_signal, file=write_fd, all_threads=False, chain=False)
    _engine.watch_dumps(_signal, write_fd, read_fd, bell)


def _see_to_dumps(holds_gil: int, text: str) -> None:
    """Where the program has given the signal a handler of its own, or a file of its own, another one is taken."""
    global _empty_stacks
    _empty_stacks = 0 if text else _empty_stacks + (holds_gil >= 0)
    if _signal and (_empty_stacks == _EMPTY_STACKS or not (text or _engine.watch_dumps_stand())):
        with _lock:
            _empty_stacks = 0
            _lost.add(_signal)
            if not _over:
                _open_dumps()


def _at_exit() -> None:
    """No thread of ours enters a dying interpreter."""
    global _over
    with _lock:
        _over = True
    if _thread is not None:
        _engine.watch_close_news(True)
        _thread.join()
        _engine.watch_no_dumps()
    for one in tuple(watched.values()):
        one.done.set()


def _in_forked_child() -> None:
    """The child has neither the thread nor the native thread; its copies of the pipe are the parent's."""
    global _lock, _thread, _signal, _descriptors
    _lock = threading.Lock()
    _thread = None
    watched.clear()
    if _signal and _engine.watch_dumps_stand():
        faulthandler.unregister(_signal)
        signal.signal(_signal, signal.SIG_DFL)
    _engine.watch_no_dumps()
    _signal = 0
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors = ()


def complain(error: BaseException) -> None:
    """An exception that no loop is there to hear of."""
    logging.getLogger("treadle.aio").error("on_block of treadle.aio.watchdog raised an exception", exc_info=error)


# Before the interpreter joins its threads.
threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
os.register_at_fork(after_in_child=_in_forked_child)
