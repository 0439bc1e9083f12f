/* local.c: futures that Python code finishes: those of threads, of calls that could not be sent, of tests.
 *
 * A thread that waits for one sleeps on a lock of its own, listed in the future's watch; whoever finishes the future
 * (tb_future_apply) opens it.
 * Invariant  L1 a sleeper, which lies on its thread's stack, is off the list before the wait returns.
 * Tests  tests/unit/test_future.py, tests/unit/test_threads.py */
#include "base/clock.h"
#include "future.h"

/* ---- Waiting -------------------------------------------------------------------------------------------------- */

/* Puts the sleeper on the local future's list. 1: done already; 0: listed; -1. */
static int sleeper_enlist(struct tb_future *future, struct tb_sleeper *sleeper)
{
    int done;
    Py_BEGIN_CRITICAL_SECTION(future);
    done = future->state >= TB_CANCELLED ? 1 : tb_future_watch(future);
    if (done == 0) {
        sleeper->next = future->watch->sleepers;
        future->watch->sleepers = sleeper;
    }
    Py_END_CRITICAL_SECTION();
    return done;
}

static bool sleeper_delist(struct tb_future *future, struct tb_sleeper *sleeper)
{
    Py_BEGIN_CRITICAL_SECTION(future);
    struct tb_sleeper **link = &future->watch->sleepers;
    while (*link != sleeper)
        link = &(*link)->next;
    *link = sleeper->next;
    Py_END_CRITICAL_SECTION();
    return sleeper->woken;
}

int tb_future_wait_local(struct tb_future *future, int64_t deadline_ns)
{
    if (future->state >= TB_CANCELLED)
        return 1;
    if (deadline_ns == 0)
        return 0;
    struct tb_sleeper sleeper = {.lock = PyThread_allocate_lock()};
    if (sleeper.lock == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    (void)PyThread_acquire_lock(sleeper.lock, NOWAIT_LOCK);
    int done = sleeper_enlist(future, &sleeper);
    if (done == 0) {
        PyLockStatus slept = PY_LOCK_INTR;
        while (slept == PY_LOCK_INTR && done == 0) {
            int64_t left_ns = td_deadline_left(deadline_ns);
            PY_TIMEOUT_T left_us = deadline_ns == TD_FOREVER ? -1 : left_ns / 1000 + (left_ns % 1000 != 0);
            if (left_us > PY_TIMEOUT_MAX)
                left_us = PY_TIMEOUT_MAX;
            Py_BEGIN_ALLOW_THREADS;
            slept = PyThread_acquire_lock_timed(sleeper.lock, left_us, 1);
            Py_END_ALLOW_THREADS;
            if (slept == PY_LOCK_INTR)
                done = PyErr_CheckSignals();
        }
        if (sleeper_delist(future, &sleeper) && done == 0)
            done = tb_future_pass_condition(future) < 0 ? -1 : 1;
        if (slept != PY_LOCK_ACQUIRED &&
            sleeper.woken) /* opened after we gave up: it must be shut when freed */
            (void)PyThread_acquire_lock(sleeper.lock, NOWAIT_LOCK);
    }
    PyThread_release_lock(sleeper.lock);
    PyThread_free_lock(sleeper.lock);
    return done;
}

/* ---- For whoever runs its call -------------------------------------------------------------------------------- */

PyObject *tb_future_start(PyObject *self, PyObject *Py_UNUSED(unused))
{
    struct tb_future *future = (struct tb_future *)self;
    struct tb_state *state = tb_state_of_final(self);
    int done = tb_future_apply(state, future, TB_EVENT_START, NULL);
    if (done < 0)
        return NULL;
    if (done > 0)
        return PyBool_FromLong(future->state == TB_RUNNING);
    PyObject *name = PyObject_GetAttrString(self, "_state");
    PyObject *logger = name != NULL ? PyObject_GetAttrString(state->futures_base, "LOGGER") : NULL;
    PyObject *logged = logger != NULL
                           ? PyObject_CallMethod(logger, "critical", "sNO", "Future %s in unexpected state: %s",
                                                 PyLong_FromVoidPtr(self), name)
                           : NULL;
    Py_XDECREF(name);
    Py_XDECREF(logger);
    if (logged == NULL)
        return NULL;
    Py_DECREF(logged);
    PyErr_SetString(PyExc_RuntimeError, "Future in unexpected state");
    return NULL;
}

static PyObject *finish_local(PyObject *self, enum tb_event event, PyObject *value)
{
    struct tb_future *future = (struct tb_future *)self;
    struct tb_state *state = tb_state_of_final(self);
    int done = future->state == TB_ENGINE ? 0 : tb_future_apply(state, future, event, value);
    if (done < 0)
        return NULL;
    if (done > 0)
        Py_RETURN_NONE;
    PyObject *class = PyObject_GetAttrString(state->futures_base, "InvalidStateError");
    PyObject *name = class != NULL ? PyObject_GetAttrString(self, "_state") : NULL;
    if (name != NULL)
        PyErr_Format(class, "%U: %R", name, self);
    Py_XDECREF(name);
    Py_XDECREF(class);
    return NULL;
}

PyObject *tb_future_set_result(PyObject *self, PyObject *result)
{
    return finish_local(self, TB_EVENT_RESULT, result);
}

PyObject *tb_future_set_exception(PyObject *self, PyObject *exception)
{
    return finish_local(self, TB_EVENT_EXCEPTION, exception);
}
