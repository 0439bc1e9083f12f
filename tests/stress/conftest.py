"""Stress tests: --stress-n sets how much of everything; 200 is the full measure, the default takes seconds.

The seed is in the header of the run: TREADLE_TEST_SEED=... repeats the choices, though not the timing.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections.abc import Callable
from typing import Any

import pytest
from treadle import ProcessPoolExecutor


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The deadline grows with the work."""
    for item in items:
        if item.path.parent.name == "stress":
            item.add_marker(pytest.mark.deadline(120 + 6 * int(config.getoption("--stress-n"))))


class Killer:
    """Kills workers of a pool by SIGKILL, and gathers the engine's log of it."""

    def __init__(self, pool: ProcessPoolExecutor, rng: random.Random) -> None:
        self.pool = pool
        self.rng = rng
        self.killed: set[int] = set()
        self.log: dict[int, dict[str, Any]] = {}

    def kill_one(self) -> None:
        self.read_log()
        pids = [worker["pid"] for worker in self.pool.stats()["workers"]]
        alive = [pid for pid in pids if pid > 0 and pid not in self.killed]
        if alive:
            victim = self.rng.choice(alive)
            with contextlib.suppress(ProcessLookupError):  # its own task may have ended it since
                os.kill(victim, signal.SIGKILL)
                self.killed.add(victim)

    def read_log(self) -> None:
        """The engine keeps the latest 256 only."""
        self.log.update((death["number"], death) for death in self.pool.stats()["deaths"])

    def deaths_of(self, worker: int) -> int:
        return sum(death["worker"] == worker for death in self.log.values())

    def lost(self, fate: str) -> list[dict[str, Any]]:
        return [death for death in self.log.values() if death["fate"] == fate]

    def check_log(self) -> None:
        """After the pool's end: it tells of those that were killed here, of each once, and of nobody else."""
        self.read_log()
        assert sorted(self.log) == list(range(1, len(self.log) + 1))
        assert sorted(death["pid"] for death in self.log.values()) == sorted(self.killed)
        assert {death["signal"] for death in self.log.values()} <= {signal.SIGKILL}


@pytest.fixture
def killer_of(rng: random.Random) -> Callable[[ProcessPoolExecutor], Killer]:
    return lambda pool: Killer(pool, rng)
