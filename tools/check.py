"""Run every check of the tree, name those that fail, and go on to the next."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from common import files, repository

TOOLS = Path(__file__).parent
PYTHON = sys.executable
EXAMPLE_LIMIT_S = 300


@dataclass(frozen=True)
class Check:
    """A name, and what returns the commands of the check (none: there is nothing to check yet)."""

    name: str
    commands: Callable[[Path], list[list[str]]]


def own(name: str) -> Check:
    """A check of ours: tools/check_<name>.py."""
    return Check(name, lambda _: [[PYTHON, str(TOOLS / f"check_{name}.py")]])


def c_files(root: Path, *suffixes: str) -> list[str]:
    return [str(path.relative_to(root)) for path in files(root, *suffixes)]


def compilers() -> list[str]:
    return [name for name in ("gcc", "clang") if shutil.which(name)]


def build_folder(root: Path, compiler: str) -> Path:
    return root / "build" / f"check-{compiler}"


def warnings(root: Path) -> list[list[str]]:
    """Everything, with both compilers, with warnings as errors."""
    commands = []
    for compiler in compilers():
        build = build_folder(root, compiler)
        if not (build / "build.ninja").exists():
            commands.append(["env", f"CC={compiler}", "meson", "setup", "-Dwerror=true", str(build), "."])
        # `all` is the package; the tests are built by a target of their own.
        commands.append(["ninja", "-C", str(build), "--quiet", "all", "meson-test-prereq"])
    return commands


def clang_tidy(root: Path) -> list[list[str]]:
    if not shutil.which("clang-tidy"):
        print("     clang-tidy is not installed: its check is left out (Debian and Ubuntu: apt install clang-tidy)")
        return []
    build = build_folder(root, compilers()[-1])
    if not (build / "compile_commands.json").exists():
        return [["sh", "-c", "echo the check named warnings comes first; false"]]
    return [["clang-tidy", "--quiet", "-p", str(build), path] for path in c_files(root, ".c")]


def stubtest(root: Path) -> list[list[str]]:
    if not (root / "python" / "treadle" / "_engine.pyi").exists():
        return []
    allowed = ["--allowlist", str(TOOLS / "stubtest.txt"), "--ignore-unused-allowlist"]
    return [[PYTHON, "-m", "mypy.stubtest", "treadle._engine", *allowed]]


def mypy(root: Path) -> list[list[str]]:
    commands = [[PYTHON, "-m", "mypy", "--strict", "--no-error-summary"]]
    if (root / "tests" / "typing").is_dir():
        commands.append([*commands[0], "tests/typing"])
    return commands


def c_examples(root: Path) -> list[list[str]]:
    """Each example in C, compiled as its head says, by each compiler, and run on itself."""
    commands = []
    for compiler in compilers():
        build = build_folder(root, compiler)
        flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-I", "core/include"]
        for path in sorted(root.glob("examples/*.c")):
            program = build / path.stem
            library = build / "core" / "libtreadle.a"
            commands.append([compiler, *flags, str(path), str(library), "-pthread", "-o", str(program)])
            commands.append(["timeout", str(EXAMPLE_LIMIT_S), str(program)])
    return commands


def examples(root: Path) -> list[list[str]]:
    """Each example, with each of the arguments under which it is quick; with none, where nothing is said here."""
    quick = {
        "blur_images": (["--megapixels", "0.3", "--frames", "1", "--out", "build"],),
        "fetch_and_crunch": (["--pages", "100"],),
        "parse_stdlib": (["--limit", "100"], ["--limit", "100", "--kill"]),
    }
    return [
        ["timeout", str(EXAMPLE_LIMIT_S), PYTHON, "-W", "error", str(path), *arguments]
        for path in sorted(root.glob("examples/*.py"))
        for arguments in quick.get(path.stem, ([],))
    ]


CHECKS = (
    own("sources"),
    own("layers"),
    own("edges"),
    own("sizes"),
    own("words"),
    Check("clang-format", lambda root: [["clang-format", "--dry-run", "-Werror", *c_files(root, ".c", ".h")]]),
    Check("warnings", warnings),
    Check("clang-tidy", clang_tidy),
    Check("ruff-format", lambda _: [["ruff", "format", "--check", "--quiet", "--diff", "."]]),
    Check("ruff", lambda _: [["ruff", "check", "--quiet", "."]]),
    Check("mypy", mypy),
    Check("pyright", lambda _: [["basedpyright", "--warnings"]]),
    Check("stubtest", stubtest),
    Check("examples", examples),
    Check("c-examples", c_examples),
)


def run(command: list[str], root: Path) -> str | None:
    """Run one command; its output where it fails."""
    process = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    return None if process.returncode == 0 else process.stdout + process.stderr + f"exit status {process.returncode}"


def failures(check: Check, root: Path) -> Iterator[str]:
    """Run a check's commands: clang-tidy's side by side, the others in turn, as each may need the one before."""
    commands = check.commands(root)
    with ThreadPoolExecutor(os.cpu_count() if check.name == "clang-tidy" else 1) as pool:
        for output in pool.map(lambda command: run(command, root), commands):
            if output is not None:
                yield output


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="the checks to run: " + ", ".join(check.name for check in CHECKS))
    names = parser.parse_args().names
    failed = []
    for check in CHECKS:
        if names and check.name not in names:
            continue
        start = time.monotonic()
        outputs = list(failures(check, repository()))
        print(f"{'FAIL' if outputs else 'ok  '} {check.name} ({time.monotonic() - start:.1f} s)", flush=True)
        print(*outputs, sep="\n", end="\n" if outputs else "", flush=True)
        if outputs:
            failed.append(check.name)
    print("checks failed: " + ", ".join(failed) if failed else "all checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
