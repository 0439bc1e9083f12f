"""Run the Python blocks of Markdown pages: each page is one program, as a reader would type it.

The program's lines have the numbers that they have on the page, so a traceback points there. A `text` block right after
a Python block is what that block prints; `...` in it stands for anything. `<!-- not run: why -->` above a block leaves
it out.
"""

from __future__ import annotations

import argparse
import itertools
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LIMIT_S = 120
MARK = "\x1e"
FENCE = re.compile(r"^```([^`]*)$")
NOT_RUN = re.compile(r"^<!-- not run: .+ -->$")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the line of its first line of text, its text, and whether it is left out."""

    language: str
    line: int
    text: str
    left_out: bool
    follows: bool  # nothing but blank lines between it and the block before


def blocks(page: str) -> Iterator[Block]:
    lines = page.splitlines()
    position, last = 0, ""
    follows = False
    while position < len(lines):
        opening = FENCE.match(lines[position])
        if opening is None:
            if lines[position].strip():
                last, follows = lines[position], False
            position += 1
            continue
        start = position + 1
        end = next(number for number in range(start, len(lines)) if lines[number].startswith("```"))
        text = "".join(line + "\n" for line in lines[start:end])
        yield Block(opening[1].strip(), start + 1, text, bool(NOT_RUN.match(last)), follows)
        position, last, follows = end + 1, "", True


def program(parts: list[Block]) -> str:
    """The blocks at their places on the page, each followed by a mark in the output, in place of its closing fence."""
    text = ""
    for block in parts:
        text += "\n" * (block.line - 1 - text.count("\n")) + block.text
        text += f"print({MARK!r}, end='', flush=True)\n"
    return text


def pattern(expected: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in expected.strip().split("...")), re.DOTALL)


def run_page(page: Path) -> list[str]:
    """What is wrong with the page."""
    found = list(blocks(page.read_text()))
    parts = [block for block in found if block.language == "python" and not block.left_out]
    if not parts:
        return []
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / f"{page.stem}_page.py"  # no name that a page imports
        script.write_text(program(parts))
        command = [sys.executable, str(script)]
        try:
            process = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        except subprocess.TimeoutExpired:
            return [f"{page}: not done after {LIMIT_S} s"]
    if process.returncode != 0:
        return [f"{page}: exit status {process.returncode}\n{process.stderr}"]
    outputs = dict(zip((block.line for block in parts), process.stdout.split(MARK), strict=False))
    problems = []
    for block, after in itertools.pairwise(found):
        if block.line in outputs and after.language == "text" and after.follows:
            printed = outputs[block.line].strip()
            if not pattern(after.text).fullmatch(printed):
                problems.append(f"{page}:{after.line}: the block above printed\n{printed}")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="+", type=Path, help="pages, or folders of them")
    paths = parser.parse_args().paths
    pages = [page for path in paths for page in (sorted(path.rglob("*.md")) if path.is_dir() else [path])]
    failed = 0
    for page in pages:
        if "_build" not in page.parts:
            problems = run_page(page)
            failed += bool(problems)
            print(*problems, sep="\n", end="\n" if problems else "")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
