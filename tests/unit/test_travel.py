"""What travels by name, what by value; what changes are seen; what can't travel is named.

Functions by value come from a module that this file makes by hand, as no fresh interpreter can import it. A worker is
played by a fresh interpreter that loads what was packed.
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
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from treadle import TravelError, _byvalue, _findable, _travel

Run = Callable[..., Any]


@pytest.fixture
def module() -> Iterator[ModuleType]:
    """A module that only this process knows."""
    made = ModuleType("by_hand")
    sys.modules["by_hand"] = made
    yield made
    del sys.modules["by_hand"]


def define(module: ModuleType, source: str) -> None:
    exec(compile(textwrap.dedent(source), "by_hand.py", "exec", dont_inherit=True), vars(module))


def pack(function: Any) -> bytes:
    return _travel.pack_function(function, False)[0]


def key(function: Any) -> Any:
    return _travel.pack_function(function, False)[1]


def in_worker(source: str, *payloads: bytes) -> Any:
    """Runs the source in a fresh interpreter, `payloads` at hand; gives back what it leaves in `result`, as JSON does."""
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


def test_a_module_made_by_hand_is_not_findable(module: ModuleType) -> None:
    assert not _findable.is_findable("by_hand")
    assert not _findable.is_findable("__main__")
    assert not _findable.is_findable("never_imported")


@pytest.mark.parametrize("name", ["json", "json.decoder", "sys", "os.path", "treadle._engine", "pytest"])
def test_installed_modules_are_findable(name: str) -> None:
    importlib.import_module(name)
    assert _findable.is_findable(name)


def test_a_module_that_replaces_another_is_looked_at_anew(module: ModuleType) -> None:
    assert not _findable.is_findable("by_hand")
    sys.modules["by_hand"] = json
    try:
        _findable.is_findable("by_hand")
        assert _findable._known["by_hand"][0] is json
    finally:
        sys.modules["by_hand"] = module


# --- by value


def test_a_function_takes_its_globals_defaults_and_closure_along(module: ModuleType) -> None:
    define(
        module,
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


def test_functions_may_refer_to_themselves_and_to_each_other(module: ModuleType) -> None:
    define(
        module,
        """
        def even(n): return True if n == 0 else odd(n - 1)
        def odd(n): return False if n == 0 else even(n - 1)
        def outer():
            def countdown(n): return 0 if n == 0 else countdown(n - 1)
            return countdown
        """,
    )
    assert in_worker("result = [load(p)(11) for p in payloads]", pack(module.even), pack(module.outer())) == [False, 0]


def test_closures_share_their_cells(module: ModuleType) -> None:
    define(
        module,
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


def test_names_and_attributes_of_a_function_are_kept(module: ModuleType) -> None:
    define(
        module,
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


def test_an_attribute_that_is_called_like_a_global_takes_nothing_along(module: ModuleType) -> None:
    define(module, "import threading\nlock = threading.Lock()\ndef function(x): return x.lock")
    pack(module.function)


def test_names_are_found_in_nested_code() -> None:
    source = "def f():\n  def g():\n    return [h(x) for x in A]\n  class K:\n    y = B\n  global C\n  C = 1\n  del D\n  global D"
    source = source.replace("  del D\n  global D", "  global D\n  del D")
    scope: dict[str, Any] = {}
    exec(source, scope)
    assert {"A", "B", "C", "D", "h"} <= set(_byvalue.global_names(scope["f"].__code__))


def test_functions_need_no_cloudpickle(module: ModuleType) -> None:
    define(module, "def helper(): return 1\ndef function(): return helper()")
    assert in_worker("load(payloads[0])(); result = 'cloudpickle' in sys.modules", pack(module.function)) is False


def test_a_function_of_an_importable_module_that_has_no_name_there_finds_its_globals() -> None:
    assert in_worker("result = load(payloads[0])()", pack(lambda: textwrap.dedent("  x"))) == "x"


def test_a_class_travels_by_value_and_is_bound_in_its_module(module: ModuleType) -> None:
    define(
        module,
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


def test_an_instance_comes_back_as_one_of_the_parents_own_class(module: ModuleType) -> None:
    define(module, "class Point:\n  pass")

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


def test_results_travel_by_name_because_the_parent_has_all_modules(module: ModuleType) -> None:
    define(module, "class Point:\n  pass")
    assert len(_travel.dump_result(module.Point())[0]) < 100


def test_large_buffers_stay_out_of_band_by_value_too(module: ModuleType) -> None:
    define(module, "class Holder:\n  def __init__(self, data): self.data = data")
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


def test_functions_share_their_globals_in_the_worker(module: ModuleType) -> None:
    define(module, "state = None\ndef setup(): global state; state = 'ready'\ndef task(): return state")
    assert (
        in_worker("load(payloads[0])(); result = load(payloads[1])()", pack(module.setup), pack(module.task)) == "ready"
    )


def test_what_a_worker_made_of_a_global_is_kept_until_the_parent_changes_it(module: ModuleType) -> None:
    define(
        module,
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


def test_a_version_that_is_used_again_has_its_own_globals(module: ModuleType) -> None:
    define(module, "value = 1\ndef task(): return value")
    first = pack(module.task)
    module.value = 2  # type: ignore[attr-defined]
    source = """
        first, refresh = _travel.load_for_worker(payloads[0])
        second, _ = _travel.load_for_worker(payloads[1])
        result = [first()]
        refresh()
        result.append(first())
    """
    assert in_worker(source, first, pack(module.task)) == [2, 1]


def test_a_mutable_global_that_the_parent_has_changed_in_place_is_seen(module: ModuleType) -> None:
    define(module, "items = [1]\ndef task(): return items")
    first = pack(module.task)
    module.items.append(2)
    assert in_worker("result = [load(p)() for p in payloads]", first, pack(module.task)) == [[1], [1, 2]]


@pytest.mark.parametrize(("before", "after"), [(-1, -2), (0, False), (1, 1.0), (0.0, -0.0), ("a", b"a")])
def test_values_that_hash_alike_are_told_apart(module: ModuleType, before: object, after: object) -> None:
    define(module, "def task(): return repr(value)")
    module.value = before  # type: ignore[attr-defined]
    first = pack(module.task)
    module.value = after  # type: ignore[attr-defined]
    assert in_worker("result = [load(p)() for p in payloads]", first, pack(module.task)) == [repr(before), repr(after)]


def test_a_changed_helper_is_seen_in_the_worker(module: ModuleType) -> None:
    define(module, "def helper(): return 1\ndef task(): return helper()")
    first = pack(module.task)
    define(module, "def helper(): return 2")
    assert in_worker("result = [load(p)() for p in payloads]", first, pack(module.task)) == [1, 2]


# --- the watch: a function that has not changed is not packed again


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
}
WATCHED = """
import math
value = 1
deep = 1
def late_is(): return late
def helper(): return deep
def make():
    cell = 1
    def function(x=1, *, k=1):
        return cell, value, helper(), late_is, math.pi
    def setter(new):
        nonlocal cell
        cell = new
    function.mark = 1
    return function, setter
