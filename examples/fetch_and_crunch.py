"""Fetch some thousand pages at once, crunch each, and see what becomes of the event loop meanwhile.

    python examples/fetch_and_crunch.py                three ways: in the coroutine, the stdlib's pool, and Treadle's
    python examples/fetch_and_crunch.py --pages 200    fewer pages
    python examples/fetch_and_crunch.py --loop asyncio asyncio's own loop, where uvloop is installed
    python examples/fetch_and_crunch.py --watchdog     names the line that blocks the loop

A server on the loopback, in a process of its own, serves pages made of Python's own documentation strings. Needs
`pip install aiohttp`.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import concurrent.futures
import contextlib
import functools
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple

from treadle import ProcessPoolExecutor, aio

AT_ONCE = 32
STRINGS = 200  # in a page
MODULES = ("asyncio", "collections", "concurrent", "email", "http", "json", "logging", "unittest", "urllib", "xml")
WORD = re.compile(r"[a-z]+")

Crunch = Callable[[str], Awaitable[tuple[int, str]]]


# --- the job


def crunch(page: str) -> tuple[int, str]:
    """How many different words a page has, and which long one it has most often."""
    words = collections.Counter(WORD.findall(page.lower()))
    long = ((count, word) for word, count in words.items() if len(word) > 6)
    return len(words), max(long, default=(0, ""))[1]


# --- the server


def strings() -> Iterator[str]:
    """The documentation strings of some packages of the standard library."""
    for package in map(importlib.import_module, MODULES):
        names = [package.__name__]
        names += [info.name for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
        for name in names:
            if "__main__" in name or "test" in name:
                continue
            with contextlib.suppress(Exception):
                module = importlib.import_module(name)
                for thing in (module, *vars(module).values()):
                    for part in (thing, *(vars(thing).values() if inspect.isclass(thing) else ())):
                        if text := inspect.getdoc(part):
                            yield text


def serve() -> None:
    """Serves page n at /n until standard input ends; tells its port first."""
    web: Any = importlib.import_module("aiohttp.web")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        texts = list(strings())

    async def page(request: Any) -> Any:
        first = int(request.match_info["number"]) * 7
        return web.Response(text="\n".join(texts[(first + step) % len(texts)] for step in range(STRINGS)))

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/{number}", page)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        print(site._server.sockets[0].getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await runner.cleanup()

    asyncio.run(main())


@contextlib.contextmanager
def server() -> Iterator[str]:
    """The address of a server."""
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.communicate()


# --- the client


class Figures(NamedTuple):
    """What one way of crunching came to."""

    pages_per_second: float
    worst_stall_ms: float
    words: int


async def watch(over: asyncio.Event) -> float:
    """The longest time for which a turn of the loop kept others waiting, in ms."""
    worst = 0.0
    while not over.is_set():
        start = time.perf_counter()
        await asyncio.sleep(0.001)
        worst = max(worst, time.perf_counter() - start - 0.001)
    return worst * 1e3


async def fetch_all(address: str, pages: int, crunch_one: Crunch) -> Figures:
    """Fetches all pages, a few at a time, and crunches each as it comes."""
    aiohttp: Any = importlib.import_module("aiohttp")

    async def one(session: Any, number: int) -> int:
        async with session.get(f"{address}/{number}") as response:
            text = await response.text()
            words, _ = await crunch_one(text)
            return words

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_ONCE)) as session:
        await asyncio.gather(*[one(session, number) for number in range(AT_ONCE)])  # all is warm from here on
        over = asyncio.Event()
        watching = asyncio.ensure_future(watch(over))
        start = time.perf_counter()
        words = sum(await aio.gather(*[one(session, number) for number in range(pages)], limit=AT_ONCE))
        seconds = time.perf_counter() - start
        over.set()
        return Figures(pages / seconds, await watching, words)


async def in_the_coroutine(page: str) -> tuple[int, str]:
    """What every guide warns of."""
    return crunch(page)


def three_ways(address: str, pages: int, loop: str, watchdog: bool) -> Iterator[tuple[str, Figures]]:
    """The same pages, crunched here, in the stdlib's pool and in Treadle's."""
    with aio.watchdog(threshold=0.002, on_block=lambda _: None) if watchdog else contextlib.nullcontext() as dog:
        yield "in the coroutine", aio.run(fetch_all(address, pages, in_the_coroutine), loop=loop)
    if dog is not None:
        print(dog.report())

    async def stdlib(pool: concurrent.futures.Executor) -> Figures:
        run = asyncio.get_running_loop().run_in_executor
        return await fetch_all(address, pages, lambda page: run(pool, crunch, page))

    with concurrent.futures.ProcessPoolExecutor() as processes:
        yield "run_in_executor, stdlib", aio.run(stdlib(processes), loop=loop)
    with ProcessPoolExecutor() as pool:
        yield "pool.run", aio.run(fetch_all(address, pages, functools.partial(pool.run, crunch)), loop=loop)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=3000)
    parser.add_argument("--loop", default="auto", help="auto, asyncio, uvloop or rloop")
    parser.add_argument("--watchdog", action="store_true", help="name what blocks the loop")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        importlib.import_module("aiohttp")  # here, or the import would be the first to block the loop
    except ModuleNotFoundError:
        print("this example needs aiohttp: pip install aiohttp")
        return
    if options.serve:
        serve()
        return
    with server() as address:
        print(f"{'':24}{'pages/s':>10}{'worst stall':>14}")
        for name, figures in three_ways(address, options.pages, options.loop, options.watchdog):
            print(f"{name:24}{figures.pages_per_second:>10,.0f}{figures.worst_stall_ms:>11.1f} ms")


if __name__ == "__main__":
    main()
