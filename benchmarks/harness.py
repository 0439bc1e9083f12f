"""How every benchmark is run: each sample in a process of its own, the peers in turn, round after round.

A benchmark is a question, the subjects that answer it, and claims. A round measures each subject once, so that whatever
the machine does meanwhile happens to all of them; a claim compares figures of the same round. What is reported is the
median over the rounds, and the lowest and the highest.

    python benchmarks/round_trip.py --rounds 5 --only treadle,stdlib
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import functools
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import peers
import work

FOLDER = Path(__file__).resolve().parent
SAMPLE_LIMIT_S = 600
WORKERS = len(os.sched_getaffinity(0))

Figures = dict[str, float]
Round = dict[str, Figures]
"""Subject -> its figures; of one round."""


@dataclass(frozen=True)
class Subject:
    """Something that is measured: a pool, or what it is held against."""

    name: str
    measure: Callable[[Figures], Figures]
    """Runs in a process of its own; gets the settings that are the same for all subjects."""
    requires: str = ""
    """The package without which it is left out."""
    environment: Mapping[str, str] = field(default_factory=dict)
    rounds: int = sys.maxsize
    """At most so many, where a sample takes minutes."""


@dataclass(frozen=True)
class Claim:
    """A bar, and what is held against it."""

    text: str
    of: Callable[[Round], float]
    """The value in one round; KeyError where it lacks a subject."""
    at_least: float | None = None
    at_most: float | None = None
    unit: str = "x"


@dataclass(frozen=True)
class Benchmark:
    """One question."""

    question: str
    method: str
    """What is done, for the reader of the table."""
    subjects: Sequence[Subject]
    columns: Mapping[str, str]
    """Figure -> its column's heading, in the table's order."""
    claims: Sequence[Claim] = ()
    settings: Callable[[], Figures] = dict
    """Made once, before the first round."""
    derive: Callable[[Round], None] = lambda _: None
    """Adds figures that compare subjects of one round."""
    rounds: int = 7


# --- what several benchmarks have in common

PACKAGES = {"treadle": "treadle", "loky": "loky", "joblib": "joblib", "dask": "distributed", "ray": "ray"}
# What workers import is compiled once, as it is where nobody switched that off.
ENVIRONMENT = {"PYTHONDONTWRITEBYTECODE": "", "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}

POOLS: dict[str, type[peers.Peer]] = {
    "treadle": peers.Treadle,
    "stdlib, fork": peers.StdlibFork,
    "stdlib, forkserver": peers.StdlibForkserver,
    "stdlib, spawn": peers.StdlibSpawn,
    "multiprocessing.Pool": peers.MultiprocessingPool,
    "loky": peers.Loky,
    "joblib": peers.Joblib,
    "dask": peers.Dask,
    "ray": peers.Ray,
}
STDLIB = ("stdlib, fork", "stdlib, forkserver", "stdlib, spawn")
SLOW = ("dask", "ray")
"""Their tasks take milliseconds, and their start seconds: two rounds are enough."""


def requirement(name: str) -> str:
    """The package that a subject of this name needs."""
    return next((package for word, package in PACKAGES.items() if name.startswith(word)), "")


def renamed(subject: Subject, name: str, **environment: str) -> Subject:
    """The same subject, with environment variables added."""
    return dataclasses.replace(subject, name=name, environment={**subject.environment, **environment})


def pool_subjects(
    measure: Callable[[peers.Peer, Figures], Figures],
    names: Sequence[str] = tuple(POOLS),
    more: Mapping[str, type[peers.Peer]] = {},
) -> list[Subject]:
    """A subject for each pool, whose measuring gets the pool with all its workers running."""
    pools = {name: POOLS[name] for name in names} | dict(more)
    return [
        Subject(
            name,
            functools.partial(with_pool, peer, measure),
            requires=requirement(name),
            environment=ENVIRONMENT,
            rounds=2 if name in SLOW else sys.maxsize,
        )
        for name, peer in pools.items()
    ]


def with_pool(peer: type[peers.Peer], measure: Callable[[peers.Peer, Figures], Figures], settings: Figures) -> Figures:
    with peer(WORKERS) as pool:
        # Long enough for each worker to get one of them, so that all have started.
        pool.submit_all(work.burn, [(2_000_000,)] * (4 * WORKERS))
        pool.submit_all(work.noop, [()] * 1_000 if peer not in (peers.Dask, peers.Ray) else [()] * 100)
        return measure(pool, settings)


def run_source(source: str, given: str = "", **environment: str) -> str:
    """Runs Python source in a bare interpreter, `given` on its standard input; what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", source],
        env={**os.environ, "PYTHONPATH": str(FOLDER), **environment},
        input=given,
        check=True,
        capture_output=True,
        text=True,
        timeout=SAMPLE_LIMIT_S,
    )
    return done.stdout


