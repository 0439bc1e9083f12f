"""What travels by name, what by value, and what becomes of it in the worker.

Functions by value come from a module that is made by hand (conftest.py), as no fresh interpreter can import it. A
worker is played by a fresh interpreter that loads what was packed.
"""

from __future__ import annotations

import functools
import importlib
import json
import math
import operator
import pickle
import sys
import textwrap
from typing import Any

import pytest
from treadle import _byvalue, _findable, _travel

ByHand = Any  # conftest.py's module, with whatever a test defines in it


def pack(function: Any) -> bytes:
    return _travel.pack_function(function, False)[0]


def sent(*args: Any) -> bytes:
    return _travel.dump_call(args, {}, False)[0]


# --- by name


@pytest.mark.parametrize("function", [json.dumps, math.sqrt, len, dict, operator.add, textwrap.TextWrapper])
def test_what_a_worker_can_import_travels_by_name_for_good(function: Any) -> None:
    data, how_long = _travel.pack_function(function, False)
    assert how_long is True
    assert len(data) < 100
    assert _travel.load_function(data) is function


def test_what_is_bound_to_data_is_packed_at_each_call() -> None:
    for function in (functools.partial(math.pow, 2), [3, 1].index, json.JSONEncoder().encode):
        data, how_long = _travel.pack_function(function, False)
        assert how_long is None
        assert callable(_travel.load_function(data))


def test_a_module_made_by_hand_is_not_findable(module: ByHand) -> None:
    assert not _findable.is_findable("by_hand")
    assert not _findable.is_findable("__main__")
    assert not _findable.is_findable("never_imported")


@pytest.mark.parametrize("name", ["json", "json.decoder", "sys", "os.path", "treadle._engine", "pytest"])
def test_installed_modules_are_findable(name: str) -> None:
    importlib.import_module(name)
    assert _findable.is_findable(name)


def test_a_module_that_replaces_another_is_looked_at_anew(module: ByHand) -> None:
    assert not _findable.is_findable("by_hand")
    sys.modules["by_hand"] = json
    try:
        _findable.is_findable("by_hand")
        assert _findable._known["by_hand"][0] is json
    finally:
        sys.modules["by_hand"] = module


# --- by value


def test_a_function_takes_its_globals_defaults_and_closure_along(module: ByHand, in_worker: Any) -> None:
    module.define(
        """
        factor = 3
        def helper(x): return x * factor
        def make(offset):
            def inner(x, add=10, *, more=100): return helper(x) + offset + add + more
            return inner
        function = make(1000)
        """,
    )
    assert in_worker("result = load(payloads[0])(7)", pack(module.function)) == 21 + 1000 + 10 + 100


def test_functions_may_refer_to_themselves_and_to_each_other(module: ByHand, in_worker: Any) -> None:
    module.define(
        """
        def even(n): return True if n == 0 else odd(n - 1)
        def odd(n): return False if n == 0 else even(n - 1)
        def outer():
            def countdown(n): return 0 if n == 0 else countdown(n - 1)
            return countdown
        """,
    )
    assert in_worker("result = [load(p)(11) for p in payloads]", pack(module.even), pack(module.outer())) == [False, 0]


def test_closures_share_their_cells(module: ByHand, in_worker: Any) -> None:
    module.define(
        """
        def make():
            count = 0
            def up():
                nonlocal count
                count += 1
            return up, lambda: count
        """,
    )
    data, _ = _travel.dump_call(module.make(), {}, False)
    assert in_worker("(up, get), _ = _travel.loads(payloads[0]); up(); up(); result = get()", data) == 2


def test_names_and_attributes_of_a_function_are_kept(module: ByHand, in_worker: Any) -> None:
    module.define(
        """
        def function(x: int) -> str:
            "What it does."
        function.mark = [1]
        """,
    )
    source = """
        f = load(payloads[0])
        result = [f.__name__, f.__qualname__, f.__module__, f.__doc__, f.mark, f.__annotations__['x'].__name__]
    """
    expected = ["function", "function", "by_hand", "What it does.", [1], "int"]
    assert in_worker(source, pack(module.function)) == expected


