"""_TestPool of test._test_multiprocessing with treadle.Pool, once for each start method.

A worker may import this to find one of the classes; they have to be there by name.
"""

import functools
import multiprocessing
import unittest
from typing import Any

import treadle
from test import _test_multiprocessing as suite  # type: ignore[import-untyped]


def pool_of(method: str) -> Any:
    context = None if method == "zygote" else multiprocessing.get_context(method)
    return staticmethod(functools.partial(treadle.Pool, context=context))


class Pools(suite._TestPool, suite.ProcessesMixin):  # type: ignore[misc, name-defined]
    """What they have in common."""


class PoolZygoteTest(Pools, unittest.TestCase):
    Pool = pool_of("zygote")


class PoolForkTest(Pools, unittest.TestCase):
    Pool = pool_of("fork")


class PoolForkserverTest(Pools, unittest.TestCase):
    Pool = pool_of("forkserver")


class PoolSpawnTest(Pools, unittest.TestCase):
    Pool = pool_of("spawn")


CASES = [PoolZygoteTest, PoolForkTest, PoolForkserverTest, PoolSpawnTest]
