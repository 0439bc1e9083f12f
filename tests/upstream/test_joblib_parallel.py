"""joblib's own tests of Parallel and its settings, from the installed package, on Treadle: see joblib_suite.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest

UPSTREAM = "joblib_suite.py", "joblib_stand_in", 4, "skips_joblib_parallel.txt"


@pytest.mark.deadline(3600)
def test_joblib_parallel(outcome: Callable[[], None]) -> None:
    outcome()


def test_skips_are_of_tests_that_exist(unused_skips: list[str]) -> None:
    assert unused_skips == []
