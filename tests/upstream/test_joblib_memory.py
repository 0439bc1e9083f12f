"""joblib's own tests of its memory and its hashes, from the installed package, on Treadle's; joblib_memory_stand_in.py.

They are run twice, on Treadle's own store and on the one in joblib's layout. skips_joblib_memory.txt has what is not.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SECONDS = float(os.environ.get("TREADLE_TEST_SECONDS", "120"))
FILES = ("test_memory", "test_memory_async", "test_hashing", "test_store_backends")
STORES = ("local", "joblib")
MISSING = [name for name in ("joblib", "xxhash") if importlib.util.find_spec(name) is None]


def read_skips() -> list[tuple[str, str, str]]:
    lines = (HERE / "skips_joblib_memory.txt").read_text().splitlines()
    rows = [line.split(maxsplit=2) for line in lines if line and not line.startswith("#")]
    return [(store, pattern, reason) for store, pattern, reason in rows]


SKIPS = read_skips()


def skip_reason(store: str, test: str) -> str:
    """Why it is not run; empty where it is. A pattern's brackets are what they are."""
    for of_store, pattern, reason in SKIPS:
        if fnmatchcase(store, of_store) and fnmatchcase(test, pattern.replace("[", "[[]")):
            return reason
    return ""


class Suite:
    """Their tests, and what became of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.outcomes: dict[tuple[str, str], tuple[str, str]] = {}
        (folder / "sitecustomize.py").write_text("import joblib_memory_stand_in\n\njoblib_memory_stand_in.install()\n")
        self.tests = [test for test, *_ in self.run("local", "--collect-only")]

    def run(self, store: str, *options: str) -> list[tuple[str, str, str]]:
        """Runs their pytest; the rows that the plugin wrote."""
        report = self.folder / f"{store}.report"
        report.unlink(missing_ok=True)
        path = [str(self.folder), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
        places = {"TREADLE_UPSTREAM_STORE": store, "TREADLE_UPSTREAM_REPORT": str(report)}
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "joblib_memory_stand_in",
            "-p",
            "no:cacheprovider",
            "-q",
            *options,
        ]
        command += [f"--rootdir={self.folder}", f"--basetemp={self.folder / store}", "-c", os.devnull]
        command += ["--pyargs", *(f"joblib.test.{name}" for name in FILES)]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path), **places},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=10 * SECONDS,
        )
        assert done.returncode in (0, 1) and report.exists(), f"{done.stdout[-20000:]}\n{done.stderr[-20000:]}"
        return [tuple(json.loads(line)) for line in report.read_text().splitlines()]

    def outcome(self, store: str, test: str) -> tuple[str, str]:
        if not any(of_store == store for of_store, _ in self.outcomes):
            left_out = [name for name in self.tests if skip_reason(store, name)]
            (self.folder / f"{store}.left_out").write_text("\n".join(left_out))
            for name, kind, text in self.run(store, f"--left-out={self.folder / f'{store}.left_out'}"):
                if self.outcomes.get((store, name), ("passed", ""))[0] == "passed":
                    self.outcomes[store, name] = kind, text
        return self.outcomes[store, test]


SUITE = pytest.StashKey[Suite]()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "theirs" not in metafunc.fixturenames:
        return
    if MISSING:
        why = pytest.mark.skip(f"not installed: {', '.join(MISSING)}")
        metafunc.parametrize(("store", "theirs"), [pytest.param("", "", marks=why)])
        return
    folder = tempfile.TemporaryDirectory(prefix="treadle-upstream-joblib-memory-")
    metafunc.config.add_cleanup(folder.cleanup)
    suite = metafunc.config.stash[SUITE] = Suite(Path(folder.name))
    rows = []
    for store in STORES:
        for test in suite.tests:
            reason = skip_reason(store, test)
            marks = pytest.mark.skip(reason) if reason else ()
            rows.append(pytest.param(store, test, id=f"{store}-{test}", marks=marks))
    metafunc.parametrize(("store", "theirs"), rows)


@pytest.mark.deadline(1200)
def test_joblib_memory(store: str, theirs: str, request: pytest.FixtureRequest) -> None:
    kind, text = request.config.stash[SUITE].outcome(store, theirs)
    if kind == "skipped":
        pytest.skip(f"by itself: {text}")
    if kind == "failed":
        pytest.fail(text, pytrace=False)


def test_skips_are_of_tests_that_exist(request: pytest.FixtureRequest) -> None:
    if MISSING:
        pytest.skip(f"not installed: {', '.join(MISSING)}")
    tests = request.config.stash[SUITE].tests
    patterns = [pattern.replace("[", "[[]") for _, pattern, _ in SKIPS]
    assert [pattern for pattern in patterns if not any(fnmatchcase(test, pattern) for test in tests)] == []
