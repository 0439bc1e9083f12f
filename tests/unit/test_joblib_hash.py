"""treadle.joblib.hash: joblib's values, and fast ones: equal for equal values, in every process, and for no others."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import functools
import json
import math
import os
import pickle
import struct
import subprocess
import sys
import textwrap
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from treadle.joblib import hash as joblib_hash

pytest.importorskip("xxhash")

fast = functools.partial(joblib_hash, hash_name="xxh3_128")


class Colour(enum.Enum):
    RED = 1
    GREEN = 2


class Point:
    def __init__(self, x: object, y: object) -> None:
        self.x = x
        self.y = y

    def length(self) -> None:
        """A method."""


class Slots:
    __slots__ = ("a", "b")

    def __init__(self, a: object, b: object) -> None:
        self.a = a
        self.b = b


def named(x: int) -> int:
    return x


Pair = collections.namedtuple("Pair", "left right")


# --- joblib's own values

VALUES: list[Any] = [
    None, 1, -1, 2**70, 1.5, -0.0, 1j, "a", "é", b"x", True, (), (1, (2, [3])), [1, 1], {}, {"b": 1, "a": 2},
    {"a": 1, 1: 2, "d": {"a": 1}}, {1, "a", ("a", 1)}, set(), frozenset((1,)), decimal.Decimal("1.5"), Colour.RED,
    [Point(1, [2])] * 2, Point(1, 2).length, len, [1].append, math, named, Point, collections.OrderedDict(a=1),
    collections.deque((1, 2)), Pair(1, 2), range(3), datetime.date(2020, 1, 1), bytearray(b"x"), Fraction(1, 2),
    numpy.arange(6.0), numpy.arange(6.0).reshape(2, 3), numpy.asfortranarray(numpy.ones((2, 3))),
    numpy.ones((4, 4))[::2, 1:], numpy.array(3), numpy.array([]), numpy.array(["a", 1], object), numpy.float32(1.5),
    numpy.dtype("f8"), [numpy.dtype("i4"), numpy.dtype([("a", "i4"), ("b", "f8")])], numpy.array(["a", "bc"]),
    numpy.array(["2020-01-01"], "M8[D]"), numpy.zeros(2, "i4,f8"), {"a": numpy.ones(2), "b": [numpy.ones(2)]},
    numpy.ones((2, 2)).view(numpy.matrix),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{type(value).__name__} {str(value)[:20]!r}")
@pytest.mark.parametrize("algorithm", ["md5", "sha1"])
def test_a_value_has_the_hash_that_joblib_gives(value: Any, algorithm: str) -> None:
    joblib = pytest.importorskip("joblib")
    try:
        expected = joblib.hash(value, algorithm)
    except Exception as error:
        with pytest.raises(type(error)):
            joblib_hash(value, algorithm)
    else:
        assert joblib_hash(value, algorithm) == expected


def test_joblibs_values_need_no_joblib() -> None:
    """They are in joblib's own tests, since joblib 0.9.2."""
    source = """
        import json, sys
        sys.modules["joblib"] = None
        from treadle.joblib import hash
        print(json.dumps([hash("This is a string to hash"), hash({"abcde": 123, "sadfas": [-9999, 2, 3]})]))
    """
    known = ["71b3f47df22cb19431d85d92d0b230b2", "aeda150553d4bb5c69f0e69d51b0e2ef"]
    assert run(source) == known


def test_a_memmap_counts_as_an_array_where_that_is_asked_for(tmp_path: Any) -> None:
    mapped = numpy.memmap(tmp_path / "file", shape=(3, 3), mode="w+")
    array = numpy.asarray(mapped)
    for algorithm in ("md5", "xxh3_128"):
        assert joblib_hash(mapped, algorithm, True) == joblib_hash(array, algorithm, True)
        assert joblib_hash(mapped, algorithm) != joblib_hash(array, algorithm)


def test_there_are_no_other_algorithms() -> None:
    with pytest.raises(ValueError, match="Valid options for 'hash_name' are"):
        joblib_hash(1, "md4")


# --- equal values, and others

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers(), st.text(), st.binary(), st.just(...)
)
keys = st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.binary(), st.tuples(st.integers(), st.text()))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.dictionaries(keys, inner),
        st.sets(keys),
        st.frozensets(keys),
        st.builds(Point, inner, inner),
        st.builds(Slots, inner, inner),
    ),
    max_leaves=30,
)


