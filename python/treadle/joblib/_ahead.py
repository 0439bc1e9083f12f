"""What the workers of a call will import, as far as its first tasks tell: the zygote does it once, for all of them.

Of packages that can be imported by a process which forks, and do nothing but be there: scikit-learn and what it stands
on take most of a second. Of others nobody knows, so they are left to the workers, or to `preload`.
"""

from __future__ import annotations

import io
import sys
from pickle import Pickler
from types import FunctionType
from typing import TYPE_CHECKING, Any

from .. import _findable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._delayed import Task

PACKAGES = frozenset(("joblib", "numpy", "scipy", "sklearn", "treadle"))
OWN = ("treadle.joblib._backends", "treadle.joblib._config", "treadle.joblib._pools")
"""What every worker of `Parallel` needs."""
MOST = 500  # objects that are looked at
LONG = 100  # items of a container, which is left alone


class Enough(Exception):
    """So many objects were looked at that no more are."""


class Names(Pickler):
    """Notes the modules that functions, classes and instances come from. What it writes is of no use."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), 5)
        self.found: dict[str, None] = {}
        self.looked_at = 0

    def reducer_override(self, thing: Any) -> Any:
        """Called for all but atoms and containers."""
        if thing is int:  # what takes the place of others
            return NotImplemented
        self.looked_at += 1
        if self.looked_at > MOST:
            raise Enough
        definition = thing if isinstance(thing, (type, FunctionType)) else type(thing)
        home = definition.__module__
        if not isinstance(home, str) or home.partition(".")[0] not in PACKAGES:
            return int, ()
        if home in sys.modules and _findable.is_findable(home):
            self.found[home] = None
        is_plain = definition is thing or home.partition(".")[0] == "numpy"
        return (int, ()) if is_plain else NotImplemented


def modules_of(tasks: Iterable[Task]) -> tuple[str, ...]:
    """The modules of those packages from which the tasks have something."""
    names = Names()
    for function, args, kwargs in tasks:
        for thing in (function, *args, *kwargs.values()):
            if isinstance(thing, (list, tuple, dict, set, frozenset, str, bytes, bytearray)) and len(thing) > LONG:
                continue
            try:
                names.dump(thing)
            except Enough:
                return tuple(names.found)
            except Exception:
                continue  # no more than a hint: what can't be pickled is told where it is sent
    return tuple(names.found)
