"""A function that travels by value is packed again exactly when something that it refers to has changed."""

from __future__ import annotations

from typing import Any

import pytest
from treadle import _travel

ByHand = Any  # conftest.py's module, with whatever a test defines in it


def pack(function: Any) -> bytes:
    return _travel.pack_function(function, False)[0]


def key(function: Any) -> Any:
    return _travel.pack_function(function, False)[1]


CHANGES = {
    "a global": "value = 2",
    "a global that was missing": "late = 1",
    "a global of a helper": "deep = 2",
    "a helper": "def helper(): return value + 1",
    "a helper's code": "helper.__code__ = (lambda: 5).__code__",
    "a default": "function.__defaults__ = (2,)",
    "a keyword default": "function.__kwdefaults__['k'] = 2",
    "an attribute": "function.mark = 2",
    "a new attribute": "function.other = 2",
    "the code": "function.__code__ = function.__code__.replace(co_name='renamed')",
    "the closure": "setter(2)",
    "a global that becomes mutable": "value = [1]",
    "an attribute of a class": "Class.number = 2",
    "a new attribute of a class": "Class.late = 2",
    "a method": "Class.method.__code__ = (lambda self: 5).__code__",
    "another method": "Class.method = lambda self: 5",
    "an attribute of a base": "Base.number = 2",
    "a global of a method": "deeper = 2",
}
WATCHED = """
import math
value = 1
deep = 1
def late_is(): return late
deeper = 1
def helper(): return deep
class Base: number = 1
class Class(Base):
    number = 1
    def method(self): return deeper
def make():
    cell = 1
    def function(x=1, *, k=1):
        return cell, value, helper(), late_is, math.pi, Class
    def setter(new):
        nonlocal cell
        cell = new
    function.mark = 1
    return function, setter
function, setter = make()
"""


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_watch_sees_every_change(module: ByHand, change: str) -> None:
    module.define(WATCHED)
    before, watch = _travel.pack_function(module.function, False)
    assert watch.holds()
    module.define(change)
    assert not watch.holds()
    assert pack(module.function) != before


def test_a_watch_holds_while_nothing_changes(module: ByHand) -> None:
    module.define(WATCHED)
    before, watch = _travel.pack_function(module.function, False)
    module.unrelated = 1
    module.function()
    assert watch.holds()
    assert pack(module.function) == before


UNWATCHABLE = {
    "a list": "value = [1]",
    "a dict in a tuple": "value = (1, {})",
    "an object": "value = object()",
    "an attribute of a class by value": "class value:\n  items = []",
    "a bound method": "value = [].append",
}


@pytest.mark.parametrize("source", UNWATCHABLE.values(), ids=UNWATCHABLE.keys())
def test_what_may_change_unseen_is_packed_at_each_call(module: ByHand, source: str) -> None:
    module.define(source)
    module.define("def function(): return value\ndef outer(): return function()")
    assert key(module.function) is None
    assert key(module.outer) is None


def test_a_watch_takes_only_what_it_can_watch() -> None:
    from treadle._engine import Watch

    with pytest.raises(TypeError):
        Watch([1])
    with pytest.raises(TypeError):
        Watch(({},))
