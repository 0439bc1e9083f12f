"""joblib itself on Treadle's backends, and scikit-learn on joblib."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from operator import neg
from typing import Any

import pytest
from treadle.joblib import _pools

joblib = pytest.importorskip("joblib")

RETURNS = ("list", "generator", "generator_unordered")
POOLS = ("treadle", "loky", "threading")


@pytest.fixture(autouse=True)
def registered() -> Iterator[Any]:
    from treadle.joblib import register, unregister

    register()
    yield joblib
    unregister()
    _pools.close_all()


def pid_of(_: object = None) -> int:
    return os.getpid()


def wait_at(path: str) -> str:
    with open(path):
        return path


def fail_at(path: str) -> None:
    with open(path):
        raise LookupError(path)


def flags(array: Any) -> bool:
    return bool(array.flags.writeable)


def inside() -> tuple[str, int]:
    backend = joblib.parallel.get_active_backend()[0]
    return f"{type(backend).__module__}.{type(backend).__name__}", backend.nesting_level


def test_the_default_and_the_names_of_joblibs_own_are_served() -> None:
    home = "treadle.joblib._register"
    for name in (None, "treadle", "loky", "multiprocessing", "threading"):
        assert type(joblib.Parallel(2, backend=name)._backend).__module__ == home
    assert type(joblib.Parallel(2, prefer="threads")._backend).__module__ == home
    assert type(joblib.Parallel(2, require="sharedmem")._backend).uses_threads


def test_joblibs_own_come_back() -> None:
    from treadle.joblib import register, unregister

    unregister()
    assert type(joblib.Parallel(2)._backend).__module__ == "joblib._parallel_backends"
    register(default=False)
    assert type(joblib.Parallel(2)._backend).__module__ == "joblib._parallel_backends"
    assert type(joblib.Parallel(2, "treadle")._backend).__module__ == "treadle.joblib._register"


@pytest.mark.parametrize("backend", POOLS)
@pytest.mark.parametrize("return_as", RETURNS)
def test_results_are_those_of_a_loop(backend: str, return_as: str) -> None:
    parallel = joblib.Parallel(2, backend, return_as)
    for tasks in (1, 5, 3000):
        found = parallel(joblib.delayed(neg)(i) for i in range(tasks))
        assert sorted(found) == sorted(-i for i in range(tasks))


def test_processes_are_used_and_kept() -> None:
    found = {pid for _ in range(3) for pid in joblib.Parallel(2)(joblib.delayed(pid_of)() for _ in range(20))}
    assert os.getpid() not in found
    assert len(found) <= 2


@pytest.mark.parametrize("backend", POOLS)
def test_the_first_error_ends_a_call_whose_other_tasks_have_not_ended(
    backend: str, make_gate: Callable[[], Any]
) -> None:
    waiting, failing = make_gate(), make_gate()
    tasks = [joblib.delayed(wait_at)(str(waiting.path)), joblib.delayed(fail_at)(str(failing.path))]
    parallel = joblib.Parallel(2, backend)
    opener = threading.Thread(target=failing.open)
    opener.start()
    with pytest.raises(LookupError, match=str(failing.path)):
        parallel(tasks)
    opener.join()
    if backend == "threading":
        waiting.open()
    assert parallel(joblib.delayed(neg)(i) for i in range(10)) == [-i for i in range(10)]


@pytest.mark.parametrize("return_as", RETURNS)
def test_a_task_that_takes_too_long_raises(return_as: str, make_gate: Callable[[], Any]) -> None:
    gate = make_gate()
    with pytest.raises(multiprocessing.TimeoutError):
        list(joblib.Parallel(2, return_as=return_as, timeout=0.01)([joblib.delayed(wait_at)(str(gate.path))] * 2))
    assert joblib.Parallel(2)([joblib.delayed(neg)(1)]) == [-1]


def test_an_error_of_the_input_ends_the_call() -> None:
    def tasks(good: int) -> Iterator[Any]:
        for i in range(good):
            yield joblib.delayed(neg)(i)
        raise LookupError("no more")

    for good in (0, 3, 100):
        with pytest.raises(LookupError, match="no more"):
            joblib.Parallel(2)(tasks(good))


def test_a_dropped_generator_gives_up_its_tasks(make_gate: Callable[[], Any]) -> None:
    gate = make_gate()
    parallel = joblib.Parallel(2, return_as="generator")
    results = parallel(joblib.delayed(wait_at)(str(gate.path)) for _ in range(10))
    with pytest.warns(UserWarning, match="4 tasks which were still being processed by the workers"):
        del results
    assert list(parallel(joblib.delayed(neg)(i) for i in range(10))) == [-i for i in range(10)]


def test_a_call_in_a_call_takes_treadles_threads() -> None:
    assert joblib.Parallel(2)([joblib.delayed(inside)()]) == [("treadle.joblib._register.ThreadingBackend", 1)]


def test_large_arrays_travel_without_a_folder(tmp_path: Any) -> None:
    np = pytest.importorskip("numpy")
    array = np.zeros(200_000)
    parallel = joblib.Parallel(2, temp_folder=str(tmp_path))
    assert parallel([joblib.delayed(flags)(array)] * 3) == [False] * 3
    assert list(tmp_path.iterdir()) == []
    assert joblib.Parallel(2, max_nbytes=None)([joblib.delayed(flags)(array)]) == [True]


def test_inline_everything_runs_in_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREADLE_INLINE", "1")
    assert set(joblib.Parallel(2)(joblib.delayed(pid_of)() for _ in range(4))) == {os.getpid()}


def test_a_task_may_be_anything_that_cloudpickle_can_send() -> None:
    offset = 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert joblib.Parallel(2)(joblib.delayed(lambda x: x + offset)(i) for i in range(5)) == [3, 4, 5, 6, 7]


greeting = "set by nobody"


def test_a_local_function_sees_the_globals_as_they_are_at_each_call() -> None:
    def greet() -> str:
        return greeting

    global greeting
    for greeting in ("first", "second"):
        assert joblib.Parallel(2)([joblib.delayed(greet)()]) == [greeting]


# --- scikit-learn, estimator by estimator

ESTIMATORS = """
import hashlib, json, sys, warnings
import numpy as np
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.decomposition import PCA
from sklearn.ensemble import BaggingClassifier, ExtraTreesRegressor, RandomForestClassifier, StackingClassifier
from sklearn.ensemble import VotingClassifier
from sklearn.feature_selection import RFECV
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LassoCV, LogisticRegression
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, cross_val_predict, cross_val_score, learning_curve
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

