"""The command `treadle`, also as `python -m treadle`."""

from __future__ import annotations

import argparse
import os
import sys

from . import __version__, _cache


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; the exit status."""
    parser = argparse.ArgumentParser(prog="treadle", description="Parallel Python on one C engine.")
    commands = parser.add_subparsers(title="commands", metavar="command", dest="command")
    doctor = commands.add_parser("doctor", help="show the CPU budget, the limits and the options in force")
    doctor.add_argument("--json", action="store_true", help="as JSON, for programs")
    doctor.add_argument("--clean", action="store_true", help="remove the shared memory that dead processes left")
    _cache.add_parser(commands)
    parser.add_argument("--version", action="version", version=f"treadle {__version__}")
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0

    try:
        status = _cache.run(options) if options.command == "cache" else run_doctor(options)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has read enough; nor shall the flush at the end try again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


def run_doctor(options: argparse.Namespace) -> int:
    """Tells what is in force here."""
    from . import _doctor

    print(_doctor.as_json(options.clean) if options.json else _doctor.as_text(options.clean))
    return 0


if __name__ == "__main__":
    sys.exit(main())
