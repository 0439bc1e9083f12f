"""Each ordering edge is weakened in a build of its own, whose test must fail.

core/tests/weakened.txt holds a line for each edge: its name, the test, and the test's case if one of them is enough.
A build is made from the options of the ThreadSanitizer build, plus -Dweaken=<edge>. For an edge marked `plain` the
sanitizer is left out, and the machine itself shows the damage: by chance, so the test has several runs to fail in.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from common import repository

SKIPPED = 77
PLAIN_RUNS = 20


@dataclass(frozen=True)
class Edge:
    """An ordering edge, and the test that has to fail without it."""

    name: str
    test: str
    case: str
    kind: str = "thread"


def read_edges(path: Path) -> list[Edge]:
    edges = []
    for line in path.read_text().splitlines():
        words = line.partition("#")[0].split()
        if words:
            edges.append(Edge(words[0], words[1], *words[2:]) if len(words) > 2 else Edge(words[0], words[1], ""))
    return edges


def build(edge: Edge, folder: Path, options: list[str]) -> Path:
    """Build the weakened engine and the test; the test's program."""
    build_folder = folder / f"weak-{edge.name}"
    if edge.kind == "plain":
        options = [option for option in options if not option.startswith("-Db_sanitize")]
    if not (build_folder / "build.ninja").exists():
        command = ["meson", "setup", *options, f"-Dweaken={edge.name}", str(build_folder), "."]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    program = "core/tests/test_" + edge.test.replace("/", "_")
    subprocess.run(["ninja", "-C", str(build_folder), "--quiet", program], check=True)
    return build_folder / program


def fails(program: Path, case: str) -> bool:
    process = subprocess.run([str(program), *([case] if case else [])], capture_output=True, text=True, check=False)
    return process.returncode not in (0, SKIPPED)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where the builds are kept")
    parser.add_argument("--edge", action="append", help="only this edge (again for more)")
    parser.add_argument("options", nargs="*", help="options for meson setup, after --")
    arguments = parser.parse_args()
    passed = failed = 0
    for edge in read_edges(repository() / "core" / "tests" / "weakened.txt"):
        if arguments.edge and edge.name not in arguments.edge:
            continue
        program = build(edge, arguments.folder, arguments.options)
        seen = any(fails(program, edge.case) for _ in range(PLAIN_RUNS if edge.kind == "plain" else 1))
        print(f"{'ok  ' if seen else 'FAIL'} {edge.name}: {edge.test} {'fails' if seen else 'passes'} without it")
        passed += seen
        failed += not seen
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
