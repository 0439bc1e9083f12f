"""`_engine.Store`: what is put is got, however it is asked for; and one computation for each key."""

from __future__ import annotations

import array
import contextlib
import gc
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import treadle
from treadle._engine import CYCLE, LANDED, LEADER, NOLOCKS, Store

KEY = b"sixteen bytes 16"
LARGE = bytes(range(256)) * 1000
MODES = (None, "r", "c")

# A fixture's store is there until after its test; that it goes is a test of its own.
pytestmark = pytest.mark.leaks_allowed("descriptors")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    yield Store(str(tmp_path / "cache"))
    gc.collect()


def content(store: Store, key: bytes = KEY, mode: str | None = None) -> list[bytes] | None:
    entry = store.get(key, mode)
    return None if entry is None else [bytes(part) for part in entry.parts]


def file_of(store: Store, key: bytes = KEY) -> Path:
    (path,) = Path(store.path).glob(f"store-1/*/{key.hex()}")
    return path


# --- getting and putting


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sizes", [[], [0], [1], [3, 0, 256_000, 1], [5_000_000]], ids=str)
def test_what_is_put_is_got(store: Store, sizes: list[int], mode: str | None) -> None:
    parts = [bytes(size) if size % 2 else (LARGE * 20)[:size] for size in sizes]
    assert content(store) is None
    size = store.put(KEY, parts, "a kind")
    entry = store.get(KEY, mode)
    assert entry is not None
    assert [bytes(part) for part in entry.parts] == parts
    assert all(part.readonly is (mode == "r") for part in entry.parts)
    assert entry.kind == "a kind"
    assert entry.nbytes == size == file_of(store).stat().st_size
    assert abs(entry.created_ns - time.time_ns()) < 3600e9
    assert entry.stamp


@pytest.mark.skipif(sys.version_info < (3, 12), reason="no class of Python's has a buffer")
def test_parts_may_change_while_their_buffers_are_asked_for(store: Store) -> None:
    class Clearing:
        def __buffer__(self, flags: int) -> memoryview:
            parts.clear()
            return memoryview(b"first")

    parts: list[Any] = [Clearing(), b"second", b"third"]
    store.put(KEY, parts)
    assert content(store) == [b"first", b"second", b"third"]


def test_any_contiguous_buffer_can_be_put(store: Store) -> None:
    numbers = array.array("d", range(1000))
    store.put(KEY, [numbers, bytearray(b"ab"), memoryview(b"xyz")[1:]])
    assert content(store) == [numbers.tobytes(), b"ab", b"yz"]
    with pytest.raises(BufferError):
        store.put(KEY, [memoryview(b"abcd")[::2]])
    with pytest.raises(TypeError):
        store.put(KEY, ["text"])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        store.put(KEY, 7)  # type: ignore[arg-type]
    assert content(store) == [numbers.tobytes(), b"ab", b"yz"]


@pytest.mark.parametrize("size", [100, len(LARGE)])
@pytest.mark.parametrize("mode", [None, "c"])
def test_what_is_written_to_a_part_nobody_else_sees(store: Store, mode: str | None, size: int) -> None:
    store.put(KEY, [LARGE[:size]])
    first, second = store.get(KEY, mode), store.get(KEY, mode)
    assert first
    assert second
    first.parts[0][:] = bytes(size)
    assert bytes(second.parts[0]) == LARGE[:size]
    assert content(store) == [LARGE[:size]]


@pytest.mark.parametrize("mode", MODES)
def test_a_view_outlives_entry_file_and_store(store: Store, tmp_path: Path, mode: str | None) -> None:
    other = Store(str(tmp_path / "other"))
    other.put(KEY, [b"small", LARGE])
    entry = other.get(KEY, mode)
    assert entry
    view = entry.parts[1]
    assert other.drop(KEY)
    assert not other.drop(KEY)
    del entry, other
    gc.collect()
    assert bytes(view) == LARGE


