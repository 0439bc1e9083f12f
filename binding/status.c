/* status.c: the engine's outcomes as Python exceptions, its deadlines from Python's seconds, its waits without the
 * GIL. The one place that knows which exception stands for which status: the engine's own table names it.
 * Tests  tests/unit/test_future.py */
#include <math.h>

#include "base/clock.h"
#include "module.h"

PyObject *tb_errors(struct tb_state *state)
{
    if (state->errors == NULL) {
        PyObject *errors = PyImport_ImportModule("treadle._errors");
        if (errors == NULL)
            return NULL;
        if (state->errors == NULL)
            state->errors = errors;
        else
            Py_DECREF(errors);
    }
    return state->errors;
}

/* The class of that name, from treadle._errors or else a built-in: a new reference. */
static PyObject *exception_class(struct tb_state *state, const char *name)
{
    PyObject *errors = tb_errors(state);
    if (errors == NULL)
        return NULL;
    PyObject *found = PyObject_GetAttrString(errors, name);
    if (found != NULL || !PyErr_ExceptionMatches(PyExc_AttributeError))
        return found;
    PyErr_Clear();
    found = PyDict_GetItemString(PyEval_GetBuiltins(), name);
    return Py_NewRef(found != NULL ? found : PyExc_RuntimeError);
}

static int raise_made(PyObject *exception)
{
    if (exception != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
        Py_DECREF(exception);
    }
    return -1;
}

int tb_raise_status(struct tb_state *state, td_status status, td_pool *pool)
{
    const char *name = td_status_exception(status), *text = td_status_text(status);
    switch (status) {
    case TD_ENOMEM:
        PyErr_NoMemory();
        return -1;
    case TD_EOS:
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    case TD_ECLOSED:
        return raise_made(tb_call_errors(state, "pool_closed", "()"));
    case TD_EBROKEN:
        return raise_made(tb_call_errors(state, "pool_broken", "(s)", pool ? td_pool_broken_reason(pool) : ""));
    case TD_EFORKED:
        return raise_made(tb_call_errors(state, "pool_forked", "()"));
    case TD_ENOROOM:
        name = "NoRoom";
        break;
    case TD_EPROTO:
        name = "CorruptData";
        break;
    default:
        break;
    }
    PyObject *class = exception_class(state, name);
    if (class != NULL) {
        PyErr_SetString(class, text);
        Py_DECREF(class);
    }
    return -1;
}

PyObject *tb_call_errors(struct tb_state *state, const char *function, const char *format, ...)
{
    PyObject *errors = tb_errors(state);
    if (errors == NULL)
        return NULL;
    PyObject *callable = PyObject_GetAttrString(errors, function);
    if (callable == NULL)
        return NULL;
    va_list values;
    va_start(values, format);
    PyObject *args = Py_VaBuildValue(format, values);
    va_end(values);
    PyObject *made = NULL;
    if (args != NULL) {
        made = PyObject_CallObject(callable, args);
        Py_DECREF(args);
    }
    Py_DECREF(callable);
    if (made != NULL && !PyExceptionInstance_Check(made)) {
        PyErr_Format(PyExc_TypeError, "treadle._errors.%s() made no exception", function);
        Py_CLEAR(made);
    }
    return made;
}

PyObject *tb_task_exception(struct tb_state *state, const td_task *task, td_pool *pool, PyObject *name,
                            int64_t timeout_ns)
{
    PyObject *shown = name != NULL ? name : Py_None;
    switch (td_task_state(task)) {
    case TD_TASK_DIED: {
        struct td_death death = {0};
        (void)td_task_death(task, &death);
        return tb_call_errors(state, "worker_died", "(OiiiOOIs)", shown, (int)death.pid, (int)death.signal,
                              (int)death.exit_code, death.oom_suspected ? Py_True : Py_False,
                              death.quarantined ? Py_True : Py_False, (unsigned)death.deaths,
                              td_task_death_stack(task));
    }
    case TD_TASK_TIMED_OUT:
        return tb_call_errors(state, "task_timeout", "(Od)", shown, (double)timeout_ns / (double)TD_NS_PER_S);
    case TD_TASK_BROKEN:
        return tb_call_errors(state, "pool_broken", "(s)", pool != NULL ? td_pool_broken_reason(pool) : "");
    default:
        PyErr_SetString(PyExc_SystemError, "a task without an outcome was asked for its exception");
        return NULL;
    }
}

/* ---- Time --------------------------------------------------------------------------------------------------- */

/* Nanoseconds from seconds, rounded up and saturating at TD_FOREVER; -1 with an exception for what is no number. */
static int nanoseconds(PyObject *seconds, int64_t *ns)
{
    double value = PyFloat_AsDouble(seconds);
    if (value == -1.0 && PyErr_Occurred())
        return -1;
    if (isnan(value)) {
        PyErr_SetString(PyExc_ValueError, "Invalid value NaN (not a number)");
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
    if (seconds != NULL && seconds != Py_None && nanoseconds(seconds, &ns) < 0)
        return -1;
    *deadline_ns = ns == 0 ? 0 : td_deadline_after(ns);
    return 0;
}

int tb_duration(PyObject *seconds, const char *what, int64_t *ns)
{
    *ns = 0;
    if (seconds == NULL || seconds == Py_None)
        return 0;
    if (nanoseconds(seconds, ns) < 0)
        return -1;
    if (*ns == 0) {
        PyErr_Format(PyExc_ValueError, "%s must be None or a positive number of seconds", what);
        return -1;
    }
    if (*ns == TD_FOREVER)
        *ns = 0;
    return 0;
}

int tb_task_wait(struct tb_state *state, td_task *task, int64_t deadline_ns)
{
    if (td_task_poll(task))
        return 1;
    if (deadline_ns == 0)
        return 0;
    for (;;) {
        td_status status;
        Py_BEGIN_ALLOW_THREADS;
        status = td_task_wait_until(task, deadline_ns);
        Py_END_ALLOW_THREADS;
        if (status == TD_OK)
            return 1;
        if (status == TD_ETIMEDOUT)
            return 0;
        if (status != TD_EINTR)
            return tb_raise_status(state, status, NULL);
        if (PyErr_CheckSignals() < 0)
            return -1;
    }
}
