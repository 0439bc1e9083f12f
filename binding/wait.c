/* wait.c: the engine's deadlines from Python's seconds, and its waits, without the GIL.
 * Invariant  a signal's handler runs in every wait, and what it raises ends the wait: the engine says TD_EINTR when a
 *            signal ended its sleep, and on the main thread before each sleep (td_heed_signals). A signal that comes
 *            between that look and the sleep interrupts nothing; so a sleeper looks again itself, each time after twice
 *            the pause: such a signal is heard when the wait has lasted twice as long as it had, at most.
 * Tests  tests/unit/test_future.py, tests/unit/test_map.py, tests/fault/test_stop.py */
#include <math.h>

#include "base/clock.h"
#include "module.h"

/* ---- Time --------------------------------------------------------------------------------------------------- */

/* Nanoseconds from seconds, rounded up and saturating at TD_FOREVER; -1 with an exception for what is no number. */
static int nanoseconds(PyObject *seconds, const char *what, int64_t *ns)
{
    double value = PyFloat_AsDouble(seconds);
    if (value == -1.0 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_TypeError))
            PyErr_Format(PyExc_TypeError, "%s must be a number of seconds or None, not %.200s", what,
                         Py_TYPE(seconds)->tp_name);
        else if (PyErr_ExceptionMatches(PyExc_OverflowError) && PyLong_Check(seconds))
            value = PyObject_RichCompareBool(seconds, Py_False, Py_LT) == 1 ? -INFINITY : INFINITY;
        if (!isinf(value))
            return -1;
        PyErr_Clear();
    }
    if (isnan(value)) {
        PyErr_Format(PyExc_ValueError, "%s must be a number of seconds or None, not NaN", what);
        return -1;
    }
    value = ceil(value * (double)TD_NS_PER_S);
    if (value >= (double)TD_FOREVER)
        *ns = TD_FOREVER;
    else if (value <= 0.0)
        *ns = 0;
    else
        *ns = (int64_t)value;
    return 0;
}

int tb_deadline(PyObject *seconds, int64_t *deadline_ns)
{
    int64_t ns = TD_FOREVER;
    if (seconds != NULL && seconds != Py_None && nanoseconds(seconds, "timeout", &ns) < 0)
        return -1;
    *deadline_ns = ns == 0 ? 0 : td_deadline_after(ns);
    return 0;
}

int tb_duration(PyObject *seconds, const char *what, int64_t *ns)
{
    *ns = 0;
    if (seconds == NULL || seconds == Py_None)
        return 0;
    if (nanoseconds(seconds, what, ns) < 0)
        return -1;
    if (*ns == 0) {
        PyErr_Format(PyExc_ValueError, "%s must be None or a positive number of seconds", what);
        return -1;
    }
    if (*ns == TD_FOREVER)
        *ns = 0;
    return 0;
}

/* ---- Waits ---------------------------------------------------------------------------------------------------- */

#define FIRST_PAUSE_NS (5 * TD_NS_PER_MS)

int tb_wait_until(struct tb_state *state, td_pool *pool, tb_wait *wait, void *subject, int64_t deadline_ns)
{
    int64_t pause_ns = FIRST_PAUSE_NS;
    for (;;) {
        const int64_t look_ns = td_deadline_after(pause_ns);
        td_status status;
        Py_BEGIN_ALLOW_THREADS;
        status = wait(subject, look_ns < deadline_ns ? look_ns : deadline_ns);
        Py_END_ALLOW_THREADS;
        if (status == TD_OK)
            return 1;
        if (status == TD_ETIMEDOUT && deadline_ns <= look_ns)
            return 0;
        if (status == TD_ETIMEDOUT)
            pause_ns *= 2;
        else if (status != TD_EINTR)
            return tb_raise_status(state, status, pool);
        if (wait(subject, 0) == TD_OK) /* what came while we waited for the GIL needs no other wait for it */
            return 1;
        if (PyErr_CheckSignals() < 0)
            return -1;
        td_signals_heeded();
    }
}

int tb_poll_or_wait(struct tb_state *state, td_pool *pool, tb_wait *wait, void *subject, int64_t deadline_ns)
{
    const td_status status = wait(subject, 0);
    if (status == TD_OK)
        return 1;
    if (status == TD_ETIMEDOUT && deadline_ns == 0)
        return 0;
    return tb_wait_until(state, pool, wait, subject, deadline_ns);
}

static td_status wait_for_task(void *task, int64_t deadline_ns)
{
    return td_task_wait_until(task, deadline_ns);
}

int tb_task_wait(struct tb_state *state, td_task *task, int64_t deadline_ns)
{
    if (td_task_poll(task))
        return 1;
    return deadline_ns != 0 ? tb_wait_until(state, NULL, wait_for_task, task, deadline_ns) : 0;
}

struct pop {
    td_group *group;
    td_task *task;
};

static td_status pop_group(void *subject, int64_t deadline_ns)
{
    struct pop *pop = subject;
    return td_group_pop_until(pop->group, deadline_ns, &pop->task);
}

int tb_group_pop(struct tb_state *state, td_pool *pool, td_group *group, int64_t deadline_ns, td_task **task)
{
    struct pop pop = {.group = group};
    const int popped = tb_poll_or_wait(state, pool, pop_group, &pop, deadline_ns);
    if (popped > 0)
        *task = pop.task;
    return popped;
}
