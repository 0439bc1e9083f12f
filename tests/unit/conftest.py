"""What several unit tests need."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from types import ModuleType

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