function, setter = make()
"""


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_watch_sees_every_change(module: ModuleType, change: str) -> None:
    define(module, WATCHED)
    before, watch = _travel.pack_function(module.function, False)
    assert watch.holds()
    define(module, change)
    assert not watch.holds()
    assert pack(module.function) != before


def test_a_watch_holds_while_nothing_changes(module: ModuleType) -> None:
    define(module, WATCHED)
    before, watch = _travel.pack_function(module.function, False)
    module.unrelated = 1  # type: ignore[attr-defined]
    module.function()
    assert watch.holds()
    assert pack(module.function) == before


UNWATCHABLE = {
    "a list": "value = [1]",
    "a dict in a tuple": "value = (1, {})",
    "an object": "value = object()",
    "a class by value": "class value: pass",
    "a bound method": "value = [].append",
}


@pytest.mark.parametrize("source", UNWATCHABLE.values(), ids=UNWATCHABLE.keys())
def test_what_may_change_unseen_is_packed_at_each_call(module: ModuleType, source: str) -> None:
    define(module, source)
    define(module, "def function(): return value\ndef outer(): return function()")
    assert key(module.function) is None
    assert key(module.outer) is None


def test_a_watch_takes_only_what_it_can_watch() -> None:
    from treadle._engine import Watch

    with pytest.raises(TypeError):
        Watch([1])
    with pytest.raises(TypeError):
        Watch(({},))


# --- what can't travel


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


def test_the_error_of_a_function_names_the_global(module: ModuleType) -> None:
    define(
        module, "import threading\nlock = threading.Lock()\ndef helper(): return lock\ndef function(): return helper()"
    )
    with pytest.raises(TravelError, match=r"the function 'function', its global 'helper', its global 'lock': cannot"):
        pack(module.function)


def test_the_error_of_a_closure_names_the_variable(module: ModuleType) -> None:
    define(module, "import threading\ndef make(lock):\n  def inner(): return lock\n  return inner")
    with pytest.raises(TravelError, match="its variable 'lock': cannot pickle"):
        pack(module.make(LOCK))


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
