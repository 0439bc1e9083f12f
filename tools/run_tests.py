"""Run the C tests of a build folder and pytest, and end with the counts of both on one line."""

from __future__ import annotations

import argparse
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree


@dataclass
class Counts:
    """How many tests passed, failed and were skipped."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def add(self, other: Counts) -> None:
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


# No run of one of the two takes so long, whatever the sanitizer.
LIMIT_S = 1800.0

# What runs aarch64 programs (tools/aarch64-linux-gnu.ini), for those tests that start themselves again.
EMULATOR = "qemu-aarch64 -L /usr/aarch64-linux-gnu"

# The closing line of the C harness (core/tests/harness.h): a program holds many tests.
CLOSING = re.compile(r"(?m)^(\d+) passed, (\d+) failed, (\d+) skipped$")


def read_case(case: ElementTree.Element) -> Counts:
    """Count a test case: one test, or as many as the program's closing line says."""
    broken = case.find("failure") is not None or case.find("error") is not None
    closing = CLOSING.findall(case.findtext("system-out") or "")
    if closing:
        counts = Counts(*map(int, closing[-1]))
        if broken and counts.failed == 0:
            counts.failed = 1
        return counts
    skipped = case.find("skipped") is not None
    return Counts(passed=not (broken or skipped), failed=broken, skipped=skipped and not broken)


def read_junit(path: Path) -> Counts:
    """Count the test cases of a JUnit file; a missing or broken file is one failure."""
    counts = Counts()
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError):
        return Counts(failed=1)
    for case in root.iter("testcase"):
        counts.add(read_case(case))
    return counts


def finish(command: list[str], report: Path, environment: dict[str, str]) -> Counts:
    """Run one test runner; a failing exit status counts as a failure even where the report shows none."""
    report.unlink(missing_ok=True)
    with subprocess.Popen(command, env=environment) as process:
        try:
            status = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            # Each test has its own deadline; this is for one that is stuck in C. SIGABRT prints every stack.
            process.send_signal(signal.SIGABRT)
            status = process.wait()
    counts = read_junit(report)
    if status != 0 and counts.failed == 0:
        counts.failed = 1
    return counts


def sanitizer_environment(sanitizer: str, findings: Path) -> dict[str, str]:
    """What a run under ASan and UBSan, or under TSan, needs: findings are fatal, and everything takes longer."""
    if not sanitizer:
        return {}
    # In files, as a test may have its reasons to swallow what a process of its own writes, and to expect its death.
    shutil.rmtree(findings, ignore_errors=True)
    findings.mkdir(parents=True)
    common = f"halt_on_error=1:abort_on_error=1:print_stacktrace=1:log_path='{findings.resolve()}/process'"
    # A thread's signal stack may be faulthandler's, which is not for ASan to unmap when the thread ends.
    address = "detect_leaks=1:detect_stack_use_after_return=1:allocator_may_return_null=1:use_sigaltstack=0"
    return {
        "ASAN_OPTIONS": f"{common}:{address}",
        "UBSAN_OPTIONS": common,
        "TSAN_OPTIONS": f"{common}:second_deadlock_stack=1",
        "TREADLE_TEST_SECONDS": os.environ.get("TREADLE_TEST_SECONDS", "240"),
        "TREADLE_TEST_FACTOR": "0.25",
    }


# In each report, and in no mere warning, such as that of an allocation that failed.
FINDING = re.compile(r"SUMMARY: \w+Sanitizer|runtime error: |CHECK failed: ")


def read_findings(findings: Path) -> list[str]:
    """The sanitizers' reports, of whatever process."""
    texts = [path.read_text(errors="replace") for path in sorted(findings.glob("process.*"))]
    return [text for text in texts if FINDING.search(text)]


def run_c(build: Path, names: list[str], environment: dict[str, str]) -> Counts:
    # First the build, without its chatter; a broken build is one failure.
    ninja = ["ninja", "-C", str(build), "--quiet", "all", "meson-test-prereq"]
    if subprocess.run(ninja, env=environment, check=False).returncode != 0:
        return Counts(failed=1)
    meson = [sys.executable, "-m", "mesonbuild.mesonmain", "test", "-C", str(build), "--no-rebuild"]
    # The harness of the C tests holds each test to a deadline; meson's own is for a program, and is left wide.
    command = [*meson, "--print-errorlogs", "--timeout-multiplier", "10", *names]
    return finish(command, build / "meson-logs" / "testlog.junit.xml", environment)


def run_python(build: Path, arguments: list[str], environment: dict[str, str], sanitizer: str) -> Counts:
    # Every descendant carries this word in its environment, so that the leak check finds it (tests/conftest.py).
    environment = dict(environment, TREADLE_TEST_RUN=secrets.token_hex(8))
    if sanitizer == "address":
        # The interpreter is not built with ASan, so its runtime has to come first; CPython leaks on purpose at exit.
        compiler = ["gcc", "-print-file-name=libasan.so"]
        library = subprocess.run(compiler, capture_output=True, text=True, check=True).stdout.strip()
        guard = build / "core" / "tests" / "libasan_fork.so"
        environment["LD_PRELOAD"] = f"{Path(library).resolve()} {guard.resolve()}"
        environment["ASAN_OPTIONS"] += ":detect_leaks=0"
        environment["PYTHONMALLOC"] = "malloc"
    report = build / "pytest.xml"
    report.parent.mkdir(parents=True, exist_ok=True)
    return finish([sys.executable, "-m", "pytest", f"--junitxml={report}", *arguments], report, environment)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, required=True, help="the meson build folder")
    parser.add_argument("--only", choices=("c", "python"), help="run one of the two")
    parser.add_argument("--sanitizer", choices=("", "address", "thread"), default="", help="what it was built with")
    parser.add_argument("--emulated", action="store_true", help="the C tests run in an emulator, which is slow")
    parser.add_argument("--c-test", action="append", default=[], help="a C test by name, such as ring/spsc")
    parser.add_argument("pytest", nargs="*", help="arguments for pytest, after --")
    arguments = parser.parse_args()
    findings = arguments.build / "findings"
    environment = dict(os.environ, **sanitizer_environment(arguments.sanitizer, findings))
    if arguments.emulated:
        environment.update(TREADLE_TEST_SECONDS="240", TREADLE_TEST_FACTOR="0.1", TREADLE_TEST_EMULATOR=EMULATOR)
        environment["TREADLE_RANGE_BYTES"] = "256M"  # the emulator keeps books over each page of a range
    total = Counts()
    if arguments.only != "python":
        total.add(run_c(arguments.build, arguments.c_test, environment))
    if arguments.only != "c":
        total.add(run_python(arguments.build, arguments.pytest, environment, arguments.sanitizer))
    reports = read_findings(findings) if arguments.sanitizer else []
    print(*reports, sep="\n", end="")
    if reports and total.failed == 0:
        total.failed = 1
    print(total)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
