"""Classes by value, and what else only cloudpickle can pickle; imported when there is such a thing.

A class keeps its identity: cloudpickle tracks it by a number, so that an instance which comes back is an instance of
the parent's own class; in the worker it is bound in its module, so that plain pickle finds it there.
"""

from __future__ import annotations

import enum
import types
import typing
from collections import _tuplegetter  # type: ignore[attr-defined]  # a named tuple's fields
from collections.abc import Callable
from typing import Any

from cloudpickle import cloudpickle  # type: ignore[import-untyped]

from ._arrival import receive, space_of
from ._byvalue import MISSING, Reducers, Shared, Space, is_by_name, is_homeless, lookup
from ._travel import shared_reducers

SPECIAL = (type(None), type(Ellipsis), type(NotImplemented))


class Full(Reducers, cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle's pickler, with our functions and namespaces."""

    def __init__(self, file: Any, shared: Shared, callback: Callable[[Any], object] | None) -> None:
        super().__init__(file, 5, buffer_callback=callback)
        self.shared = shared
        self.spaces = {}
        self.by_name = shared_reducers()

    def reducer_override(self, obj: Any) -> Any:
        """Called by the pickler for all but the simplest types."""
        if type(obj) is Space:
            return space_of, (obj.name,)
        reduced = self.reduce_special(obj)
        if reduced is None:
            return NotImplemented
        if reduced is not MISSING:
            return reduced
        if isinstance(obj, type):
            return self.reduce_class(obj)
        if isinstance(obj, typing.TypeVar) and is_homeless(obj):
            return cloudpickle._make_typevar, cloudpickle._decompose_typevar(obj)
        return super().reducer_override(obj)

    def reduce_class(self, cls: type) -> Any:
        """A class by name, or as cloudpickle makes it, bound in its module where it was."""
        if cls in SPECIAL or cls in cloudpickle._BUILTIN_TYPE_NAMES:
            return super().reducer_override(cls)
        if is_by_name(cls, self.shared.main_by_reference):
            return NotImplemented
        make, args, state, items, pairs, setter = cloudpickle._dynamic_class_reduce(cls)
        self.note_class(cls)
        home = cls.__module__ if lookup(cls.__module__, cls.__qualname__) is cls else None
        return make, args, (setter, state, home), items, pairs, _set_class

    def note_class(self, cls: type) -> None:
        """Notes a class that was pickled: it can be watched when what is in it can't change unseen."""
        shared = self.shared
        if shared.places is None:
            return
        if all(is_fixed_in_class(shared, cls, name, value) for name, value in list(vars(cls).items())):
            shared.places.append(cls)
        else:
            shared.places = None


# What class statements, dataclasses, enumerations, named tuples and abstract classes put into a class for themselves.
MADE_BY_PYTHON = frozenset(
    (
        "__abstractmethods__",
        "__annotate__",
        "__annotate_func__",
        "__annotations__",
        "__annotations_cache__",
        "__dataclass_fields__",
        "__dataclass_params__",
        "__dict__",
        "__orig_bases__",
        "__parameters__",
        "__slotnames__",
        "__weakref__",
        "_abc_impl",
        "_field_defaults",
    )
)


FIXED_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType, _tuplegetter)


def is_fixed_in_class(shared: Shared, cls: type, name: str, value: Any) -> bool:
    """Is the identity of this value, in that class, enough to know its pickle?"""
    if name in MADE_BY_PYTHON or shared.is_fixed(value):
        return True
    if isinstance(value, FIXED_DESCRIPTORS):
        return True
    if isinstance(value, (staticmethod, classmethod)):
        return shared.is_fixed(value.__func__)
    if isinstance(value, property):
        return all(map(shared.is_fixed, (value.fget, value.fset, value.fdel)))
    if isinstance(cls, enum.EnumMeta):
        inner = name.startswith("_") and name.endswith("_")  # _member_map_ and the like
        return inner or (shared.is_fixed(value._value_) if isinstance(value, cls) else isinstance(value, enum.property))
    return False


def _set_class(cls: type, state: tuple[Callable[[type, Any], object], Any, str | None]) -> None:
    setter, inner, home = state
    setter(cls, inner)
    if home is not None and "." not in cls.__qualname__:
        receive(space_of(home), {cls.__qualname__: (tracker_id(cls), cls)})


def tracker_id(cls: Any) -> object:
    """The number by which cloudpickle knows a class in all processes."""
    return cloudpickle._get_or_create_tracker_id(cls) if isinstance(cls, type) else None
