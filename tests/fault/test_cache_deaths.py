"""A cache that many processes use while some are killed: no wrong value, no lost entry, one computation of each key."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from treadle._engine import LEADER, Store

PROCESSES = 16
KEYS = 40

# Computes all keys in an order of its own; each computation is written down, by one write to a file.
HAMMER = """
import os, random, sys
from treadle._engine import LANDED, Store

path, log, seed, keys = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
rng = random.Random(seed)
store = Store(path)
numbers = list(range(keys))
descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
for _ in range(3):
    rng.shuffle(numbers)
    for number in numbers:
        key, value = number.to_bytes(16, "big"), number.to_bytes(2, "big") * (10 if number % 2 else 100_000)
        while (entry := store.get(key, rng.choice((None, "r", "c")))) is None:
            if store.enter(key) == LANDED:
                continue
            os.write(descriptor, b"%d\\n" % number)
            store.put(key, [value])
            assert store.leave(key)
        assert bytes(entry.parts[0]) == value, number
print("done")
"""


def start(store: Path, log: Path, seed: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", HAMMER, str(store), str(log), str(seed), str(KEYS)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def computed(log: Path) -> Counter[int]:
    return Counter(int(line) for line in log.read_text().split())


def test_processes_that_hammer_one_folder_compute_each_key_once(tmp_path: Path, rng: random.Random) -> None:
    log = tmp_path / "log"
    log.touch()
    processes = [start(tmp_path / "cache", log, rng.getrandbits(32)) for _ in range(PROCESSES)]
    assert [process.communicate()[0] for process in processes] == ["done\n"] * PROCESSES
    assert computed(log) == dict.fromkeys(range(KEYS), 1)
    assert Store(str(tmp_path / "cache")).verify() == (KEYS, [])


def test_killed_processes_cost_a_computation_each_at_most(tmp_path: Path, rng: random.Random) -> None:
    log = tmp_path / "log"
    log.touch()
    victims = [start(tmp_path / "cache", log, rng.getrandbits(32)) for _ in range(6)]
    others = [start(tmp_path / "cache", log, rng.getrandbits(32)) for _ in range(4)]
    for victim in victims:  # each when some more has been computed, or all
        least = min(len(log.read_text().split()) + rng.randrange(4), KEYS)
        while len(log.read_text().split()) < least:
            os.sched_yield()
        victim.send_signal(signal.SIGKILL)
    for victim in victims:
        victim.communicate()
    assert [process.communicate()[0] for process in others] == ["done\n"] * len(others)
    found = computed(log)
    assert set(found) == set(range(KEYS))
    assert sum(found.values()) <= KEYS + len(victims)
    store = Store(str(tmp_path / "cache"))
    assert store.verify() == (KEYS, [])
    store.prune()
    assert not list((tmp_path / "cache/store-1/tmp").iterdir())


# Leads, says so, and computes for as long as it is left alive.
LEAD = """
import signal, sys
from treadle._engine import LEADER, Store

store = Store(sys.argv[1])
assert store.enter(b"key") == LEADER
print("leads", flush=True)
signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_who_waits_takes_over_from_a_dead_leader(tmp_path: Path, number: signal.Signals) -> None:
    leader = subprocess.Popen([sys.executable, "-c", LEAD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert leader.stdout
    assert leader.stdout.readline() == "leads\n"
    store = Store(str(tmp_path))
    with pytest.raises(TimeoutError):
        store.enter(b"key", 0.001)
    leader.send_signal(number)
    assert store.enter(b"key") == LEADER
    assert store.leave(b"key")
    leader.communicate()
