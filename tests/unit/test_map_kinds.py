"""map: items and results of all kinds travel in chunks of all layouts. binding/chunk.c, binding/worker.c"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import treadle


@pytest.fixture
def pool() -> Iterator[treadle.ProcessPoolExecutor]:
    with treadle.ProcessPoolExecutor(2) as pool:
        yield pool


def same(item: object) -> object:
    return item


def both(a: object, b: object) -> tuple[object, object]:
    return a, b


def all_of(*items: object) -> tuple[object, ...]:
    return items


FAR = 2**63 - 1


@pytest.mark.parametrize(
    "numbers",
    [
        range(0),
        range(1),
        range(5, -5, -3),
        range(-(2**40), 2**40, 2**30),
        range(-FAR - 1, FAR, 2**57),
        range(FAR - 3, FAR + 1),
        range(FAR - 3, FAR + 3),
        range(0, -FAR * 4, -FAR),
        range(FAR, FAR + 70_000),
    ],
)
@pytest.mark.parametrize("ordered", [True, False])
def test_a_range_is_its_numbers(pool, numbers, ordered):
    results = list(pool.map(same, numbers, ordered=ordered))
    assert (results if ordered else sorted(results, reverse=numbers.step < 0)) == list(numbers)


KINDS = [
    None, True, False, 0, 127, 128, -1, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**63, 0.5,
    "", "äé", "日本" * 300, b"x" * 900, (), (1, (2.5, "x")), [1], {"a": None}, 1j, (1, [2]),
]  # fmt: skip


@pytest.mark.parametrize("count", [1, 10, 400])
def test_items_and_results_of_all_kinds(pool, count):
    items = [kind for kind in KINDS for _ in range(count)]
    random.Random(7).shuffle(items)
    assert repr(list(pool.map(same, items))) == repr(items)
    assert list(pool.map(same, sorted(items, key=repr))) == sorted(items, key=repr)
    pairs = [(item, second) for item, second in zip(items, reversed(items), strict=True)]
    assert list(pool.starmap(both, pairs)) == pairs


def test_starmap_takes_items_of_all_lengths(pool):
    items = [tuple(range(i % 12)) for i in range(2000)]
    assert list(pool.starmap(all_of, items)) == items
