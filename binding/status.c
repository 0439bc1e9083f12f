/* status.c: the engine's outcomes as Python exceptions. The one place that knows which exception stands for which
 * status: the engine's own table names it.
 * Tests  tests/unit/test_future.py */
#include <errno.h>

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

/* Where no descriptor is left no module can be imported, and so no error of ours be made: the limit is what it says. */
static void name_limit(void)
{
    if (!PyErr_ExceptionMatches(PyExc_OSError))
        return;
    PyObject *raised = tb_exception_take();
    PyObject *number = PyObject_GetAttrString(raised, "errno");
    if (number != NULL && PyLong_Check(number) && PyLong_AsLong(number) == EMFILE)
        PyErr_SetString(PyExc_OSError, td_status_text(TD_ENOFD));
    else
        PyErr_SetObject((PyObject *)Py_TYPE(raised), raised);
    Py_XDECREF(number);
    Py_DECREF(raised);
}

/* The class of that name, from treadle._errors or else a built-in: a new reference. */
static PyObject *exception_class(struct tb_state *state, const char *name)
{
    PyObject *errors = tb_errors(state);
    if (errors == NULL)
        return NULL;
    PyObject *found = PyObject_GetAttrString(errors, name);
    if (found == NULL)
        name_limit();
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
    if (callable == NULL) {
        name_limit();
        return NULL;
    }
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
    if (made == NULL)
        name_limit();
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
        const bool broken = pool != NULL && td_pool_broken_reason(pool)[0] != '\0';
        return tb_call_errors(state, "worker_died", "(OiiiOOIsO)", shown, (int)death.pid, (int)death.signal,
                              (int)death.exit_code, death.oom_suspected ? Py_True : Py_False,
                              death.quarantined ? Py_True : Py_False, (unsigned)death.deaths,
                              td_task_death_stack(task), broken ? Py_True : Py_False);
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
