"""Run every benchmark, print its tables, and rewrite docs/benchmarks.md.

python benchmarks/run.py                    all of them
python benchmarks/run.py round_trip heal    these anew; the page keeps what the others have measured last
python benchmarks/run.py --rounds 1 --dry   a quick look, which leaves the page alone
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from harness import FOLDER, Report, verdict_table

PAGE = FOLDER.parent / "docs" / "benchmarks.md"
KEPT = FOLDER.parent / "build" / "benchmarks"
"""The reports of last time, in a file for each benchmark."""
BENCHMARKS = (
    "submit_result",
    "round_trip",
    "map_noop",
    "map_granularity",
    "uneven",
    "startup",
    "memory",
    "imports",
    "heal",
    "idle",
    "threads",
    "async_round_trip",
    "arrays",
    "shared_arrays",
    "temporaries",
    "bulk",
    "shared_memory",
    "parallel",
    "cache",
    "watchdog",
)
PACKAGES = ("treadle", "loky", "joblib", "dask", "distributed", "ray", "numpy", "scikit-learn", "cloudpickle", "xxhash")


WHY = {
    "grid search, cold, times loky's": "What a worker needs for its first task is the import of scikit-learn, most of "
    "a second of one CPU. loky's two workers do it at the same time, on both CPUs; to do it once, before they are "
    "forked, takes as long where there are two. `register(n_jobs=..., preload=...)` has it begin earlier.",
    "map of 100 us tasks": "The ideal is balanced perfectly and has both CPUs to itself; here the program reads the "
    "input and the results on the same two.",
    "submit + as_completed of 100 us tasks": "Each completion wakes the program, on one of the two CPUs that the "
    "workers need: a wake-up for several at a time would help, and would delay each.",
    "first result with zygote, times the stdlib's with forkserver": "About 7 ms are the interpreter's own start; the "
    "rest is imports in the zygote, a fork, and the worker's first task. Both sides swing by half from one minute to "
    "the next.",
    "first result with fork, times the stdlib's with fork": "Both fork twice: the stdlib two workers, Treadle a worker "
    "and the zygote. Each takes half a millisecond, and each of the 760 pages that are written to afterwards 2.5 us "
    "(docs/internals/performance.md).",
    "memory of the idle workers, times the stdlib's default pool": "The stdlib's workers are forked from the program "
    "itself and share its pages; Treadle's are three processes (with the zygote) that share only each other's, and "
    "what is the program's file-backed memory.",
    "SharedMemory of 4 KiB, made, closed and unlinked, times the stdlib's": "On both sides 16 us are the kernel's, for "
    "making, mapping, unmapping and removing a file. The rest is the stdlib's tracker, a process that runs beside it "
    "where a CPU is free; and Treadle's allocation, locks, and second look at the name before it is removed.",
}
"""Claim -> what keeps it from its bar, for the page, where it misses."""

INTRODUCTION = """\
Written by `make bench`, which runs all of it again (half an hour, on a quiet machine). Each sample is taken in a
process of its own, and all peers take their turn in each round, so that they see the same machine. Figures are medians
over the rounds, with the lowest and the highest in brackets; comparisons are made within a round. What tasks call is in
an importable module, for all peers alike; every pool has as many workers as there are CPUs. One benchmark alone:
`python benchmarks/round_trip.py --rounds 5`; with its part of this page: `python benchmarks/run.py round_trip`."""


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def installed(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} not installed"


def machine(load_before: float) -> str:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return f"""- {processor()}, {len(os.sched_getaffinity(0))} CPUs, {memory:.0f} GiB, Linux {platform.release()}
- {platform.python_implementation()} {platform.python_version()}; {", ".join(map(installed, PACKAGES))}
- load average before the first sample: {load_before:.2f}"""


def page(reports: list[Report], load_before: float) -> str:
    verdicts = [verdict for report in reports for verdict in report.verdicts]
    met = sum(verdict.met for verdict in verdicts)
    parts = [
        "# Benchmarks",
        INTRODUCTION,
        machine(load_before),
        f"## The bars: {met} of {len(verdicts)} met",
        verdict_table(verdicts),
        *(f"*{each.text}*: {WHY[each.text]}" for each in verdicts if not each.met and each.text in WHY),
        *(report.text().rstrip() for report in reports),
    ]
    return "\n\n".join(parts) + "\n"


def run(name: str, options: list[str], dry: bool) -> bool:
    """One benchmark, whose report is kept; True: it worked."""
    start = time.monotonic()
    saved = [] if dry else [f"--save={KEPT / name}.json"]
    command = [sys.executable, str(FOLDER / f"{name}.py"), *saved, *options]
    worked = subprocess.run(command, check=False).returncode == 0
    print(f"({name}: {time.monotonic() - start:.0f} s)\n", flush=True)
    return worked


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"by default all: {', '.join(BENCHMARKS)}")
    parser.add_argument("--rounds", type=int, help="in place of each benchmark's own number")
    parser.add_argument("--only", help="subjects whose names begin so, separated by commas; leaves the page alone")
    parser.add_argument("--dry", action="store_true", help="leave docs/benchmarks.md as it is")
    arguments = parser.parse_args()
    dry = arguments.dry or arguments.only is not None
    load_before = os.getloadavg()[0]
    if load_before > 0.5:
        print(f"The machine is not quiet (load average {load_before:.2f}): the figures are noise.", file=sys.stderr)
    options = [f"--rounds={arguments.rounds}"] if arguments.rounds else []
    options += [f"--only={arguments.only}"] if arguments.only else []
    KEPT.mkdir(parents=True, exist_ok=True)
    failed = [name for name in arguments.names or BENCHMARKS if not run(name, options, dry)]
    if not dry and not failed:
        reports = [Report.load(path) for name in BENCHMARKS if (path := KEPT / f"{name}.json").exists()]
        PAGE.write_text(page(reports, load_before))
        print(f"written: {PAGE.relative_to(FOLDER.parent)}")
    if failed:
        print("failed: " + ", ".join(failed), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
