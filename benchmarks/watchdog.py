"""What does the watchdog cost an echo server, and how soon does it report a block?"""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import random
import socket
import statistics
import time
from collections.abc import Callable
from typing import cast

import harness
from harness import Claim, Figures, Round, Subject

CONNECTIONS = 10
MESSAGE = b"x" * 64
SLICE_S = 0.1
SLICES = 60
THRESHOLD_S = 0.01
BLOCK_S = 0.02
BLOCKS = 150
PATIENCE_S = 10
LOOPS = ("asyncio", "uvloop", "rloop")
HEARTBEATS = ("none", "watchdog", "timer")
"""What may run in the server: nothing more, the watchdog at its default, a timer that notes the time every 3 ms."""


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    if name == "asyncio":
        return asyncio.new_event_loop()
    module = __import__(name)
    loop: asyncio.AbstractEventLoop = module.new_event_loop()
    return loop


# --- the server, in a process of its own


class Echo(asyncio.Protocol):
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Control(Echo):
    """Each byte is the number of a heartbeat, which is in force when it comes back."""

    end: Callable[[], object] = staticmethod(lambda: None)

    def data_received(self, data: bytes) -> None:
        self.end()
        Control.end = staticmethod(start_heartbeat(HEARTBEATS[data[0]]))
        self.transport.write(data)


def start_heartbeat(name: str) -> Callable[[], object]:
    """And how it is ended."""
    if name == "watchdog":
        from treadle import aio

        return aio.watchdog().stop
    if name == "none":
        return lambda: None
    loop = asyncio.get_running_loop()
    timers: list[asyncio.TimerHandle] = []

    def beat() -> None:
        timers[:] = [loop.call_later(0.003, beat)]

    beat()
    return lambda: timers[0].cancel()


async def serve(ports: int) -> None:
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(protocol, "127.0.0.1", 0) for protocol in (Echo, Control)]
    os.write(ports, " ".join(str(server.sockets[0].getsockname()[1]) for server in servers).encode())
    await asyncio.sleep(3600)


