"""A C file has at most 700 lines and a Python file 400; a function, in either, 60; a line of C 120 columns."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from common import files, main

FILE_LINES = {".c": 700, ".h": 700, ".py": 400, ".pyi": 700}
FUNCTION_LINES = 60
COLUMNS = 120  # of C, whose formatter leaves comments as they are; Python's linter looks itself


def c_functions(lines: list[str]) -> Iterator[tuple[str, int, int]]:
    """Name, line and length of each function: clang-format puts both its braces in the first column."""
    opening = 0
    for number, line in enumerate(lines, 1):
        if line == "{":
            opening = number
        elif line == "}" and opening:
            start = opening - 1
            while start > 1 and lines[start - 1].startswith((" ", "\t")):
                start -= 1
            yield lines[start - 1].strip(), start, number - start + 1
            opening = 0


def python_functions(text: str) -> Iterator[tuple[str, int, int]]:
    """Name, line and length of each function, docstring not counted."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            end = node.end_lineno or node.lineno
            length = end - node.lineno + 1
            if ast.get_docstring(node) is not None:
                first = node.body[0]
                length -= (first.end_lineno or first.lineno) - first.lineno + 1
            yield node.name, node.lineno, length


def check(root: Path) -> Iterator[str]:
    for path in files(root, *FILE_LINES):
        text = path.read_text()
        lines = text.splitlines()
        relative = path.relative_to(root)
        limit = FILE_LINES[path.suffix]
        if len(lines) > limit:
            yield f"{relative}: {len(lines)} lines, at most {limit}"
        for number, line in enumerate(lines, 1):
            if len(line) > COLUMNS and path.suffix in (".c", ".h"):
                yield f"{relative}:{number}: {len(line)} columns, at most {COLUMNS}"
        functions = python_functions(text) if path.suffix in (".py", ".pyi") else c_functions(lines)
        for name, number, length in functions:
            if length > FUNCTION_LINES:
                yield f"{relative}:{number}: {name}: {length} lines, at most {FUNCTION_LINES}"


if __name__ == "__main__":
    sys.exit(main(__doc__, check))
