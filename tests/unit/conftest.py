"""What several unit tests need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


class ByHand(ModuleType):
    """A module that only this process knows: no fresh interpreter can import it."""

    def define(self, source: str) -> None:
        """Runs source in the module."""
        exec(compile(textwrap.dedent(source), "by_hand.py", "exec", dont_inherit=True), vars(self))


@pytest.fixture
def module() -> Iterator[ByHand]:
    """A module made by hand, for the time of a test."""
    made = ByHand("by_hand")
    sys.modules["by_hand"] = made
    yield made
    del sys.modules["by_hand"]


def play_worker(source: str, *payloads: bytes) -> Any:
    """Runs the source in a fresh interpreter, `payloads` at hand; gives back what it leaves in `result`, by JSON."""
    program = "import json, sys\nfrom treadle import _byvalue, _named, _travel\n"
    program += f"payloads = {list(payloads)!r}\nload = _travel.load_function\n"
    program += textwrap.dedent(source) + "\nprint(json.dumps(result))\n"
    path = {**os.environ, "PYTHONPATH": ":".join(entry for entry in sys.path if entry)}
    done = subprocess.run([sys.executable, "-c", program], env=path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def in_worker() -> Any:
    """play_worker."""
    return play_worker


class Gate:
    """A task waits at it until the test opens it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)

    def open(self) -> None:
        with open(self.path, "w"):
            pass


@pytest.fixture
def make_gate(tmp_path: Path) -> Callable[[], Gate]:
    numbers = iter(range(1000))
    return lambda: Gate(tmp_path / f"gate-{next(numbers)}")


@pytest.fixture
def gate(make_gate: Callable[[], Gate]) -> Gate:
    return make_gate()
