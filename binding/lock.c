/* lock.c: treadle.shared.Lock (core/memory/lock.c).
 *
 * Invariant  K1 an acquire that raises LockHolderDied has the lock, and one that raises anything else has not. `with`
 *               has it only inside: where it raises, it passes the report on.
 * Tests      tests/unit/test_sync.py, tests/fault/test_sync_deaths.py */
#include "sync.h"

#include "module.h"
#include "shared.h"

struct lock {
    PyObject_HEAD td_hold *hold;
};

static td_hold *hold_of(PyObject *self)
{
    return ((struct lock *)self)->hold;
}

/* Takes over the hold. */
static PyObject *lock_of(PyTypeObject *type, td_hold *hold)
{
    struct lock *lock = PyObject_New(struct lock, type);
    if (lock == NULL)
        td_hold_unref(hold);
    else
        lock->hold = hold;
    return (PyObject *)lock;
}

static PyObject *lock_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {NULL};
    td_hold *hold = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, ":Lock", names))
        return NULL;
    const td_status status = td_lock_new(&hold);
    if (status == TD_OK)
        return lock_of(type, hold);
    (void)tb_raise_status((struct tb_state *)PyType_GetModuleState(type), status, NULL);
    return NULL;
}

static void lock_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    td_hold_unref(hold_of(self));
    PyObject_Free(self);
    Py_DECREF(type);
}

/* ---- Acquiring --------------------------------------------------------------------------------------------- */

struct taking {
    td_hold *hold;
    bool died;
};

static td_status take(void *subject, int64_t deadline_ns)
{
    struct taking *taking = subject;
    const td_status status = td_lock_acquire_until(taking->hold, deadline_ns);
    taking->died = status == TD_EHOLDER;
    return taking->died ? TD_OK : status;
}

/* LockHolderDied, with the lock; or without it where that can't be made. */
static PyObject *report(PyObject *self, bool in_with)
{
    PyObject *error =
        tb_call_errors(tb_state_of_final(self), "lock_holder_died", "(O)", in_with ? Py_True : Py_False);
    if (error == NULL || in_with)
        (void)td_lock_pass_on(hold_of(self)); /* K1 */
    if (error != NULL)
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    Py_XDECREF(error);
    return NULL;
}

static PyObject *acquire(PyObject *self, int64_t deadline_ns, bool in_with)
{
    struct taking taking = {.hold = hold_of(self)};
    const int done = tb_poll_or_wait(tb_state_of_final(self), NULL, take, &taking, deadline_ns);
    if (done < 0)
        return NULL;
    if (taking.died)
        return report(self, in_with);
    return PyBool_FromLong(done);
}

/* The stdlib's -1, and None, are for ever. */
static int read_timeout(PyObject *timeout, bool blocking, int64_t *deadline_ns)
{
    const bool given = timeout != NULL && timeout != Py_None;
    const double seconds = given ? PyFloat_AsDouble(timeout) : -1.0;
    if (seconds == -1.0 && PyErr_Occurred())
        return -1;
    if (seconds < 0.0 && seconds != -1.0) {
        PyErr_SetString(PyExc_ValueError, "timeout value must be a non-negative number");
        return -1;
    }
    if (!blocking && seconds != -1.0) {
        PyErr_SetString(PyExc_ValueError, "can't specify a timeout for a non-blocking call");
        return -1;
    }
    *deadline_ns = blocking ? TD_FOREVER : 0;
    return seconds == -1.0 ? 0 : tb_deadline(timeout, deadline_ns);
}

/* Which of acquire's two arguments a keyword names; -1 with an exception: none, or one that was given by position. */
static int argument_of(PyObject *keyword, Py_ssize_t positional)
{
    const int which = PyUnicode_CompareWithASCIIString(keyword, "blocking") == 0  ? 0
                      : PyUnicode_CompareWithASCIIString(keyword, "timeout") == 0 ? 1
                                                                                  : -1;
    if (which >= positional)
        return which;
    PyErr_Format(PyExc_TypeError, "acquire() got %s argument '%U'",
                 which < 0 ? "an unexpected keyword" : "multiple values for", keyword);
    return -1;
}