def run_program(source: str, **environment: str) -> Figures:
    """The same for a program whose last line of output is a dict of figures."""
    figures: Figures = ast.literal_eval(run_source(source, **environment).strip().splitlines()[-1])
    return figures


def bare(loops: Sequence[int]) -> tuple[float, list[float]]:
    """The least that calls of `work.burn` cost: `peers.bare`, in an interpreter of its own.

    Returns the seconds of all together, and of each, in order.
    """
    source = "import json, sys, peers, work; print(json.dumps(peers.bare(work.burn, json.load(sys.stdin), %d)))"
    seconds, each = json.loads(run_source(source % WORKERS, json.dumps(list(loops))))
    return seconds, each


# --- running


def sample(script: Path, subject: Subject, settings: Figures) -> Figures:
    """One sample, in a process of its own.

    Raises:
        RuntimeError: it failed; the message has what it wrote.
    """
    command = [sys.executable, str(script), "--measure", subject.name, "--settings", json.dumps(settings)]
    own = {**os.environ, "PYTHONPATH": str(FOLDER), **subject.environment}
    # Files, because what it leaves running would keep pipes open.
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, env=own, stdout=output, stderr=errors, start_new_session=True)
        try:
            status = process.wait(SAMPLE_LIMIT_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        errors.seek(0)
        if status != 0:
            raise RuntimeError(f"{subject.name}: exit status {status}\n{errors.read()}")
        figures: Figures = json.loads(output.read().strip().splitlines()[-1])
    return figures


def run_rounds(benchmark: Benchmark, script: Path, subjects: Sequence[Subject], rounds: int) -> list[Round]:
    settings = benchmark.settings()
    done: list[Round] = []
    for number in range(rounds):
        found: Round = {}
        first = number % len(subjects)
        order = [*subjects[first:], *subjects[:first]]
        for subject in order:
            if number < subject.rounds:
                show_progress(f"{script.stem}: round {number + 1}/{rounds}, {subject.name}")
                try:
                    found[subject.name] = sample(script, subject, settings)
                except (RuntimeError, subprocess.TimeoutExpired) as error:
                    show_progress("")
                    print(f"left out: {error}", file=sys.stderr)
        with contextlib.suppress(KeyError):  # what it compares with was left out
            benchmark.derive(found)
        done.append(found)
    show_progress("")
    return done


def show_progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


# --- reporting


@dataclass(frozen=True)
class Spread:
    """The median of some samples, the lowest and the highest, and how many there are."""

    median: float
    low: float
    high: float
    samples: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True)
class Verdict:
    """A claim, measured."""

    text: str
    bar: str
    value: Spread
    unit: str
    met: bool

    def measured(self) -> str:
        low, high = shown(self.value.low), shown(self.value.high)
        return f"{shown(self.value.median)}{self.unit} ({low} to {high})"


