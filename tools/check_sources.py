"""Every C file stands in a list of a meson.build, and every listed file exists.

`--write` rewrites the lists instead. A list is a block `name = files(` or `name = [` with one quoted file a line.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from common import LAYERS, repository


@dataclass(frozen=True)
class SourceList:
    """A list in a meson.build, and the files it has to name."""

    meson: str
    name: str
    patterns: tuple[str, ...]

    def expected(self, root: Path) -> list[str]:
        folder = (root / self.meson).parent
        found = {path for pattern in self.patterns for path in folder.glob(pattern)}
        order = {layer: position for position, layer in enumerate(reversed(LAYERS))}
        names = [path.relative_to(folder).as_posix() for path in found]
        return sorted(names, key=lambda name: (order.get(name.split("/")[0], len(order)), name))


LISTS = (
    SourceList("core/meson.build", "engine_sources", tuple(f"{layer}/**/*.c" for layer in LAYERS)),
    SourceList("core/tests/meson.build", "engine_tests", ("*/**/test_*.c",)),
    SourceList("core/tests/meson.build", "test_helpers", ("*.c", "*/**/[!t]*.c", "*/**/t[!e]*.c")),
    SourceList("core/fuzz/meson.build", "fuzz_targets", ("*/fuzz_*.c",)),
    SourceList("binding/meson.build", "binding_sources", ("*.c",)),
    SourceList("binding/fuzz/meson.build", "fuzz_targets", ("*.c",)),
    SourceList("benchmarks/c/meson.build", "c_benchmarks", ("**/*.c",)),
)


def block(name: str) -> re.Pattern[str]:
    """The list's opening line, its items and its closing bracket."""
    return re.compile(rf"(?m)^({name} = (?:files\(|\[)\n)((?:  '[^']*',\n)*)([)\]])")


def check(root: Path, source_list: SourceList, *, write: bool) -> list[str]:
    meson = root / source_list.meson
    expected = source_list.expected(root)
    if not meson.exists():
        return [f"{source_list.meson} is missing; it would list {name}" for name in expected]
    text = meson.read_text()
    match = block(source_list.name).search(text)
    if match is None:
        return [f"{source_list.meson}: no list {source_list.name}"]
    if write:
        items = "".join(f"  '{name}',\n" for name in expected)
        new = text[: match.start(2)] + items + text[match.end(2) :]
        if new != text:
            meson.write_text(new)
        return []
    listed = set(re.findall(r"'([^']*)'", match[2]))
    where = f"{source_list.meson}: {source_list.name}"
    return [f"{where} does not list {name}" for name in expected if name not in listed] + [
        f"{where} lists {name}, which is not there" for name in sorted(listed - set(expected))
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=repository())
    parser.add_argument("--write", action="store_true", help="rewrite the lists")
    arguments = parser.parse_args()
    problems = [
        problem for source_list in LISTS for problem in check(arguments.root, source_list, write=arguments.write)
    ]
    print(*problems, sep="\n", end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
