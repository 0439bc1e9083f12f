/* group.c: wait() and as_completed(), with the stdlib's meaning, over the engine's own queues of completions.
 *
 * They apply where every future is the engine's (or done): no lock is taken, no list of waiters is made, and nothing
 * is observed. Anything else (foreign futures, local ones that are not done, a future that another as_completed has
 * in its group already) goes to the stdlib's functions, which work on all futures.
 * Invariant  a task in the group has its future in `pending`, which keeps it alive: the tag names it.
 * Tests  tests/unit/test_wait.py */
#include "group.h"

#include "base/clock.h"
#include "future.h"

/* ---- What both begin with ---------------------------------------------------------------------------------------- */

/* The futures as the keys of a dict: each once, in the order given. */
static PyObject *unique(PyObject *futures)
{
    PyObject *iterator = PyObject_GetIter(futures), *found = iterator != NULL ? PyDict_New() : NULL, *item;
    while (found != NULL && (item = PyIter_Next(iterator)) != NULL) {
        if (PyDict_SetItem(found, item, Py_None) < 0)
            Py_CLEAR(found);
        Py_DECREF(item);
    }
    Py_XDECREF(iterator);
    if (found != NULL && PyErr_Occurred() != NULL)
        Py_CLEAR(found);
    return found;
}

/* Treadle's, and the engine's or done? */
static bool is_ours(const struct tb_state *state, PyObject *object)
{
    if (!tb_future_check(state, object))
        return false;
    const struct tb_future *future = (struct tb_future *)object;
    return future->state == TB_ENGINE || future->state == TB_FINISHED || future->state == TB_NOTIFIED;
}

static bool all_ours(const struct tb_state *state, PyObject *futures)
{
    PyObject *future, *none;
    Py_ssize_t at = 0;
    while (PyDict_Next(futures, &at, &future, &none))
        if (!is_ours(state, future))
            return false;
    return true;
}

static PyObject *stdlib_call(struct tb_state *state, const char *name, PyObject *futures, PyObject *timeout,
                             PyObject *return_when)
{
    PyObject *function = PyObject_GetAttrString(state->futures_base, name);
    if (function == NULL)
        return NULL;
    PyObject *result = PyObject_CallFunctionObjArgs(function, futures, timeout, return_when, NULL);
    Py_DECREF(function);
    return result;
}

/* Every engine's future that is not done joins the group; the others are put into the list `done`. 1: all joined;
 * 0: one is in another group; -1. */
static int join_group(struct tb_state *state, td_group *group, PyObject *pending, PyObject *done)
{
    PyObject *key, *none;
    Py_ssize_t at = 0;
    while (PyDict_Next(pending, &at, &key, &none)) {
        struct tb_future *future = (struct tb_future *)key;
        td_task *task = tb_future_is_done(future) ? NULL : tb_future_task(future);
        if (task == NULL) {
            if (PyList_Append(done, key) < 0)
                return -1;
            continue;
        }
        td_status status = td_group_add(group, task);
        td_task_unref(task);
        if (status == TD_EINVAL)
            return 0;
        if (status != TD_OK)
            return tb_raise_status(state, status, NULL);
    }
    return 1;
}

/* The next future of the group that completes, borrowed (pending holds it). 1; 0: the deadline passed; -1. */
static int pop_future(struct tb_state *state, td_group *group, int64_t deadline_ns, struct tb_future **future)
{
    td_task *task = NULL;
    const int popped = tb_group_pop(state, NULL, group, deadline_ns, &task);
    if (popped > 0) {
        *future = (struct tb_future *)(uintptr_t)td_task_tag(task);
        td_task_unref(task);
    }
    return popped;
}

/* ---- wait() ------------------------------------------------------------------------------------------------------ */

enum until { UNTIL_ALL, UNTIL_FIRST, UNTIL_ERROR };

