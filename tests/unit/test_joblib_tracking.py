"""What treadle.joblib.Memory sees of changed code: the functions that are called, small values, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from treadle.joblib import Memory, _memory_local, _tracking

SOURCE = '''
import functools
import numpy

LIMIT = 3
NAMES = ("a", "b")
TABLE = {"a": 1}


def helper(x):
    """Adds."""
    return x + LIMIT


def decorate(function):
    @functools.wraps(function)
    def wrapped(*args):
        return function(*args)

    return wrapped


@decorate
def decorated(x):
    return helper(x)


@functools.lru_cache
def remembered(x):
    return x * 2


class Shape:
    sides = 4

    def area(self, x):
        return self.scale(x) * self.sides

    def scale(self, x):
        return x

    def unused(self):
        return "unused"

    def show(self):
        return "shown"


def unrelated(x):
    return x


def top(x):
    return decorated(x) + remembered(x) + len(NAMES) + int(numpy.sum([x])) + TABLE["a"]


def draw(x):
    return Shape().area(x)


def loop(n):
    return n and other_loop(n - 1)


def other_loop(n):
    return n and loop(n - 1)


def late(x):
    import tracked_late

    return tracked_late.value(x)
'''


class Module:
    """A module that is written anew again and again."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "tracked.py"
        self.source = SOURCE
        self.loaded = self.load()

    def load(self) -> types.ModuleType:
        self.file.write_text(self.source)
        made = types.ModuleType("tracked")
        made.__file__ = str(self.file)
        exec(compile(self.source, str(self.file), "exec"), made.__dict__)
        sys.modules["tracked"] = made
        return made

    def change(self, *changes: tuple[str, str]) -> types.ModuleType:
        self.source = SOURCE
        for before, after in changes:
            assert before in self.source
            self.source = self.source.replace(before, after)
        return self.load()


@pytest.fixture
def module(tmp_path: Path) -> Iterator[Module]:
    yield Module(tmp_path)
    sys.modules.pop("tracked", None)


def digest(function: Any, transitive: bool = True) -> bytes:
    return _tracking.fingerprint(function, transitive).digest


SEEN = [
    ("top", ("x + LIMIT", "x - LIMIT")),
    ("top", ("LIMIT = 3", "LIMIT = 4")),
    ("top", ('("a", "b")', '("a", "b", "c")')),
    ("top", ("x * 2", "x * 3")),
    ("top", ("return function(*args)", "return function(*args) + 1")),
    ("draw", ("return x\n\n    def unused", "return x + 1\n\n    def unused")),
    ("draw", ("sides = 4", "sides = 5")),
    ("loop", ("n and loop(n - 1)", "n and loop(n - 2)")),
    ("helper", ("x + LIMIT", "x + LIMIT + 0")),
]
NOT_SEEN = [
    ("top", ('"""Adds."""', '"""Adds, and says so."""')),
    ("top", ('    """Adds."""\n', "")),
    ("top", ("LIMIT = 3", "# a comment\n\n\nLIMIT = 3")),
    ("top", ("def unrelated(x):\n    return x", "def unrelated(x):\n    return -x")),
    ("top", ('{"a": 1}', '{"a": 1, "b": 2}')),
    ("top", ("return x + LIMIT", "return (x  # why\n        + LIMIT)")),
    ("helper", ("return x * 2", "return x * 3")),
]


@pytest.mark.parametrize(("name", "change"), SEEN)
def test_a_change_of_what_is_called_is_seen(module: Module, name: str, change: tuple[str, str]) -> None:
    before = digest(getattr(module.loaded, name))
    assert digest(getattr(module.change(change), name)) != before
    assert digest(getattr(module.change(), name)) == before


@pytest.mark.parametrize(("name", "change"), NOT_SEEN)
def test_a_change_of_nothing_that_is_run_is_not_seen(module: Module, name: str, change: tuple[str, str]) -> None:
    before = digest(getattr(module.loaded, name))
    assert digest(getattr(module.change(change), name)) == before


