"""CPython's own tests of its process pools, futures and shared memory, on Treadle's: see suite.py.

They come from the test package of the running interpreter, which not every installation has.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

UPSTREAM = "suite.py", "treadle_stand_in", 1, "skips.txt"


@pytest.mark.deadline(3600)
def test_upstream(outcome: Callable[[], None]) -> None:
    outcome()


@pytest.mark.skipif(sys.version_info[:2] != (3, 13), reason="the list is held against the suite of 3.13")
def test_skips_are_of_tests_that_exist(unused_skips: list[str]) -> None:
    assert unused_skips == []
