"""treadle.joblib.Memory where something is wrong: the right result or a warning, and never a wrong value."""

from __future__ import annotations

import errno
import os
import pickle
import random
import resource
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from treadle.joblib import CacheWarning, MemorizedResult, Memory, _memory_local

MakeMemory = Callable[..., Any]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeMemory]:
    """Memories in one folder, which this process closes at the end."""
    yield lambda **options: Memory(tmp_path, verbose=0, **options)
    _memory_local._handles.clear()


class Squares:
    """A function that counts its calls."""

    def __init__(self, memory: Any) -> None:
        self.calls: list[int] = []
        calls = self.calls

        def squares(count: int) -> Any:
            calls.append(count)
            return numpy.arange(count) ** 2

        self.cached = memory.cache(squares)
        self.expected = numpy.arange(1000) ** 2

    def is_right(self) -> bool:
        return bool((self.cached(1000) == self.expected).all())


def entry_files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("treadle/store-1/??/*") if not path.name.endswith("0" * 32)]


# --- damaged entries


@pytest.mark.parametrize("mode", [None, "r", "c"])
def test_a_damaged_entry_is_computed_anew(make: MakeMemory, tmp_path: Path, rng: random.Random, mode: str) -> None:
    squares = Squares(make(mmap_mode=mode))
    assert squares.is_right()
    for _ in range(20):
        (file,) = entry_files(tmp_path)
        data = bytearray(file.read_bytes())
        bit = rng.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
        write_anew(file, bytes(data))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert squares.is_right()
        assert [one.category for one in caught] == [CacheWarning] and "computed anew" in str(caught[0].message)
        assert squares.is_right()


@pytest.mark.parametrize("left", [0, 1, 63, 64, 4095, -1])
def test_a_torn_entry_is_computed_anew(make: MakeMemory, tmp_path: Path, left: int) -> None:
    squares = Squares(make())
    assert squares.is_right()
    (file,) = entry_files(tmp_path)
    write_anew(file, file.read_bytes()[:left])
    with pytest.warns(CacheWarning, match="computed anew"):
        assert squares.is_right()
    assert len(squares.calls) == 2
    assert squares.is_right() and len(squares.calls) == 2


@pytest.mark.parametrize("mode", [None, "r"])
def test_what_can_neither_be_read_nor_removed_is_computed_anew(make: MakeMemory, tmp_path: Path, mode: str) -> None:
    squares = Squares(make(mmap_mode=mode))
    assert squares.is_right()
    (file,) = entry_files(tmp_path)
    file.unlink()
    (file / "folder").mkdir(parents=True)
    with pytest.warns(CacheWarning, match="computed anew"):
        assert squares.is_right()
    assert squares.is_right()
    assert len(squares.calls) == 2


def test_only_the_head_is_looked_at_where_that_is_asked_for(make: MakeMemory, tmp_path: Path) -> None:
    squares = Squares(make(verify="header"))
    squares.cached(100_000)
    (file,) = entry_files(tmp_path)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    write_anew(file, bytes(data))
    assert squares.cached(100_000)[-1] != 99_999**2
    write_anew(file, bytes(data[:-1]))
    with pytest.warns(CacheWarning, match="computed anew"):
        assert squares.cached(100_000)[-1] == 99_999**2


def test_what_another_version_has_left_is_computed_anew(make: MakeMemory) -> None:
    memory = make()
    squares = Squares(memory)
    store = _memory_local.handle(memory.store_backend.place)
    assert squares.is_right()
    for number, left in enumerate([[], [b"{}"], [b"{}", b"garbage"], [b"no json", b"garbage", b""]]):
        for key, *_ in store.entries():
            store.put(key, left, "code" if key.endswith(bytes(16)) else ("pickle", "pickle+zstd")[number % 2])
        assert not memory.explain(squares.cached, 7).hit
        with pytest.warns(CacheWarning, match="computed anew"):
            assert squares.is_right()
        assert squares.is_right()
        assert len(squares.calls) == 2 + number


def write_anew(file: Path, data: bytes) -> None:
    """Another file in the place of an entry's: what mapped the first one keeps it."""
    file.unlink()
    file.write_bytes(data)