def test_a_functions_own_code_is_all_that_joblibs_rule_looks_at(module: Module) -> None:
    before = [digest(module.loaded.top, False), digest(module.loaded.helper, False)]
    changed = module.change(("x + LIMIT", "x - LIMIT"))
    assert digest(changed.top, False) == before[0]
    assert digest(changed.helper, False) != before[1]


def test_of_a_bound_method_what_self_calls_is_seen(module: Module) -> None:
    before = digest(module.loaded.Shape().area)
    scaled = module.change(("return x\n\n    def unused", "return x + 1\n\n    def unused"))
    assert digest(scaled.Shape().area) != before
    assert digest(module.change(('"unused"', '"used"')).Shape().area) == before


def test_a_module_that_is_imported_by_the_call_is_seen_as_a_file(
    module: Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "tracked_late.py").write_text("def value(x):\n    return x\n")
    before = digest(module.loaded.late)
    assert "tracked_late" not in sys.modules
    (tmp_path / "tracked_late.py").write_text("def value(x):\n    return x + 1\n")
    assert digest(module.loaded.late) != before


def test_closures_are_seen_by_their_small_values(module: Module) -> None:
    def make(n: object) -> Callable[[], object]:
        return lambda: n

    assert digest(make(1)) == digest(make(1)) != digest(make(2))
    assert digest(make(module.loaded.helper)) != digest(make(module.loaded.unrelated))
    assert digest(make([1])) == digest(make([2]))
    assert digest(make("x" * 10_000)) == digest(make("y" * 10_000))
    found = _tracking.fingerprint(make([1])).untracked
    assert [reason for name, reason in found.items() if name.endswith("its variable n")] == ["a list, which is mutable"]