/* All: one after the other; the order does not matter. 1: done or out of time; -1. */
static int wait_for_all(struct tb_state *state, PyObject *futures, int64_t deadline_ns)
{
    PyObject *future, *none;
    Py_ssize_t at = 0;
    while (PyDict_Next(futures, &at, &future, &none)) {
        int done = tb_future_wait(state, (struct tb_future *)future, deadline_ns);
        if (done <= 0)
            return done < 0 ? -1 : 1;
    }
    return 1;
}

/* Is what was waited for among these, which are done? */
static bool is_enough(struct tb_future *future, enum until until)
{
    return until == UNTIL_FIRST || tb_future_has_failed(future);
}

/* Those of the futures that are not done join a group; until enough of them are. Some may have ended since somebody
 * looked. As wait_for_first(). */
static int wait_in_group(struct tb_state *state, td_group *group, PyObject *futures, int64_t deadline_ns,
                         enum until until)
{
    PyObject *done = PyList_New(0);
    if (done == NULL)
        return -1;
    int joined = join_group(state, group, futures, done);
    Py_ssize_t left = joined == 1 ? PyDict_GET_SIZE(futures) - PyList_GET_SIZE(done) : 0;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(done) && left > 0; i++)
        if (is_enough((struct tb_future *)PyList_GET_ITEM(done, i), until))
            left = 0;
    Py_DECREF(done);
    for (; left > 0; left--) {
        struct tb_future *future;
        const int popped = pop_future(state, group, deadline_ns, &future);
        if (popped < 0)
            return -1;
        if (popped == 0 || is_enough(future, until))
            break;
    }
    return joined;
}

/* 1: what was waited for is there, or out of time; 0: the stdlib must do it; -1. */
static int wait_for_first(struct tb_state *state, PyObject *futures, int64_t deadline_ns, enum until until)
{
    PyObject *key, *none;
    Py_ssize_t at = 0;
    while (PyDict_Next(futures, &at, &key, &none)) { /* most often there is no need for a group */
        struct tb_future *future = (struct tb_future *)key;
        if (tb_future_is_done(future) && is_enough(future, until))
            return 1;
    }
    td_group *group;
    const td_status status = td_group_new(&group);
    if (status != TD_OK)
        return tb_raise_status(state, status, NULL);
    const int waited = wait_in_group(state, group, futures, deadline_ns, until);
    td_group_free(group);
    return waited;
}

/* DoneAndNotDoneFutures(done, not_done), as things stand. */
static PyObject *sort_out(struct tb_state *state, PyObject *futures)
{
    PyObject *done = PySet_New(NULL), *not_done = PySet_New(NULL), *pair = NULL, *key, *none;
    PyObject *class = PyObject_GetAttrString(state->futures_base, "DoneAndNotDoneFutures");
    bool good = done != NULL && not_done != NULL && class != NULL;
    Py_ssize_t at = 0;
    while (good && PyDict_Next(futures, &at, &key, &none))
        good = PySet_Add(tb_future_is_done((struct tb_future *)key) ? done : not_done, key) == 0;
    if (good)
        pair = PyObject_CallFunctionObjArgs(class, done, not_done, NULL);
    Py_XDECREF(class);
    Py_XDECREF(done);
    Py_XDECREF(not_done);
    return pair;
}

static int parse_until(PyObject *return_when, enum until *until)
{
    static const char *const names[] = {"ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION"};
    *until = UNTIL_ALL;
    if (return_when == NULL)
        return 0;
    for (int i = 0; i < 3 && PyUnicode_Check(return_when); i++) {
        if (PyUnicode_CompareWithASCIIString(return_when, names[i]) == 0) {
            *until = (enum until)i;
            return 0;
        }
    }
    PyErr_Format(PyExc_ValueError, "Invalid return condition: %R", return_when);
    return -1;
}

PyDoc_STRVAR(wait_doc, "wait($module, /, fs, timeout=None, return_when='ALL_COMPLETED')\n--\n\n"
                       "concurrent.futures.wait, faster where all futures are Treadle's.\n\n"
                       "fs are futures; timeout is in seconds (None: for ever); return_when is ALL_COMPLETED, "
                       "FIRST_COMPLETED or FIRST_EXCEPTION. A named tuple of two sets, done and not_done.\n\n"
                       "Raises:\n"
                       "    ValueError: return_when is none of these.\n\n"
                       "Source: binding/group.c.");

