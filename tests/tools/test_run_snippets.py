"""The snippets of the documentation are run, and print what the page says they print."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "run_snippets.py"


def run(folder: Path, page: str) -> tuple[int, str]:
    path = folder / "page.md"
    path.write_text(page)
    process = subprocess.run([sys.executable, str(TOOL), str(path)], capture_output=True, text=True, check=False)
    assert process.stderr == ""
    return process.returncode, process.stdout.replace(str(path), "page.md")


def test_blocks_of_a_page_are_one_program(tmp_path: Path) -> None:
    page = "# Page\n\n```python\na = 20\n```\n\ntext\n\n```python\nprint(a + 1)\n```\n\n```text\n21\n```\n"
    assert run(tmp_path, page) == (0, "")


def test_an_exception_points_at_the_line_of_the_page(tmp_path: Path) -> None:
    status, output = run(tmp_path, "# Page\n\n```python\n1 / 0\n```\n")
    assert status == 1
    assert 'page.py", line 4, in <module>' in output


def test_other_output_than_the_page_says_is_named(tmp_path: Path) -> None:
    page = "```python\nprint('ab')\n```\n\n```text\na...c\n```\n"
    assert run(tmp_path, page) == (1, "page.md:6: the block above printed\nab\n")


def test_dots_stand_for_anything(tmp_path: Path) -> None:
    assert run(tmp_path, "```python\nprint('abc')\n```\n```text\na...c\n```\n") == (0, "")


def test_a_block_is_left_out_for_a_reason(tmp_path: Path) -> None:
    assert run(tmp_path, "<!-- not run: needs a cluster -->\n```python\n1 / 0\n```\n") == (0, "")


def test_text_after_prose_is_no_output(tmp_path: Path) -> None:
    assert run(tmp_path, "```python\nprint(1)\n```\nThe rule:\n\n```text\nanything\n```\n") == (0, "")


def test_directives_are_no_python(tmp_path: Path) -> None:
    assert run(tmp_path, "```{toctree}\n:glob:\n```\n\n```python\nassert True\n```\n") == (0, "")
