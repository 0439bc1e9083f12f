"""The pytest plugin: `pytest --treadle-block=10ms` fails a test that blocks its event loop.

Installed with the package, and idle without the option. Sources: python/treadle/aio/_watchdog.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .aio._watchdog import Block

MARKER = "treadle_block(duration): how long this test may block its event loop, such as '50ms'; None: for ever"


def pytest_addoption(parser: pytest.Parser) -> None:
    """--treadle-block, and treadle_block in the configuration file."""
    text = "fail tests in which a turn of an event loop takes so long, such as 10ms"
    parser.getgroup("treadle").addoption("--treadle-block", metavar="DURATION", help=text)
    parser.addini("treadle_block", help=text)


def pytest_configure(config: pytest.Config) -> None:
    """The marker; an option that makes no sense is refused before the first test."""
    config.addinivalue_line("markers", MARKER)
    if default := default_of(config):
        try:
            seconds_of(default)
        except ValueError as error:
            raise pytest.UsageError(f"--treadle-block: {error}") from None


def default_of(config: pytest.Config) -> str | None:
    """What the command line says, else the configuration file."""
    return config.getoption("--treadle-block") or config.getini("treadle_block") or None


def seconds_of(text: str) -> float:
    """Raises: ValueError."""
    from . import _engine

    nanoseconds = _engine.parse_duration(text)
    if nanoseconds <= 0:
        raise ValueError(f"{text!r} is not positive")
    return nanoseconds / 1e9


def limit_of(item: pytest.Item) -> float | None:
    """Without the option nothing is watched; with it a test's marker comes first."""
    default = default_of(item.config)
    if default is None:
        return None
    marker = item.get_closest_marker("treadle_block")
    limit = marker.args[0] if marker else default
    return None if limit is None else seconds_of(str(limit))


def is_blame(block: Block) -> bool:
    """A test fails for what it did: not where the machine did not run it, nor for what pytest does itself."""
    return block.doing != "starves"


@pytest.hookimpl(hookwrapper=True)  # the kind that every pluggy knows, whatever pytest the user has
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Each loop that runs in the test is watched. A test that fails anyway fails for its own reason."""
    limit = limit_of(item)
    if limit is None:
        yield
        return
    from .aio._watchdog import watchdog

    blocks: list[Block] = []
    dog = watchdog(limit, blocks.append)
    outcome: Any = yield
    dog.stop()
    guilty = [block for block in blocks if is_blame(block)]
    if guilty and outcome.excinfo is None:
        text = "\n\n".join(str(block) for block in guilty)
        fail_with(outcome, f"the event loop was blocked for {limit:g} s and more\n{text}")


def fail_with(outcome: Any, text: str) -> None:
    """Fails a test that has passed."""
    error = pytest.fail.Exception(text, pytrace=False)
    if hasattr(outcome, "force_exception"):
        outcome.force_exception(error)
    else:  # before pluggy 1.1
        outcome._excinfo = (type(error), error, None)
