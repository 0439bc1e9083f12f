"""_TestSharedMemory of test._test_multiprocessing with treadle.shared_memory, once for each start method.

A process of the test may import this to find one of the classes; they have to be there by name.
"""

import multiprocessing
import unittest

from test import _test_multiprocessing as suite  # type: ignore[import-untyped]


class Memory(suite._TestSharedMemory, suite.ProcessesMixin):  # type: ignore[misc, name-defined]
    """What they have in common."""


class SharedMemoryForkTest(Memory, unittest.TestCase):
    Process = staticmethod(multiprocessing.get_context("fork").Process)


class SharedMemoryForkserverTest(Memory, unittest.TestCase):
    Process = staticmethod(multiprocessing.get_context("forkserver").Process)


class SharedMemorySpawnTest(Memory, unittest.TestCase):
    Process = staticmethod(multiprocessing.get_context("spawn").Process)


CASES = [SharedMemoryForkTest, SharedMemoryForkserverTest, SharedMemorySpawnTest]
