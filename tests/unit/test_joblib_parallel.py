"""`treadle.joblib.Parallel`: what a call gives, when tasks are read, and how it ends. joblib's own suite runs, too."""

from __future__ import annotations

import inspect
import multiprocessing
import os
import pickle
import threading
import warnings
from collections.abc import Callable, Iterator
from itertools import count, islice
from operator import neg
from typing import Any

import pytest
from treadle import TaskTimeout
from treadle.joblib import Parallel, _pools, delayed, parallel_config, wrap_non_picklable_objects

BACKENDS = ("treadle", "loky", "multiprocessing", "threading", "sequential")
POOLS = ("treadle", "threading")
RETURNS = ("list", "generator", "generator_unordered")


@pytest.fixture(autouse=True)
def no_warm_pools() -> Iterator[None]:
    yield
    _pools.close_all()


def add(x: int, y: int = 0) -> int:
    return x + y


def wait_at(path: str) -> str:
    with open(path):
        return path


def fail_at(path: str) -> None:
    with open(path):
        raise LookupError(path)


def meet(path: str) -> None:
    with open(path, "w"):
        pass


def pid_of(_: object = None) -> int:
    return os.getpid()


# --- what it gives


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("return_as", RETURNS)
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_results_are_those_of_a_loop(backend: str, return_as: str, n_jobs: int) -> None:
    found = Parallel(n_jobs, backend, return_as)(delayed(add)(i, y=1) for i in range(50))
    assert isinstance(found, list) == (return_as == "list")
    assert sorted(found) == [i + 1 for i in range(50)]


@pytest.mark.parametrize("backend", POOLS)
def test_results_are_in_the_order_of_the_tasks(backend: str, make_gate: Callable[[], Any]) -> None:
    gate = make_gate()
    tasks = [delayed(wait_at)(str(gate.path)), *[delayed(str)(i) for i in range(20)]]
    results = Parallel(2, backend, "generator")(tasks)
    gate.open()
    assert list(results) == [str(gate.path), *map(str, range(20))]


@pytest.mark.parametrize("backend", POOLS)
def test_unordered_results_come_before_what_is_not_done(backend: str, make_gate: Callable[[], Any]) -> None:
    gate = make_gate()
    tasks = [delayed(wait_at)(str(gate.path)), *[delayed(str)(i) for i in range(20)]]
    results = Parallel(2, backend, "generator_unordered", batch_size=1)(tasks)
    assert sorted(islice(results, 20), key=int) == [str(i) for i in range(20)]
    gate.open()
    assert list(results) == [str(gate.path)]


def test_tasks_of_different_functions_may_be_mixed() -> None:
    tasks = [delayed(add)(1, 2), delayed(neg)(3), delayed(add)(4, y=5), delayed(lambda: 6)(), delayed(dict)(a=1)] * 40
    assert Parallel(2)(tasks) == [3, -3, 9, 6, {"a": 1}] * 40


def test_without_tasks_there_are_no_results() -> None:
    assert Parallel(2)([]) == []
    assert list(Parallel(2, return_as="generator")(iter([]))) == []


def test_a_call_of_one_hundred_thousand_tasks_comes_back_whole() -> None:
    assert Parallel(2)(delayed(neg)(i) for i in range(100_000)) == [-i for i in range(100_000)]


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("backend", POOLS)
@pytest.mark.parametrize("first", ["all", 1, "n_jobs", "3 * n_jobs"])
def test_batches_and_pre_dispatch_change_no_result(size: int, backend: str, first: str | int) -> None:
    parallel = Parallel(2, backend, batch_size=size, pre_dispatch=first)
    assert parallel(delayed(neg)(i) for i in range(100)) == [-i for i in range(100)]
    assert (parallel.n_completed_tasks, parallel.n_dispatched_tasks) == (100, 100)


# --- when tasks are read


@pytest.mark.parametrize("backend", POOLS)
def test_pre_dispatch_tasks_are_read_before_one_has_ended(backend: str, make_gate: Callable[[], Any]) -> None:
    gates = make_gate(), make_gate()
    read = []

    def tasks() -> Iterator[Any]:
        for i in range(20):
            read.append(i)
            yield delayed(wait_at)(str(gates[i].path)) if i < 2 else delayed(str)(i)

    results = Parallel(2, backend, "generator", pre_dispatch=5)(tasks())
    assert read == list(range(5))
    for gate in gates:
        gate.open()
    assert list(results)[2:] == [str(i) for i in range(2, 20)]
    assert read == list(range(20))


