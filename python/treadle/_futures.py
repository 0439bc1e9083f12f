"""`wait` and `as_completed`: the stdlib's functions, faster on Treadle's futures. Source: binding/group.c."""

from __future__ import annotations

from ._engine import Future, as_completed, wait

FIRST_COMPLETED = "FIRST_COMPLETED"
FIRST_EXCEPTION = "FIRST_EXCEPTION"
ALL_COMPLETED = "ALL_COMPLETED"

__all__ = ["ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION", "Future", "as_completed", "wait"]
