"""treadle._engine itself: what it loads, options, budget. binding/module.c, binding/info.c, binding/status.c"""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from treadle import _engine


def test_importing_it_does_not_import_concurrent_futures():
    code = "import sys, treadle._engine; sys.exit('concurrent.futures' in sys.modules or 'threading' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _engine.Nothing  # noqa: B018


def test_future_is_made_once():
    assert _engine.Future is _engine.Future
    assert _engine.Future.__module__ == "treadle"


def test_options_are_listed():
    rows = {row[0]: row for row in _engine.options()}
    assert rows["TREADLE_SPIN"][1] == "spin"
    assert all(len(row) == 7 for row in rows.values())


def test_options_follow_the_environment(monkeypatch):
    monkeypatch.setenv("TREADLE_GRACE", "250ms")
    assert _engine.reload_options() is None
    assert _engine.option("GRACE") == 250_000_000
    monkeypatch.setenv("TREADLE_GRACE", "soon")
    assert "TREADLE_GRACE=soon" in _engine.reload_options()
    monkeypatch.delenv("TREADLE_GRACE")
    assert _engine.reload_options() is None
    assert _engine.option("START_METHOD") == ""
    with pytest.raises(KeyError):
        _engine.option("NOTHING")


def test_the_budget_is_at_least_one_cpu():
    budget = _engine.budget()
    assert budget["cpus"] == _engine.cpus() >= 1
    assert budget["memory"] > 0


def test_the_clock_is_pythons():
    before = time.monotonic_ns()
    now = _engine.now_ns()
    assert before <= now <= time.monotonic_ns()
