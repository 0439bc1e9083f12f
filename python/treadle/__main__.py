"""The command `treadle`, also as `python -m treadle`."""

from __future__ import annotations

import argparse
import os
import sys

from . import __version__


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; the exit status."""
    parser = argparse.ArgumentParser(prog="treadle", description="Parallel Python on one C engine.")
    commands = parser.add_subparsers(title="commands", metavar="command", dest="command")
    doctor = commands.add_parser("doctor", help="show the CPU budget, the limits and the options in force")
    doctor.add_argument("--json", action="store_true", help="as JSON, for programs")
    doctor.add_argument("--clean", action="store_true", help="remove the shared memory that dead processes left")
    parser.add_argument("--version", action="version", version=f"treadle {__version__}")
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0

    from . import _doctor

    try:
        print(_doctor.as_json(options.clean) if options.json else _doctor.as_text(options.clean), flush=True)
    except BrokenPipeError:  # whoever reads has read enough; nor shall the flush at the end try again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
