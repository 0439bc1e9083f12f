"""How much memory do idle workers hold?"""

from __future__ import annotations

import functools

import harness
import startup
from harness import WORKERS, Claim, Figures, Round, Subject

PROGRAM = """
import time, work
{imports}
{make}
{busy}
time.sleep(1)
pids = work.descendants()
print({{'mb': work.pss_bytes(pids) / 1e6, 'processes': len(pids)}})
{end}
"""
# Long enough for each worker to get one of them, so that all have started.
SUBMITTED = f"[future.result() for future in [pool.submit(work.burn, 2_000_000 + n) for n in range({4 * WORKERS})]]"
DEFAULT = {"make": f"pool = ProcessPoolExecutor({WORKERS})", "busy": SUBMITTED}
PROGRAMS = {
    "treadle": startup.TREADLE | DEFAULT,
    "stdlib, default": startup.STDLIB | DEFAULT,
    "stdlib, fork": startup.PROGRAMS["stdlib, fork"] | {"busy": SUBMITTED},
    "stdlib, forkserver": startup.PROGRAMS["stdlib, forkserver"] | {"busy": SUBMITTED},
    "stdlib, spawn": startup.PROGRAMS["stdlib, spawn"] | {"busy": SUBMITTED},
    "multiprocessing.Pool": startup.PROGRAMS["multiprocessing.Pool"]
    | {"busy": f"pool.map(work.burn, [2_000_000] * {4 * WORKERS})"},
    "loky": startup.PROGRAMS["loky"] | {"busy": SUBMITTED},
    "joblib": startup.PROGRAMS["joblib"]
    | {"busy": f"pool(delayed(work.burn)(2_000_000) for _ in range({4 * WORKERS}))"},
    "dask": startup.PROGRAMS["dask"] | {"busy": SUBMITTED},
    "ray": startup.PROGRAMS["ray"]
    | {"busy": f"ray.get([ray.remote(work.burn).remote(2_000_000) for _ in range({4 * WORKERS})])"},
}


def measure(parts: dict[str, str], settings: Figures) -> Figures:
    return harness.run_program(PROGRAM.format(**parts), **harness.ENVIRONMENT)


def against_stdlib(done: Round) -> float:
    return done["treadle"]["mb"] / done["stdlib, default"]["mb"]


BENCHMARK = harness.Benchmark(
    question="How much memory do idle workers hold?",
    method=f"A small program makes a pool of {WORKERS} workers, lets each of them work, and waits for a second. "
    "Counted is the proportional set size (PSS) of all processes below it, helpers included: a page that n processes "
    "share counts 1/n in each.",
    subjects=[
        Subject(name, functools.partial(measure, parts), requires=harness.requirement(name))
        for name, parts in PROGRAMS.items()
    ],
    columns={"mb": "MB", "processes": "processes"},
    claims=[
        Claim("memory of the idle workers, times the stdlib's default pool", against_stdlib, at_most=1.0),
    ],
    rounds=3,
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
