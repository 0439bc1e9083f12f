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
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from treadle import _byvalue, _definitions, _findable, _travel

ByHand = Any  # conftest.py's module, with whatever a test defines in it


def pack(function: Any) -> bytes:
    return _travel.pack_function(function, False)[0]


def key(function: Any) -> Any:
    return _travel.pack_function(function, False)[1]


def in_worker(source: str, *payloads: bytes) -> Any:
    """Runs the source in a fresh interpreter, `payloads` at hand; gives back what it leaves in `result`, by JSON."""
    program = "import json, sys\nfrom treadle import _travel, _byvalue\n"
    program += f"payloads = {list(payloads)!r}\nload = _travel.load_function\n"
    program += textwrap.dedent(source) + "\nprint(json.dumps(result))\n"
    path = {"PYTHONPATH": ":".join(entry for entry in sys.path if entry)}
    done = subprocess.run([sys.executable, "-c", program], env=path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


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


def test_a_function_takes_its_globals_defaults_and_closure_along(module: ByHand) -> None:
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


def test_functions_may_refer_to_themselves_and_to_each_other(module: ByHand) -> None:
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


def test_closures_share_their_cells(module: ByHand) -> None:
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


def test_names_and_attributes_of_a_function_are_kept(module: ByHand) -> None:
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


def test_an_attribute_that_is_called_like_a_global_takes_nothing_along(module: ByHand) -> None:
    module.define("import threading\nlock = threading.Lock()\ndef function(x): return x.lock")
    pack(module.function)


def test_names_are_found_in_nested_code() -> None:
    source = "def f():\n  def g(): return [h(x) for x in A]\n  class K: y = B\n  global C, D\n  C = 1\n  del D"
    scope: dict[str, Any] = {}
    exec(source, scope)
    assert {"A", "B", "C", "D", "h"} <= set(_byvalue.global_names(scope["f"].__code__))


def test_functions_need_no_cloudpickle(module: ByHand) -> None:
    module.define("def helper(): return 1\ndef function(): return helper()")
    assert in_worker("load(payloads[0])(); result = 'cloudpickle' in sys.modules", pack(module.function)) is False


def test_a_function_of_an_importable_module_that_has_no_name_there_finds_its_globals() -> None:
    assert in_worker("result = load(payloads[0])()", pack(lambda: textwrap.dedent("  x"))) == "x"


def test_a_class_travels_by_value_and_is_bound_in_its_module(module: ByHand) -> None:
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


def test_functions_share_their_globals_in_the_worker(module: ByHand) -> None:
    module.define("state = None\ndef setup(): global state; state = 'ready'\ndef task(): return state")
    assert (
        in_worker("load(payloads[0])(); result = load(payloads[1])()", pack(module.setup), pack(module.task)) == "ready"
    )


def test_what_a_worker_made_of_a_global_is_kept_until_the_parent_changes_it(module: ByHand) -> None:
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


def test_a_version_that_is_used_again_has_its_own_globals(module: ByHand) -> None:
    module.define("value = 1\ndef task(): return value")
    first = pack(module.task)
    module.value = 2
    source = """
        first, refresh = _travel.load_for_worker(payloads[0])
        second, _ = _travel.load_for_worker(payloads[1])
        result = [first()]
        refresh()
        result.append(first())
    """
    assert in_worker(source, first, pack(module.task)) == [2, 1]


def test_a_mutable_global_that_the_parent_has_changed_in_place_is_seen(module: ByHand) -> None:
    module.define("items = [1]\ndef task(): return items")
    first = pack(module.task)
    module.items.append(2)
    assert in_worker("result = [load(p)() for p in payloads]", first, pack(module.task)) == [[1], [1, 2]]


@pytest.mark.parametrize(("before", "after"), [(-1, -2), (0, False), (1, 1.0), (0.0, -0.0), ("a", b"a")])
def test_values_that_hash_alike_are_told_apart(module: ByHand, before: object, after: object) -> None:
    module.define("def task(): return repr(value)")
    module.value = before
    first = pack(module.task)
    module.value = after
    assert in_worker("result = [load(p)() for p in payloads]", first, pack(module.task)) == [repr(before), repr(after)]


def test_a_changed_helper_is_seen_in_the_worker(module: ByHand) -> None:
    module.define("def helper(): return 1\ndef task(): return helper()")
    first = pack(module.task)
    module.define("def helper(): return 2")
    assert in_worker("result = [load(p)() for p in payloads]", first, pack(module.task)) == [1, 2]


# --- arguments whose classes travel by value


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


def test_a_worker_loads_the_definitions_of_a_class_once(module: ByHand) -> None:
    module.define(POINT)
    source = """
        first, second = [_travel.loads(p)[0][0] for p in payloads]
        first.__class__.seen = True
        third = _travel.loads(payloads[0])[0][0]
        result = [type(first) is type(second) is type(third), third.seen, second.moved().x]
    """
    assert in_worker(source, sent(module.Point(1)), sent(module.Point(2))) == [True, True, 3]


def test_a_changed_method_is_seen_in_arguments(module: ByHand) -> None:
    module.define(POINT)
    first = sent(module.Point(1))
    module.define("Point.moved = lambda self: Point(self.x + 100)")
    source = "result = [_travel.loads(p)[0][0].moved().x for p in payloads]"
    assert in_worker(source, first, sent(module.Point(1))) == [2, 101]


def test_a_class_that_is_defined_anew_is_another_one(module: ByHand) -> None:
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
def test_all_kinds_of_classes_are_defined_once(module: ByHand, source: str) -> None:
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
