"""`treadle cache`: what people see of a store, and do to it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from treadle.__main__ import main
from treadle._cache import byte_count, duration
from treadle._engine import Store

KEYS = [bytes([number]) * 16 for number in range(3)]


@pytest.fixture
def cache(tmp_path: Path) -> str:
    """A Memory's location, whose store is in its folder `treadle`."""
    store = Store(str(tmp_path / "treadle"))
    for number, key in enumerate(KEYS):
        store.put(key, [json.dumps({"func": f"module.function_{number}"}).encode(), bytes(5000)], "pickle")
        (file,) = tmp_path.glob(f"treadle/store-1/*/{key.hex()}")
        os.utime(file, (1_700_000_000 + number, 1_700_000_000))
    return str(tmp_path)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["cache", *arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_entries_are_listed_the_last_used_first(cache: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "ls", cache)
    lines = out.splitlines()
    assert status == 0
    assert [line.split()[0] for line in lines[:3]] == [key.hex()[:16] for key in reversed(KEYS)]
    assert [line.split()[-1] for line in lines[:3]] == [f"module.function_{number}" for number in (2, 1, 0)]
    assert lines[3].startswith("3 entries, ")
    status, out, _ = run(capsys, "ls", "--json", cache)
    rows = json.loads(out)
    assert [row["used"] for row in rows] == [1_700_000_002, 1_700_000_001, 1_700_000_000]  # looking is no use
    assert rows[0]["parts"] == [29, 5000]


def test_one_entry_is_shown_by_the_first_digits_of_its_key(cache: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "show", cache, KEYS[1].hex()[:6])
    assert status == 0
    assert KEYS[1].hex() in out
    assert "module.function_1" in out
    assert "pickle" in out
    status, out, _ = run(capsys, "show", "--json", cache, KEYS[1].hex())
    assert json.loads(out)["note"] == {"func": "module.function_1"}
    status, out, err = run(capsys, "show", cache, "0")
    assert status == 2
    assert "3 entries have a key that begins with '0'" in err


def test_entries_are_pruned_within_limits(cache: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "prune", cache)[:2] == (0, "0 entries removed, 0 B\n")
    assert run(capsys, "prune", cache, "--items", "2")[1].startswith("1 entries removed, ")
    assert run(capsys, "prune", cache, "--bytes", "6K")[1].startswith("1 entries removed, ")
    assert run(capsys, "prune", cache, "--age", "1h")[1].startswith("1 entries removed, ")
    assert run(capsys, "ls", cache)[1] == "0 entries, 0 B\n"


@pytest.mark.parametrize("limit", ["--items=-1", "--bytes=-1K", "--bytes=inf", "--age=-1", "--age=nan", "--age=x"])
def test_what_is_no_limit_removes_nothing(cache: str, capsys: pytest.CaptureFixture[str], limit: str) -> None:
    with pytest.raises(SystemExit):
        main(["cache", "prune", cache, limit])
    assert "invalid" in capsys.readouterr().err
    assert "3 entries, " in run(capsys, "ls", cache)[1]


def test_bad_entries_are_found_and_removed(cache: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "verify", cache)[:2] == (0, "3 entries checked, 0 bad\n")
    (file,) = Path(cache).glob(f"treadle/store-1/*/{KEYS[0].hex()}")
    os.truncate(file, 100)
    status, out, _ = run(capsys, "verify", cache)
    assert status == 1
    assert KEYS[0].hex() in out
    assert "3 entries, " in run(capsys, "ls", cache)[1]
    assert run(capsys, "verify", "--remove", cache)[0] == 1
    assert run(capsys, "verify", cache)[:2] == (0, "2 entries checked, 0 bad\n")


def test_where_there_is_no_cache_none_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "ls", str(tmp_path))
    assert status == 2
    assert str(tmp_path) in err
    assert not list(tmp_path.iterdir())


def test_sizes_and_times_are_read_as_people_write_them() -> None:
    assert [byte_count(text) for text in ("12", "1k", "1.5K", "2MB", "1GiB")] == [12, 1024, 1536, 2 << 20, 1 << 30]
    assert [duration(text) for text in ("90", "2m", "36h", "1.5d", "1w")] == [90, 120, 129600, 129600, 604800]
    for text in ("", "x", "K"):
        with pytest.raises(ValueError, match=r"."):
            byte_count(text)
