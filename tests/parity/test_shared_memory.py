"""Shared memory: one body on the stdlib's classes and on ours, and one process of each on the same block."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing import shared_memory as stdlib
from pathlib import Path
from typing import Any

import pytest
from treadle import shared_memory as ours

Make = Callable[..., Any]
FOLDER = Path("/dev/shm")


@pytest.fixture(params=[stdlib, ours], ids=["stdlib", "treadle"])
def module(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def make(module: Any) -> Iterator[Make]:
    """Makes blocks, which are closed and unlinked at the end."""
    made: list[Any] = []

    def make(name: str | None = None, size: int = 512) -> Any:
        made.append(module.SharedMemory(name, create=True, size=size))
        return made[-1]

    yield make
    for memory in made:
        memory.close()
        with contextlib.suppress(FileNotFoundError):
            memory.unlink()


def error_of(call: Callable[[], Any]) -> tuple[type[BaseException], str]:
    with pytest.raises(Exception) as caught:
        call()
    return caught.type, str(caught.value)


ARGUMENTS: dict[str, dict[str, Any]] = {
    "size 0": {"create": True, "size": 0},
    "no size": {"create": True},
    "negative size": {"create": True, "size": -1},
    "negative size, attaching": {"name": "x", "size": -1},
    "no name": {},
    "nothing there": {"name": "treadle-test-nothing"},
    "an empty name": {"name": ""},
    "only slashes": {"name": "//"},
    "a slash inside": {"name": "a/b"},
    "a folder": {"name": "."},
    "the folder above": {"name": ".."},
    "a name too long": {"name": "x" * 256},
    "a name too long, making": {"name": "x" * 256, "create": True, "size": 1},
    "a slash inside, making": {"name": "a/b", "create": True, "size": 1},
    "a surrogate": {"name": "a\udc80"},
    "a number as name": {"name": 5},
}


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_bad_arguments_raise_the_stdlibs_errors(kind: str) -> None:
    arguments = ARGUMENTS[kind]
    expected = error_of(lambda: stdlib.SharedMemory(**arguments))
    assert error_of(lambda: ours.SharedMemory(**arguments)) == expected


def test_a_name_of_255_characters_is_taken(make: Make) -> None:
    name = f"{os.getpid()}-".ljust(255, "x")
    assert make(name).name == name


def test_a_leading_slash_is_the_same_name(make: Make) -> None:
    name = f"treadle-test-{os.getpid()}"
    memory = make("/" + name)
    assert memory.name == "/" + name
    assert (FOLDER / name).exists()


def test_a_name_in_use_is_refused(make: Make, module: Any) -> None:
    memory = make()
    with pytest.raises(FileExistsError):
        module.SharedMemory(memory.name, create=True, size=10)


def test_a_truncated_block_is_a_value_error(make: Make, module: Any) -> None:
    memory = make()
    os.truncate(FOLDER / memory.name, 0)
    with pytest.raises(ValueError, match="cannot mmap an empty file"):
        module.SharedMemory(memory.name)


def test_unlinking_twice_is_an_error(make: Make) -> None:
    memory = make()
    memory.unlink()
    with pytest.raises(FileNotFoundError):
        memory.unlink()


def test_a_block_that_another_object_unlinked_can_not_be_unlinked(make: Make, module: Any) -> None:
    first = make()
    second = module.SharedMemory(first.name)
    second.unlink()
    second.close()
    first.close()
    with pytest.raises(FileNotFoundError):
        first.unlink()


def test_the_attributes_are_read_only_and_stay_after_close(make: Make) -> None:
    memory = make()
    for attribute in ("name", "size", "buf"):
        with pytest.raises(AttributeError):
            setattr(memory, attribute, None)
    name = memory.name
    memory.close()
    assert (memory.name, memory.size >= 512, memory.buf) == (name, True, None)
    memory.close()


def test_the_buffer_is_writable_bytes(make: Make) -> None:
    memory = make(size=512)
    buf = memory.buf
    assert (buf.format, buf.itemsize, buf.readonly, buf.contiguous, buf.ndim) == ("B", 1, False, True, 1)


class OfStdlib(stdlib.SharedMemory):
    extra = 1


class OfOurs(ours.SharedMemory):
    extra = 1


@pytest.mark.parametrize("cls", [OfStdlib, OfOurs])
def test_a_subclass_is_pickled_as_such(cls: Any) -> None:
    memory = cls(create=True, size=10)
    again = pickle.loads(pickle.dumps(memory))
    assert (type(again), again.name) == (cls, memory.name)
    again.close()
    memory.close()
    memory.unlink()


LISTS: list[list[Any]] = [
    [],
    [1, -2, 2**62],
    ["howdy", b"HoWdY", -273.154, 100, None, True, 42],
    ["x" * 8, "y" * 7, b"z" * 16, ""],
]


@pytest.mark.parametrize("items", LISTS)
def test_lists_have_one_layout(items: list[Any]) -> None:
    theirs = stdlib.ShareableList(items)
    mine = ours.ShareableList(items)
    try:
        assert bytes(mine.shm.buf) == bytes(theirs.shm.buf)[: mine.shm.size]
        assert mine.format == theirs.format
        assert repr(mine).partition(", name=")[0] == repr(theirs).partition(", name=")[0]
    finally:
        theirs.shm.close()
        theirs.shm.unlink()


# --- both on one block


CHILD = """
import sys
from {module} import SharedMemory
memory = SharedMemory(sys.argv[1])
memory.buf[:5] = b"hello"
memory.close()
"""


@pytest.mark.parametrize(
    ("here", "there"), [(stdlib, "treadle"), (ours, "multiprocessing.shared_memory")], ids=["stdlib", "treadle"]
)
def test_one_attaches_to_what_the_other_made(here: Any, there: str) -> None:
    memory = here.SharedMemory(create=True, size=512)
    subprocess.run([sys.executable, "-c", CHILD.format(module=there), memory.name], check=True, stderr=subprocess.PIPE)
    assert bytes(memory.buf[:5]) == b"hello"
    memory.close()
    with contextlib.suppress(FileNotFoundError):  # a tracker of the stdlib's may have done it
        memory.unlink()


def test_closing_ours_leaves_a_block_of_the_stdlibs() -> None:
    memory = stdlib.SharedMemory(create=True, size=10)
    ours.SharedMemory(memory.name).close()
    assert (FOLDER / memory.name).exists()
    memory.close()
    memory.unlink()
