"""The interpreter's own suites, listed and run in a process of their own, with Treadle's classes in their places.

    suite.py list                      the tests' ids, and what the interpreter lacks with the reason, as JSON
    suite.py run SECONDS REPORT ID...  runs tests of one class; REPORT gets a line of JSON at the start and at the end
                                       of each: id, outcome, text

An id is module.class.test, with the module's last name. A test that takes longer than SECONDS ends the process, after
a traceback of all threads. Where a whole class fails or skips itself, its line has no id.
"""

import faulthandler
import importlib
import json
import os
import sys
import unittest
from typing import Any

import treadle_stand_in

# The whole pool has to break here; it is what on_worker_death="break" is for.
BREAKING = {"test_killed_child"}


def load() -> tuple[dict[str, type[unittest.TestCase]], dict[str, str]]:
    """The classes of all tests by their ids, in their order; and the suites that are not there, with the reason."""
    loader = unittest.TestLoader()
    tests = {}
    lacking = {}
    for name, home in (
        ("test_concurrent_futures", "upstream_futures"),
        ("_test_multiprocessing", "upstream_pools"),
        ("_test_multiprocessing", "upstream_memory"),
        ("test_asyncio", "upstream_asyncio"),
    ):
        try:
            suite = importlib.import_module(home)
        except (ImportError, unittest.SkipTest) as error:
            lacking[name] = f"this interpreter has no usable test.{name}: {error}"
            continue
        wanted = getattr(suite, "wanted", lambda test: True)
        for case in suite.CASES:
            for test in filter(wanted, loader.getTestCaseNames(case)):
                tests[f"{case.__module__.rpartition('.')[2]}.{case.__name__}.{test}"] = case
    return tests, lacking


def name_of(test: unittest.TestCase) -> str:
    """Our id of a test; empty for what stands for a whole class or module."""
    return ".".join(test.id().split(".")[-3:]) if isinstance(test, unittest.TestCase) else ""


class Lines(unittest.TestResult):
    """A line for each start and each end."""

    def __init__(self, seconds: float, report: str) -> None:
        super().__init__()
        self.seconds = seconds
        self.lines = open(report, "w", buffering=1)  # noqa: SIM115 - until the process ends
        self.outcome = ("", "")

    def watch(self) -> None:
        faulthandler.dump_traceback_later(self.seconds, exit=True)

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.watch()
        self.outcome = ("passed", "")
        breaking = test.id().rpartition(".")[2] in BREAKING
        treadle_stand_in.on_worker_death = "break" if breaking else "heal"
        os.environ.pop(treadle_stand_in.NO_CONTEXT, None)
        if getattr(test, "no_context", False):
            os.environ[treadle_stand_in.NO_CONTEXT] = "1"
        self.write(name_of(test), "started", "")

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        self.write(name_of(test), *self.outcome)
        self.watch()

    def write(self, test: str, outcome: str, text: str) -> None:
        self.lines.write(json.dumps([test, outcome, text]) + "\n")

    def end(self, test: unittest.TestCase, outcome: str, text: str) -> None:
        self.outcome = (outcome, text)
        if not name_of(test):
            self.write("", outcome, text)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self.end(test, "skipped", reason)

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self.end(test, "failed", self.failures[-1][1])

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self.end(test, "failed", self.errors[-1][1])

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.end(test, "failed", "".join(text for case, text in self.failures + self.errors if case is subtest))


def main() -> int:
    mode, *arguments = sys.argv[1:]
    treadle_stand_in.install_causes()
    tests, lacking = load()
    if mode == "list":
        json.dump([list(tests), lacking], sys.stdout)
        return 0
    seconds, report, *names = arguments
    result = Lines(float(seconds), report)
    result.watch()
    # A suite drops each test that has run, and with it what the test made; but the last only when it returns, so it
    # is in another, which cleans up after the module.
    inner = unittest.TestSuite(tests[name](name.rpartition(".")[2]) for name in names)
    unittest.TestSuite([inner]).run(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
