"""The suite's own safety nets catch what they are there for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

TESTS = Path(__file__).parents[1]
CONFTEST = TESTS / "conftest.py"
CONFIGURATION = (
    f"[pytest]\npythonpath = {TESTS.parent}\nmarkers =\n    deadline(seconds): d\n    leaks_allowed(kinds): l\n"
)


def run(pytester: pytest.Pytester, body: str) -> pytest.RunResult:
    pytester.makeconftest(CONFTEST.read_text().replace("GRACE_S = DEADLINE_S / 2", "GRACE_S = 0.05"))
    pytester.makeini(CONFIGURATION)
    pytester.makepyfile(body)
    return pytester.runpytest_subprocess("-p", "no:cacheprovider")


def test_a_child_left_behind_fails_the_test(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        f"""
        import subprocess
        def test_leak():
            global child
            child = subprocess.Popen([{sys.executable!r}, "-c", "input()"], stdin=subprocess.PIPE)
        def test_clean():
            child.communicate()
        """,
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*left behind: processes: *"])


def test_a_grandchild_of_a_child_that_left_fails_the_test(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        f"""
        import os, subprocess
        def test_leak():
            global read, write
            read, write = os.pipe()
            inner = [{sys.executable!r}, "-c", f"import os; os.read({{read}}, 1)"]
            code = f"import subprocess; subprocess.Popen({{inner}}, pass_fds=[{{read}}])"
            subprocess.run([{sys.executable!r}, "-c", code], pass_fds=[read], check=True)
        def test_clean():
            os.write(write, b"x")
        """,
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*left behind: processes: *"])


def test_a_descriptor_left_open_fails_the_test(pytester: pytest.Pytester) -> None:
    result = run(pytester, 'import os\ndef test_leak():\n    os.open("/dev/null", os.O_RDONLY)\n')
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*left behind: descriptors: *-> /dev/null*"])


def test_a_segment_left_behind_fails_the_test(pytester: pytest.Pytester) -> None:
    body = """
        from pathlib import Path
        file = Path("/dev/shm/treadle-test-{}".format(Path.cwd().name))
        def test_leak():
            file.touch()
        def test_clean():
            file.unlink()
        """
    result = run(pytester, body)
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*left behind: segments: *treadle-test-*"])


# Waits for the test, makes a segment, tells the test, and keeps it until its input ends.
ELSEWHERE = """
import mmap, os, sys
open("begin").close()
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.ftruncate(file, 4096)
mapped = mmap.mmap(file, 4096)
open("made", "w").close()
sys.stdin.read()
os.unlink(sys.argv[1])
"""


def test_what_other_programs_make_meanwhile_is_none_of_the_tests(pytester: pytest.Pytester) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TREADLE_TEST_RUN"}
    for name in ("begin", "made"):
        os.mkfifo(pytester.path / name)
    command = [sys.executable, "-c", ELSEWHERE, f"/dev/shm/treadle-test-{pytester.path.name}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, cwd=pytester.path) as other:
        body = """
            def test_meanwhile():
                open("begin", "w").close()
                open("made").close()
            """
        run(pytester, body).assert_outcomes(passed=1)
        assert other.stdin
        other.stdin.close()


def test_a_leak_on_purpose_is_allowed(pytester: pytest.Pytester) -> None:
    body = """
        import os, pytest
        @pytest.mark.leaks_allowed("descriptors")
        def test_leak():
            os.open("/dev/null", os.O_RDONLY)
        """
    run(pytester, body).assert_outcomes(passed=1)


def test_a_test_that_hangs_is_ended_with_its_stacks(pytester: pytest.Pytester) -> None:
    body = """
        import pytest, signal
        @pytest.mark.deadline(7200)
        def test_hang():
            assert 3600 < signal.getitimer(signal.ITIMER_REAL)[0]
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            while True:
                pass
        """
    result = run(pytester, body)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the deadline has passed*"])


def test_the_same_seed_gives_the_same_numbers(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREADLE_TEST_SEED", "17")
    body = "def test_draw(rng):\n    print('drew', rng.random())\n"
    pytester.makeconftest(CONFTEST.read_text())
    pytester.makeini(CONFIGURATION)
    pytester.makepyfile(body)
    draws = [[line for line in pytester.runpytest_subprocess("-s").outlines if "drew" in line] for _ in range(2)]
    assert draws[0] == draws[1] != []