class Eager:
    """Has every attribute, and says which ones it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.asked.append(name)
        return self

    def __call__(self) -> None:
        """It can be called, too."""


def test_nothing_is_asked_of_what_a_function_refers_to() -> None:
    eager = Eager()
    found = _tracking.fingerprint(lambda: eager)
    assert eager.asked == [] and any("Eager" in reason for reason in found.untracked.values())


def test_what_a_function_assigns_itself_is_not_tracked() -> None:
    count = 0

    def counts() -> int:
        nonlocal count
        count += 1
        return count

    before = digest(counts)
    counts()
    assert digest(counts) == before
    assert "assigned by the code itself" in _tracking.fingerprint(counts).untracked.values()


def calls_by_name(thing: Any, name: str) -> Any:
    text = ", ".join(("a", "b"))
    return thing.first(text).second(name=name), getattr(thing, name)(), [each.third() for each in thing]


class Indirect:
    def known(self) -> int:
        return 1

    def run(self) -> Any:
        return self.known() + self.unknown()  # type: ignore[attr-defined]


def test_calls_of_what_only_a_run_knows_are_told_of() -> None:
    found = _tracking.fingerprint(calls_by_name).untracked
    assert list(found.values()) == ["only a run knows it"]
    (line,) = found
    assert set(line.partition(" calls as ")[2].split(", ")) == {".first()", ".second()", "getattr()", ".third()"}
    (line,) = _tracking.fingerprint(Indirect().run).untracked
    assert line.endswith("Indirect.run calls as .unknown()")


def test_a_line_of_calls_may_be_long(module: Module) -> None:
    count = 2 * sys.getrecursionlimit()
    source = "".join(f"def f{n}(x):\n    return f{n + 1}(x)\n\n\n" for n in range(count))
    digests = []
    for last in (1, 1, 2):
        exec(compile(source + f"def f{count}(x):\n    return {last}\n", "long.py", "exec"), vars(module.loaded))
        digests.append(digest(module.loaded.f0))
    assert digests[0] == digests[1] != digests[2]


def test_a_fingerprint_holds_until_something_is_rebound(module: Module) -> None:
    loaded = module.loaded
    for name, value in [("LIMIT", 4), ("helper", loaded.unrelated), ("NAMES", ()), ("remembered", loaded.helper)]:
        found = _tracking.fingerprint(loaded.top)
        assert found.holds()
        setattr(loaded, name, value)
        assert not found.holds()
    found = _tracking.fingerprint(loaded.unrelated)
    loaded.unrelated.__code__ = (lambda x: -x).__code__
    assert not found.holds()


# --- Memory


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Any]:
    yield Memory(tmp_path / "cache", verbose=0)
    _memory_local._handles.clear()


def test_changed_code_is_computed_anew_and_a_revert_hits(memory: Any, module: Module) -> None:
    changes = [[], [("x + LIMIT", "x - LIMIT")], [("LIMIT = 3", "LIMIT = 4")]]
    expected = []
    for change in changes:
        top = module.change(*change).top
        cached = memory.cache(top)
        assert not cached.check_call_in_cache(5)
        expected.append(cached(5))
        assert expected[-1] == top(5)
    assert len(set(expected)) == 3
    for change, value in zip(changes, expected, strict=True):
        cached = memory.cache(module.change(*change).top)
        assert cached.check_call_in_cache(5) and cached(5) == value


def test_a_rebound_global_is_seen_by_the_next_call(memory: Any, module: Module) -> None:
    cached = memory.cache(module.loaded.helper)
    for limit in (3, 10, 3, 10):
        module.loaded.LIMIT = limit
        assert cached(1) == 1 + limit


def test_instances_of_users_classes_are_arguments_with_their_code(memory: Any, module: Module) -> None:
    def measure(shape: Any) -> Any:
        return shape.area(2)

    assert memory.cache(measure)(module.loaded.Shape()) == 8
    assert memory.cache(measure)(module.change(("sides = 4", "sides = 5")).Shape()) == 10
    loose = Memory(memory.location, verbose=0, track="function").cache(measure)
    assert loose(module.change().Shape()) == 8
    assert loose(module.change(("sides = 4", "sides = 5")).Shape()) == 8


def test_explain_says_why(memory: Any, module: Module) -> None:
    cached = memory.cache(module.loaded.top)
    first = memory.explain(cached, 1)
    assert not first.hit and "no result of tracked/top is stored" in first.reason
    assert {"tracked.helper", "tracked.decorated", "tracked.LIMIT", "tracked.remembered"} <= set(first.tracked)
    assert first.untracked["tracked.TABLE"] == "a dict, which is mutable"
    cached(1)
    assert memory.explain(cached, 1).hit and memory.explain(module.loaded.top, x=1).hit
    other = memory.explain(cached, 2)
    assert not other.hit and "not with these arguments" in other.reason
    changed = module.change(("x + LIMIT", "x - LIMIT"))
    found = memory.explain(changed.top, 1)
    assert not found.hit and found.changed == ("tracked.helper",)
    assert "tracked.helper" in str(found) and str(found).startswith("miss: ")
    assert not memory.explain(changed.top, 1).hit
    assert "location is None" in memory.explain(Memory(None).cache(len), ()).reason


def test_a_scripts_functions_are_found_by_its_next_run(tmp_path: Path) -> None:
    source = """
        import sys
        from treadle.joblib import Memory

        LIMIT = 3
        LETTERS = frozenset(("a", "b", "c"))

        def helper(x):
            return x + LIMIT if "a" in LETTERS else 0

        @Memory(sys.argv[1], verbose=0).cache
        def f(x, names=frozenset(("u", "v"))):
            print("computed")
            return [helper(y) for y in range(x)]

        print(f(3))
    """
    outputs = []
    for seed, change in [("1", ""), ("2", ""), ("3", "\n\n# moved\n"), ("4", "")]:
        script = tmp_path / "script.py"
        text = change + "\n".join(line[8:] for line in source.splitlines())
        script.write_text(text.replace("LIMIT = 3", "LIMIT = 4") if seed == "4" else text)
        path = {**os.environ, "PYTHONPATH": ":".join(entry for entry in sys.path if entry), "PYTHONHASHSEED": seed}
        command = [sys.executable, str(script), str(tmp_path / "cache")]
        done = subprocess.run(command, env=path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    assert outputs == ["computed\n[3, 4, 5]\n", "[3, 4, 5]\n", "[3, 4, 5]\n", "computed\n[4, 5, 6]\n"]
