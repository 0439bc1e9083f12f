"""pytest --treadle-block=10ms: in a pytest of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

# What blocks is asleep, so that nobody takes it for a thread that the machine does not run. A turn is reported once,
# also where the machine stops it before it comes to that: so there are further runs.
GUILTY = """
    import asyncio
    import threading

    import pytest
    from treadle.aio import _watchdog_loops

    def blocks():
        [dog] = _watchdog_loops.everywhere
        return dog.blocks

    def set_after_report(event, before):
        while len(blocks()) == before:
            pass
        event.set()

    async def wait_for_it(before):
        event = threading.Event()
        threading.Thread(target=set_after_report, args=(event, before)).start()
        event.wait()

    def test_guilty():
        while not any("wait_for_it" in str(block) and block.doing != "starves" for block in blocks()):
            asyncio.run(wait_for_it(len(blocks())))
"""


def run_pytest(folder: Path, source: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(textwrap.dedent(source))
    (folder / "pytest.ini").write_text("[pytest]\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--strict-markers", *options, str(folder)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_test_that_blocks_its_loop_fails_with_the_line(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, GUILTY, "--treadle-block=5ms")
    assert done.returncode == 1, done.stdout
    assert "the event loop was blocked" in done.stdout
    assert "in wait_for_it" in done.stdout


def test_one_that_fails_anyway_fails_for_its_own_reason(tmp_path: Path) -> None:
    source = (
        GUILTY
        + """
        assert 6 * 9 == 42
    """
    )
    done = run_pytest(tmp_path, source, "--treadle-block=5ms")
    assert done.returncode == 1
    assert "assert (6 * 9) == 42" in done.stdout
    assert "the event loop was blocked" not in done.stdout


def test_a_marker_may_allow_it(tmp_path: Path) -> None:
    source = """
        import asyncio
        import pytest
        from treadle.aio import _watchdog_loops

        @pytest.mark.treadle_block(None)
        def test_allowed():
            assert not _watchdog_loops.everywhere

        @pytest.mark.treadle_block("2s")
        def test_longer():
            assert [dog.threshold for dog in _watchdog_loops.everywhere] == [2]
    """
    done = run_pytest(tmp_path, source, "--treadle-block=5ms")
    assert done.returncode == 0, done.stdout


def test_without_the_option_nothing_is_watched(tmp_path: Path) -> None:
    source = """
        import pytest
        import sys

        @pytest.mark.treadle_block("1ms")
        def test_quiet():
            assert "treadle.aio._watchdog" not in sys.modules
    """
    assert run_pytest(tmp_path, source).returncode == 0


@pytest.mark.parametrize("text", ["soon", "0", "-5ms"])
def test_a_duration_that_makes_no_sense_is_a_usage_error(tmp_path: Path, text: str) -> None:
    done = run_pytest(tmp_path, "def test_nothing(): pass\n", f"--treadle-block={text}")
    assert done.returncode == 4
    assert text in done.stderr
