"""What a cached function needs of a store's kind: how a call's result is found in it, and kept there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

MISSING: Any = object()


class Call:
    """One call of a cached function, and what is known about it."""

    def __init__(self, call_id: tuple[str, str], key: bytes, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.call_id = call_id
        self.key = key
        self.args = args
        self.kwargs = kwargs
        self.absent = False
        """Was it looked for, and not there?"""
        self.forced = False
        """Is it to be computed, whatever is there?"""
        self.stale = 0
        """The stamp of an entry that is of no use."""
        self.failures = 0
        """How often what is there could not be read."""
        self.entered: Any = None
        """Where `enter` was asked: `leave` has to be asked there, whatever has become of the folder."""


class Way(ABC):
    """A cached function's way to its results."""

    quick = False
    """Is there a short way, `hit`?"""

    @abstractmethod
    def look(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """The call with these arguments."""

    @abstractmethod
    def find(self, call: Call, shelve: bool) -> Any:
        """The result, or a reference to it; MISSING where it has to be computed."""

    @abstractmethod
    def is_there(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Is there a result, and valid?"""

    @abstractmethod
    def is_unchanged(self, call: Call) -> bool:
        """Are the arguments what the call was looked for by?"""

    @abstractmethod
    def keep(
        self, call: Call, output: Any, seconds: float, shelve: bool, unchanged: bool
    ) -> tuple[Any, dict[str, Any]]:
        """Stores a result; what the caller gets, and what is known about the call."""

    @abstractmethod
    def clear(self) -> None:
        """Removes all of the function's results."""

    def hit(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Call | None]:
        """The result, or the call that has none: where nothing is to be printed or asked."""
        return MISSING, self.look(args, kwargs)

    def enter(self, call: Call, owner: int = 0, timeout: float | None = None) -> int:
        """Waits while somebody else computes it; a role, of those of `_engine.Store.enter`.

        Raises:
            TimeoutError: it has waited for so long.
        """
        return -1

    def leave(self, call: Call, role: int, owner: int = 0) -> None:  # noqa: B027 - where nobody waits, nothing
        """Ends what `enter` began."""

    def describe_code(self) -> None:  # noqa: B027 - likewise
        """Reads what is lost when the function travels."""
