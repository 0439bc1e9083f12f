"""treadle.Future: it is a stdlib future, local ones as the stdlib's, step by step. binding/future.c, observe.c"""

from __future__ import annotations

import concurrent.futures
import functools
import gc
import math
import threading
import weakref
from concurrent.futures import CancelledError, InvalidStateError

import pytest
from treadle import Future


def make(method: str = "pending", value: object = None) -> Future:
    future: Future = Future()
    if method == "running":
        future.set_running_or_notify_cancel()
    elif method == "result":
        future.set_result(value)
    elif method == "exception":
        future.set_exception(value)
    elif method == "cancelled":
        future.cancel()
    return future


def test_it_is_a_stdlib_future():
    assert issubclass(Future, concurrent.futures.Future)
    assert isinstance(Future(), concurrent.futures.Future)
    assert Future[int].__origin__ is Future


def test_it_takes_no_arguments():
    with pytest.raises(TypeError):
        Future(1)  # type: ignore[call-arg]


@pytest.mark.parametrize("type_", [Future, concurrent.futures.Future])
def test_states_follow_the_stdlib(type_):
    future = type_()
    assert (future._state, future.done(), future.running(), future.cancelled()) == ("PENDING", False, False, False)
    assert future.set_running_or_notify_cancel()
    assert (future._state, future.done(), future.running(), future.cancelled()) == ("RUNNING", False, True, False)
    assert not future.cancel()
    future.set_result(7)
    assert (future._state, future.done(), future.result(), future.exception()) == ("FINISHED", True, 7, None)
    assert not future.cancel()
    future = type_()
    assert future.cancel()
    assert future.cancel()
    assert (future._state, future.done(), future.cancelled()) == ("CANCELLED", True, True)
    assert not future.set_running_or_notify_cancel()
    assert future._state == "CANCELLED_AND_NOTIFIED"
    with pytest.raises(CancelledError):
        future.result()
    with pytest.raises(CancelledError):
        future.exception()


@pytest.mark.parametrize("type_", [Future, concurrent.futures.Future])
def test_setting_twice_is_refused_in_the_same_words(type_):
    future = type_()
    future.set_result(1)
    with pytest.raises(InvalidStateError, match=r"FINISHED: <Future at 0x[0-9a-f]+ state=finished returned int>"):
        future.set_result(2)
    with pytest.raises(InvalidStateError, match="FINISHED"):
        future.set_exception(ValueError())
    with pytest.raises(RuntimeError, match="Future in unexpected state"):
        future.set_running_or_notify_cancel()


def test_repr_has_the_state():
    assert repr(make()).endswith(" state=pending>")
    assert repr(make("running")).endswith(" state=running>")
    assert repr(make("cancelled")).endswith(" state=cancelled>")
    assert repr(make("result", 5)).endswith(" state=finished returned int>")
    assert repr(make("exception", OSError())).endswith(" state=finished raised OSError>")


def test_private_state_of_a_local_future_can_be_set():
    future = Future()
    future._state = "FINISHED"  # type: ignore[misc]
    future._result = 3  # type: ignore[misc]
    assert future.result() == 3
    future._exception = KeyError("k")  # type: ignore[misc]
    with pytest.raises(KeyError):
        future.result()
    with pytest.raises(ValueError, match="no state"):
        future._state = "NOWHERE"  # type: ignore[misc]


@pytest.mark.parametrize("timeout", [0, -1, 0.001, 1e-9])
def test_time_runs_out(timeout):
    for method in "result", "exception":
        with pytest.raises(TimeoutError):
            getattr(Future(), method)(timeout)
        with pytest.raises(TimeoutError):
            getattr(Future(), method)(timeout=timeout)


@pytest.mark.parametrize(("timeout", "error"), [("1", TypeError), (float("nan"), ValueError)])
def test_a_timeout_is_a_number(timeout, error):
    with pytest.raises(error, match=r"timeout must be a number of seconds or None, not (str|NaN)"):
        Future().result(timeout)


@pytest.mark.parametrize("timeout", [-(10**400), -math.inf])
def test_a_timeout_beyond_all_measure_has_a_sign(timeout):
    with pytest.raises(TimeoutError):
        Future().result(timeout)
    future = Future()
    future.set_result(1)
    assert future.result(-timeout) == 1


def test_result_takes_one_argument():
    with pytest.raises(TypeError):
        Future().result(1, 2)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Future().result(patience=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("timeout", [None, 50.0, float("inf")])
def test_another_thread_finishes_it(timeout):
    future = Future()
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(future.result(timeout))) for _ in range(4)]
    for thread in threads:
        thread.start()
    future.set_result("done")
    for thread in threads:
        thread.join()
    assert seen == ["done"] * 4


def test_cancelling_wakes_who_waits():
    future = Future()
    seen = []

    def wait():
        try:
            future.result()
        except CancelledError as error:
            seen.append(type(error))

    thread = threading.Thread(target=wait)
    thread.start()
    future.cancel()
    thread.join()
    assert seen == [CancelledError]


def test_callbacks_run_in_order_and_once():
    future = Future()
    calls = []
    for i in range(5):
        future.add_done_callback(lambda done, i=i: calls.append((i, done.result())))
    assert calls == []
    future.set_result("x")
    assert calls == [(i, "x") for i in range(5)]
    future.add_done_callback(lambda _: calls.append("late"))
    assert calls[-1] == "late"
    assert len(calls) == 6


def test_a_callback_that_raises_is_logged(caplog):
    future = Future()
    calls = []
    future.add_done_callback(lambda _: 1 / 0)
    future.add_done_callback(calls.append)
    future.set_result(None)
    assert calls == [future]
    (record,) = caplog.records
    assert record.getMessage().startswith("exception calling callback for <Future")
    assert record.exc_info[0] is ZeroDivisionError
    assert record.name == "concurrent.futures"


def test_a_callback_may_be_no_ordinary_error():
    future = Future()

    def stop(_):
        raise SystemExit(3)

    future.add_done_callback(stop)
    with pytest.raises(SystemExit):
        future.set_result(None)
    assert future.result() is None


def test_cancelling_runs_callbacks():
    future = Future()
    calls = []
    future.add_done_callback(lambda done: calls.append(done.cancelled()))
    future.cancel()
    assert calls == [True]


def test_it_has_attributes_and_weak_references():
    future = Future()
    future.note = "n"  # type: ignore[attr-defined]
    assert future.__dict__ == {"note": "n"}
    reference = weakref.ref(future)
    del future
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("tie", ["attribute", "result", "exception", "callback", "waiters"])
def test_cycles_are_collected(tie):
    future = Future()
    if tie == "attribute":
        future.me = future  # type: ignore[attr-defined]
    elif tie == "result":
        future.set_result([future])
    elif tie == "exception":
        future.set_exception(ValueError(future))
    elif tie == "callback":
        future.add_done_callback(functools.partial(print, future))
    else:
        future._waiters.append(future)
    reference = weakref.ref(future)
    del future
    gc.collect()
    assert reference() is None


def test_a_raised_result_leaves_no_cycle():
    gc.collect()
    gc.disable()
    try:
        future = make("exception", ValueError("v"))
        reference = weakref.ref(future)
        with pytest.raises(ValueError, match="v"):
            future.result()
        del future
        assert reference() is None
    finally:
        gc.enable()