@pytest.mark.parametrize("backend", POOLS)
def test_a_generator_goes_on_while_nobody_asks(backend: str, make_gate: Callable[[], Any]) -> None:
    gate = make_gate()
    results = Parallel(2, backend, "generator", pre_dispatch=2)(
        delayed(meet)(str(gate.path)) if i == 19 else delayed(neg)(i) for i in range(20)
    )
    with open(gate.path):  # the last task is there, though no result was asked for
        pass
    assert list(results) == [-i for i in range(19)] + [None]


@pytest.mark.parametrize("backend", POOLS)
def test_a_generator_may_feed_another_call(backend: str) -> None:
    inner = Parallel(2, backend, "generator", pre_dispatch=2)(delayed(neg)(i) for i in range(200))
    outer = Parallel(2, backend, "generator", pre_dispatch=2)(delayed(neg)(i) for i in inner)
    assert list(outer) == list(range(200))


def test_of_an_endless_input_as_much_is_read_as_is_needed() -> None:
    with Parallel(2, return_as="generator", batch_size=1) as parallel:
        results = parallel(delayed(neg)(i) for i in count())
        assert list(islice(results, 10)) == [-i for i in range(10)]
        with pytest.warns(UserWarning, match="not used|have been cancelled"):
            results.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_error_of_the_input_ends_the_call(backend: str) -> None:
    def tasks(good: int) -> Iterator[Any]:
        for i in range(good):
            yield delayed(neg)(i)
        raise LookupError("no more")

    parallel = Parallel(2, backend)
    for good in (0, 3, 100):
        with pytest.raises(LookupError, match="no more"):
            parallel(tasks(good))
    assert parallel([delayed(neg)(1)]) == [-1]


# --- how it ends


@pytest.mark.parametrize("backend", POOLS)
def test_the_first_error_ends_a_call_whose_other_tasks_have_not_ended(
    backend: str, make_gate: Callable[[], Any]
) -> None:
    waiting, failing = make_gate(), make_gate()
    tasks = [delayed(wait_at)(str(waiting.path)), delayed(fail_at)(str(failing.path)), *[delayed(neg)(1)] * 10]
    parallel = Parallel(2, backend)
    opener = threading.Thread(target=failing.open)
    opener.start()
    with pytest.raises(LookupError, match=str(failing.path)):
        parallel(tasks)
    opener.join()
    if backend == "threading":
        waiting.open()
    assert parallel(delayed(neg)(i) for i in range(10)) == [-i for i in range(10)]


@pytest.mark.parametrize("return_as", RETURNS)
def test_a_task_that_takes_too_long_is_stopped(return_as: str, make_gate: Callable[[], Any]) -> None:
    path = str(make_gate().path)
    with pytest.raises(TimeoutError) as caught:
        list(Parallel(2, return_as=return_as, timeout=0.01)([delayed(wait_at)(path), delayed(wait_at)(path)]))
    assert isinstance(caught.value, multiprocessing.TimeoutError)
    assert isinstance(caught.value, TaskTimeout)
    assert Parallel(2)(delayed(neg)(i) for i in range(10)) == [-i for i in range(10)]


@pytest.mark.parametrize("return_as", RETURNS)
def test_a_thread_that_takes_too_long_is_left_alone(return_as: str) -> None:
    end = threading.Event()
    with pytest.raises(TimeoutError, match="took longer than its timeout"):
        list(Parallel(2, "threading", return_as, timeout=0.01)([delayed(end.wait)()] * 3))
    assert Parallel(2, "threading")(delayed(neg)(i) for i in range(10)) == [-i for i in range(10)]
    end.set()


greeting = "set by nobody"


def test_a_local_function_sees_the_globals_as_they_are_at_each_call() -> None:
    def greet() -> str:
        return greeting

    global greeting
    for greeting in ("first", "second"):
        assert Parallel(2)([delayed(greet)()]) == [greeting]
        assert Parallel(2)([delayed(greet)(), delayed(pid_of)()] * 40)[::2] == [greeting] * 40