def test_a_reference_to_a_damaged_entry_says_so(make: MakeMemory, tmp_path: Path) -> None:
    squares = Squares(make())
    shelved = squares.cached.call_and_shelve(1000)
    (file,) = entry_files(tmp_path)
    write_anew(file, b"garbage")
    with pytest.raises(KeyError, match="is corrupted"):
        shelved.get()


class Gone:
    """Its class may not be there any more when it is read."""


def test_a_result_that_cannot_be_read_is_computed_anew(make: MakeMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    kept = Gone

    def make_one() -> Any:
        calls.append(1)
        return kept()

    cached = make().cache(make_one)
    cached()
    monkeypatch.delitem(globals(), "Gone")
    with pytest.warns(CacheWarning) as caught:
        assert isinstance(cached(), kept)
    assert "computed anew" in str(caught[0].message)
    assert "can't be pickled" in str(caught[1].message)
    assert len(calls) == 2


# --- results and arguments


def test_a_result_that_cannot_be_pickled_is_returned(make: MakeMemory) -> None:
    cached = make().cache(lambda: threading.Lock())
    for _ in range(2):
        with pytest.warns(CacheWarning, match="can't be pickled"):
            assert cached().acquire(False)
    with pytest.warns(CacheWarning):
        shelved = cached.call_and_shelve()
    assert not isinstance(shelved, MemorizedResult) and shelved.get().acquire(False)


def test_an_argument_that_cannot_be_pickled_is_an_error(make: MakeMemory) -> None:
    with pytest.raises(pickle.PicklingError, match="while hashing"):
        make().cache(len)([threading.Lock()])


class Restless:
    """Says something else about itself each time."""

    def __init__(self) -> None:
        self.looks = 0

    def __reduce__(self) -> Any:
        self.looks += 1
        return Restless, (), {"looks": self.looks}


def test_what_changes_meanwhile_is_computed_and_not_kept(make: MakeMemory) -> None:
    memory = make()
    cached = memory.cache(lambda value: 1)
    with pytest.warns(CacheWarning, match="arguments have changed"):
        assert cached(Restless()) == 1
    assert memory.store_backend.get_items() == []


class Grows:
    """Lets a list grow while it is read."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def __reduce__(self) -> Any:
        self.values.append(1)
        return list, ()


def test_a_list_that_grows_while_it_is_read_is_computed_and_not_kept(make: MakeMemory) -> None:
    memory = make()
    values: list[Any] = [(1, 2)]
    values.append(Grows(values))
    with pytest.warns(CacheWarning, match="arguments have changed"):
        assert memory.cache(len)(values) == len(values)
    assert memory.store_backend.get_items() == []
    assert not memory.cache(len).check_call_in_cache(values)


class NoText:
    def __repr__(self) -> str:
        raise LookupError("no text")


def test_arguments_without_a_text_are_no_obstacle(make: MakeMemory, tmp_path: Path) -> None:
    cached = make().cache(lambda *given: len(given))
    for _ in range(2):
        assert cached(NoText(), 10**5000) == 2
    (file,) = entry_files(tmp_path)
    write_anew(file, b"garbage")
    with pytest.warns(CacheWarning, match="computed anew"):
        assert cached(NoText(), 10**5000) == 2


def test_a_callbacks_error_is_the_callers(make: MakeMemory) -> None:
    def refuse(metadata: dict[str, Any]) -> bool:
        raise LookupError(metadata["func"])

    cached = make().cache(len, cache_validation_callback=refuse)
    assert cached([1]) == 1
    with pytest.raises(LookupError):
        cached([1])


def test_a_function_may_change_its_arguments(make: MakeMemory) -> None:
    calls: list[int] = []

    def sort(values: list[int]) -> list[int]:
        calls.append(1)
        values.sort()
        return values

    cached = make().cache(sort)
    assert [cached([3, 1, 2]) for _ in range(2)] == [[1, 2, 3]] * 2
    assert len(calls) == 1


# --- folders


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_what_cannot_be_written_is_returned(make: MakeMemory, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    memory = make()
    squares = Squares(memory)

    class Full:
        def __init__(self, store: Any) -> None:
            self.store = store

        def put(self, *_: object) -> None:
            raise OSError(number, os.strerror(number))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.store, name)

    handle = _memory_local.handle
    monkeypatch.setattr(_memory_local, "handle", lambda place: Full(handle(place)))
    with pytest.warns(CacheWarning, match="Unable to cache"):
        assert squares.is_right()
    monkeypatch.undo()
    assert squares.is_right() and squares.is_right()
    assert len(squares.calls) == 2


class Stuck:
    """A store that nothing can be removed from."""

    def __init__(self, store: Any) -> None:
        self.store = store

    def drop(self, *_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


def test_what_is_not_valid_and_cannot_be_removed_is_computed_anew(
    make: MakeMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def double(x: int) -> int:
        calls.append(x)
        return 2 * x

    cached = make().cache(double, cache_validation_callback=lambda metadata: False)
    handle = _memory_local.handle
    monkeypatch.setattr(_memory_local, "handle", lambda place: Stuck(handle(place)))
    assert [cached(3) for _ in range(3)] == [6] * 3
    assert calls == [3] * 3


def test_who_computes_lets_go_where_it_began(make: MakeMemory, tmp_path: Path) -> None:
    way = make().cache(abs)._way
    call = way.look((-3,), {})
    role = way.enter(call)
    store = _memory_local.handle(way.store.place)
    shutil.rmtree(tmp_path / "treadle")
    make()
    assert _memory_local.handle(way.store.place) is not store
    way.leave(call, role)
    assert store.enter(call.key, 0.0, owner=5) == role
    store.leave(call.key, owner=5)


def test_a_limit_on_files_is_a_full_disk(make: MakeMemory, tmp_path: Path) -> None:
    squares = Squares(make())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, before[1]))
    try:
        with pytest.warns(CacheWarning, match="Unable to cache"):
            assert squares.is_right()
        assert squares.cached(2).tolist() == [0, 1]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(entry_files(tmp_path)) == 1 and not list(tmp_path.glob("treadle/store-1/tmp/*"))
    assert squares.is_right() and squares.is_right()
    assert squares.calls == [1000, 2, 1000]


def test_a_folder_that_is_removed_is_made_again(make: MakeMemory, tmp_path: Path) -> None:
    squares = Squares(make())
    assert squares.is_right()
    shutil.rmtree(tmp_path / "treadle")
    assert squares.is_right() and squares.is_right()
    assert len(squares.calls) == 2
    shutil.rmtree(tmp_path / "treadle")
    again = Squares(make())
    assert again.is_right() and again.is_right()
    assert len(again.calls) == 1


def test_a_folder_that_others_can_write_to_is_refused(make: MakeMemory, tmp_path: Path) -> None:
    folder = tmp_path / "treadle"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(PermissionError, match="another user"):
        make()
    squares = Squares(make(shared=True))
    assert squares.is_right() and squares.is_right()
    assert len(squares.calls) == 1


def test_a_read_only_folder_has_hits_and_keeps_nothing(
    make: MakeMemory, tmp_path: Path, obeying_permissions: Any
) -> None:
    memory = make()
    squares = Squares(memory)
    assert squares.is_right()
    places = [path for path in (tmp_path / "treadle").rglob("*") if path.is_dir()] + [tmp_path / "treadle"]
    _memory_local._handles.clear()
    for place in places:
        place.chmod(0o500)
    try:
        with obeying_permissions:
            assert squares.is_right() and len(squares.calls) == 1
            with pytest.warns(CacheWarning, match="Unable to cache"):
                assert len(squares.cached(2000)) == 2000
    finally:
        for place in places:
            place.chmod(0o700)


def test_other_versions_of_the_store_are_left_alone(make: MakeMemory, tmp_path: Path) -> None:
    other = tmp_path / "treadle" / "store-0"
    other.mkdir(parents=True, mode=0o700)
    (tmp_path / "treadle").chmod(0o700)
    (other / "file").write_text("theirs")
    memory = make()
    squares = Squares(memory)
    assert squares.is_right() and squares.is_right()
    memory.clear(warn=False)
    memory.reduce_size(items_limit=0)
    assert (other / "file").read_text() == "theirs"
