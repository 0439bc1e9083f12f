"""Typed uses of the public names: mypy and pyright check this file, nothing runs it."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator
from typing import assert_type

import treadle


def length(text: str, *, twice: bool = False) -> int:
    return len(text) * (2 if twice else 1)


with treadle.ProcessPoolExecutor(2, retries=1, timeout=3.0, preload=["json"]) as pool:
    assert_type(pool, treadle.ProcessPoolExecutor)
    assert_type(pool.submit(length, "a", twice=True), treadle.Future[int])
    assert_type(pool.submit(length, "a").result(), int)
    assert_type(pool.map(length, ["a"]), Iterator[int])
    assert_type(pool.options(timeout=1).submit(length, "a"), treadle.Future[int])
    executor: concurrent.futures.Executor = pool
    future: concurrent.futures.Future[int] = pool.submit(length, "a")

with treadle.Pool(2) as classic:
    assert_type(classic.map(length, ["a"]), list[int])
    assert_type(classic.apply(length, ("a",)), int)

with treadle.ThreadPoolExecutor() as threads:
    assert_type(threads.submit(length, "a"), treadle.Future[int])
