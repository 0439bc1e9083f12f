"""The error names what can't travel, and the path to it."""

from __future__ import annotations

import functools
import math
import threading
from typing import Any

import pytest
from treadle import TravelError, _travel

ByHand = Any  # conftest.py's module, with whatever a test defines in it


class Slotted:
    __slots__ = ("lock",)


class Attributes:
    def __init__(self, **items: object) -> None:
        self.__dict__.update(items)


def slotted(lock: object) -> Slotted:
    made = Slotted()
    made.lock = lock  # type: ignore[attr-defined]
    return made


LOCK = threading.Lock()
PATHS = {
    "argument 1": ((LOCK,), {}),
    "argument 2": ((1, LOCK), {}),
    "argument 'key'": ((), {"key": LOCK}),
    "argument 1 ['x'].lock": (({"x": Attributes(lock=LOCK)},), {}),
    "argument 1 [2][0]": (([1, 2, (LOCK,)],), {}),
    "argument 1.lock": ((slotted(LOCK),), {}),
    "argument 1.args[0]": ((functools.partial(print, LOCK),), {}),
}


@pytest.mark.parametrize("path", PATHS)
def test_the_error_names_the_path_to_what_cannot_travel(path: str) -> None:
    with pytest.raises(TravelError) as caught:
        _travel.dump_call(*PATHS[path], False)  # type: ignore[arg-type]
    assert str(caught.value) == f"{path}: cannot pickle '_thread.lock' object"
    assert isinstance(caught.value.__cause__, TypeError)


def test_the_error_of_a_result_names_the_path() -> None:
    with pytest.raises(TravelError, match=r"the result \['a'\]: cannot pickle"):
        _travel.dump_result({"a": LOCK})


def test_the_error_of_a_function_names_the_global(module: ByHand) -> None:
    module.define(
        "import threading\nlock = threading.Lock()\ndef helper(): return lock\ndef function(): return helper()"
    )
    with pytest.raises(TravelError, match=r"the function 'function', its global 'helper', its global 'lock': cannot"):
        _travel.pack_function(module.function, False)


def test_the_error_of_a_closure_names_the_variable(module: ByHand) -> None:
    module.define("import threading\ndef make(lock):\n  def inner(): return lock\n  return inner")
    with pytest.raises(TravelError, match="its variable 'lock': cannot pickle"):
        _travel.pack_function(module.make(LOCK), False)


def test_a_cycle_ends_the_search() -> None:
    knot: list[Any] = [LOCK]
    knot.insert(0, knot)
    with pytest.raises(TravelError, match="argument 1"):
        _travel.dump_call((knot,), {}, False)


def test_an_object_that_refuses_says_why() -> None:
    class Refuses:
        def __reduce__(self) -> Any:
            raise RuntimeError("not me")

    with pytest.raises(TravelError, match="argument 1: not me"):
        _travel.dump_call((Refuses(),), {}, False)


def test_a_packed_call_loads() -> None:
    function, args = _travel.load_call(_travel.pack_call(math.pow, (2, 3), False))
    assert function(*args) == 8
