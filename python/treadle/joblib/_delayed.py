"""`delayed`: captures a call instead of making it."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

Task = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class delayed:
    """Captures the arguments of a function: `delayed(f)(*args, **kwargs)` is the task `(f, args, kwargs)`.

    As in `Parallel(n_jobs=2)(delayed(f)(i) for i in range(10))`. Name and signature are the function's. It
    is an object and no function, because it is made anew for each task in a loop like this one.

    Source: python/treadle/joblib/_delayed.py.
    """

    __module__ = "treadle.joblib"
    __slots__ = ("__wrapped__",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.__wrapped__ = function

    def __call__(self, /, *args: Any, **kwargs: Any) -> Task:
        return self.__wrapped__, args, kwargs

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __getattr__(self, name: str) -> Any:
        if name == "__wrapped__":  # of one that is not made yet, in a copy
            raise AttributeError(name)
        return getattr(self.__wrapped__, name)

    def __reduce__(self) -> Any:
        return delayed, (self.__wrapped__,)

    def __repr__(self) -> str:
        return f"delayed({self.__wrapped__!r})"