def test_a_cached_function_travels_with_an_empty_cache(module: ByHand, in_worker: Any) -> None:
    module.define(
        """
        import functools
        @functools.lru_cache(maxsize=100)
        def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
        def twice(n): return 2 * fib(n)
        """
    )
    module.fib(5)
    source = """
        fib, twice = map(load, payloads[:2])
        (sent,), _ = _travel.loads(payloads[2])
        result = [fib(50), fib.cache_info().currsize, twice(50), sent(10), fib.cache_parameters()["maxsize"]]
    """
    payloads = pack(module.fib), pack(module.twice), sent(module.fib)
    assert in_worker(source, *payloads) == [12586269025, 51, 2 * 12586269025, 55, 100]
    assert _travel.pack_function(module.fib, False)[1].holds()


def test_an_annotation_takes_nothing_along(module: ByHand, in_worker: Any) -> None:
    module.define(
        """
        import typing
        T = typing.TypeVar("T")
        class Kind: pass
        def function(a: Kind, b: T, c: int, d: "list[Kind]") -> Kind: return c
        """
    )
    source = "f = load(payloads[0]); result = [f(1, 2, 3, 4), sorted(f.__annotations__), 'cloudpickle' in sys.modules]"
    assert in_worker(source, pack(module.function)) == [3, ["c", "d"], False]


def test_a_type_variable_travels_by_value(module: ByHand, in_worker: Any) -> None:
    module.define(
        "import typing\nT = typing.TypeVar('T')\nclass Box(typing.Generic[T]): pass\ndef f(): return Box[T], T"
    )
    assert in_worker("result = repr(load(payloads[0])()[1])", pack(module.f)) == "~T"


def test_relative_imports_work_in_the_worker(module: ByHand, in_worker: Any) -> None:
    module.define("__package__ = 'json'\ndef function(): from .decoder import JSONDecoder as d; return d.__name__")
    assert in_worker("result = load(payloads[0])()", pack(module.function)) == "JSONDecoder"


def test_an_attribute_that_is_called_like_a_global_takes_nothing_along(module: ByHand) -> None:
    module.define("import threading\nlock = threading.Lock()\ndef function(x): return x.lock")
    pack(module.function)


def test_names_are_found_in_nested_code() -> None:
    source = "def f():\n  def g(): return [h(x) for x in A]\n  class K: y = B\n  global C, D\n  C = 1\n  del D"
    scope: dict[str, Any] = {}
    exec(source, scope)
    assert {"A", "B", "C", "D", "h"} <= set(_byvalue.global_names(scope["f"].__code__))


def test_functions_need_no_cloudpickle(module: ByHand, in_worker: Any) -> None:
    module.define("def helper(): return 1\ndef function(): return helper()")
    assert in_worker("load(payloads[0])(); result = 'cloudpickle' in sys.modules", pack(module.function)) is False


def test_a_function_of_an_importable_module_that_has_no_name_there_finds_its_globals(in_worker: Any) -> None:
    assert in_worker("result = load(payloads[0])()", pack(lambda: textwrap.dedent("  x"))) == "x"


def test_a_class_travels_by_value_and_is_bound_in_its_module(module: ByHand, in_worker: Any) -> None:
    module.define(
        """
        class Point:
            def __init__(self, x): self.x = x
            def double(self): return Point(2 * self.x)
        """,
    )
    data, _ = _travel.dump_call((module.Point(4),), {}, False)
    source = """
        import pickle
        (point,), _ = _travel.loads(payloads[0])
        copy = pickle.loads(pickle.dumps(point.double()))
        result = [copy.x, type(copy) is type(point), len(pickle.dumps(point)) < 100]
    """
    assert in_worker(source, data) == [8, True, True]


