"""Each ordering edge is weakened in a build of its own, whose test must fail.

core/tests/weakened.txt holds a line for each edge: its name, the test, and the test's case if one of them is enough.
The tests are built once, with the options of the ThreadSanitizer build. For an edge, the files that depend on one that
names it are compiled again with -DTD_WEAKEN_<edge>=1 (as -Dweaken=<edge> would for all of them), and linked in place of
the others. For an edge marked `plain` the sanitizer is left out, and the machine itself shows the damage: by chance, so
the test has several runs to fail in.
"""

from __future__ import annotations

import argparse
import functools
import re
import shlex
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


class Build:
    """The engine and tests as they are, in a folder, and programs of them with an edge weakened."""

    def __init__(self, folder: Path, options: list[str]) -> None:
        self.folder = folder.resolve()
        if not (folder / "build.ninja").exists():
            subprocess.run(["meson", "setup", *options, str(folder), "."], check=True, stdout=subprocess.DEVNULL)

    def ninja(self, *arguments: str) -> str:
        command = ["ninja", "-C", str(self.folder), "--quiet", *arguments]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

    def naming(self, edge: Edge) -> set[str]:
        """The object files that depend on a file that names the edge."""
        word = re.compile(rf"\b{edge.name}\b")
        found = set()
        for block in self.ninja("-t", "deps").strip().split("\n\n"):
            head, *files = block.splitlines()
            mine = [path for path in map(str.strip, files) if path.startswith("..")]
            if any(word.search(text(self.folder / path)) for path in mine):
                found.add(head.partition(":")[0])
        return found

    def weakened(self, edge: Edge) -> Path:
        """The edge's test, without the edge."""
        program = "core/tests/test_" + edge.test.replace("/", "_")
        self.ninja(program)
        objects = self.naming(edge)
        *compilers, link = [shlex.split(line) for line in self.ninja("-t", "commands", program).splitlines()]
        place = self.folder / "weakened" / edge.name
        place.mkdir(parents=True, exist_ok=True)
        new = []
        for command in compilers:
            if "-c" in command and (name := command[command.index("-o") + 1]) in objects:
                new.append(str(place / name.replace("/", "_")))
                command[command.index("-o") + 1] = new[-1]
                command[command.index("-MF") + 1] = new[-1] + ".d"
                subprocess.run([*command, f"-DTD_WEAKEN_{edge.name}=1"], cwd=self.folder, check=True)
        # They come before the library, whose own of the same names are then not asked for.
        target = link.index("-o") + 1
        link[target] = str(place / Path(program).name)
        others = [word for word in link[target + 1 :] if word not in objects]
        subprocess.run([*link[: target + 1], *new, *others], cwd=self.folder, check=True)
        return Path(link[target])


@functools.cache
def text(path: Path) -> str:
    return path.read_text()


def fails(program: Path, case: str) -> bool:
    process = subprocess.run([str(program), *([case] if case else [])], capture_output=True, text=True, check=False)
    return process.returncode not in (0, SKIPPED)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where the builds are kept")
    parser.add_argument("--edge", action="append", help="only this edge (again for more)")
    parser.add_argument("options", nargs="*", help="options for meson setup, after --")
    arguments = parser.parse_args()
    plain = [option for option in arguments.options if not option.startswith("-Db_sanitize")]
    builds = {
        "thread": Build(arguments.folder / "edges", arguments.options),
        "plain": Build(arguments.folder / "edges-plain", plain),
    }
    passed = failed = 0
    for edge in read_edges(repository() / "core" / "tests" / "weakened.txt"):
        if arguments.edge and edge.name not in arguments.edge:
            continue
        program = builds[edge.kind].weakened(edge)
        seen = any(fails(program, edge.case) for _ in range(PLAIN_RUNS if edge.kind == "plain" else 1))
        print(f"{'ok  ' if seen else 'FAIL'} {edge.name}: {edge.test} {'fails' if seen else 'passes'} without it")
        passed += seen
        failed += not seen
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
