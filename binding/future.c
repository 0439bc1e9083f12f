/* future.c: the Future type: its life, its state, waiting for it, and the methods of concurrent.futures.Future.
 *
 * The Python base class gives each object a managed dict and weak references that lie in front of it; the C fields
 * follow the bare object (verified when the type is made). No dict is made until somebody sets an attribute.
 * Invariants  I1 state TB_ENGINE: task and handle are set, outcome fields are not. Any other: task is NULL.
 *             I2 the collector sees the object as soon as it holds, or may hold, anything that can refer to it.
 * Tests  tests/unit/test_future.py, test_future_engine.py; CPython's own: tests/upstream */
#include "future.h"

#include "call.h"

#include <stddef.h>

#include "base/clock.h"

/* ---- Life --------------------------------------------------------------------------------------------------- */

struct tb_future *tb_future_new(struct tb_state *state, struct tb_handle *handle, PyObject *name)
{
    PyTypeObject *type = state->future_type;
    struct tb_future *future = (struct tb_future *)type->tp_alloc(type, 0);
    if (future == NULL)
        return NULL;
    /* A fresh one holds nothing that could refer to it: a million of them cost the collector nothing. */
    PyObject_GC_UnTrack(future);
    future->handle = (struct tb_handle *)Py_XNewRef((PyObject *)handle);
    future->name = Py_XNewRef(name);
    return future;
}

void tb_future_fail(struct tb_future *future, PyObject *exception)
{
    Py_CLEAR(future->handle);
    future->exception = exception;
    future->state = TB_FINISHED;
    tb_future_track(future);
}

static PyObject *future_make(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    struct tb_state *state = PyType_GetModuleState(type);
    if (PyTuple_GET_SIZE(args) != 0 || (kwargs != NULL && PyDict_GET_SIZE(kwargs) != 0)) {
        PyErr_SetString(PyExc_TypeError, "Future() takes no arguments");
        return NULL;
    }
    struct tb_future *future = tb_future_new(state, NULL, NULL);
    if (future != NULL)
        future->state = TB_PENDING;
    return (PyObject *)future;
}

/* In place of the base class's, which would make a lock and lists. */
static int future_init(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    return 0;
}

static int future_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct tb_future *future = (struct tb_future *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(future->result);
    Py_VISIT(future->exception);
    if (future->watch != NULL) {
        Py_VISIT(future->watch->condition);
        Py_VISIT(future->watch->waiters);
        Py_VISIT(future->watch->callbacks);
    }
    return tb_visit_managed_dict(self, visit, arg);
}

static int future_clear(PyObject *self)
{
    struct tb_future *future = (struct tb_future *)self;
    Py_CLEAR(future->result);
    Py_CLEAR(future->exception);
    if (future->watch != NULL) {
        Py_CLEAR(future->watch->condition);
        Py_CLEAR(future->watch->waiters);
        Py_CLEAR(future->watch->callbacks);
    }
    tb_clear_managed_dict(self);
    return 0;
}

static void future_dealloc(PyObject *self)
{
    struct tb_future *future = (struct tb_future *)self;
    PyTypeObject *type = Py_TYPE(self);
    if (PyObject_GC_IsTracked(self))
        PyObject_GC_UnTrack(self);
    PyObject_ClearWeakRefs(self);
    (void)future_clear(self);
    PyMem_Free(future->watch);
    Py_CLEAR(future->name);
    if (future->task != NULL)
        td_task_unref(future->task);
    Py_CLEAR(future->handle);
    type->tp_free(self);
    Py_DECREF(type);
}

/* An attribute may refer to anything, so the collector has to look from now on. */
static int future_setattro(PyObject *self, PyObject *name, PyObject *value)
{
    Py_BEGIN_CRITICAL_SECTION(self);
    tb_future_track((struct tb_future *)self);
    Py_END_CRITICAL_SECTION();
    return PyObject_GenericSetAttr(self, name, value);
}

/* ---- State -------------------------------------------------------------------------------------------------- */