static PyObject *group_wait(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"fs", "timeout", "return_when", NULL};
    struct tb_state *state = tb_state_of(module);
    PyObject *fs, *timeout = Py_None, *return_when = NULL;
    enum until until;
    int64_t deadline_ns;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|OO:wait", keywords, &fs, &timeout, &return_when) ||
        tb_load_future(state) < 0 || parse_until(return_when, &until) < 0 ||
        tb_deadline(timeout, &deadline_ns) < 0)
        return NULL;
    PyObject *futures = unique(fs), *pair = NULL;
    if (futures == NULL)
        return NULL;
    int waited = 0;
    if (all_ours(state, futures))
        waited = until == UNTIL_ALL ? wait_for_all(state, futures, deadline_ns)
                                    : wait_for_first(state, futures, deadline_ns, until);
    if (waited > 0)
        pair = sort_out(state, futures);
    else if (waited == 0)
        pair = stdlib_call(state, "wait", futures, timeout, return_when);
    Py_DECREF(futures);
    return pair;
}

/* ---- as_completed() ---------------------------------------------------------------------------------------------- */

struct completed {
    PyObject_HEAD struct tb_state *state;
    td_group *group;
    PyObject *pending; /* dict: futures not given out yet; NULL at the end */
    PyObject *done;    /* list: done from the start, in reverse; NULL when given out */
    Py_ssize_t total;
    int64_t deadline_ns;
    bool waiting; /* a thread is in next() */
};

static void completed_end(struct completed *iterator)
{
    if (iterator->group != NULL)
        td_group_free(iterator->group);
    iterator->group = NULL;
    Py_CLEAR(iterator->done);
    Py_CLEAR(iterator->pending);
}

/* Out of pending: the caller's reference. */
static PyObject *give_out(struct completed *iterator, PyObject *future)
{
    Py_INCREF(future);
    if (PyDict_DelItem(iterator->pending, future) < 0)
        Py_CLEAR(future);
    return future;
}

static PyObject *completed_next_locked(struct completed *iterator)
{
    if (iterator->pending == NULL)
        return NULL;
    if (iterator->done != NULL) {
        Py_ssize_t left = PyList_GET_SIZE(iterator->done);
        if (left != 0) {
            PyObject *future = give_out(iterator, PyList_GET_ITEM(iterator->done, left - 1));
            if (future != NULL && PyList_SetSlice(iterator->done, left - 1, left, NULL) < 0)
                Py_CLEAR(future);
            return future;
        }
        Py_CLEAR(iterator->done);
    }
    Py_ssize_t pending = PyDict_GET_SIZE(iterator->pending);
    if (pending == 0) {
        completed_end(iterator);
        return NULL;
    }
    struct tb_future *future;
    iterator->waiting = true;
    int popped = pop_future(iterator->state, iterator->group, iterator->deadline_ns, &future);
    iterator->waiting = false;
    if (popped > 0)
        return give_out(iterator, (PyObject *)future);
    if (popped == 0)
        PyErr_Format(PyExc_TimeoutError, "%zd (of %zd) futures unfinished", pending, iterator->total);
    completed_end(iterator);
    return NULL;
}

static PyObject *completed_next(PyObject *self)
{
    struct completed *iterator = (struct completed *)self;
    PyObject *future = NULL;
    Py_BEGIN_CRITICAL_SECTION(self);
    if (iterator->waiting)
        PyErr_SetString(PyExc_ValueError, "as_completed iterator already executing");
    else
        future = completed_next_locked(iterator);
    Py_END_CRITICAL_SECTION();
    return future;
}

