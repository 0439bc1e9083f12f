"""Each check passes a tree that follows its rule, and names what breaks it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


def run(tool: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(TOOLS / tool), *arguments],
        env=dict(os.environ, **environment),
        capture_output=True,
        text=True,
        check=False,
    )


def plant(root: Path, tree: dict[str, str]) -> str:
    for name, text in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return f"--root={root}"


def lines(process: subprocess.CompletedProcess[str]) -> list[str]:
    assert process.stderr == ""
    assert process.returncode == (1 if process.stdout else 0)
    return process.stdout.splitlines()


@pytest.mark.parametrize(
    ("path", "include", "reason"),
    [
        ("core/os/x.c", '"ring/y.h"', "os/ lies below ring/"),
        ("core/ring/x.h", '"nowhere/y.h"', "nowhere/ is no room of the engine"),
        ("core/include/treadle.h", '"base/y.h"', "treadle.h includes no header of the engine"),
        ("core/os/x.c", "<Python.h>", "only binding/ includes Python.h"),
        ("core/os/x.c", "<stdatomic.h>", "only base/atomic.h includes <stdatomic.h>"),
        ("binding/x.c", "<stdatomic.h>", "only base/atomic.h includes <stdatomic.h>"),
    ],
)
def test_an_include_up_the_layers_is_named(tmp_path: Path, path: str, include: str, reason: str) -> None:
    root = plant(tmp_path, {path: f"/* head */\n#include {include}\n"})
    header = include.strip('"<>')
    assert lines(run("check_layers.py", root)) == [f"{path}:2: includes {header}: {reason}"]


def test_a_room_outside_the_layers_is_named(tmp_path: Path) -> None:
    root = plant(tmp_path, {"core/attic/x.c": ""})
    assert lines(run("check_layers.py", root)) == [
        "core/attic/x.c: core/attic/ is not in the list of layers (tools/common.py)"
    ]


def test_includes_down_the_layers_pass(tmp_path: Path) -> None:
    tree = {
        "core/ring/x.c": '#include "ring/x.h"\n#include "os/y.h"\n#include "treadle.h"\n#include <stdio.h>\n',
        "core/tests/ring/test_x.c": '#include "tests/harness.h"\n#include "pool/z.h"\n',
        "core/base/atomic.h": "#include <stdatomic.h>\n",
        "binding/x.c": '#include <Python.h>\n#include "pool/z.h"\n',
    }
    assert lines(run("check_layers.py", plant(tmp_path, tree))) == []


def test_long_files_and_functions_are_named(tmp_path: Path) -> None:
    tree = {
        "a.c": "\n" * 701,
        "b.py": "\n" * 401,
        "c.c": "static int long_one(int a,\n                    int b)\n{\n" + "    a++;\n" * 58 + "}\n",
        "d.py": "def long_one():\n" + "    pass\n" * 60,
        "e.h": "/* " + "x" * 115 + " */\n",
    }
    assert lines(run("check_sizes.py", plant(tmp_path, tree))) == [
        "a.c: 701 lines, at most 700",
        "b.py: 401 lines, at most 400",
        "c.c:1: static int long_one(int a,: 62 lines, at most 60",
        "d.py:1: long_one: 61 lines, at most 60",
        "e.h:1: 121 columns, at most 120",
    ]


def test_sizes_at_the_limit_pass(tmp_path: Path) -> None:
    tree = {
        "a.c": "int f(void)\n{\n" + "    g();\n" * 57 + "}\n" + "\n" * 640,
        "b.py": 'def f():\n    """Long\n' + "    text.\n" * 60 + '    """\n' + "    pass\n" * 59,
    }
    assert lines(run("check_sizes.py", plant(tmp_path, tree))) == []


def test_a_c_file_outside_the_build_is_named_and_written(tmp_path: Path) -> None:
    tree = {
        "core/meson.build": "engine_sources = files(\n  'base/gone.c',\n  'base/here.c',\n)\n",
        "core/base/here.c": "",
        "core/os/new.c": "",
        "core/tests/meson.build": "engine_tests = [\n]\n\ntest_helpers = files(\n)\n",
        "core/tests/os/test_new.c": "",
        "core/tests/os/helper.c": "",
        "binding/module.c": "",
    }
    root = plant(tmp_path, tree)
    assert lines(run("check_sources.py", root)) == [
        "core/meson.build: engine_sources does not list os/new.c",
        "core/meson.build: engine_sources lists base/gone.c, which is not there",
        "core/tests/meson.build: engine_tests does not list os/test_new.c",
        "core/tests/meson.build: test_helpers does not list os/helper.c",
        "binding/meson.build is missing; it would list module.c",
    ]
    run("check_sources.py", root, "--write")
    written = "engine_sources = files(\n  'base/here.c',\n  'os/new.c',\n)\n"
    assert (tmp_path / "core/meson.build").read_text() == written
    assert lines(run("check_sources.py", root)) == ["binding/meson.build is missing; it would list module.c"]


def test_unfinished_work_and_sleeping_tests_are_named(tmp_path: Path) -> None:
    tree = {
        "core/os/x.c": "/* TO" + "DO: later */\n",
        "python/y.py": "a = 1  # FIX" + "ME\n",
        "core/os/z.c": "#if 0\n#endif\n",
        "core/tests/os/test_z.c": "    usleep(10);\n",
    }
    assert [line.partition(" ")[0] for line in lines(run("check_words.py", plant(tmp_path, tree)))] == [
        "core/os/x.c:1:",
        "core/os/z.c:1:",
        "core/tests/os/test_z.c:1:",
        "python/y.py:1:",
    ]


def test_an_edge_without_a_weakened_build_is_named(tmp_path: Path) -> None:
    tree = {
        "core/ring/x.c": "    TD_EDGE(x_P, a, b)(&word);\n    TD_EDGE(x_C, a, b)(&word);\n",
        "core/tests/ring/test_x.c": "",
        "core/tests/weakened.txt": "# edges\nx_P ring/x\nx_Q ring/x\nx_C ring/gone\n",
    }
    assert lines(run("check_edges.py", plant(tmp_path, tree))) == [
        "core/tests/weakened.txt: no TD_EDGE names x_Q",
        "core/tests/weakened.txt: x_C: there is no test ring/gone",
    ]
    plant(tmp_path, {"core/tests/weakened.txt": "x_P ring/x\n"})
    assert lines(run("check_edges.py", f"--root={tmp_path}")) == [
        "core/ring/x.c:2: edge x_C has no line in core/tests/weakened.txt"
    ]


@pytest.mark.parametrize(
    ("lacking", "sentence"),
    [
        ("python", "there is no nowhere/python3"),
        ("compiler", "there is no C compiler (nowhere-cc)"),
    ],
)
def test_preflight_says_in_one_sentence_what_is_missing(lacking: str, sentence: str) -> None:
    python = "nowhere/python3" if lacking == "python" else sys.executable
    process = subprocess.run(
        [str(TOOLS / "preflight"), python],
        env=dict(os.environ, CC="nowhere-cc" if lacking == "compiler" else "cc"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1
    assert process.stderr.startswith(f"treadle: {sentence}")
    assert len(process.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("module", "sentence"),
    [("sys", "is older than 3.11"), ("venv", "has no venv module"), ("sysconfig", "has no headers (Python.h)")],
)
def test_preflight_asks_the_python_it_is_given(tmp_path: Path, module: str, sentence: str) -> None:
    # A Python whose `-c` program fails where it looks at this module.
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\ncase "$2" in *{module}[.,\\ ]*|*"{module}") exit 1;; esac\nexit 0\n')
    python.chmod(0o755)
    process = subprocess.run([str(TOOLS / "preflight"), str(python)], capture_output=True, text=True, check=False)
    assert (process.returncode, sentence in process.stderr) == (1, True)


def test_preflight_stops_on_another_platform(tmp_path: Path) -> None:
    uname = tmp_path / "uname"
    uname.write_text('#!/bin/sh\n[ "$1" = -s ] && echo Darwin || echo arm64\n')
    uname.chmod(0o755)
    path = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    process = subprocess.run(
        [str(TOOLS / "preflight"), sys.executable], env=path, capture_output=True, text=True, check=False
    )
    told = "treadle: it builds on Linux x86-64 and aarch64 only; this is Darwin on arm64.\n"
    assert (process.returncode, process.stderr) == (1, told)


CLOSING = "ok   a\n2 passed, 1 failed, 3 skipped\n"


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("<testcase name='t'/>", "1 passed, 0 failed, 0 skipped"),
        ("<testcase name='t'><skipped/></testcase>", "0 passed, 0 failed, 1 skipped"),
        ("<testcase name='t'><failure/></testcase>", "0 passed, 1 failed, 0 skipped"),
        (f"<testcase name='t'><failure/><system-out>{CLOSING}</system-out></testcase>", CLOSING.splitlines()[1]),
        (
            "<testcase name='t'><error/><system-out>4 passed, 0 failed, 0 skipped</system-out></testcase>",
            "4 passed, 1 failed, 0 skipped",
        ),
        ("<broken", "0 passed, 1 failed, 0 skipped"),
    ],
)
def test_results_are_counted_by_test_not_by_program(tmp_path: Path, case: str, expected: str) -> None:
    report = tmp_path / "report.xml"
    report.write_text(f"<testsuites><testsuite>{case}</testsuite></testsuites>")
    assert ask_run_tests("read_junit", report) == expected


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        (
            "==7==ERROR: AddressSanitizer: heap-use-after-free\n...\nSUMMARY: AddressSanitizer: heap-use-after-free\n",
            True,
        ),
        ("a.c:1:2: runtime error: signed integer overflow: 2147483647 + 1 cannot be represented in type 'int'\n", True),
        ("WARNING: ThreadSanitizer: data race (pid=7)\n...\nSUMMARY: ThreadSanitizer: data race a.c:1 in f\n", True),
        ("==7==WARNING: AddressSanitizer failed to allocate 0x40000000000 bytes\n", False),
    ],
)
def test_a_sanitizers_report_is_a_finding_and_a_warning_is_none(tmp_path: Path, text: str, is_one: bool) -> None:
    (tmp_path / "process.7").write_text(text)
    assert ask_run_tests("read_findings", tmp_path) == str([text] if is_one else [])


def ask_run_tests(function: str, path: Path) -> str:
    """What a function of tools/run_tests.py says of a path."""
    program = f"import sys, pathlib, run_tests; print(run_tests.{function}(pathlib.Path(sys.argv[1])))"
    process = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        env=dict(os.environ, PYTHONPATH=str(TOOLS)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.stderr == ""
    return process.stdout.strip()
