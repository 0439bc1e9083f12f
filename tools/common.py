"""What the checks share: where the repository is, the order of the engine's folders, and how a check is run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

# The rooms of core/, top first. A file includes headers of its own room and of the rooms below it.
LAYERS = ("plan", "jit", "cache", "pool", "sched", "watch", "loop", "ring", "named", "memory", "os", "base")

SKIPPED = {".git", "build", "__pycache__", "_build", ".cache"}


def repository() -> Path:
    """The root of the repository that this file is in."""
    return Path(__file__).resolve().parent.parent


def files(root: Path, *suffixes: str) -> Iterator[Path]:
    """The files under `root` with one of the suffixes, without what builds and environments put there."""
    for path in sorted(root.iterdir()):
        if path.name in SKIPPED or path.name.startswith(".venv"):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from files(path, *suffixes)
        elif path.suffix in suffixes:
            yield path


def main(description: str | None, check: Callable[[Path], Iterator[str]]) -> int:
    """Prints what a check finds in the repository, or in the tree named by --root; 1 where that is something."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--root", type=Path, default=repository())
    problems = list(check(parser.parse_args().root))
    print(*problems, sep="\n", end="\n" if problems else "")
    return 1 if problems else 0
