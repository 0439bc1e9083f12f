"""Where does the time go? Runs one job under perf, and prints the shares of CPU time by process and by library.

python benchmarks/where.py submit      submit + result of no-ops
python benchmarks/where.py map         map of no-ops
python benchmarks/where.py round_trip  one call after the other
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import work
from harness import WORKERS, table
from peers import Treadle

SECONDS = 5
PARTS = {
    "the interpreter": ("libpython", "python"),
    "binding and engine": ("_engine.",),
    "malloc, mutexes, memcpy": ("libc", "ld-linux"),
    "the clock": ("[vdso]",),
    "the kernel": ("[kernel", "kernel"),
}
SEARCHING = ("td_worker_next", "td_drain_wait_until")
"""Where workers and waiters spin."""


def job(name: str) -> None:
    """Keeps the pool at it for a few seconds."""
    with Treadle(WORKERS) as pool:
        pool.submit_all(work.burn, [(2_000_000,)] * (4 * WORKERS))
        end = time.monotonic() + SECONDS
        count = 0
        while time.monotonic() < end:
            if name == "submit":
                pool.submit_all(work.noop, [()] * 20_000)
            elif name == "map":
                pool.map(work.noop, range(20_000 * 10))
            else:
                pool.call(work.noop)
            count += 1


def role(pid: str, command: str, parent: str, busiest: list[str]) -> str:
    if command.startswith("treadle"):
        return "native thread"
    if pid == parent:
        return "parent"
    return "workers" if pid in busiest else "zygote and starts"


def shares(name: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "perf.data"
        run = [sys.executable, __file__, "--job", name]
        subprocess.run(["perf", "record", "-q", "-F", "2000", "-o", str(data), "--", *run], check=True)
        report = ["perf", "script", "-i", str(data), "-F", "comm,pid,ip,sym,dso"]
        lines = subprocess.run(report, check=True, capture_output=True, text=True).stdout.splitlines()
    samples: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    parent = ""
    for line in lines:
        words = line.split()
        if len(words) < 4:
            continue
        command, pid, symbol, library = words[0], words[1], words[3], Path(words[-1].strip("()")).name
        parent = parent or pid
        part = next((part for part, marks in PARTS.items() if library.startswith(marks)), "other")
        if symbol in SEARCHING:
            part = "looking for work"
        samples[pid, command][part] += 1
    return tabulated(samples, parent)


def tabulated(samples: dict[tuple[str, str], dict[str, int]], parent: str) -> str:
    totals: dict[str, int] = defaultdict(int)
    for (pid, _), parts in samples.items():
        if pid != parent:
            totals[pid] += sum(parts.values())
    busiest = sorted(totals, key=lambda pid: -totals[pid])[:WORKERS]
    columns: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for (pid, command), parts in samples.items():
        for part, count in parts.items():
            columns[role(pid, command, parent, busiest)][part] += count
    everything = sum(sum(parts.values()) for parts in columns.values())
    names = sorted(columns, key=lambda name: -sum(columns[name].values()))
    rows = [["", *names]]
    for part in [*PARTS, "looking for work", "other"]:
        rows.append([part, *(f"{columns[name][part] / everything:.1%}" for name in names)])
    rows.append(["all", *(f"{sum(columns[name].values()) / everything:.1%}" for name in names)])
    return table(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", choices=("submit", "map", "round_trip"), default="submit")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        job(arguments.job)
    else:
        print(shares(arguments.name))


if __name__ == "__main__":
    main()
