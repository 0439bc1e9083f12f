"""An exception comes back as what it was, with the worker's traceback; one that can't comes back as a description."""

from __future__ import annotations

import pickle
import threading
import traceback
from typing import Any

import pytest
from treadle import CorruptData, RemoteTraceback, TravelError, _remote


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    """The same, with a traceback."""
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def there_and_back(error: BaseException) -> BaseException:
    return _remote.load_exception(_remote.dump_exception(error))


class Plain(Exception):
    pass


class WithState(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code

    def __reduce__(self) -> Any:
        return WithState, (self.code,)


class NeedsTwo(Exception):
    """Its unpickling raises: the arguments of the base are not those of its own."""

    def __init__(self, one: object, two: object) -> None:
        super().__init__(f"{one} and {two}")


class Liar(Exception):
    """Its unpickling gives something else."""

    def __reduce__(self) -> Any:
        return str, ("not an exception",)


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Tagged(ExceptionGroup[Exception]):
    tag = ""

    def derive(self, excs: Any) -> Tagged:
        return Tagged(self.message, excs)


@pytest.mark.parametrize("error", [ValueError("x", 3), KeyError("k"), Plain("p"), OSError(2, "no", "f")], ids=repr)
def test_the_type_and_the_arguments_are_kept(error: BaseException) -> None:
    back = there_and_back(raised(error))
    assert type(back) is type(error)
    assert back.args == error.args
    assert str(back) == str(error)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()], ids=repr)
def test_what_is_no_exception_travels_too(error: BaseException) -> None:
    back = there_and_back(raised(error))
    assert type(back) is type(error)
    assert back.args == error.args


def test_attributes_are_kept() -> None:
    error = Plain("p")
    error.detail = {"a": [1]}  # type: ignore[attr-defined]
    assert there_and_back(raised(error)).detail == {"a": [1]}  # type: ignore[attr-defined]
    assert there_and_back(raised(WithState(7))).code == 7  # type: ignore[attr-defined]


def test_the_cause_is_the_workers_traceback() -> None:
    back = there_and_back(raised(ValueError("x")))
    assert type(back.__cause__) is RemoteTraceback
    text = str(back.__cause__)
    assert "ValueError: x" in text
    assert "in raised" in text
    assert text in "".join(traceback.format_exception(back))


def test_the_traceback_has_what_the_exception_was_raised_from() -> None:
    back = there_and_back(raised(ValueError("outer"), raised(KeyError("inner"))))
    assert "KeyError: 'inner'" in str(back.__cause__)
    assert "direct cause" in str(back.__cause__)


@pytest.mark.parametrize("kind", [ValueError, Plain])
def test_notes_are_kept(kind: type[Exception]) -> None:
    error = raised(kind("x"))
    error.add_note("first")
    error.add_note("second")
    back = there_and_back(error)
    assert back.__notes__ == ["first", "second"]
    assert "second" in str(back.__cause__)


def test_a_group_keeps_its_members_with_their_tracebacks() -> None:
    inner = raised(ExceptionGroup("inner", [raised(KeyError("k"))]))
    assert isinstance(inner, Exception)
    member = raised(ValueError("v"), raised(OSError("why")))
    assert isinstance(member, Exception)
    member.add_note("noted")
    group = raised(ExceptionGroup("outer", [member, inner]))
    group.add_note("on the group")
    back = there_and_back(group)
    assert type(back) is ExceptionGroup
    assert back.message == "outer"
    assert back.__notes__ == ["on the group"]
    first, second = back.exceptions
    assert type(first) is ValueError
    assert first.__notes__ == ["noted"]
    assert "why" in str(first.__cause__)
    assert type(second) is ExceptionGroup
    assert type(second.exceptions[0]) is KeyError
    assert "KeyError" in str(second.exceptions[0].__cause__)


def test_a_group_of_another_class_keeps_it_and_its_attributes() -> None:
    group = Tagged("t", [ValueError("v")])
    group.tag = "here"
    back = there_and_back(raised(group))
    assert type(back) is Tagged
    assert back.tag == "here"
    assert type(back.exceptions[0]) is ValueError


def test_a_group_with_a_member_that_cannot_travel_keeps_the_others() -> None:
    back = there_and_back(raised(ExceptionGroup("g", [ValueError("v"), NeedsTwo(1, 2)])))
    assert isinstance(back, ExceptionGroup)
    assert type(back.exceptions[0]) is ValueError
    assert isinstance(back.exceptions[1], TravelError)


def test_a_base_group_travels() -> None:
    back = there_and_back(raised(BaseExceptionGroup("g", [KeyboardInterrupt()])))
    assert type(back) is BaseExceptionGroup


def locked() -> Exception:
    error = Plain("p")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    "error", [NeedsTwo(1, 2), Liar("l"), Plain(threading.Lock()), locked()], ids=lambda error: type(error).__name__
)
def test_what_cannot_travel_is_described(error: Exception) -> None:
    back = there_and_back(raised(error))
    assert isinstance(back, TravelError)
    assert isinstance(back, pickle.PicklingError)
    assert type(error).__qualname__ in str(back)
    assert str(error) in str(back)
    assert "in raised" in str(back.__cause__)


def test_an_exception_without_text_is_described() -> None:
    back = there_and_back(raised(Silent(threading.Lock())))
    assert isinstance(back, TravelError)
    assert "Silent" in str(back)


def test_an_exception_of_a_local_class_travels_by_value() -> None:
    class Local(Exception):
        pass

    back = there_and_back(raised(Local("x")))
    assert type(back) is Local


def test_bytes_that_are_no_exception_are_refused() -> None:
    with pytest.raises(CorruptData):
        _remote.load_exception(pickle.dumps(("text", "", None, None)))
