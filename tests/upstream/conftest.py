"""Runs the tests that others wrote for what Treadle has, on Treadle: each of them is a test here.

A test file names what lists and runs the suite, what puts Treadle in its place, into how many processes each class is
divided, and the list of what is skipped:

    UPSTREAM = "suite.py", "treadle_stand_in", 1, "skips.txt"

    def test_upstream(outcome):
        outcome()

    def test_skips_are_of_tests_that_exist(unused_skips):
        assert unused_skips == []
"""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
import tempfile
import venv
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType

import pytest
import treadle

HERE = Path(__file__).parent
AT_A_TIME = 4
SECONDS = float(os.environ.get("TREADLE_TEST_SECONDS", "120"))
# Some of its tests crash workers, of which AddressSanitizer, where it is there, is to make no report.
ENVIRONMENT = {**os.environ, "ASAN_OPTIONS": f"{os.environ.get('ASAN_OPTIONS', '')}:handle_segv=0"}


def class_of(test: str) -> str:
    return test.partition("[")[0].rpartition(".")[0]


# --- the suite's process


def make_interpreter(root: Path, stand_in: str) -> Path:
    """An interpreter that puts what Treadle has in the places of others' at each start, with -I too."""
    venv.create(root, symlinks=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(root), "platbase": str(root)}))
    packages = {str(Path(treadle.__file__).parent.parent), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    lines = [*sorted(packages), str(HERE), f"import {stand_in}; {stand_in}.install()"]
    (site / "treadle_upstream.pth").write_text("\n".join(lines) + "\n")
    return root / "bin" / "python"


class Suite:
    """The suite's processes, and what became of its tests. `skips` has patterns of ids, each with its reason."""

    def __init__(self, folder: Path, script: str, stand_in: str, parts: int, skips: str) -> None:
        self.folder = folder
        self.parts = parts
        self.command = [str(make_interpreter(folder / "venv", stand_in)), str(HERE / script)]
        self.outcomes: dict[str, tuple[str, str]] = {}
        self.processes: set[subprocess.Popen[bytes]] = set()
        self.stopped = False
        listed = subprocess.run([*self.command, "list"], check=True, stdout=subprocess.PIPE, timeout=SECONDS).stdout
        self.tests, self.lacking = json.loads(listed)
        lines = (HERE / skips).read_text().splitlines()
        self.skips = dict(line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))

    def skip_reason(self, test: str) -> str:
        return next((reason for pattern, reason in self.skips.items() if fnmatchcase(test, pattern)), "")

    def unused_skips(self) -> list[str]:
        return [pattern for pattern in self.skips if not any(fnmatchcase(test, pattern) for test in self.tests)]

    def run_all(self, tests: list[str]) -> None:
        """Runs tests, a process for each class, or several; a few of these at a time, as most of them sleep."""
        classes: dict[str, list[str]] = {}
        for test in tests:
            part = sum(test.partition("[")[0].encode()) % self.parts  # all of one function in one process
            classes.setdefault(f"{class_of(test)}.{part}", []).append(test)
        with ThreadPoolExecutor(AT_A_TIME) as threads:
            try:
                list(threads.map(self.run_class, classes, classes.values()))
            except BaseException:  # the deadline, or Ctrl-C
                self.stopped = True
                for process in list(self.processes):
                    process.kill()
                raise

    def run_class(self, name: str, tests: list[str]) -> None:
        """Runs tests in one process; where one of them ends or blocks it, those that follow in another."""
        report, log = self.folder / f"{name}.report", self.folder / f"{name}.log"
        while not self.stopped and (left := [test for test in tests if test not in self.outcomes]):
            report.write_text("")
            # Each test has a deadline, of which the process takes care itself.
            command = [*self.command, "run", str(SECONDS), str(report), *left]
            with (
                log.open("wb") as output,
                subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=ENVIRONMENT
                ) as process,
            ):
                self.processes.add(process)
                status = process.wait()
                self.processes.discard(process)
            culprit = self.read(report, left)
            if status != 0:
                text = log.read_text(errors="replace")[-20000:]
                self.outcomes[culprit or left[-1]] = ("failed", f"its process ended with status {status}:\n{text}")

    def read(self, report: Path, tests: list[str]) -> str:
        """Notes the outcomes, and gives the test that began and did not end."""
        running = ""
        for test, kind, text in map(json.loads, report.read_text().splitlines()):
            if kind == "started":
                running = test
                continue
            running = ""
            for name in [test] if test else tests:
                self.outcomes.setdefault(name, (kind, text))
        return running or next((test for test in tests if test not in self.outcomes), "")


# --- what the test files use

SUITES = pytest.StashKey[dict[str, Suite]]()


def suite_of(module: ModuleType, config: pytest.Config) -> Suite:
    suites = config.stash.setdefault(SUITES, {})
    if module.__name__ not in suites:
        folder = tempfile.TemporaryDirectory(prefix="treadle-upstream-")
        config.add_cleanup(folder.cleanup)
        suites[module.__name__] = Suite(Path(folder.name), *module.UPSTREAM)
    return suites[module.__name__]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "upstream" not in metafunc.fixturenames:
        return
    suite = suite_of(metafunc.module, metafunc.config)
    missing = [pytest.param(name, id=name, marks=pytest.mark.skip(why)) for name, why in suite.lacking.items()]
    metafunc.parametrize("upstream", [*(with_skip(suite, test) for test in suite.tests), *missing])


def with_skip(suite: Suite, test: str) -> object:
    reason = suite.skip_reason(test)
    return pytest.param(test, id=test, marks=pytest.mark.skip(reason) if reason else ())


@pytest.fixture
def outcome(upstream: str, request: pytest.FixtureRequest) -> Callable[[], None]:
    """Ends as the upstream test did. The first one runs all that are to be run."""
    suite = suite_of(request.module, request.config)

    def end() -> None:
        if upstream not in suite.outcomes:
            suite.run_all(chosen(suite, request.session.items))
        kind, text = suite.outcomes[upstream]
        if kind == "skipped":
            pytest.skip(f"by itself: {text}")
        if kind == "failed":
            pytest.fail(text, pytrace=False)

    return end


def chosen(suite: Suite, items: list[pytest.Item]) -> list[str]:
    """The suite's tests among the session's items that are not skipped."""
    calls = [item.callspec for item in items if isinstance(item, pytest.Function) and hasattr(item, "callspec")]
    names = {call.params["upstream"] for call in calls if "upstream" in call.params}
    return [name for name in suite.tests if name in names and not suite.skip_reason(name)]


@pytest.fixture
def unused_skips(request: pytest.FixtureRequest) -> list[str]:
    """Patterns that are of no test, where the suite is whole."""
    suite = suite_of(request.module, request.config)
    if suite.lacking:
        pytest.skip(f"lacking: {', '.join(suite.lacking)}")
    return suite.unused_skips()