@dataclass(frozen=True)
class Report:
    """What came out of a benchmark."""

    name: str
    question: str
    method: str
    table: str
    verdicts: list[Verdict]

    def text(self) -> str:
        parts = [f"## {self.question}", self.method, self.table]
        if self.verdicts:
            parts.append(verdict_table(self.verdicts))
        return "\n\n".join(parts) + "\n"

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Report:
        fields = json.loads(path.read_text())
        verdicts = [Verdict(**{**verdict, "value": Spread(**verdict["value"])}) for verdict in fields.pop("verdicts")]
        return cls(**fields, verdicts=verdicts)


def report(name: str, benchmark: Benchmark, subjects: Sequence[Subject], rounds: Sequence[Round]) -> Report:
    rows = [["", *benchmark.columns.values()]]
    for subject in subjects:
        found = [done[subject.name] for done in rounds if subject.name in done]
        cells = [
            cell([figures[figure] for figures in found if figure in figures]) if found else ""
            for figure in benchmark.columns
        ]
        rows.append([subject.name, *cells])
    verdicts = [verdict for claim in benchmark.claims if (verdict := judge(claim, rounds))]
    return Report(name, benchmark.question, benchmark.method, table(rows), verdicts)


def judge(claim: Claim, rounds: Sequence[Round]) -> Verdict | None:
    """None where no round has all the subjects that the claim speaks of."""
    values = []
    for done in rounds:
        try:
            values.append(claim.of(done))
        except KeyError:
            continue
    if not values:
        return None
    value = Spread.of(values)
    if claim.at_least is not None:
        return Verdict(
            claim.text, f"at least {claim.at_least:g}{claim.unit}", value, claim.unit, value.median >= claim.at_least
        )
    bar = claim.at_most if claim.at_most is not None else float("inf")
    return Verdict(claim.text, f"at most {bar:g}{claim.unit}", value, claim.unit, value.median <= bar)


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    rows = [["claim", "bar", "measured (lowest to highest round)", ""]]
    rows += [[each.text, each.bar, each.measured(), "met" if each.met else "**missed**"] for each in verdicts]
    return table(rows)


def cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    spread = Spread.of(values)
    if spread.samples == 1 or spread.low == spread.high:
        return shown(spread.median)
    return f"{shown(spread.median)} ({shown(spread.low)} to {shown(spread.high)})"


def shown(value: float) -> str:
    """Three digits that count."""
    if value == float("inf"):
        return "never"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table, laid out for the terminal as well; the first is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


# --- the command line of every benchmark


def main(benchmark: Benchmark) -> None:
    """Runs it, or, in a process made for one sample, takes that sample."""
    parser = argparse.ArgumentParser(description=benchmark.question)
    parser.add_argument("--rounds", type=int, default=benchmark.rounds, help=f"{benchmark.rounds} by default")
    parser.add_argument("--only", help="subjects whose names begin so, separated by commas")
    parser.add_argument("--save", type=Path, help="a file for the report, as JSON")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--settings", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        subject = next(subject for subject in benchmark.subjects if subject.name == arguments.measure)
        print(json.dumps(subject.measure(arguments.settings)), flush=True)
        os._exit(0)  # a pool that hangs at the end, as multiprocessing's does when a worker was killed, has answered
    chosen = tuple(arguments.only.split(",")) if arguments.only else ("",)
    subjects = [subject for subject in benchmark.subjects if subject.name.startswith(chosen)]
    missing = [subject for subject in subjects if subject.requires and not importlib.util.find_spec(subject.requires)]
    subjects = [subject for subject in subjects if subject not in missing]
    for subject in missing:
        print(f"left out: {subject.name}, as {subject.requires} is not installed", file=sys.stderr)
    script = Path(sys.argv[0]).resolve()
    result = report(script.stem, benchmark, subjects, run_rounds(benchmark, script, subjects, arguments.rounds))
    print(result.text())
    if arguments.save:
        result.save(arguments.save)