enum tb_future_state tb_future_state(const struct tb_future *future)
{
    if (future->state != TB_ENGINE)
        return (enum tb_future_state)future->state;
    switch (td_task_state(future->task)) {
    case TD_TASK_QUEUED:
        return TB_PENDING;
    case TD_TASK_RUNNING:
        return TB_RUNNING;
    case TD_TASK_CANCELLED:
        return TB_NOTIFIED;
    default:
        return TB_FINISHED;
    }
}

td_task *tb_future_task(struct tb_future *future)
{
    td_task *task = NULL;
    Py_BEGIN_CRITICAL_SECTION(future);
    if (future->state == TB_ENGINE)
        task = td_task_ref(future->task);
    Py_END_CRITICAL_SECTION();
    return task;
}

bool tb_future_is_done(struct tb_future *future)
{
    bool done;
    Py_BEGIN_CRITICAL_SECTION(future);
    done = future->state == TB_ENGINE ? td_task_poll(future->task) : future->state >= TB_CANCELLED;
    Py_END_CRITICAL_SECTION();
    return done;
}

bool tb_future_has_failed(struct tb_future *future)
{
    bool failed;
    Py_BEGIN_CRITICAL_SECTION(future);
    if (future->state == TB_ENGINE) {
        enum td_task_state now = td_task_state(future->task);
        failed = tb_is_final(now) && now != TD_TASK_RESULT && now != TD_TASK_CANCELLED;
    } else {
        failed = future->state == TB_FINISHED && future->exception != NULL;
    }
    Py_END_CRITICAL_SECTION();
    return failed;
}

/* ---- Waiting ------------------------------------------------------------------------------------------------ */

int tb_future_wait(struct tb_state *state, struct tb_future *future, int64_t deadline_ns)
{
    td_task *task = tb_future_task(future);
    if (task == NULL)
        return tb_future_wait_local(future, deadline_ns);
    int done = tb_task_wait(state, task, deadline_ns);
    td_task_unref(task);
    return done;
}

/* result(timeout=None), exception(timeout=None): the one argument. */
static int timeout_argument(const char *method, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                            int64_t *deadline_ns)
{
    Py_ssize_t named = kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0;
    if (nargs + named > 1) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most 1 argument (%zd given)", method, nargs + named);
        return -1;
    }
    if (named == 1 && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, 0), "timeout") != 0) {
        PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument %R", method,
                     PyTuple_GET_ITEM(kwnames, 0));
        return -1;
    }
    return tb_deadline(nargs + named == 1 ? args[0] : NULL, deadline_ns);
}

/* Waits until the outcome is there as objects: 0, or -1 with TimeoutError, CancelledError or what a wait raises. */
static int await_outcome(struct tb_state *state, struct tb_future *future, int64_t deadline_ns)
{
    int done = tb_future_wait(state, future, deadline_ns);
    if (done < 0)
        return -1;
    if (done == 0) {
        PyErr_SetNone(PyExc_TimeoutError);
        return -1;
    }
    if (tb_future_settle(state, future) < 0)
        return -1;
    if (future->state != TB_FINISHED) {
        PyErr_SetNone(state->cancelled_error);
        return -1;
    }
    return 0;
}

PyDoc_STRVAR(
    result_doc,
    "result($self, timeout=None)\n--\n\n"
    "What the call returned, the same object each time; waits for it at most timeout seconds (None: for "
    "ever).\n\n"
    "Arrays and other large buffers in it are views of shared memory that the worker wrote, not copies, until "
    "they are let go of; bytes and str are copied.\n\n"
    "Raises:\n"
    "    What the call raised, with the worker's traceback as its cause.\n"
    "    TimeoutError: it is not done in that time.\n"
    "    CancelledError: it was cancelled.\n"
    "    WorkerDied: the worker that ran it died.\n"
    "    TaskTimeout: it ran longer than its timeout.\n"
    "    TravelError, NoRoom: an argument or the result could not be sent.\n"
    "    ArrivalError: one could not be loaded.\n"
    "    PoolBroken: the pool broke before it was done.\n\n"
    "Source: binding/settle.c, binding/decode.c.");

