"""treadle.joblib.hash(..., "xxh3_128") of what is not plain: NaNs, arrays of all kinds, frames, rings, functions."""

from __future__ import annotations

import functools
import pickle
import sys
import threading
from fractions import Fraction
from typing import Any

import numpy
import pytest
from treadle.joblib import hash as joblib_hash

pytest.importorskip("xxhash")

fast = functools.partial(joblib_hash, hash_name="xxh3_128")


class Point:
    def __init__(self, x: object, y: object) -> None:
        self.x = x
        self.y = y


def named(x: int) -> int:
    return x


def test_zeros_have_signs_and_nans_are_what_they_are() -> None:
    assert fast(0.0) != fast(-0.0)
    assert fast(float("nan")) == fast(float("nan"))
    assert fast((1, float("nan"))) == fast((1, float("nan")))
    assert fast(numpy.array([0.0])) != fast(numpy.array([-0.0]))
    assert fast(numpy.array([numpy.nan])) == fast(numpy.array([numpy.nan]))
    assert fast({float("nan"): 1}) == fast({float("nan"): 1})


def test_types_that_compare_equal_are_told_apart() -> None:
    alike = [1, True, 1.0, 1 + 0j, numpy.int64(1), numpy.float64(1), numpy.array(1), numpy.array([1]), Fraction(1)]
    assert len({fast(value) for value in alike}) == len(alike)
    assert len({fast([value]) for value in alike}) == len(alike)
    texts = ["a", b"a", bytearray(b"a"), numpy.str_("a"), numpy.array("a"), ("a",), ["a"], {"a"}, frozenset("a")]
    assert len({fast(value) for value in texts}) == len(texts)


def test_arrays_are_told_apart_by_dtype_shape_and_order_alone() -> None:
    array = numpy.arange(6.0).reshape(2, 3)
    others = [array.astype("f4"), array.astype(">f8"), array.view("i8"), array.reshape(3, 2), array.ravel(), array + 1]
    others += [numpy.asfortranarray(array), array.view("M8[s]"), array.view("V8")]
    assert len({fast(value) for value in (array, *others)}) == 1 + len(others)
    wide = numpy.zeros((2, 6))
    wide[:, ::2] = array
    assert fast(wide[:, ::2]) == fast(array) == fast(array.copy())


def test_the_padding_of_long_doubles_is_no_part_of_them() -> None:
    one, other = numpy.full(3, 1.5, numpy.longdouble), numpy.full(3, 2.5, numpy.longdouble)
    if numpy.finfo(numpy.longdouble).nmant == 63:
        other.view(numpy.uint8)[:] = 255
    other[:] = 1.5
    assert fast(one) == fast(other)
    assert fast(one) != fast(one + numpy.finfo(numpy.longdouble).eps)


def test_object_arrays_are_hashed_by_their_elements() -> None:
    make = [numpy.array([numpy.arange(i) for i in range(6)], dtype=object) for _ in range(2)]
    assert fast(make[0]) == fast(make[1])
    make[1][3] = numpy.arange(4)
    assert fast(make[0]) != fast(make[1])


def test_masked_arrays_are_hashed_with_their_masks() -> None:
    one, other = (numpy.ma.masked_array([1.0, 2.0], [0, 1]) for _ in range(2))
    assert fast(one) == fast(other)
    before = fast(one)
    assert one.fill_value == other.fill_value  # asking for it makes it part of the array's state
    assert fast(one) == before
    assert fast(one) != fast(numpy.ma.masked_array([1.0, 2.0], [1, 0]))
    assert fast(one) != fast(numpy.ma.masked_array([1.0, 2.0]))
    assert joblib_hash(one) != joblib_hash(numpy.ma.masked_array([1.0, 2.0], [1, 0]))


def test_sparse_matrices_are_hashed_by_their_values() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    one, other = (sparse.csr_matrix(numpy.eye(3)) for _ in range(2))
    before = fast(one)
    assert before == fast(other)
    assert one.has_sorted_indices and one.has_canonical_format  # which it remembers
    assert fast(one) == before
    other[0, 0] = 2
    assert fast(one) != fast(other)


