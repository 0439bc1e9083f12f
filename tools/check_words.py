"""Nothing is put off in the tree: no marker of unfinished work, no disabled code, no sleep in a test."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from common import files, main

# Spelled in two parts, so that this file passes its own check.
MARKERS = re.compile(rf"\b(?:{'|'.join(['TO' + 'DO', 'FIX' + 'ME', 'XX' + 'X', 'HA' + 'CK'])})\b")
DISABLED = re.compile(r"^\s*#\s*if\s+0\b")
# A C test waits for an event.
SLEEP = re.compile(r"\b(?:u|nano|clock_nano)?sleep\(")


def check(root: Path) -> Iterator[str]:
    for path in files(root, ".c", ".h", ".py", ".pyi", ".md", ".toml", ".build", ".options", ".yml", ".ini"):
        relative = path.relative_to(root)
        c_test = relative.parts[:2] == ("core", "tests") and path.suffix in (".c", ".h")
        for number, line in enumerate(path.read_text().splitlines(), 1):
            where = f"{relative}:{number}"
            if MARKERS.search(line):
                yield f"{where}: unfinished work is an issue, not a comment: {line.strip()}"
            if path.suffix in (".c", ".h") and DISABLED.search(line):
                yield f"{where}: disabled code"
            if c_test and SLEEP.search(line):
                yield f"{where}: a test waits for an event, not for the clock"


if __name__ == "__main__":
    sys.exit(main(__doc__, check))