static PyObject *completed_close(PyObject *self, PyObject *Py_UNUSED(unused))
{
    struct completed *iterator = (struct completed *)self;
    bool waiting;
    Py_BEGIN_CRITICAL_SECTION(self);
    waiting = iterator->waiting;
    if (!waiting)
        completed_end(iterator);
    Py_END_CRITICAL_SECTION();
    if (waiting)
        return PyErr_Format(PyExc_ValueError, "as_completed iterator already executing");
    Py_RETURN_NONE;
}

static int completed_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct completed *iterator = (struct completed *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(iterator->pending);
    Py_VISIT(iterator->done);
    return 0;
}

static int completed_clear(PyObject *self)
{
    completed_end((struct completed *)self);
    return 0;
}

/* 1: ready; 0: the stdlib must do it; -1. */
static int completed_set_up(struct completed *iterator, PyObject *futures)
{
    iterator->pending = Py_NewRef(futures);
    iterator->done = PyList_New(0);
    iterator->total = PyDict_GET_SIZE(futures);
    if (iterator->done == NULL)
        return -1;
    td_status status = td_group_new(&iterator->group);
    if (status != TD_OK)
        return tb_raise_status(iterator->state, status, NULL);
    int joined = join_group(iterator->state, iterator->group, futures, iterator->done);
    if (joined == 1 && PyList_Reverse(iterator->done) < 0)
        return -1;
    return joined;
}

PyDoc_STRVAR(as_completed_doc,
             "as_completed($module, /, fs, timeout=None)\n--\n\n"
             "concurrent.futures.as_completed, faster where all futures are Treadle's.\n\n"
             "An iterator over the futures as they are done; those that are done already come first. "
             "timeout is in seconds from this call on (None: for ever).\n\n"
             "Raises:\n"
             "    TimeoutError: in next(), when the time is over.\n\n"
             "Source: binding/group.c.");

static PyObject *group_as_completed(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"fs", "timeout", NULL};
    struct tb_state *state = tb_state_of(module);
    PyObject *fs, *timeout = Py_None;
    int64_t deadline_ns;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:as_completed", keywords, &fs, &timeout) ||
        tb_load_future(state) < 0 || tb_deadline(timeout, &deadline_ns) < 0)
        return NULL;
    PyObject *futures = unique(fs);
    if (futures == NULL)
        return NULL;
    int ready = 0;
    struct completed *iterator = NULL;
    if (all_ours(state, futures)) {
        iterator = (struct completed *)state->completed_type->tp_alloc(state->completed_type, 0);
        if (iterator == NULL) {
            ready = -1;
        } else {
            iterator->state = state;
            iterator->deadline_ns = deadline_ns;
            ready = completed_set_up(iterator, futures);
        }
    }
    PyObject *result = NULL;
    if (ready > 0)
        result = Py_NewRef((PyObject *)iterator);
    Py_XDECREF((PyObject *)iterator); /* leaves the group before the stdlib begins */
    if (ready == 0)
        result = stdlib_call(state, "as_completed", futures, timeout, NULL);
    Py_DECREF(futures);
    return result;
}

/* ---- The module's part ------------------------------------------------------------------------------------------- */

static PyMethodDef completed_methods[] = {
    {"close", completed_close, METH_NOARGS, PyDoc_STR("close($self)\n--\n\nEnds it.")},
    {0},
};

static const struct tb_iterator_type completed_type = {
    .name = "treadle._engine.CompletedIterator",
    .doc = "Futures as they complete.",
    .basicsize = sizeof(struct completed),
    .traverse = completed_traverse,
    .clear = completed_clear,
    .next = completed_next,
    .methods = completed_methods,
};

static PyMethodDef group_methods[] = {
    {"wait", (PyCFunction)(void (*)(void))group_wait, METH_VARARGS | METH_KEYWORDS, wait_doc},
    {"as_completed", (PyCFunction)(void (*)(void))group_as_completed, METH_VARARGS | METH_KEYWORDS,
     as_completed_doc},
    {0},
};

int tb_group_init(PyObject *module, struct tb_state *state)
{
    state->completed_type = tb_iterator_type_new(module, &completed_type);
    if (state->completed_type == NULL)
        return -1;
    return PyModule_AddFunctions(module, group_methods);
}
