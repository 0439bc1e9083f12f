"""joblib's own suites, listed and run in a process of their own, on Treadle: as suite.py does it for CPython's.

    joblib_suite.py list                      the tests' ids, and what is lacking with the reason, as JSON
    joblib_suite.py run SECONDS REPORT ID...  runs tests of one module in one of the ways of joblib_stand_in.py

An id is joblib_names.module.test or joblib_backend.module.test. The tests are pytest's, and run by it, each mode in
processes of its own.
"""

import faulthandler
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib_stand_in
import pytest

MODES = ("names", "backend")
MODULES = ("test_parallel", "test_config")
OPTIONS = ["-q", "-p", "no:cacheprovider", "--config-file=/dev/null", "--import-mode=prepend"]


def folder() -> Path:
    spec = importlib.util.find_spec("joblib")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "test"


class Collector:
    """Lists the tests by what follows the module's name."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self.names = [f"{Path(item.nodeid.partition('::')[0]).stem}.{item.nodeid.partition('::')[2]}" for item in items]


class Clock:
    """The time module with a clock that stands still: how long things took, which joblib's tests look at, is open."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def time(self) -> float:
        return 0.0


def without_limit(check: Callable[..., None]) -> Callable[..., None]:
    """The same without a time limit: there is one for the test."""
    return lambda *args, **options: check(*args, **{**options, "timeout": None})


class Lines:
    """A line for each start and each end, as suite.py writes them."""

    def __init__(self, mode: str, seconds: float, report: str) -> None:
        self.mode = mode
        self.seconds = seconds
        self.lines = open(report, "w", buffering=1)  # noqa: SIM115 - until the process ends
        self.outcome = ("passed", "")

    def id_of(self, nodeid: str) -> str:
        path, _, name = nodeid.partition("::")
        return f"joblib_{self.mode}.{Path(path).stem}.{name}"

    def write(self, test: str, outcome: str, text: str) -> None:
        self.lines.write(json.dumps([test, outcome, text]) + "\n")

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        for module in {item.module for item in items}:
            if getattr(module, "time", None) is time:
                module.time = Clock()
            if hasattr(module, "check_subprocess_call"):
                module.check_subprocess_call = without_limit(module.check_subprocess_call)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        faulthandler.dump_traceback_later(self.seconds, exit=True)
        self.outcome = ("passed", "")
        self.write(self.id_of(nodeid), "started", "")

    def pytest_runtest_logreport(self, report: Any) -> None:
        if hasattr(report, "wasxfail"):
            return  # joblib expects it to fail, or hopes so
        if report.failed:
            self.outcome = ("failed", str(report.longrepr))
        elif report.skipped:
            self.outcome = ("skipped", str(report.longrepr))

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.write(self.id_of(nodeid), *self.outcome)
        faulthandler.dump_traceback_later(self.seconds, exit=True)


def collect() -> int:
    """The tests in this process's mode."""
    collector = Collector()
    files = [str(folder() / f"{module}.py") for module in MODULES]
    with open(os.devnull, "w") as nothing:
        output, sys.stdout = sys.stdout, nothing
        pytest.main([*OPTIONS, "--collect-only", *files], [collector])
        sys.stdout = output
    json.dump(collector.names, sys.stdout)
    return 0


def listing() -> int:
    """The tests in all modes."""
    if importlib.util.find_spec("joblib") is None:
        json.dump([[], {"joblib": "joblib is not installed"}], sys.stdout)
        return 0
    tests = []
    for mode in MODES:
        environment = {**os.environ, joblib_stand_in.MODE: mode}
        command = [sys.executable, __file__, "collect"]
        names = json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)
        tests += [f"joblib_{mode}.{name}" for name in names]
    json.dump([tests, {}], sys.stdout)
    return 0


def run(seconds: str, report: str, *tests: str) -> int:
    """Runs tests, all of one mode."""
    mode = tests[0].partition(".")[0].removeprefix("joblib_")
    if os.environ.get(joblib_stand_in.MODE) != mode:
        os.execve(
            sys.executable, [sys.executable, *sys.argv[:1], *sys.argv[1:]], {**os.environ, joblib_stand_in.MODE: mode}
        )
    files = []
    for test in tests:
        _, module, name = test.split(".", 2)
        files.append(f"{folder() / module}.py::{name}")
    pytest.main([*OPTIONS, *files], [Lines(mode, float(seconds), report)])
    return 0


def main() -> int:
    mode, *arguments = sys.argv[1:]
    if mode == "collect":
        return collect()
    return listing() if mode == "list" else run(*arguments)


if __name__ == "__main__":
    sys.exit(main())
