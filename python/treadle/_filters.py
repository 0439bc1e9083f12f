"""Warning filters that come from the parent (_context.py)."""

from __future__ import annotations

import warnings

TYPE_CHECKING = False  # as typing has it, whose import takes 5 ms
if TYPE_CHECKING:
    from typing import Any

    from ._zygote import Filter


def set_all(wanted: list[Filter]) -> None:
    """Puts these in force; one whose category can't be found here is left out."""
    warnings.resetwarnings()
    for action, message, category, module, line in wanted:
        home, _, qualname = category.partition(":")
        try:
            found: Any = __import__(home, fromlist=["*"])
            for part in qualname.split("."):
                found = getattr(found, part)
            kind: Any = action
            if message is None and module is None:
                warnings.simplefilter(kind, found, line, append=True)
            else:  # less filterwarnings' check that the patterns' flags are the usual ones
                warnings.filterwarnings(kind, message or "", found, module or "", line, append=True)
        except (ImportError, AttributeError, TypeError):
            continue
