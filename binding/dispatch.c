/* dispatch.c: the thread that announces observed futures: it runs callbacks and tells the stdlib's waiters.
 *
 * A daemon threading.Thread, started when the first future is observed. It waits in the engine without the GIL, as an
 * ordinary waiter, so the engine's own thread never enters Python. It ends when the package stops it at exit, after
 * the pools have ended, so that no callback is lost and no thread enters a dying interpreter.
 * Invariant  one at a time: `dispatching` is set, in the module's critical section, before it is made.
 * Crash      a fork loses it: the child starts its own.
 * Tests      tests/unit/test_future_engine.py */
#include "future.h"

/* Takes over the references to the future and the task. */
static void announce(struct tb_state *state, td_task *task)
{
    struct tb_future *future = (struct tb_future *)(uintptr_t)td_task_tag(task);
    if (tb_future_apply(state, future, TB_EVENT_ANNOUNCE, NULL) < 0)
        PyErr_WriteUnraisable((PyObject *)future);
    Py_DECREF((PyObject *)future);
    td_task_unref(task);
}

static PyObject *dispatch_run(PyObject *module, PyObject *Py_UNUSED(unused))
{
    struct tb_state *state = tb_state_of(module);
    for (;;) {
        td_task *task = NULL;
        td_status status = td_observed_pop_until(0, &task);
        if (status == TD_ETIMEDOUT) {
            Py_BEGIN_ALLOW_THREADS;
            status = td_observed_pop_until(TD_FOREVER, &task);
            Py_END_ALLOW_THREADS;
        }
        if (status == TD_OK)
            announce(state, task);
        else if (status == TD_ECLOSED)
            Py_RETURN_NONE;
        else if (status != TD_EINTR && status != TD_ETIMEDOUT)
            return tb_raise_status(state, status, NULL), NULL;
    }
}

/* threading.Thread(target=_engine._dispatch, name="treadle-dispatch", daemon=True).start(): the thread. */
static PyObject *start_thread(PyObject *module)
{
    PyObject *thread = NULL, *started = NULL;
    PyObject *threading = PyImport_ImportModule("threading");
    PyObject *class = threading != NULL ? PyObject_GetAttrString(threading, "Thread") : NULL;
    PyObject *target = class != NULL ? PyObject_GetAttrString(module, "_dispatch") : NULL;
    PyObject *kwargs = target != NULL ? Py_BuildValue("{sOsssO}", "target", target, "name", "treadle-dispatch",
                                                      "daemon", Py_True)
                                      : NULL;
    PyObject *args = kwargs != NULL ? PyTuple_New(0) : NULL;
    if (args != NULL)
        thread = PyObject_Call(class, args, kwargs);
    if (thread != NULL)
        started = PyObject_CallMethod(thread, "start", NULL);
    if (started == NULL)
        Py_CLEAR(thread);
    Py_XDECREF(started);
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
    Py_XDECREF(target);
    Py_XDECREF(class);
    Py_XDECREF(threading);
    return thread;
}

int tb_dispatch_start(struct tb_state *state)
{
    bool mine = false;
    Py_BEGIN_CRITICAL_SECTION(state->module);
    if (!state->dispatching)
        mine = state->dispatching = true;
    Py_END_CRITICAL_SECTION();
    if (!mine)
        return 0;
    td_observed_open();
    PyObject *thread = start_thread(state->module);
    if (thread == NULL) {
        state->dispatching = false;
        return -1;
    }
    Py_XSETREF(state->dispatcher, thread);
    return 0;
}

PyDoc_STRVAR(stop_doc, "_dispatch_stop()\n--\n\n"
                       "Ends the thread that announces futures, once it has announced what is final. At exit.");

static PyObject *dispatch_stop(PyObject *module, PyObject *Py_UNUSED(unused))
{
    struct tb_state *state = tb_state_of(module);
    PyObject *thread = state->dispatcher;
    if (thread == NULL)
        Py_RETURN_NONE;
    state->dispatcher = NULL;
    td_observed_close();
    PyObject *joined = PyObject_CallMethod(thread, "join", NULL);
    Py_DECREF(thread);
    state->dispatching = false;
    return joined;
}

PyDoc_STRVAR(forked_doc,
             "after_fork_child()\n--\n\nIn the child of a fork: the parent's pools are inert here.");

static PyObject *dispatch_forked(PyObject *module, PyObject *Py_UNUSED(unused))
{
    struct tb_state *state = tb_state_of(module);
    td_after_fork_child();
    state->dispatching = false;
    Py_CLEAR(state->dispatcher);
    Py_RETURN_NONE;
}

static PyMethodDef dispatch_methods[] = {
    {"_dispatch", dispatch_run, METH_NOARGS, NULL},
    {"_dispatch_stop", dispatch_stop, METH_NOARGS, stop_doc},
    {"after_fork_child", dispatch_forked, METH_NOARGS, forked_doc},
    {0},
};

int tb_dispatch_init(PyObject *module)
{
    return PyModule_AddFunctions(module, dispatch_methods);
}
