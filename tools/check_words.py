"""Nothing is put off in the tree: no marker of unfinished work, no disabled code, no sleep in a test."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from common import files, repository

# Spelled in two parts, so that this file passes its own check.
MARKERS = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")
DISABLED = re.compile(r"^\s*#\s*if\s+0\b")
# A task under test may last a while; a test never waits by the clock.
SLEEP = re.compile(r"^\s*(?:time\.)?sle" r"ep\(|\bus" r"leep\(|\bnano" r"sleep\(")


def check(root: Path) -> Iterator[str]:
    for path in files(root, ".c", ".h", ".py", ".pyi", ".md", ".toml", ".build", ".options", ".yml", ".ini"):
        relative = path.relative_to(root)
        tests = relative.parts[0] == "tests" or relative.parts[:2] == ("core", "tests")
        for number, line in enumerate(path.read_text().splitlines(), 1):
            where = f"{relative}:{number}"
            if MARKERS.search(line):
                yield f"{where}: unfinished work is an issue, not a comment: {line.strip()}"
            if path.suffix in (".c", ".h") and DISABLED.search(line):
                yield f"{where}: disabled code"
            if tests and path.suffix in (".c", ".h") and SLEEP.search(line):
                yield f"{where}: a test waits for an event, not for the clock"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=repository())
    problems = list(check(parser.parse_args().root))
    print(*problems, sep="\n", end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