def test_an_instance_comes_back_as_one_of_the_parents_own_class(module: ByHand) -> None:
    module.define("class Point:\n  pass")

    def local() -> type:
        class Local:
            pass

        return Local

    for cls in (module.Point, local()):
        data, buffers = _travel.dump_call((cls(),), {}, False)
        (instance,), _ = _travel.loads(data, buffers=buffers)
        assert type(instance) is cls
        back, buffers = _travel.dump_result(instance)
        assert type(_travel.loads(back, buffers=buffers)) is cls


def test_results_travel_by_name_because_the_parent_has_all_modules(module: ByHand) -> None:
    module.define("class Point:\n  pass")
    assert len(_travel.dump_result(module.Point())[0]) < 100


def test_large_buffers_stay_out_of_band_by_value_too(module: ByHand) -> None:
    module.define("class Holder:\n  def __init__(self, data): self.data = data")
    data, buffers = _travel.dump_call((module.Holder(pickle.PickleBuffer(b"x" * 10_000)),), {}, False)
    assert len(buffers) == 1
    assert len(data) < 5000


class Registered:
    pass


def test_multiprocessings_own_reducers_are_used_where_it_is_loaded() -> None:
    from multiprocessing.reduction import ForkingPickler

    ForkingPickler.register(Registered, lambda thing: (str, ("from the reducer",)))
    try:
        data, _ = _travel.dump_call((Registered(),), {}, False)
    finally:
        del ForkingPickler._extra_reducers[Registered]
    assert _travel.loads(data)[0] == ("from the reducer",)


# --- globals in the worker


def test_functions_share_their_globals_in_the_worker(module: ByHand, in_worker: Any) -> None:
    module.define("state = None\ndef setup(): global state; state = 'ready'\ndef task(): return state")
    assert (
        in_worker("load(payloads[0])(); result = load(payloads[1])()", pack(module.setup), pack(module.task)) == "ready"
    )


def test_what_a_worker_made_of_a_global_is_kept_until_the_parent_changes_it(module: ByHand, in_worker: Any) -> None:
    module.define(
        """
        table = {}
        other = 1
        def setup(): table['k'] = 'v'
        def task(): return [table, other]
        """,
    )
    first = pack(module.setup), pack(module.task)
    module.other = 2
    second = pack(module.task)
    module.table = {"new": 1}
    third = pack(module.task)
    source = "load(payloads[0])(); result = [load(p)() for p in payloads[1:]]"
    expected = [[{"k": "v"}, 1], [{"k": "v"}, 2], [{"new": 1}, 2]]
    assert in_worker(source, *first, second, third) == expected


def test_a_version_that_is_used_again_has_its_own_globals(module: ByHand, in_worker: Any) -> None:
    module.define("value = 1\ndef task(): return value")
    first = pack(module.task)
    module.value = 2
    source = """
        first, refresh = _named.load_for_worker(payloads[0])
        second, _ = _named.load_for_worker(payloads[1])
        result = [first()]
        refresh()
        result.append(first())
    """
    assert in_worker(source, first, pack(module.task)) == [2, 1]


def test_a_mutable_global_that_the_parent_has_changed_in_place_is_seen(module: ByHand, in_worker: Any) -> None:
    module.define("items = [1]\ndef task(): return items")
    first = pack(module.task)
    module.items.append(2)
    assert in_worker("result = [load(p)() for p in payloads]", first, pack(module.task)) == [[1], [1, 2]]


@pytest.mark.parametrize(("before", "after"), [(-1, -2), (0, False), (1, 1.0), (0.0, -0.0), ("a", b"a")])
def test_values_that_hash_alike_are_told_apart(module: ByHand, in_worker: Any, before: object, after: object) -> None:
    module.define("def task(): return repr(value)")
    module.value = before
    first = pack(module.task)
    module.value = after
    assert in_worker("result = [load(p)() for p in payloads]", first, pack(module.task)) == [repr(before), repr(after)]


def test_a_changed_helper_is_seen_in_the_worker(module: ByHand, in_worker: Any) -> None:
    module.define("def helper(): return 1\ndef task(): return helper()")
    first = pack(module.task)
    module.define("def helper(): return 2")
    assert in_worker("result = [load(p)() for p in payloads]", first, pack(module.task)) == [1, 2]
