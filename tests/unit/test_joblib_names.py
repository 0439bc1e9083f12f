"""`treadle.joblib` has joblib's names, and they are called as joblib's are."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import treadle.joblib

joblib: Any = pytest.importorskip("joblib")


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    """Names, kinds and, as texts, defaults: a default may be a mark of each package's own."""
    # Not that of what it wraps: before 3.13 a class whose objects wrap something is taken for one that does.
    found = inspect.signature(function, follow_wrapped=False).parameters.values()
    return [(p.name, p.kind, None if p.default is p.empty else repr(p.default)) for p in found]


@pytest.mark.parametrize("name", joblib.__all__)
def test_a_name_takes_what_joblibs_takes(name: str) -> None:
    theirs, ours = getattr(joblib, name), getattr(treadle.joblib, name)
    assert inspect.isclass(theirs) == inspect.isclass(ours) or name == "delayed"
    expected = parameters(theirs)
    found = parameters(ours)
    if name == "Memory":  # it has more: parameters that only have names
        more = found[len(expected) :]
        assert all(kind is inspect.Parameter.KEYWORD_ONLY for _, kind, _ in more)
        found = found[: len(expected)]
    assert found == expected