def rebuilt(value: Any) -> Any:
    """An equal value, of which nothing is the same object and whose dicts and sets are in another order."""
    if isinstance(value, list | tuple):
        return type(value)(map(rebuilt, value))
    if isinstance(value, dict):
        return {rebuilt(key): rebuilt(item) for key, item in reversed(value.items())}
    if isinstance(value, set | frozenset):
        return type(value)(sorted(map(rebuilt, value), key=repr, reverse=True))
    if isinstance(value, Point):
        made = Point.__new__(Point)
        made.y, made.x = rebuilt(value.y), rebuilt(value.x)
        return made
    if isinstance(value, Slots):
        return Slots(rebuilt(value.a), rebuilt(value.b))
    return value if value is ... else pickle.loads(pickle.dumps(value))


@given(values)
def test_equal_values_have_equal_hashes(value: Any) -> None:
    assert fast(value) == fast(rebuilt(value))


@given(values)
def test_a_hash_is_that_of_the_value_wherever_it_stands(value: Any) -> None:
    assert fast([value, value]) == fast([value, rebuilt(value)])
    assert fast([value]) != fast(value)
    assert fast([value]) != fast((value,))


def spelled(value: Any) -> Any:
    """A value that is equal for equal bits of equal types alone: what a hash has to tell apart."""
    if isinstance(value, float):
        return "float", struct.pack("<d", value)
    if isinstance(value, complex):
        return "complex", struct.pack("<dd", value.real, value.imag)
    if isinstance(value, list | tuple):
        return type(value).__name__, tuple(map(spelled, value))
    if isinstance(value, dict):
        return "dict", frozenset((spelled(key), spelled(item)) for key, item in value.items())
    if isinstance(value, set | frozenset):
        return type(value).__name__, frozenset(map(spelled, value))
    if isinstance(value, Point):
        return "Point", spelled(value.x), spelled(value.y)
    if isinstance(value, Slots):
        return "Slots", spelled(value.a), spelled(value.b)
    return type(value).__name__, value


@given(values, values)
def test_hashes_are_equal_for_equal_values_alone(one: Any, other: Any) -> None:
    assert (fast(one) == fast(other)) == (spelled(one) == spelled(other))


@given(st.binary(min_size=1, max_size=300), st.data())
def test_one_bit_changed_changes_the_hash(data: bytes, choice: st.DataObject) -> None:
    bit = choice.draw(st.integers(0, 8 * len(data) - 1))
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    for kind in (bytes, bytearray, lambda given: numpy.frombuffer(given, numpy.uint8), list, int_of):
        assert fast(kind(data)) != fast(kind(changed))


def int_of(data: bytes | bytearray) -> int:
    return int.from_bytes(b"\1" + data, "little")


@given(st.integers(0, 8 * 100_000 - 1))
def test_one_bit_changed_in_a_large_buffer_changes_the_hash(bit: int) -> None:
    array = numpy.arange(12_500, dtype=numpy.int64)
    before = [fast(array), fast(array.tobytes()), fast([array, {"a": array.T}])]
    array.view(numpy.uint8)[bit // 8] ^= 1 << bit % 8
    after = [fast(array), fast(array.tobytes()), fast([array, {"a": array.T}])]
    assert all(one != other for one, other in zip(before, after, strict=True))


@given(st.lists(st.tuples(st.floats(), st.floats())))
def test_arrays_have_equal_hashes_for_equal_bits(pairs: list[tuple[float, float]]) -> None:
    arrays = [numpy.array([pair[side] for pair in pairs]) for side in (0, 1)]
    assert (fast(arrays[0]) == fast(arrays[1])) == (arrays[0].tobytes() == arrays[1].tobytes())


# --- the same in every process and version


def run(source: str, seed: str = "random") -> Any:
    path = {**os.environ, "PYTHONPATH": ":".join(entry for entry in sys.path if entry), "PYTHONHASHSEED": seed}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(source)], env=path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_hash_is_the_same_with_every_hash_seed() -> None:
    source = """
        import collections, decimal, enum, json, pathlib, random
        import numpy
        from treadle.joblib import hash
        class C(enum.Enum):
            A = "a"
        class P:
            def __init__(self, **given):
                self.__dict__.update(given)
        words = [str(number) for number in range(50)]
        values = [set(words), frozenset(words), dict.fromkeys(words, {"b", "a"})]
        values += [{frozenset(words): {1, "1", (1, "1")}}]
        values += [P(a={"x", "y"}, b=[P()]), C.A, {C.A, "a"}, P, len, [].append, random.Random(1)]
        values += [collections.Counter(words), collections.OrderedDict.fromkeys("cab"), pathlib.PurePath("a/b")]
        values += [decimal.Decimal("1.10"), {numpy.float64(1.5), "x"}, numpy.array([{"a", "b"}], object)]
        values += [lambda x: x in {"a", "b", "c"}]
        print(json.dumps([hash(value, "xxh3_128") for value in values]))
    """
    first = run(source, "1")
    assert first == run(source, "2") == run(source, "3")
    assert len(set(first)) == len(first)