def test_frames_are_hashed_by_their_values() -> None:
    pandas = pytest.importorskip("pandas")

    def make(categories: str = "xy", name: str = "b") -> Any:
        columns = {"a": [1.0, None], name: pandas.Categorical(["x", "y"], list(categories)), "c": ["u", "v"]}
        return pandas.DataFrame(columns, index=pandas.date_range("2020", periods=2))

    assert fast(make()) == fast(make())
    assert (
        len({fast(frame) for frame in (make(), make("xyz"), make("yx"), make(name="d"), make() + make()[["a"]])}) == 5
    )
    frame = make()
    frame["d"] = pandas.array([1, None], dtype="Int64")
    frame["e"] = frame.index - frame.index[0]
    before = fast(frame)
    # What these find is kept in the frame.
    assert frame.index.is_unique and frame["a"].sum() == 1.0 and frame["d"].hasnans and repr(frame) and repr(frame["e"])
    assert frame.index.get_loc(frame.index[1]) == 1 and frame.index.inferred_freq is None
    assert fast(frame) == before == fast(pickle.loads(pickle.dumps(frame)))


def test_what_contains_itself_has_a_hash() -> None:
    def ring(end: object) -> list[Any]:
        made: list[Any] = [1, end]
        made.append({"made": made})
        return made

    assert fast(ring(2)) == fast(ring(2))
    assert fast(ring(2)) != fast(ring(3))
    points = Point(1, None), Point(2, None)
    points[0].y, points[1].y = points[1], points[0]
    assert fast(points[0]) == fast(pickle.loads(pickle.dumps(points[0])))
    assert fast(points[0]) != fast(points[1])


def test_parts_that_are_met_often_are_read_once() -> None:
    deep: list[Any] = [1]
    for _ in range(200):
        deep = [deep, deep]
    assert fast(deep) == fast([deep[0], deep[1]])


def deep(depth: int, wrap: Any, end: object) -> Any:
    value: Any = end
    for _ in range(depth):
        value = wrap(value)
    return value


@pytest.mark.parametrize(
    "wrap",
    [
        lambda inner: [inner],
        lambda inner: (inner, inner),
        lambda inner: {"a": 1, "inner": inner},
        lambda inner: {(1, 2): inner},
        lambda inner: frozenset((inner, 1)),
        lambda inner: Point(inner, 2),
    ],
    ids=["list", "tuple", "dict", "keys", "frozenset", "object"],
)
def test_values_may_be_deeper_than_calls(wrap: Any) -> None:
    depth = 4 * sys.getrecursionlimit() if wrap(1) != frozenset((1,)) else 50  # a frozenset's own hash is recursive
    hashes = [fast(deep(depth + more, wrap, end)) for more, end in ((0, "x"), (0, "x"), (0, "y"), (1, "x"))]
    assert hashes[0] == hashes[1] and len(set(hashes)) == 3


def test_rings_may_be_longer_than_calls_are_deep() -> None:
    def ring(length: int, end: object) -> list[Any]:
        last: list[Any] = [end]
        made = deep(length, lambda inner: [inner], last)
        last.append(made)
        return made  # type: ignore[no-any-return]

    length = 4 * sys.getrecursionlimit()
    assert fast(ring(length, 1)) == fast(ring(length, 1))
    assert len({fast(ring(length, 1)), fast(ring(length, 2)), fast(ring(length + 1, 1))}) == 3


def test_functions_are_hashed_by_their_code() -> None:
    def adder(n: int) -> Any:
        return lambda x: x + n

    assert fast(adder(1)) == fast(adder(1))
    assert fast(adder(1)) != fast(adder(2))
    assert fast(lambda x: x + 1) != fast(lambda x: x + 2)
    assert fast(functools.partial(adder(1), 2)) != fast(functools.partial(adder(1), 3))
    assert fast(named) != fast(len)


def test_instances_of_local_classes_are_hashed_with_the_code_of_these() -> None:
    def make(n: int) -> Any:
        class Local:
            def value(self) -> int:
                return n

        return Local()

    assert fast(make(1)) == fast(make(1))
    assert fast(make(1)) != fast(make(2))


def test_what_cannot_be_pickled_has_no_hash() -> None:
    with pytest.raises(pickle.PicklingError, match="while hashing"):
        fast(threading.Lock())
    with pytest.raises(pickle.PicklingError, match="while hashing"):
        fast({"a": [iter(()), (x for x in ())]})


def test_a_container_that_changes_meanwhile_has_no_hash() -> None:
    changing: list[Any] = []

    class Changes:
        def __reduce__(self) -> Any:
            changing.append(1)
            return Changes, ()

    changing += [Changes(), Point(1, 2)]
    with pytest.raises(RuntimeError, match="changed while it was hashed"):
        fast(changing)
