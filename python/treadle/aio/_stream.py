"""`stream`: a generator that runs in a worker, whose items come one by one.

They come through a pipe, which the worker opens through /proc, each as a frame: u64 length, pickle. A consumer that is
slow fills the pipe, and the worker waits in its write. The task's own outcome is the generator's end.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import pickle
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from .._executor import ProcessPoolExecutor

T = TypeVar("T")

READ_BYTES = 1 << 16
HEAD_BYTES = 8


# --- the worker


def produce(place: tuple[int, int, int], fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Runs the generator, and writes its items."""
    process, number, inode = place
    descriptor = os.open(f"/proc/{process}/fd/{number}", os.O_WRONLY | os.O_CLOEXEC)
    with open(descriptor, "wb", buffering=0) as pipe:
        if os.fstat(descriptor).st_ino != inode:
            raise FileNotFoundError("nobody reads this stream any more")
        items = fn(*args, **kwargs)
        if hasattr(items, "__aiter__"):
            asyncio.run(_produce_async(items, pipe))
        else:
            for item in items:
                _write(pipe, item)


async def _produce_async(items: Any, pipe: Any) -> None:
    try:
        async for item in items:
            _write(pipe, item)
    finally:
        if hasattr(items, "aclose"):
            await items.aclose()


def _write(pipe: Any, item: object) -> None:
    from .. import _travel

    try:
        frame = _travel.plain(item)
    except Exception as error:
        from .._where import explain

        raise explain(error, "an item of the stream", item, True) from error
    data = memoryview(len(frame).to_bytes(HEAD_BYTES, "little") + frame)
    while data:
        data = data[pipe.write(data) :]


# --- the loop


class _Reader:
    """The pipe's other end: frames as the loop finds them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.reader, self.writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(self.writer, True)
        self.data = bytearray()

    def place(self) -> tuple[int, int, int]:
        return os.getpid(), self.writer, os.fstat(self.writer).st_ino

    def items(self) -> Iterator[Any]:
        """Those that are here as a whole."""
        while len(self.data) >= HEAD_BYTES:
            end = HEAD_BYTES + int.from_bytes(self.data[:HEAD_BYTES], "little")
            if len(self.data) < end:
                return
            frame = bytes(self.data[HEAD_BYTES:end])
            del self.data[:end]
            yield pickle.loads(frame)

    def read(self) -> bool:
        """Takes what is there; False: nothing is."""
        try:
            more = os.read(self.reader, READ_BYTES)
        except BlockingIOError:
            return False
        self.data += more
        return bool(more)

    async def wait(self, task: asyncio.Future[None]) -> None:
        """Until something can be read, or the task is done."""
        news = self.loop.create_future()

        def tell(*_: object) -> None:
            if not news.done():
                news.set_result(None)

        self.loop.add_reader(self.reader, tell)
        task.add_done_callback(tell)
        try:
            await news
        finally:
            task.remove_done_callback(tell)
            self.loop.remove_reader(self.reader)

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


def stream(
    fn: Callable[..., AsyncIterator[T] | Iterator[T]],
    /,
    *args: Any,
    pool: ProcessPoolExecutor | None = None,
    **kwargs: Any,
) -> AsyncGenerator[T, None]:
    """The items of a generator that runs in a worker process, as an asynchronous generator.

    The worker runs ahead by as much as a pipe holds, and then waits for whoever takes the items. Leaving early stops
    the generator, once the iterator is closed (`contextlib.aclosing`).

    Args:
        fn: A generator function, asynchronous or not, or whatever returns an iterator.
        *args: Its arguments: copied.
        pool: Where it runs; the program's process pool by default.
        **kwargs: Its keyword arguments.

    Yields:
        The items: pickled, and copied.

    Raises:
        What the generator raises, after the items that came before; what `run` raises.

    Source: python/treadle/aio/_stream.py.
    """
    if pool is None:
        from ._places import processes

        pool = processes()
    if not callable(fn) or inspect.iscoroutinefunction(fn):
        raise TypeError(f"stream() runs a generator function, not {fn!r}")
    return _stream(fn, args, kwargs, pool)


async def _stream(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], pool: ProcessPoolExecutor
) -> AsyncGenerator[Any, None]:
    reader = _Reader(asyncio.get_running_loop())
    try:
        task = pool.run(produce, reader.place(), fn, args, kwargs)
        try:
            while not task.done():
                await reader.wait(task)
                while reader.read():
                    for item in reader.items():
                        yield item
            while reader.read():
                for item in reader.items():
                    yield item
            await task
        finally:
            if task.cancel():
                with contextlib.suppress(asyncio.CancelledError):
                    await task
    finally:
        reader.close()