def test_the_time_that_a_task_waits_for_a_worker_does_not_count(make_gate: Callable[[], Any]) -> None:
    gates = [make_gate() for _ in range(4)]
    results = Parallel(2, timeout=3600, pre_dispatch="all", return_as="generator")(
        delayed(wait_at)(str(gate.path)) for gate in gates
    )
    for gate in gates:
        gate.open()
    assert list(results) == [str(gate.path) for gate in gates]


def test_what_can_not_be_pickled_is_named() -> None:
    with pytest.raises(pickle.PicklingError, match=r"the task to send.*lock"):
        Parallel(2)(delayed(id)(threading.Lock()) for _ in range(4))
    with pytest.raises(pickle.PicklingError, match="the result"):
        Parallel(2)(delayed(threading.Lock)() for _ in range(4))


def test_a_dropped_generator_gives_up_its_tasks(make_gate: Callable[[], Any]) -> None:
    gate = make_gate()
    parallel = Parallel(2, return_as="generator")
    results = parallel(delayed(wait_at)(str(gate.path)) for _ in range(10))
    with pytest.raises(RuntimeError, match="already running"):
        parallel([])
    with pytest.warns(UserWarning, match="4 tasks which were still being processed by the workers"):
        del results
    assert list(parallel(delayed(neg)(i) for i in range(10))) == [-i for i in range(10)]


def test_a_read_generator_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(Parallel(2, return_as="generator")([delayed(neg)(1)])) == [-1]


def test_a_task_may_raise_what_is_no_exception() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Parallel(2)([delayed(interrupt)()] * 4)


# --- nested calls


def inside() -> tuple[str, int, int, int]:
    parallel = Parallel(2)
    pids = parallel(delayed(pid_of)() for _ in range(4))
    return type(parallel._backend).__name__, parallel._backend.nesting_level, Parallel().n_jobs, len(set(pids))


def twice_inside() -> Any:
    return Parallel(2)([delayed(inside)()])[0]


@pytest.mark.parametrize("backend", POOLS)
def test_a_call_in_a_call_takes_threads_and_the_next_one_a_loop(backend: str) -> None:
    assert Parallel(2, backend)([delayed(inside)()] * 3) == [("ThreadingBackend", 1, 1, 1)] * 3
    assert Parallel(2, backend)([delayed(twice_inside)()] * 3) == [("SequentialBackend", 2, 1, 1)] * 3


def processes_inside() -> int:
    return len(set(Parallel(2, "treadle", batch_size=1)(delayed(pid_of)() for _ in range(8))) - {os.getpid()})


def test_processes_in_processes_are_there_for_those_who_ask() -> None:
    assert Parallel(2)([delayed(processes_inside)()])[0] >= 1


# --- other things


def test_inline_everything_runs_in_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREADLE_INLINE", "1")
    assert set(Parallel(2)(delayed(pid_of)() for _ in range(4))) == {os.getpid()}


def test_wrapped_objects_can_be_pickled_and_called() -> None:
    wrapped = pickle.loads(pickle.dumps(wrap_non_picklable_objects(lambda x: x + 1)))
    assert wrapped(1) == 2
    bare = pickle.loads(pickle.dumps(wrap_non_picklable_objects(lambda x: x + 1, keep_wrapper=False)))
    assert bare.__name__ == "<lambda>"
    made = wrap_non_picklable_objects(list)((1, 2))
    assert pickle.loads(pickle.dumps(made)).index(2) == 1


def test_delayed_has_the_functions_name_and_travels() -> None:
    made = delayed(add)
    assert (made.__name__, inspect.signature(made)) == ("add", inspect.signature(add))
    assert pickle.loads(pickle.dumps(made))(1, y=2) == (add, (1,), {"y": 2})

    class Thing:
        @delayed
        def method(self, x: int) -> int:
            return x

    thing = Thing()
    function, args, kwargs = thing.method(3)
    assert (args, kwargs) == ((thing, 3), {})
    assert function(*args) == 3


def test_a_subclass_sees_the_progress() -> None:
    class Watched(Parallel):
        def print_progress(self) -> None:
            seen.append(self.n_completed_tasks)

    seen: list[int] = []
    with parallel_config("threading", n_jobs=2):
        Watched()(delayed(neg)(i) for i in range(10))
    assert sorted(seen) == list(range(1, 11))