static PyObject *future_result(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    struct tb_future *future = (struct tb_future *)self;
    int64_t deadline_ns = TD_FOREVER;
    if ((nargs > 0 || kwnames != NULL) && timeout_argument("result", args, nargs, kwnames, &deadline_ns) < 0)
        return NULL;
    if (future->state != TB_FINISHED && await_outcome(tb_state_of_final(self), future, deadline_ns) < 0)
        return NULL;
    if (future->exception != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(future->exception), future->exception);
        return NULL;
    }
    return Py_NewRef(future->result != NULL ? future->result : Py_None);
}

PyDoc_STRVAR(exception_doc, "exception($self, timeout=None)\n--\n\n"
                            "What the call raised, or None. Waits and raises as result() does.");

static PyObject *future_exception(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    struct tb_future *future = (struct tb_future *)self;
    int64_t deadline_ns = TD_FOREVER;
    if ((nargs > 0 || kwnames != NULL) && timeout_argument("exception", args, nargs, kwnames, &deadline_ns) < 0)
        return NULL;
    if (future->state != TB_FINISHED && await_outcome(tb_state_of_final(self), future, deadline_ns) < 0)
        return NULL;
    return Py_NewRef(future->exception != NULL ? future->exception : Py_None);
}

/* ---- Asking and cancelling ---------------------------------------------------------------------------------- */

static PyObject *future_done(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return PyBool_FromLong(tb_future_is_done((struct tb_future *)self));
}

/* The state, after a little draining. */
static enum tb_future_state fresh_state(PyObject *self)
{
    enum tb_future_state now;
    (void)tb_future_is_done((struct tb_future *)self);
    Py_BEGIN_CRITICAL_SECTION(self);
    now = tb_future_state((struct tb_future *)self);
    Py_END_CRITICAL_SECTION();
    return now;
}

static PyObject *future_running(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return PyBool_FromLong(fresh_state(self) == TB_RUNNING);
}

static bool is_cancelled(enum tb_future_state state)
{
    return state == TB_CANCELLED || state == TB_NOTIFIED;
}

static PyObject *future_cancelled(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return PyBool_FromLong(is_cancelled(fresh_state(self)));
}

/* 1: cancelled (or will be: force), 0: too late, -1. */
static int cancel_task(struct tb_state *state, struct tb_future *future, td_task *task, bool force)
{
    td_status status = td_task_cancel(task, force);
    if (status == TD_OK) {
        if (tb_is_final(td_task_state(task)) && tb_future_apply(state, future, TB_EVENT_ANNOUNCE, NULL) < 0)
            return -1;
        return 1;
    }
    if (status == TD_EAGAIN)
        return 0;
    if (status == TD_EINVAL)
        return td_task_state(task) == TD_TASK_CANCELLED;
    return tb_raise_status(state, status, NULL);
}

PyDoc_STRVAR(
    cancel_doc,
    "cancel($self, force=False)\n--\n\n"
    "Cancels a call that no worker has begun, or is about to begin; True when it is cancelled. With force a "
    "running call of a process pool is stopped too: TaskCancelled is raised in it, and its worker is killed "
    "after the grace time (TREADLE_GRACE, 1 s).");

static PyObject *future_cancel(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"force", NULL};
    struct tb_future *future = (struct tb_future *)self;
    struct tb_state *state = tb_state_of_final(self);
    int force = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|p:cancel", keywords, &force))
        return NULL;
    td_task *task = tb_future_task(future);
    int done;
    if (task != NULL) {
        done = cancel_task(state, future, task, force != 0);
        td_task_unref(task);
    } else {
        done = tb_future_apply(state, future, TB_EVENT_CANCEL, NULL);
        if (done == 0)
            done = is_cancelled((enum tb_future_state)future->state);
    }
    return done < 0 ? NULL : PyBool_FromLong(done);
}

/* ---- Showing ------------------------------------------------------------------------------------------------ */