def start_server(name: str) -> tuple[int, int, int]:
    """The process, and its two ports."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        loop = new_loop(name)
        asyncio.set_event_loop(loop)
        loop.run_until_complete(serve(writing))
    echo, control = os.read(reading, 100).decode().split()
    return pid, int(echo), int(control)


def cpu_s(pid: int) -> float:
    """Of all its threads."""
    return time.clock_gettime(clock_of(pid))


def clock_of(pid: int) -> int:
    return (~pid << 3) | 2


# --- what is measured


def exchange(sockets: list[socket.socket]) -> int:
    """Messages that went to and fro in a slice."""
    end = time.perf_counter() + SLICE_S
    count = 0
    while time.perf_counter() < end:
        for each in sockets:
            each.sendall(MESSAGE)
        for each in sockets:
            each.recv(len(MESSAGE), socket.MSG_WAITALL)
        count += len(sockets)
    return count


def throughput(loop: str, settings: Figures) -> Figures:
    pid, echo, control = start_server(loop)
    sockets = [socket.create_connection(("127.0.0.1", echo)) for _ in range(CONNECTIONS)]
    switch = socket.create_connection(("127.0.0.1", control))
    for each in (*sockets, switch):
        each.settimeout(PATIENCE_S)
    counts: dict[str, list[int]] = {name: [] for name in HEARTBEATS}
    cpus: dict[str, list[float]] = {name: [] for name in HEARTBEATS}
    try:
        exchange(sockets)
        for number in range(SLICES):
            for step in range(len(HEARTBEATS)):
                name = HEARTBEATS[(number + step) % len(HEARTBEATS)]
                switch.sendall(bytes([HEARTBEATS.index(name)]))
                switch.recv(1)
                before = cpu_s(pid)
                counts[name].append(exchange(sockets))
                cpus[name].append((cpu_s(pid) - before) / counts[name][-1])
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    ratios = {
        name: statistics.median(a / b for a, b in zip(counts[name], counts["none"], strict=True)) for name in HEARTBEATS
    }
    costs = {
        name: statistics.median(a / b for a, b in zip(cpus[name], cpus["none"], strict=True)) for name in HEARTBEATS
    }
    return {
        "rate": statistics.median(counts["none"]) / SLICE_S,
        "ratio": ratios["watchdog"],
        "cpu": costs["watchdog"],
        "timer": ratios["timer"],
        "timer cpu": costs["timer"],
    }


def sleep() -> None:
    time.sleep(BLOCK_S)


def compute() -> None:
    end = time.perf_counter() + BLOCK_S
    while time.perf_counter() < end:
        pass


async def delays(block: Callable[[], None]) -> list[float]:
    """For each block, how long after the threshold it was reported; infinite: only when it was over."""
    from treadle import aio

    reports: list[float] = []
    found: list[float] = []
    with aio.watchdog(THRESHOLD_S, lambda _: reports.append(time.perf_counter())):
        for _ in range(BLOCKS):
            await asyncio.sleep(random.uniform(0.001, 0.02))
            reports.clear()
            start = time.perf_counter()
            block()
            found.append(reports[0] - start - THRESHOLD_S if reports else float("inf"))
    return sorted(found)


def delay(loop: str, settings: Figures) -> Figures:
    figures: Figures = {}
    for block in (sleep, compute):
        with asyncio.Runner(loop_factory=functools.partial(new_loop, loop)) as runner:
            found = runner.run(delays(block))
        figures[f"{block.__name__} 50"] = found[len(found) // 2] * 1e3
        figures[f"{block.__name__} 99"] = found[len(found) * 99 // 100] * 1e3
        figures[f"{block.__name__} worst"] = found[-1] * 1e3
    return figures


def measure(loop: str, settings: Figures) -> Figures:
    return throughput(loop, settings) | delay(loop, settings)


def claims() -> list[Claim]:
    def of(loop: str, figure: str) -> Callable[[Round], float]:
        return lambda done: done[loop][figure]

    cost = "an echo server's throughput with the watchdog"
    delayed = {"sleep": "a sleep of 20 ms is reported", "compute": "20 ms of Python are reported"}
    return [
        *(Claim(f"{loop}: {cost}", of(loop, "ratio"), at_least=0.99) for loop in LOOPS),
        *(
            Claim(f"{loop}: {text} after the threshold (99 %)", of(loop, f"{kind} 99"), at_most=5, unit=" ms")
            for loop, (kind, text) in itertools.product(LOOPS, delayed.items())
        ),
    ]


BENCHMARK = harness.Benchmark(
    question="What does the watchdog cost an echo server, and how soon does it report a block?",
    method=f"An echo server in a process of its own, {CONNECTIONS} connections, {len(MESSAGE)} bytes. {SLICES} times a "
    f"slice of {SLICE_S:g} s without the watchdog, with it at its default threshold, and with a mere timer in the loop "
    "that fires every 3 ms, in changing order; ratios are medians over neighbouring slices. Then the watchdog at a "
    f"threshold of {THRESHOLD_S * 1e3:g} ms: {BLOCKS} blocks of {BLOCK_S * 1e3:g} ms in `time.sleep`, and as many in "
    "pure Python, and how long after the threshold `on_block` is called.",
    subjects=[
        Subject(loop, functools.partial(measure, loop), requires="" if loop == "asyncio" else loop) for loop in LOOPS
    ],
    columns={
        "rate": "messages/s without",
        "ratio": "throughput with",
        "cpu": "CPU a message with",
        "timer": "throughput, timer",
        "timer cpu": "CPU a message, timer",
        "sleep 50": "sleep: median, ms",
        "sleep 99": "99 %, ms",
        "sleep worst": "worst",
        "compute 50": "Python: median, ms",
        "compute 99": "99 %, ms",
        "compute worst": "worst",
    },
    claims=claims(),
    rounds=3,
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
