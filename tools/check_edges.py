"""Every edge that the engine names with TD_EDGE has a line in core/tests/weakened.txt, and every line an edge."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from common import LAYERS, files, main
from weakened import read_edges

EDGE = re.compile(r"\bTD_EDGE\((\w+),")
LIST = Path("core") / "tests" / "weakened.txt"


def named(root: Path) -> dict[str, str]:
    """The edges named in the engine's rooms, each with a place that names it."""
    places: dict[str, str] = {}
    for layer in LAYERS:
        folder = root / "core" / layer
        for path in files(folder, ".c", ".h") if folder.is_dir() else ():
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if not line.startswith((" *", "/*", "#define")):
                    for name in EDGE.findall(line):
                        places.setdefault(name, f"{path.relative_to(root)}:{number}")
    return places


def check(root: Path) -> Iterator[str]:
    places = named(root)
    listed = {edge.name: edge for edge in read_edges(root / LIST)}
    for name, place in places.items():
        if name not in listed:
            yield f"{place}: edge {name} has no line in {LIST}"
    for name, edge in listed.items():
        if name not in places:
            yield f"{LIST}: no TD_EDGE names {name}"
        room, _, subject = edge.test.partition("/")
        if not (root / "core" / "tests" / room / f"test_{subject}.c").exists():
            yield f"{LIST}: {name}: there is no test {edge.test}"


if __name__ == "__main__":
    sys.exit(main(__doc__, check))