static PyObject *future_repr(PyObject *self)
{
    static const char *const words[] = {"?", "pending", "running", "cancelled", "cancelled", "finished"};
    struct tb_future *future = (struct tb_future *)self;
    const char *class = strrchr(Py_TYPE(self)->tp_name, '.') + 1;
    enum tb_future_state now = fresh_state(self);
    if (now == TB_FINISHED && tb_future_settle(tb_state_of_final(self), future) < 0)
        return NULL;
    PyObject *name =
        future->name != NULL ? PyUnicode_FromFormat(" task=%U", future->name) : PyUnicode_New(0, 0);
    PyObject *shown = NULL;
    if (name == NULL)
        return NULL;
    if (now != TB_FINISHED) {
        shown = PyUnicode_FromFormat("<%s at %p state=%s%U>", class, (void *)self, words[now], name);
    } else {
        PyObject *value = future->exception != NULL ? future->exception : future->result;
        const char *type = Py_TYPE(value != NULL ? value : Py_None)->tp_name;
        const char *dot = strrchr(type, '.');
        shown =
            PyUnicode_FromFormat("<%s at %p state=finished %s %s%U>", class, (void *)self,
                                 future->exception != NULL ? "raised" : "returned", dot ? dot + 1 : type, name);
    }
    Py_DECREF(name);
    return shown;
}

static PyStructSequence_Field timing_fields[] = {
    {"queued", "seconds from submit until a worker began"},
    {"transfer", "seconds from the worker's end until the result was here"},
    {"run", "seconds in the worker, decoding and encoding included"},
    {"worker_pid", "the worker's process"},
    {"attempts", "how often it was begun"},
    {0},
};

static PyStructSequence_Desc timing_desc = {"treadle.Timing", "Where a call's time went.", timing_fields, 5};

static PyObject *get_timing(PyObject *self, void *Py_UNUSED(closure))
{
    struct tb_future *future = (struct tb_future *)self;
    struct tb_state *state = tb_state_of_final(self);
    if (!tb_future_is_done(future))
        Py_RETURN_NONE;
    struct tb_spent spent;
    Py_BEGIN_CRITICAL_SECTION(self);
    spent = future->spent;
    if (future->state == TB_ENGINE)
        tb_spent_from(future->task, &spent);
    Py_END_CRITICAL_SECTION();
    if (spent.attempts == 0)
        Py_RETURN_NONE;
    PyObject *timing = PyStructSequence_New(state->timing_type);
    if (timing == NULL)
        return NULL;
    PyStructSequence_SetItem(timing, 0, PyFloat_FromDouble((double)spent.queued_ns / (double)TD_NS_PER_S));
    PyStructSequence_SetItem(timing, 1, PyFloat_FromDouble((double)spent.transfer_ns / (double)TD_NS_PER_S));
    PyStructSequence_SetItem(timing, 2, PyFloat_FromDouble((double)spent.run_ns / (double)TD_NS_PER_S));
    PyStructSequence_SetItem(timing, 3, PyLong_FromLong(spent.pid));
    PyStructSequence_SetItem(timing, 4, PyLong_FromUnsignedLong(spent.attempts));
    if (PyErr_Occurred())
        Py_CLEAR(timing);
    return timing;
}

/* ---- The type ----------------------------------------------------------------------------------------------- */

static PyMethodDef future_methods[] = {
    {"result", (PyCFunction)(void (*)(void))future_result, METH_FASTCALL | METH_KEYWORDS, result_doc},
    {"exception", (PyCFunction)(void (*)(void))future_exception, METH_FASTCALL | METH_KEYWORDS, exception_doc},
    {"done", future_done, METH_NOARGS, PyDoc_STR("done($self)\n--\n\nFinished or cancelled?")},
    {"running", future_running, METH_NOARGS, PyDoc_STR("running($self)\n--\n\nIs a worker at it?")},
    {"cancelled", future_cancelled, METH_NOARGS, PyDoc_STR("cancelled($self)\n--\n\nWas it cancelled?")},
    {"cancel", (PyCFunction)(void (*)(void))future_cancel, METH_VARARGS | METH_KEYWORDS, cancel_doc},
    {"add_done_callback", tb_future_add_done_callback, METH_O,
     PyDoc_STR(
         "add_done_callback($self, fn, /)\n--\n\n"
         "Calls fn(self) when it is done, in a thread of this process; at once when it is done already.")},
    {"set_running_or_notify_cancel", tb_future_start, METH_NOARGS, NULL},
    {"set_result", tb_future_set_result, METH_O, NULL},
    {"set_exception", tb_future_set_exception, METH_O, NULL},
    {0},
};

