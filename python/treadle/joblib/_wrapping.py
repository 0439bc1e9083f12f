"""`wrap_non_picklable_objects`: an object that takes the long way through cloudpickle, wherever it is pickled."""

from __future__ import annotations

from typing import Any


class Wrapped:
    """An object in a wrapper that plain pickle can send."""

    def __init__(self, obj: Any, keep_wrapper: bool = True) -> None:
        self._obj = obj
        self._keep_wrapper = keep_wrapper

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._obj(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name in ("_obj", "_keep_wrapper"):  # of one that is not made yet
            raise AttributeError(name)
        return getattr(self._obj, name)

    def __reduce__(self) -> Any:
        import cloudpickle  # type: ignore[import-untyped]

        return unwrapped, (cloudpickle.dumps(self._obj), self._keep_wrapper)


def unwrapped(data: bytes, keep_wrapper: bool) -> Any:
    """The object again, in its wrapper if that was to be kept."""
    import pickle

    obj = pickle.loads(data)
    return Wrapped(obj, keep_wrapper) if keep_wrapper else obj


def wrap_non_picklable_objects(obj: Any, keep_wrapper: bool = True) -> Any:
    """The object, or a class whose instances are, wrapped so that plain `pickle` can send it, by value.

    Treadle's own workers need no such help: what is not importable travels by value anyway.

    Args:
        obj: A function, a class or any object.
        keep_wrapper: Whether it is still wrapped on the other side.

    Source: python/treadle/joblib/_wrapping.py.
    """
    if not isinstance(obj, type):
        return Wrapped(obj, keep_wrapper)
    cls = obj

    class WrappedInstance(Wrapped):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(cls(*args, **kwargs), keep_wrapper)

    WrappedInstance.__name__ = cls.__name__
    return WrappedInstance
