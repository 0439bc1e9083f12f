"""The tests of test.test_asyncio in which a loop meets an executor: with Treadle's threads as every loop's default one,
and those that only run something, with processes.
"""

import concurrent.futures
import importlib
import unittest
from typing import Any

HOMES = ("test_threads", "test_futures", "test_tasks", "test_events")
NAMES = ("test_to_thread", "test_wrap_future", "test_run_coroutine_threadsafe", "test_run_in_executor", "new_process")


def wanted(test: str) -> bool:
    """Is this one of them? The classes have others, too."""
    return any(name in test for name in NAMES)


def on_processes(case: Any) -> type[unittest.TestCase]:
    """The same, but that a process pool is the loop's executor."""

    def set_up(self: Any) -> None:
        case.setUp(self)
        pool = concurrent.futures.ProcessPoolExecutor(1)
        self.addCleanup(pool.shutdown)
        run = self.loop.run_in_executor
        self.loop.run_in_executor = lambda executor, *call: run(executor or pool, *call)

    name = f"{case.__name__}OnProcesses"
    globals()[name] = type(name, (case,), {"__module__": __name__, "setUp": set_up})
    found: type[unittest.TestCase] = globals()[name]
    return found


def cases() -> list[type[unittest.TestCase]]:
    found = []
    for home in HOMES:
        module = importlib.import_module(f"test.test_asyncio.{home}")
        for value in list(vars(module).values()):
            if not (isinstance(value, type) and issubclass(value, unittest.TestCase)):
                continue
            tests = [test for test in unittest.TestLoader().getTestCaseNames(value) if wanted(test)]
            if value.__module__ == module.__name__ and tests:
                found.append(value)
                if any("run_in_executor" in test for test in tests) and "EventLoopTests" in value.__name__:
                    found.append(on_processes(value))
    return found


CASES = cases()
