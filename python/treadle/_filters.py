"""Warning filters that come from the parent (_context.py).

A category comes by its name. Where its module is not loaded, a stand-in takes in whatever has that name, so that no
module is imported for a filter's sake (NumPy's would start threads in a zygote), and the script's own categories hold.
"""

from __future__ import annotations

import sys
import warnings

from ._zygote import category_name

TYPE_CHECKING = False  # as typing has it, whose import takes 5 ms
if TYPE_CHECKING:
    from typing import Any

    from ._zygote import Filter


def set_all(wanted: list[Filter]) -> None:
    """Puts these in force."""
    warnings.resetwarnings()
    for action, message, category, module, line in wanted:
        found = category_named(category)
        kind: Any = action
        if message is None and module is None:
            warnings.simplefilter(kind, found, line, append=True)
        else:
            warnings.filterwarnings(kind, message or "", found, module or "", line, append=True)


class Named(type):
    """The type of stand-ins: whatever has the name is a subclass."""

    def __subclasscheck__(cls, other: type) -> bool:
        return any(category_name(base) == category_name(cls) for base in other.__mro__)


def category_named(name: str) -> type[Warning]:
    """The category, or its stand-in."""
    home, _, qualname = name.partition(":")
    found: Any = sys.modules.get(home)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if isinstance(found, type) and issubclass(found, Warning):
        return found
    made: Any = Named(qualname, (Warning,), {"__module__": home})
    return made  # type: ignore[no-any-return]
