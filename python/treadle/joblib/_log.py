"""What joblib keeps for its oldest users, `Logger` and `PrintTime`, and how it writes durations."""

from __future__ import annotations

import contextlib
import logging
import os
import pprint
import shutil
import sys
import time

OLDER = 9  # earlier files that PrintTime keeps


def short_format_time(seconds: float) -> str:
    """Seconds as progress messages have them: "   1.5s", or " 2.0min" where it is more than a minute."""
    return f"{seconds / 60:4.1f}min" if seconds > 60 else f" {seconds:5.1f}s"


def format_time(seconds: float) -> str:
    """Seconds, and the same in minutes."""
    return f"{seconds:.1f}s, {seconds / 60:.1f}min"


def pformat(obj: object, indent: int = 0, depth: int | None = 3) -> str:
    """`pprint.pformat` with short arrays."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return pprint.pformat(obj, depth=depth, indent=indent)
    with numpy.printoptions(precision=6, threshold=64, edgeitems=1):
        return pprint.pformat(obj, depth=depth, indent=indent)


class Logger:
    """A base class with `warn`, `info`, `debug` and `format`; `name` is the logger's, "joblib" by default.

    Source: python/treadle/joblib/_log.py.
    """

    __module__ = "treadle.joblib"

    def __init__(self, depth: int = 3, name: str | None = None) -> None:
        self.depth = depth
        self._name = name or "joblib"

    def warn(self, msg: object) -> None:
        """Logs a warning."""
        logging.getLogger(self._name).warning("[%s]: %s", self, msg)

    def info(self, msg: object) -> None:
        """Logs to the root logger, as joblib does."""
        logging.info("[%s]: %s", self, msg)

    def debug(self, msg: object) -> None:
        """Logs for debugging."""
        logging.getLogger(self._name).debug("[%s]: %s", self, msg)

    def format(self, obj: object, indent: int = 0) -> str:
        """The object as text, of limited depth."""
        return pformat(obj, indent, self.depth)


class PrintTime:
    """Prints a message with the seconds since the last one, to stderr and to a file if there is one.

    Source: python/treadle/joblib/_log.py.
    """

    __module__ = "treadle.joblib"

    def __init__(self, logfile: str | None = None, logdir: str | None = None) -> None:
        if logfile is not None and logdir is not None:
            raise ValueError("Cannot specify both logfile and logdir")
        self.last_time = self.start_time = time.time()
        self.logfile = logfile = os.path.join(logdir, "joblib.log") if logdir is not None else logfile
        if logfile is None:
            return
        os.makedirs(os.path.dirname(logfile) or ".", exist_ok=True)
        with contextlib.suppress(OSError):  # others may write to it, too
            if os.path.exists(logfile):
                for number in range(OLDER - 1, 0, -1):
                    if os.path.exists(f"{logfile}.{number}"):
                        os.replace(f"{logfile}.{number}", f"{logfile}.{number + 1}")
                shutil.copy(logfile, f"{logfile}.1")
            with open(logfile, "w") as file:
                file.write(f"\nLogging joblib python script\n\n---{time.ctime(self.last_time)}---\n")

    def __call__(self, msg: str = "", total: bool = False) -> None:
        """Prints the message and the seconds since the last one, or since the start where `total` is true."""
        now = time.time()
        if total:
            text = f"{msg}: {now - self.start_time:.2f}s, {(now - self.start_time) / 60:.1f} min"
        else:
            text = f"{msg}: {format_time(now - self.last_time)}"
        print(text, file=sys.stderr)
        if self.logfile is not None:
            with contextlib.suppress(OSError), open(self.logfile, "a") as file:
                print(text, file=file)
        self.last_time = now