if sys.argv[1] == "treadle":
    import treadle.joblib
    treadle.joblib.register()

X, y = make_classification(400, 400, n_informative=20, n_classes=3, random_state=0)  # X is larger than max_nbytes
small = X[:, :20]

def forest():
    made = RandomForestClassifier(20, n_jobs=2, random_state=0, oob_score=True).fit(X, y)
    return made.predict_proba(X), made.feature_importances_, made.oob_score_

def grid():
    made = GridSearchCV(SVC(), {"C": [0.1, 1, 10], "gamma": ["scale", 0.01]}, cv=3, n_jobs=2).fit(small, y)
    scores = [made.cv_results_[name] for name in sorted(made.cv_results_) if name.startswith(("split", "mean_test"))]
    return *scores, made.best_index_, made.predict(small)

def randomized():
    space = {"C": np.logspace(-3, 3, 20)}
    made = RandomizedSearchCV(LogisticRegression(), space, n_iter=4, cv=3, n_jobs=2, random_state=0).fit(X, y)
    return made.cv_results_["mean_test_score"], made.cv_results_["param_C"].astype(float)

def stacking():
    parts = [("a", LogisticRegression()), ("b", KNeighborsClassifier())]
    made = StackingClassifier(parts, LogisticRegression(), n_jobs=2, cv=3).fit(small, y)
    return (made.predict_proba(small),)

def pipeline():
    union = FeatureUnion([("a", PCA(3, random_state=0)), ("b", PCA(5, random_state=0))], n_jobs=2)
    inner = make_pipeline(StandardScaler(), union, RandomForestClassifier(5, n_jobs=2, random_state=0))
    made = GridSearchCV(inner, {"standardscaler__with_mean": [True, False]}, cv=3, n_jobs=2).fit(X, y)
    return made.cv_results_["mean_test_score"], made.predict_proba(X)

def importance():
    found = permutation_importance(SVC().fit(small, y), small, y, n_repeats=3, random_state=0, n_jobs=2)
    return (found.importances,)

def voting():
    made = VotingClassifier([("a", SVC()), ("b", SVC(C=9))], n_jobs=2).fit(small, y)
    return (made.predict(small),)

CASES = {
    "RandomForestClassifier": forest,
    "GridSearchCV": grid,
    "RandomizedSearchCV": randomized,
    "StackingClassifier": stacking,
    "Pipeline": pipeline,
    "permutation_importance": importance,
    "cross_val_score": lambda: (cross_val_score(LogisticRegression(), X, y, cv=4, n_jobs=2),),
    "cross_val_predict": lambda: (cross_val_predict(SVC(), small, y, cv=4, n_jobs=-1),),
    "learning_curve": lambda: learning_curve(LogisticRegression(), small, y, cv=3, n_jobs=2),
    "ExtraTreesRegressor": lambda: (ExtraTreesRegressor(10, n_jobs=2, random_state=0).fit(X, y).predict(X),),
    "BaggingClassifier": lambda: (BaggingClassifier(n_jobs=2, random_state=0).fit(small, y).predict_proba(small),),
    "VotingClassifier": voting,
    "OneVsRestClassifier": lambda: (OneVsRestClassifier(SVC(), n_jobs=2).fit(small, y).decision_function(small),),
    "LassoCV": lambda: (LassoCV(cv=3, n_jobs=2, alphas=10).fit(small, y).coef_,),
    "RFECV": lambda: (RFECV(LogisticRegression(), cv=3, n_jobs=2, step=5).fit(small, y).ranking_,),
}
warnings.simplefilter("ignore")
found = {}
for name, case in CASES.items():
    digest = hashlib.sha256()
    for value in case():
        digest.update(np.ascontiguousarray(value).tobytes())
    found[name] = digest.hexdigest()
print(json.dumps(found))
"""


def results_on(backend: str) -> dict[str, str]:
    command = [sys.executable, "-W", "ignore", "-c", ESTIMATORS, backend]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.deadline(600)
def test_estimators_of_scikit_learn_give_the_same_bits_as_on_loky() -> None:
    pytest.importorskip("sklearn")
    assert results_on("treadle") == results_on("joblib")
