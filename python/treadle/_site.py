"""The site module, which takes a fifth of an interpreter's start, where all that it would do can be had without it.

It finds the folders with packages, which a fresh process of ours is told anyway; it runs what installed packages put
into `.pth` files, and `sitecustomize`; and it adds `exit` and its like to the builtins. So where there is nothing to
run, a zygote starts without it (`-S`), and catches up on the rest: prefixes, builtins, and the flag that would make
its own children do without, too.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # as typing has it, whose import takes 5 ms
if TYPE_CHECKING:
    from typing import Any


VARIABLE = "TREADLE_SITE"
"""The environment variable that tells a fresh process what its site module would have found."""


def is_plain() -> bool:
    """Would a fresh interpreter's site module only find folders? Asked in the parent, whose own has run."""
    site: Any = sys.modules.get("site")
    if site is None or "sitecustomize" in sys.modules or "usercustomize" in sys.modules:
        return False
    try:
        folders = site.getsitepackages()
        if site.ENABLE_USER_SITE:
            folders = [*folders, site.getusersitepackages()]
        return not any(runs_code(folder) for folder in dict.fromkeys(folders))
    except Exception:
        return False  # whatever it is, a fresh interpreter finds its own way


def runs_code(folder: str) -> bool:
    """Has one of the `.pth` files of this folder a line that is executed?"""
    try:
        names = os.listdir(folder)
    except OSError:
        return False
    for name in names:
        if name.endswith(".pth"):
            with open(os.path.join(folder, name), "rb") as file:
                lines = file.read().removeprefix(b"\xef\xbb\xbf").splitlines()
            if any(line.startswith((b"import ", b"import\t")) for line in lines):
                return True
    return False


def describe() -> str:
    """What site found out in this process, for catch_up in a fresh one."""
    return os.pathsep.join([sys.prefix, sys.exec_prefix, getattr(sys, "_home", None) or ""])


def catch_up(description: str) -> None:
    """In a fresh process that started without site: as if it had run. Importing it later runs it in earnest."""
    import _sitebuiltins
    import builtins

    from . import _engine

    known: Any = sys
    known.prefix, known.exec_prefix, home = description.split(os.pathsep)
    known._home = home or None
    added: Any = builtins
    for name in ("exit", "quit"):
        setattr(added, name, _sitebuiltins.Quitter(name, "Ctrl-D (i.e. EOF)"))
    for name in ("copyright", "credits", "license"):
        text = getattr(sys, name, "See https://www.python.org/psf/license/")
        setattr(added, name, _sitebuiltins._Printer(name, text))
    added.help = _sitebuiltins._Helper()
    _engine.clear_flag("no_site")