static PyObject *lock_acquire(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    PyObject *values[2] = {Py_True, NULL};
    int64_t deadline_ns = TD_FOREVER;
    const Py_ssize_t named = keywords != NULL ? PyTuple_GET_SIZE(keywords) : 0;
    if (count + named == 0)
        return acquire(self, deadline_ns, false);
    if (count > 2)
        return PyErr_Format(PyExc_TypeError, "acquire() takes at most 2 arguments (%zd given)", count);
    for (Py_ssize_t i = 0; i < count; i++)
        values[i] = args[i];
    for (Py_ssize_t i = 0; i < named; i++) {
        const int which = argument_of(PyTuple_GET_ITEM(keywords, i), count);
        if (which < 0)
            return NULL;
        values[which] = args[count + i];
    }
    const int blocking = PyObject_IsTrue(values[0]);
    if (blocking < 0 || read_timeout(values[1], blocking != 0, &deadline_ns) < 0)
        return NULL;
    return acquire(self, deadline_ns, false);
}

static PyObject *lock_enter(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return acquire(self, TD_FOREVER, true);
}

/* ---- Releasing --------------------------------------------------------------------------------------------- */

static PyObject *lock_release(PyObject *self, PyObject *Py_UNUSED(unused))
{
    const td_status status = td_lock_release(hold_of(self));
    if (status == TD_OK)
        Py_RETURN_NONE;
    (void)tb_raise_status(tb_state_of_final(self), status, NULL);
    return NULL;
}

static PyObject *lock_exit(PyObject *self, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(count))
{
    return lock_release(self, NULL);
}

static PyObject *lock_locked(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return PyBool_FromLong(td_lock_is_held(hold_of(self)));
}

static PyObject *lock_repr(PyObject *self)
{
    return PyUnicode_FromFormat("<%s treadle.shared.Lock at %p>",
                                td_lock_is_held(hold_of(self)) ? "locked" : "unlocked", (void *)self);
}

/* ---- Travelling -------------------------------------------------------------------------------------------- */

static PyObject *lock_block(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return tb_shared_of(&tb_state_of_final(self)->codec, td_hold_ref(hold_of(self)));
}

static PyObject *lock_at(PyObject *type, PyObject *block)
{
    struct tb_state *state = PyType_GetModuleState((PyTypeObject *)type);
    td_hold *hold = tb_shared_hold(&state->codec, block);
    return hold != NULL ? lock_of((PyTypeObject *)type, td_hold_ref(hold)) : NULL;
}

static PyObject *lock_reduce(PyObject *self, PyObject *Py_UNUSED(unused))
{
    PyObject *error = tb_call_errors(tb_state_of_final(self), "only_to_tasks", "(s)", "Lock");
    if (error != NULL)
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    Py_XDECREF(error);
    return NULL;
}

static PyMethodDef lock_methods[] = {
    {"acquire", (PyCFunction)(void (*)(void))lock_acquire, METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("acquire($self, /, blocking=True, timeout=-1)\n--\n\n"
               "Waits until the lock is free, and takes it; False: the timeout, in seconds, has passed.\n\n"
               "Raises:\n"
               "    LockHolderDied: whoever held it has ended without releasing it; this thread holds it now.\n"
               "    RuntimeError: this thread holds it already, and would wait for itself.")},
    {"release", lock_release, METH_NOARGS,
     PyDoc_STR("release($self, /)\n--\n\n"
               "Gives the lock back.\n\n"
               "Raises:\n"
               "    RuntimeError: this thread does not hold it.")},
    {"locked", lock_locked, METH_NOARGS, PyDoc_STR("locked($self, /)\n--\n\nDoes anybody hold it?")},
    {"__enter__", lock_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))lock_exit, METH_FASTCALL, NULL},
    {"__reduce__", lock_reduce, METH_NOARGS, NULL},
    {"_block", lock_block, METH_NOARGS, NULL},
    {"_at", lock_at, METH_O | METH_CLASS, NULL},
    {0},
};

static PyType_Slot lock_slots[] = {
    {Py_tp_doc,
     (void *)(uintptr_t) "Lock()\n--\n\n"
                         "A lock between threads of all processes that have it.\n\n"
                         "As threading.Lock, but that it belongs to the thread that acquired it, which alone "
                         "releases it.\nWhere that thread or its process ends first, the next to acquire the "
                         "lock gets LockHolderDied.\nIt is passed to tasks: as an argument, inside one, or in "
                         "a global or closure of a function.\n\nSources: binding/lock.c, core/memory/lock.c."},
    {Py_tp_new, (void *)lock_new},
    {Py_tp_dealloc, (void *)lock_dealloc},
    {Py_tp_repr, (void *)lock_repr},
    {Py_tp_methods, lock_methods},
    {0, NULL},
};

static PyType_Spec lock_spec = {
    .name = "treadle.shared.Lock",
    .basicsize = sizeof(struct lock),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = lock_slots,
};

int tb_lock_init(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &lock_spec, NULL);
    if (type == NULL)
        return -1;
    const int added = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return added;
}