def test_an_entry_is_replaced_and_has_another_stamp(store: Store) -> None:
    store.put(KEY, [b"old"])
    old = store.get(KEY)
    store.put(KEY, [b"new"])
    new = store.get(KEY)
    assert old
    assert new
    assert old.stamp != new.stamp
    assert bytes(old.parts[0]) == b"old"
    assert bytes(new.parts[0]) == b"new"


def test_looking_is_no_use(store: Store) -> None:
    store.put(KEY, [b"x"])
    os.utime(file_of(store), ns=(10**18, 10**18))
    entry = store.peek(KEY)
    assert entry
    assert bytes(entry.parts[0]) == b"x"
    assert store.entries()[0][3] == 10**18
    assert store.get(KEY)
    assert store.entries()[0][3] > 10**18


def test_keys_modes_and_kinds_are_checked(store: Store) -> None:
    for key in (b"", bytes(33)):
        with pytest.raises(ValueError, match="1 to 32 bytes"):
            store.get(key)
    with pytest.raises(TypeError, match="a key is bytes"):
        store.get("text")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the mode is"):
        store.get(KEY, "r+")
    with pytest.raises(ValueError, match="16 bytes"):
        store.put(KEY, [], "k" * 17)
    with pytest.raises(ValueError, match="verify"):
        Store(store.path, verify="some")
    with pytest.raises(ValueError, match="negative"):
        Store(store.path, cap_bytes=-1)


def test_a_store_that_is_gone_leaves_no_descriptor(tmp_path: Path) -> None:
    def descriptors() -> set[str]:
        found = set()
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                found.add(os.readlink(f"/proc/self/fd/{name}"))
        return found

    first, second = Store(str(tmp_path)), Store(str(tmp_path))
    first.put(KEY, [LARGE])
    entry = first.get(KEY, "r")
    opened = {path for path in descriptors() if path.startswith(str(tmp_path))}
    assert len(opened) == 2
    del first
    assert opened <= descriptors()
    del second
    assert not any(path.startswith(str(tmp_path)) for path in descriptors())
    assert entry
    assert bytes(entry.parts[0]) == LARGE


# --- what is wrong


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [100, len(LARGE)])
def test_a_flipped_byte_is_reported_once_and_the_entry_gone(store: Store, mode: str | None, size: int) -> None:
    store.put(KEY, [LARGE[:size]])
    damaged = bytearray(file_of(store).read_bytes())
    damaged[-1] ^= 1
    file_of(store).write_bytes(damaged)
    assert store.verify() == (1, [KEY])
    with pytest.raises(treadle.CorruptEntry, match=KEY.hex()):
        store.get(KEY, mode)
    assert store.get(KEY, mode) is None
    assert store.verify() == (0, [])


def test_verify_removes_what_is_bad_when_asked(store: Store) -> None:
    for number in range(5):
        store.put(bytes([number]), [b"content"])
    os.truncate(file_of(store, b"\2"), 50)
    assert store.verify(remove=True) == (5, [b"\2"])
    assert store.verify() == (4, [])


def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(PermissionError, match="another user can write"):
        Store(str(tmp_path))
    Store(str(tmp_path), shared=True).put(KEY, [b"x"])


