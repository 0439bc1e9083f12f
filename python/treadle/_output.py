"""Forwarding: what workers print, warn and log reaches the parent's own `sys.stdout`, `sys.stderr` and loggers.

One pipe per pool. A worker opens its writing end through /proc, so that nothing needs to be passed on at its start, and
writes frames that are no longer than PIPE_BUF, which the kernel keeps whole:

    u32 pid, u8 kind, u8 is_last, u16 length, bytes

'o' and 'e' are text of standard output and error, 'l' a pickled log record, 'q' the parent's own end mark: what was
written before it has been passed on when the reader sees it. A long message is several frames, the last
of which says so.
Text that a program or a C library in a worker writes to descriptor 1 itself goes where it always goes.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import logging
import os
import pickle
import select
import struct
import sys
import threading
import traceback
from typing import Any

HEADER = struct.Struct("=IBBH")
ROOM = select.PIPE_BUF - HEADER.size
OUT, ERROR, LOG, QUIT = b"oelq"

Address = tuple[int, int, int, dict[str, int]]


# --- the parent


class Forwarder:
    """The pipe and the thread that reads it."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.decoders: dict[tuple[int, int], codecs.IncrementalDecoder] = {}
        self.parts: dict[int, bytes] = {}
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self._read, name="treadle-output", daemon=True)

    def start(self) -> None:
        """Reads from here on: no process may be forked from this one any more."""
        self.thread.start()

    def address(self) -> Address:
        """What a worker needs to find the pipe, and the levels of the loggers."""
        levels = {"": logging.getLogger().level}
        for name, logger in logging.getLogger().manager.loggerDict.items():
            if isinstance(logger, logging.Logger) and logger.level:
                levels[name] = logger.level
        return os.getpid(), self.writer, os.fstat(self.writer).st_ino, levels

    def stop(self) -> None:
        """Returns when all that was written so far has been passed on, and the thread has ended."""
        with self.lock:
            if self.writer >= 0:
                os.write(self.writer, HEADER.pack(os.getpid(), QUIT, 1, 0))
                os.close(self.writer)
                self.writer = -1
        if self.thread is not threading.current_thread():
            self.thread.join()

    def let_go(self) -> None:
        """No more workers start: the thread ends with the last one."""
        with self.lock:
            if self.writer >= 0:
                os.close(self.writer)
                self.writer = -1

    def abandon(self) -> None:
        """It was never started."""
        self.let_go()
        os.close(self.reader)

    def _read(self) -> None:
        with open(self.reader, "rb", buffering=0) as pipe:
            while header := read_exactly(pipe, HEADER.size):
                pid, kind, is_last, length = HEADER.unpack(header)
                data = read_exactly(pipe, length)
                if kind == QUIT:
                    return
                try:
                    self._pass_on(pid, kind, bool(is_last), data)
                except Exception:
                    # The user's stream or handler: theirs to mend, and no reason to lose what follows.
                    with contextlib.suppress(Exception):
                        traceback.print_exc(file=sys.__stderr__)

    def _pass_on(self, pid: int, kind: int, is_last: bool, data: bytes) -> None:
        if kind == LOG:
            whole = self.parts.pop(pid, b"") + data
            if not is_last:
                self.parts[pid] = whole
                return
            record = logging.makeLogRecord(pickle.loads(whole))
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)
            return
        decoder = self.decoders.get((pid, kind))
        if decoder is None:
            decoder = self.decoders[pid, kind] = codecs.getincrementaldecoder("utf-8")("replace")
        stream = sys.stdout if kind == OUT else sys.stderr
        if stream is not None and not getattr(stream, "closed", False):
            stream.write(decoder.decode(data))
            if hasattr(stream, "flush"):  # `print` asks for no more than `write`
                stream.flush()


def read_exactly(pipe: io.RawIOBase | io.FileIO, length: int) -> bytes:
    """So many bytes, or none at the end of the pipe."""
    data = b""
    while len(data) < length:
        more = pipe.read(length - len(data))
        if not more:
            return b""
        data += more
    return data


# --- the worker


class Channel(io.RawIOBase):
    """A stream of frames of one kind."""

    def __init__(self, descriptor: int, kind: int, name: str) -> None:
        self.descriptor = descriptor
        self.kind = kind
        self.name = name

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: Any) -> int:
        """Writes all of it, as one message of as many frames as it takes."""
        view = memoryview(data).cast("B")
        pid = os.getpid()
        for start in range(0, len(view), ROOM):
            part = view[start : start + ROOM]
            is_last = start + ROOM >= len(view)
            os.write(self.descriptor, HEADER.pack(pid, self.kind, is_last, len(part)) + part)
        return len(view)


class RecordSender(logging.Handler):
    """Sends log records to the parent, where its loggers decide what becomes of them."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self.channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        """Sends one, formatted, because its arguments may not be sendable."""
        if len(logging.getLogger().handlers) > 1:
            return  # this worker configured logging for itself
        try:
            # As the stdlib's QueueHandler prepares them.
            fields = {**record.__dict__, "msg": self.format(record), "args": None}
            fields.update(exc_info=None, exc_text=None, stack_info=None, message=fields["msg"])
            try:
                data = pickle.dumps(fields)
            except Exception:
                data = pickle.dumps({key: value for key, value in fields.items() if type(value) in (str, int, float)})
            self.channel.write(data)
        except Exception:
            self.handleError(record)


def start_worker(output: Address) -> None:
    """In a new worker: standard streams and log records go to the pipe from here on, where it can be opened."""
    parent, number, inode, levels = output
    try:
        descriptor = os.open(f"/proc/{parent}/fd/{number}", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return  # /proc is hidden from us: the streams stay what they are
    if os.fstat(descriptor).st_ino != inode:
        os.close(descriptor)
        return
    sys.stdout = text_stream(descriptor, OUT, "<stdout>")
    sys.stderr = text_stream(descriptor, ERROR, "<stderr>")
    root = logging.getLogger()
    root.handlers[:] = [RecordSender(Channel(descriptor, LOG, "<log>"))]
    for name, level in levels.items():
        logging.getLogger(name or None).setLevel(level)


def text_stream(descriptor: int, kind: int, name: str) -> io.TextIOWrapper:
    """A text stream whose lines become frames."""
    channel = io.BufferedWriter(Channel(descriptor, kind, name), ROOM)
    return io.TextIOWrapper(channel, encoding="utf-8", errors="backslashreplace", line_buffering=True)