def test_plain_values_have_these_hashes_on_every_python() -> None:
    array = numpy.arange(6, dtype="<f8").reshape(2, 3)
    known = {
        "none": None, "ints": (0, -1, 2**31, 2**63, -(2**100)), "floats": [0.0, -0.0, 1.5, float("inf")],
        "complex": 1j, "texts": ("", "é", "\U0001f600", "\ud800"), "bytes": b"\0\xff", "large": b"x" * 100_000,
        "long": list(range(100)),
        "dict": {"b": [1, {"c": 2}], "a": ()}, "mixed": {1: "a", "b": 2, (3,): None}, "set": {1, "a", (2, 3)},
        "frozenset": frozenset(("x", "y")), "bytearray": bytearray(b"abc"), "nested": [[[{}]], [()]],
        "bools": (True, False), "array": array, "fortran": numpy.asfortranarray(array), "scalar": numpy.float32(1.5),
        "dates": array.view("<M8[s]"), "words": numpy.array(["a", "bc"], "<U2"), "dtype": numpy.dtype("<i4"),
        "objects": numpy.array([1, "a", None], object),
    }  # fmt: skip
    assert {name: fast(value) for name, value in known.items()} == KNOWN


KNOWN = {
    "none": "626d368fe0e74b4f1a038927df1311d6",
    "ints": "b7c22e94f57a0dec0fbe3585099c4211",
    "floats": "ad0bf752f94aa9ee7df7079dfb326f75",
    "complex": "0de03d519420fa6f0a7c4c33c371e837",
    "texts": "6920539033d7ff1c42a151a929dd0015",
    "bytes": "4f617a14025afefecad10b9537cd27a4",
    "large": "df7ff26f84f48a6463040c45c39e5220",
    "long": "3ee108c30334379b4b099eb347c09904",
    "dict": "606e800ba2091be22dadf38d4d31f977",
    "mixed": "2c03de89d26f07cf34b8089d1348d565",
    "set": "266f885780c01f42b2a770d1573e5e8a",
    "frozenset": "7ca680abbafadd5e48b1c71b634c78c6",
    "bytearray": "c2b3eb904e5597aa0d8bcf568e360fcd",
    "nested": "966d47f23fe475393193aa4efdcbeeda",
    "bools": "8875a59eb78e7cf7c0d752054c787168",
    "array": "b00120a09a766b24bef69b73cf8888f3",
    "fortran": "b13ed1b4198bd4750bc116d9362f7205",
    "scalar": "9124ba402ae6e33fdcdf68d9a864eec3",
    "dates": "dd9ddb4d47fe5aa0f9a0a41906c43259",
    "words": "6de12ac7e722b507bb3ce4e0263a0a8b",
    "objects": "e92c51578b5968eb7d2f39e662924cce",
    "dtype": "abec8b92050b3c0b430db8426ea61af7",
}


def test_paths_and_dates_are_told_apart() -> None:
    alike = [PurePosixPath("a"), "a", datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1), decimal.Decimal("1.0")]
    alike += [decimal.Decimal("1.00"), Colour.RED, Colour.GREEN, collections.OrderedDict(a=1, b=2), {"a": 1, "b": 2}]
    alike += [collections.OrderedDict(b=2, a=1), collections.deque((1, 2)), collections.deque((1, 2), 5), Pair(1, 2)]
    assert len({fast(value) for value in alike}) == len(alike)