/* timing, then the attributes that the stdlib reaches for (observe.c). */
static PyGetSetDef future_getset[] = {
    {"timing", get_timing, NULL,
     PyDoc_STR(
         "A named tuple, or None until it is done and where no worker process began it. In seconds: queued, "
         "from submit "
         "until "
         "a worker began; run, in the worker, decoding and encoding included; transfer, from then until the "
         "result was here. worker_pid; attempts, how often it was begun."),
     NULL},
    {0},
};

PyDoc_STRVAR(future_doc, "Future()\n--\n\nThe outcome of a call that runs elsewhere: a "
                         "concurrent.futures.Future, made by submit().\n\n"
                         "Source: binding/future.c, binding/settle.c, binding/observe.c.");

static PyType_Slot future_slots[] = {
    {Py_tp_doc, (void *)future_doc},           {Py_tp_new, (void *)future_make},
    {Py_tp_init, (void *)future_init},         {Py_tp_dealloc, (void *)future_dealloc},
    {Py_tp_traverse, (void *)future_traverse}, {Py_tp_clear, (void *)future_clear},
    {Py_tp_setattro, (void *)future_setattro}, {Py_tp_repr, (void *)future_repr},
    {Py_tp_methods, future_methods},           {Py_tp_getset, future_getset},
    {Py_am_await, (void *)tb_future_await},    {0, NULL},
};

static PyType_Spec future_spec = {
    .name = "treadle.Future",
    .basicsize = sizeof(struct tb_future),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = future_slots,
};

static int load_names(struct tb_state *state, PyObject *base)
{
    static const char *const names[] = {NULL,      "PENDING", "RUNNING", "CANCELLED", "CANCELLED_AND_NOTIFIED",
                                        "FINISHED"};
    for (size_t i = 1; i < sizeof names / sizeof names[0]; i++) {
        PyObject *name = PyObject_GetAttrString(base, names[i]);
        if (name == NULL)
            return -1;
        Py_XSETREF(state->state_names[i], name);
    }
    Py_XSETREF(state->cancelled_error, PyObject_GetAttrString(base, "CancelledError"));
    Py_XSETREF(state->futures_base, Py_NewRef(base));
    return state->cancelled_error != NULL ? 0 : -1;
}

static int add_stdlib_getset(PyTypeObject *type)
{
    for (PyGetSetDef *def = tb_future_stdlib_getset; def->name != NULL; def++) {
        PyObject *descriptor = PyDescr_NewGetSet(type, def);
        if (descriptor == NULL || PyObject_SetAttrString((PyObject *)type, def->name, descriptor) < 0) {
            Py_XDECREF(descriptor);
            return -1;
        }
        Py_DECREF(descriptor);
    }
    return 0;
}

int tb_future_init(struct tb_state *state, PyObject *base)
{
    if (load_names(state, base) < 0)
        return -1;
    PyObject *class = PyObject_GetAttrString(base, "Future");
    if (class == NULL)
        return -1;
    /* All that the base class may add lies in front of the object, or in the one field we know of. */
    Py_ssize_t expected = (Py_ssize_t)offsetof(struct tb_future, task);
    if (!PyType_Check(class) || ((PyTypeObject *)class)->tp_basicsize != expected) {
        PyErr_SetString(PyExc_ImportError, "concurrent.futures.Future has a layout that treadle does not know");
        Py_DECREF(class);
        return -1;
    }
    PyTypeObject *type = (PyTypeObject *)PyType_FromModuleAndSpec(state->module, &future_spec, class);
    Py_DECREF(class);
    PyTypeObject *timing = PyStructSequence_NewType(&timing_desc);
    if (type == NULL || timing == NULL || add_stdlib_getset(type) < 0) {
        Py_XDECREF(type);
        Py_XDECREF(timing);
        return -1;
    }
    Py_XSETREF(state->timing_type, timing);
    Py_XSETREF(state->future_type, type);
    return 0;
}