def test_what_is_made_is_this_users_alone(store: Store) -> None:
    store.put(KEY, [b"x"])
    for path in (Path(store.path), *Path(store.path).rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_what_cannot_be_opened_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file"):
        Store(str(tmp_path / "file"))
    with pytest.raises(ValueError, match="null"):
        Store("a\0b")


# --- one computation for each key


def test_roles(store: Store) -> None:
    assert store.enter(KEY) == LEADER
    assert store.enter(KEY) == CYCLE
    with pytest.raises(TimeoutError):
        store.enter(KEY, 0, owner=7)
    with pytest.raises(TimeoutError):
        store.enter(KEY, 0.001, owner=7)
    assert not store.leave(KEY, owner=7)
    store.put(KEY, [b"x"])
    assert store.leave(KEY)
    assert not store.leave(KEY)
    assert store.enter(KEY, owner=7) == LANDED
    entry = store.get(KEY)
    assert entry
    assert store.enter(KEY, stale=entry.stamp) == LEADER
    assert store.leave(KEY)


def test_a_file_system_without_locks_is_told_of(store: Store) -> None:
    unlocked = Store(store.path, locks=False)
    assert store.locks
    assert not unlocked.locks
    assert unlocked.enter(KEY) == NOLOCKS
    with pytest.raises(TimeoutError):
        unlocked.enter(KEY, 0, owner=7)
    assert unlocked.leave(KEY)


def test_threads_compute_each_key_once(store: Store) -> None:
    computed: list[bytes] = []

    def cached(number: int) -> bytes:
        key = bytes([number % 50])
        while (found := content(store, key)) is None:
            if store.enter(key) == LANDED:
                continue
            try:
                computed.append(key)
                store.put(key, [key * 1000])
            finally:
                store.leave(key)
        return found[0]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(cached, range(400))) == [bytes([number % 50]) * 1000 for number in range(400)]
    assert sorted(computed) == sorted({bytes([number]) for number in range(50)})


def test_a_wait_ends_when_the_leader_leaves_without_a_result(store: Store) -> None:
    assert store.enter(KEY) == LEADER
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(store.enter, KEY)
        store.leave(KEY)
        assert waiting.result() == LEADER
        assert pool.submit(store.leave, KEY).result()


def test_a_signal_handler_runs_in_a_wait_and_ends_it(store: Store) -> None:
    class EndError(Exception):
        pass

    def end(*_: object) -> None:
        raise EndError

    assert store.enter(KEY, owner=7) == LEADER
    before = signal.signal(signal.SIGUSR1, end)
    try:
        go = threading.Event()
        main = threading.get_ident()

        def send() -> None:
            go.wait()
            signal.pthread_kill(main, signal.SIGUSR1)

        sender = threading.Thread(target=send)
        sender.start()
        with pytest.raises(EndError):
            go.set()
            store.enter(KEY)
        sender.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert store.leave(KEY, owner=7)


def test_a_forked_child_leads_nothing(store: Store) -> None:
    assert store.enter(KEY) == LEADER
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            assert not store.leave(KEY)
            assert content(store) is None
            with pytest.raises(TimeoutError):
                store.enter(KEY, 0)
            store.put(b"child", [b"x"])
            assert store.enter(b"another") == LEADER
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert content(store, b"child") == [b"x"]
    assert store.leave(KEY)


# --- all of them


def test_entries_are_listed_and_the_least_recently_used_pruned(store: Store) -> None:
    for number in range(10):
        store.put(bytes([number]), [bytes(1000)])
        os.utime(file_of(store, bytes([number])), ns=(number * 10**9, 0))
    rows = sorted(store.entries())
    assert [row[0] for row in rows] == [bytes([number]) for number in range(10)]
    assert {row[1] for row in rows} == {1128}
    assert [row[3] for row in rows] == [number * 10**9 for number in range(10)]
    assert store.prune() == (0, 0)
    assert store.prune(items=7) == (3, 3 * 1128)
    assert store.prune(bytes=5 * 1128) == (2, 2 * 1128)
    store.get(bytes([5]))
    assert store.prune(age_s=3600) == (4, 4 * 1128)
    assert [row[0] for row in store.entries()] == [bytes([5])]
    assert store.prune(age_s=0, bytes=0, items=0) == (1, 1128)


def test_a_cap_removes_what_was_not_used(store: Store) -> None:
    capped = Store(store.path, cap_bytes=100_000)
    for number in range(300):
        capped.put(number.to_bytes(2, "big"), [bytes(1000)])
    sizes = [row[1] for row in store.entries()]
    assert 50_000 < sum(sizes) < 105_000
    assert content(store, (299).to_bytes(2, "big")) == [bytes(1000)]


def test_a_cache_that_was_removed_is_made_again(store: Store) -> None:
    store.put(KEY, [b"x"])
    for path in sorted(Path(store.path).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (Path(store.path)).rmdir()
    assert content(store) is None
    store.put(KEY, [b"y"])
    assert content(Store(store.path)) == [b"y"]
