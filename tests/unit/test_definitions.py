"""Arguments whose classes a worker can't import: the definitions go along, and are pickled and loaded once."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from treadle import _definitions, _travel

ByHand = Any  # conftest.py's module, with whatever a test defines in it

POINT = """
class Point:
    def __init__(self, x): self.x = x
    def __eq__(self, other): return type(other) is Point and other.x == self.x
    def moved(self): return Point(self.x + step)
step = 1
"""


def sent(*args: Any) -> bytes:
    data, buffers = _travel.dump_call(args, {}, False)
    assert not buffers
    return data


def test_the_definitions_of_a_class_are_pickled_once(module: ByHand) -> None:
    module.define(POINT)
    first = _definitions.definitions({id(module.Point): module.Point})
    assert _definitions.definitions({id(module.Point): module.Point}) is not first
    assert _definitions.definitions({id(module.Point): module.Point})[1] is first[1]
    module.step = 2
    assert _definitions.definitions({id(module.Point): module.Point})[1] is not first[1]


def test_a_worker_loads_the_definitions_of_a_class_once(module: ByHand, in_worker: Any) -> None:
    module.define(POINT)
    source = """
        first, second = [_travel.loads(p)[0][0] for p in payloads]
        first.__class__.seen = True
        third = _travel.loads(payloads[0])[0][0]
        result = [type(first) is type(second) is type(third), third.seen, second.moved().x]
    """
    assert in_worker(source, sent(module.Point(1)), sent(module.Point(2))) == [True, True, 3]


def test_a_changed_method_is_seen_in_arguments(module: ByHand, in_worker: Any) -> None:
    module.define(POINT)
    first = sent(module.Point(1))
    module.define("Point.moved = lambda self: Point(self.x + 100)")
    source = "result = [_travel.loads(p)[0][0].moved().x for p in payloads]"
    assert in_worker(source, first, sent(module.Point(1))) == [2, 101]


def test_a_class_that_is_defined_anew_is_another_one(module: ByHand, in_worker: Any) -> None:
    module.define(POINT)
    old = module.Point(1)
    module.define(POINT.replace("x + step", "x + 10"))
    source = """
        old, new, again = [_travel.loads(p)[0][0] for p in payloads]
        result = [old.moved().x, new.moved().x, type(old) is type(new), type(old) is type(again)]
    """
    # The old class's methods find the new class under its name, as they do at home.
    assert in_worker(source, sent(old), sent(module.Point(1)), sent(old)) == [2, 11, False, True]


KINDS = {
    "a dataclass": "import dataclasses\n@dataclasses.dataclass\nclass Kind:\n  x: int = 1\nvalue = Kind(2)",
    "an enumeration": "import enum\nclass Kind(enum.Enum):\n  A = 1\n  B = 2\nvalue = Kind.B",
    "a named tuple": "import typing\nclass Kind(typing.NamedTuple):\n  x: int = 1\nvalue = Kind(2)",
    "a class with slots": "class Kind:\n  __slots__ = 'x',\nvalue = Kind()\nvalue.x = 2",
    "an exception": "class Kind(Exception):\n  pass\nvalue = Kind(2)",
    "a subclass": "class Base:\n  pass\nclass Kind(Base):\n  y = property(lambda self: 2)\nvalue = Kind()",
    "a class": "class Kind:\n  pass\nvalue = Kind",
    "a function": "def Kind():\n  return 2\nvalue = Kind",
}


@pytest.mark.parametrize("source", KINDS.values(), ids=KINDS.keys())
def test_all_kinds_of_classes_are_defined_once(module: ByHand, in_worker: Any, source: str) -> None:
    module.define(source)
    first = sent(module.value)
    assert any(parts == (module.Kind,) for parts, *_ in _definitions._cache.values())
    assert sent(module.value) == first
    check = "_travel.loads(payloads[0]); from by_hand import Kind; result = Kind.__module__"
    assert in_worker(check, first) == "by_hand"


def test_arguments_beside_such_a_class_keep_their_buffers_out_of_band(module: ByHand) -> None:
    module.define(POINT)
    data, buffers = _travel.dump_call((module.Point(pickle.PickleBuffer(b"x" * 10_000)),), {}, False)
    assert len(buffers) == 1
    ((point,), _) = _travel.loads(data, buffers=buffers)
    assert bytes(point.x) == b"x" * 10_000
