"""What workers print, warn and log reaches the user."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from treadle import ProcessPoolExecutor


def say(text: str) -> None:
    print(text)
    print(text.upper(), file=sys.stderr)


def warn() -> None:
    warnings.warn("from a worker", UserWarning, stacklevel=1)


def log() -> None:
    logging.getLogger("treadle_test.part").info("seen %d times", 3)
    logging.getLogger("treadle_test.part").debug("not wanted")
    try:
        raise ValueError("logged")
    except ValueError:
        logging.getLogger("treadle_test").exception("with traceback")


def test_prints_reach_the_parents_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with ProcessPoolExecutor(1) as pool:
        pool.submit(say, "straße")
        pool.submit(say, "x" * 100_000)
    assert out.getvalue() == "straße\n" + "x" * 100_000 + "\n"
    assert err.getvalue() == "STRASSE\n" + "X" * 100_000 + "\n"


def test_lines_of_several_workers_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    with ProcessPoolExecutor(2, forward_output=True) as pool:
        list(pool.map(print, [f"line {i}" for i in range(500)]))
    assert sorted(out.getvalue().splitlines()) == sorted(f"line {i}" for i in range(500))


def test_warnings_reach_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    err = io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with ProcessPoolExecutor(1) as pool:
            pool.submit(warn)
    assert "UserWarning: from a worker" in err.getvalue()


def test_log_records_reach_the_parents_loggers(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "treadle_test")
    with ProcessPoolExecutor(1, forward_output=True) as pool:
        pool.submit(log).result()
    assert [(record.name, record.levelname) for record in caplog.records] == [
        ("treadle_test.part", "INFO"),
        ("treadle_test", "ERROR"),
    ]
    assert caplog.records[0].getMessage() == "seen 3 times"
    assert "ValueError: logged" in caplog.records[1].getMessage()


def test_without_forwarding_output_goes_to_the_descriptors(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(
        "from treadle import ProcessPoolExecutor\n"
        "with ProcessPoolExecutor(1) as pool:\n"
        "    pool.submit(print, 'one', flush=False).result()\n"
        "    print('two', flush=True)\n"
        "    pool.submit(print, 'three').result()\n"
        "    assert pool._forwarder is None\n"
    )
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("one\ntwo\nthree\n", "")


def test_the_thread_ends_with_a_pool_that_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    pool = ProcessPoolExecutor(1, forward_output=True)
    pool.submit(print, "late")
    pool.shutdown(wait=False)
    assert pool._forwarder is not None
    pool._forwarder.thread.join()
    assert out.getvalue() == "late\n"


class OnlyWrites:
    """All that `print` asks for."""

    closed = False

    def __init__(self) -> None:
        self.texts: list[str] = []

    def write(self, text: str) -> int:
        assert not self.closed, "I/O operation on closed file"
        self.texts.append(text)
        return len(text)


@pytest.mark.parametrize("stream", ["whole", "closed", "none"])
def test_whatever_the_parents_stream_is(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], stream: str
) -> None:
    out = OnlyWrites()
    out.closed = stream == "closed"
    monkeypatch.setattr(sys, "stdout", out if stream != "none" else None)
    with ProcessPoolExecutor(1, forward_output=True) as pool:
        pool.submit(print, "said").result()
    assert "".join(out.texts) == ("said\n" if stream == "whole" else "")
    assert capfd.readouterr() == ("", "")
