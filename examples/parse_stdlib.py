"""Parse every file of Python's standard library in parallel, and count what is in it.

    python examples/parse_stdlib.py              all files; then the same job serially and with the stdlib's own pool
    python examples/parse_stdlib.py --kill       a worker is killed half-way, and the work goes on
    python examples/parse_stdlib.py --limit 100  the first 100 files only

`pip install rich` for a progress bar.
"""

from __future__ import annotations

import argparse
import ast
import concurrent.futures
import os
import signal
import sys
import sysconfig
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import treadle


class Counts(NamedTuple):
    """What one file contains."""

    path: str
    functions: int
    classes: int
    deepest: int  # blocks inside each other


def count(path: str) -> Counts:
    """The job: parse one file and walk its tree."""
    functions = classes = deepest = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # for odd escapes in other people's strings
        try:
            tree = ast.parse(Path(path).read_bytes())
        except SyntaxError:  # a few files are wrong on purpose: they test the parser
            return Counts(path, 0, 0, 0)
    stack: list[tuple[ast.AST, int, int]] = [(tree, 0, -1)]
    while stack:
        node, depth, column = stack.pop()
        functions += isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        classes += isinstance(node, ast.ClassDef)
        # A statement with a body is a block; an elif, which the tree puts inside its if, starts at the same column.
        if isinstance(node, ast.stmt) and hasattr(node, "body") and node.col_offset > column:
            depth, column = depth + 1, node.col_offset
            deepest = max(deepest, depth)
        stack += [(child, depth, column) for child in ast.iter_child_nodes(node)]
    return Counts(path, functions, classes, deepest)


def standard_library() -> list[str]:
    folder = Path(sysconfig.get_path("stdlib"))
    return [str(path) for path in sorted(folder.rglob("*.py")) if "site-packages" not in path.parts]


# --- three ways to do it


def with_treadle(paths: list[str], kill: bool) -> list[Counts]:
    with treadle.ProcessPoolExecutor(retries=3) as pool:
        results = pool.map(count, paths)
        if kill:
            results = kill_half_way(pool, results, len(paths))
        return list(progress(results, len(paths), "treadle"))


def with_stdlib(paths: list[str]) -> list[Counts]:
    with concurrent.futures.ProcessPoolExecutor() as pool:
        return list(progress(pool.map(count, paths), len(paths), "stdlib pool"))


def serially(paths: list[str]) -> list[Counts]:
    return list(progress(map(count, paths), len(paths), "one process"))


def kill_half_way(pool: treadle.ProcessPoolExecutor, results: Iterable[Counts], total: int) -> Iterator[Counts]:
    """Passes the results on; half-way, a worker in the middle of its work is killed."""
    for number, result in enumerate(results):
        if number == total // 2:
            victim = max(pool.stats()["workers"], key=lambda worker: worker["state"] == "busy")
            os.kill(victim["pid"], signal.SIGKILL)
            print(f"killed worker {victim['pid']} ({victim['state']}) after {number} files")
        yield result
    if total:
        stats = pool.stats()
        print(f"{stats['restarts']} worker replaced, {stats['tasks']['retried']} task run again, nothing lost")


# --- what the user sees


def progress(results: Iterable[Counts], total: int, title: str) -> Iterable[Counts]:
    try:
        from rich.progress import track
    except ImportError:
        return plain_progress(results, total, title)
    return track(results, f"{title:11}", total)


def plain_progress(results: Iterable[Counts], total: int, title: str) -> Iterator[Counts]:
    for number, result in enumerate(results, 1):
        if number * 10 // total != (number - 1) * 10 // total:
            print(f"{title:11} {number}/{total}", file=sys.stderr)
        yield result


def print_table(counts: list[Counts], rows: int | None) -> None:
    print(f"\n{'functions':>9} {'classes':>8} {'deepest':>8}  file")
    for row in sorted(counts, key=lambda row: row.functions, reverse=True)[:rows]:
        print(f"{row.functions:9,} {row.classes:8,} {row.deepest:8}  {row.path}")
    functions, classes = sum(row.functions for row in counts), sum(row.classes for row in counts)
    print(f"{functions:9,} {classes:8,} {max(row.deepest for row in counts):8}  all {len(counts):,} files\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, help="parse only so many files")
    parser.add_argument("--all", action="store_true", help="print a line for each file, not only the top ten")
    parser.add_argument("--kill", action="store_true", help="kill a worker half-way")
    arguments = parser.parse_args()
    paths = standard_library()[: arguments.limit]
    size = sum(len(Path(path).read_bytes()) for path in paths)  # and all three find the files in memory
    cpus, version = len(os.sched_getaffinity(0)), sys.version.split()[0]
    print(f"{len(paths):,} files, {size / 1e6:.1f} MB, {cpus} CPUs, Python {version}")

    seconds: dict[str, float] = {}
    results: list[list[Counts]] = []
    ways: dict[str, Callable[[], list[Counts]]] = {
        "treadle": lambda: with_treadle(paths, arguments.kill),
        "stdlib pool": lambda: with_stdlib(paths),
        "one process": lambda: serially(paths),
    }
    for name, way in ways.items():
        start = time.perf_counter()
        results.append(way())
        seconds[name] = time.perf_counter() - start

    print_table(results[0], None if arguments.all else 10)
    for name, elapsed in seconds.items():
        print(f"{name:11} {len(paths) / elapsed:8,.0f} files/s  {seconds['one process'] / elapsed:5.2f}x one process")
    same = all(result == results[0] for result in results)
    print("all three results are equal" if same else "THE RESULTS DIFFER")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
