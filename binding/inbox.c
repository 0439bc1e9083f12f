/* inbox.c: handing completed tasks to an event loop, in batches, in the loop's own thread.
 *
 *      run() --> turn: call_soon(settle) --> settle: deliver what is there; tasks left? arm --> the loop polls
 *                        ^                      '--- a quarter millisecond is over: turn         |
 *                        '---------------------------------------------------- ring <-----------'
 *
 * A turn of the loop in which something is awaited calls settle() once, at its end, so that however many results came
 * they cost one look, and a poll that nobody needs is never armed. While the loop sleeps, the group's descriptor wakes
 * it (core/pool/group.c). An await may take its result at once, without any of this (call.c), until the turn has lasted
 * half a millisecond. settle() delivers for half as long, once a turn: what else the loop has to do comes in between,
 * and what asyncio does for the results of the turn before, as long again, comes on top.
 *
 * Invariants  B1 a call is in `calls` and its task in the group, or neither.
 *             B2 tasks in the group: settle() will be called (turning), or the group is armed.
 *             B3 all but the group is used by the loop's thread alone. In a forked child nothing is.
 * Life        the loop's reader holds it; the module's list does not. A loop that shuts down its asynchronous
 *             generators closes it (aio/_inbox.py); one that is only closed lets go of it, and its end abandons what
 *             is pending.
 * Tests       tests/unit/test_aio.py, tests/parity/test_asyncio_turns.py */
#include "inbox.h"

#include <stddef.h>
#include <structmember.h>

#include "base/clock.h"
#include "call.h"

#define BATCH_NS (250 * TD_NS_PER_US)

/* ---- Turns --------------------------------------------------------------------------------------------------- */

bool tb_inbox_is_here(const struct tb_inbox *inbox)
{
    return inbox->thread == PyThread_get_thread_ident();
}

int tb_inbox_turn(struct tb_inbox *inbox)
{
    if (inbox->turning || inbox->loop == Py_None)
        return 0;
    PyObject *settle = PyObject_GetAttrString((PyObject *)inbox, "settle");
    PyObject *handle = settle != NULL ? PyObject_CallMethod(inbox->loop, "call_soon", "O", settle) : NULL;
    Py_XDECREF(settle);
    if (handle == NULL)
        return -1;
    Py_DECREF(handle);
    inbox->turning = true;
    inbox->turn_ns = td_now_ns();
    inbox->hasty = NULL;
    return 0;
}

/* Delivers what is there, for as long as a batch may take. 1: more is there; 0; -1. */
static int deliver_batch(struct tb_inbox *inbox)
{
    const int64_t end_ns = td_now_ns() + BATCH_NS;
    td_task *task;
    while (inbox->group != NULL && td_group_pop_until(inbox->group, 0, &task) == TD_OK) {
        struct tb_call *call = (struct tb_call *)(uintptr_t)td_task_group_tag(task);
        td_task_unref(task);
        if (tb_call_deliver(call) < 0)
            return -1;
        if (td_now_ns() >= end_ns)
            return 1;
    }
    return 0;
}

static PyObject *inbox_settle(PyObject *self, PyObject *Py_UNUSED(unused))
{
    struct tb_inbox *inbox = (struct tb_inbox *)self;
    inbox->turning = false;
    const int more = deliver_batch(inbox);
    if (inbox->group != NULL && td_group_count(inbox->group) > 0) {
        PyObject *raised = more < 0 ? tb_exception_take() : NULL;
        int kept = 0;
        if (more == 0 || inbox->loop == Py_None)
            td_group_arm(inbox->group);
        else
            kept = tb_inbox_turn(inbox);
        if (raised != NULL) {
            PyErr_Clear();
            tb_exception_give(raised);
        } else if (kept < 0) {
            return NULL;
        }
    }
    if (more < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *inbox_ring(PyObject *self, PyObject *unused)
{
    const struct tb_inbox *inbox = (struct tb_inbox *)self;
    if (inbox->group == NULL)
        Py_RETURN_NONE;
    td_group_disarm(inbox->group);
    if (inbox->turning) /* which settles it, and once a turn is enough: two would take twice as long */
        Py_RETURN_NONE;
    return inbox_settle(self, unused);
}

/* ---- Finding the loop's ---------------------------------------------------------------------------------------- */

static int load_asyncio(struct tb_state *state)
{
    if (state->running_loop != NULL)
        return 0;
    PyObject *events = PyImport_ImportModule("asyncio.events");
    PyObject *tasks = events != NULL ? PyImport_ImportModule("asyncio.tasks") : NULL;
    if (tasks != NULL) {
        Py_XSETREF(state->current_task, PyObject_GetAttrString(tasks, "current_task"));
        Py_XSETREF(state->running_loop, PyObject_GetAttrString(events, "_get_running_loop"));
    }
    Py_XDECREF(tasks);
    Py_XDECREF(events);
    return state->current_task != NULL && state->running_loop != NULL ? 0 : -1;
}

/* A new reference, or NULL: there is none. */
static struct tb_inbox *find(struct tb_state *state, const PyObject *loop)
{
    struct tb_inbox *found = NULL;
    Py_BEGIN_CRITICAL_SECTION(state->module);
    for (struct tb_inbox *inbox = state->inboxes; inbox != NULL && found == NULL; inbox = inbox->next)
        if (inbox->loop == loop && inbox->group != NULL && tb_inbox_is_here(inbox))
            found = (struct tb_inbox *)Py_NewRef((PyObject *)inbox);
    Py_END_CRITICAL_SECTION();
    return found;
}

struct tb_inbox *tb_inbox_here(struct tb_state *state)
{
    if (load_asyncio(state) < 0)
        return NULL;
    PyObject *loop = PyObject_CallNoArgs(state->running_loop);
    if (loop == NULL)
        return NULL;
    struct tb_inbox *inbox = NULL;
    if (loop == Py_None) {
        PyErr_SetString(PyExc_RuntimeError,
                        "no event loop is running in this thread: a call can only be awaited in "
                        "a coroutine; elsewhere use submit(...).result()");
    } else {
        inbox = find(state, loop);
        if (inbox == NULL) {
            PyObject *home = PyImport_ImportModule("treadle.aio._inbox");
            if (home != NULL)
                inbox = (struct tb_inbox *)PyObject_CallMethod(home, "open_inbox", "O", loop);
            Py_XDECREF(home);
        }
    }
    Py_DECREF(loop);
    return inbox;
}

/* ---- Life ------------------------------------------------------------------------------------------------------- */

static void enlist(struct tb_state *state, struct tb_inbox *inbox)
{
    Py_BEGIN_CRITICAL_SECTION(state->module);
    inbox->next = state->inboxes;
    state->inboxes = inbox;
    Py_END_CRITICAL_SECTION();
}

static void delist(struct tb_state *state, const struct tb_inbox *inbox)
{
    Py_BEGIN_CRITICAL_SECTION(state->module);
    for (struct tb_inbox **link = &state->inboxes; *link != NULL; link = &(*link)->next) {
        if (*link == inbox) {
            *link = inbox->next;
            break;
        }
    }
    Py_END_CRITICAL_SECTION();
}

PyDoc_STRVAR(inbox_doc,
             "Inbox(loop)\n--\n\n"
             "Where an event loop finds what has completed: its descriptor is readable then, and ring() "
             "hands it over. Without a loop (None) targets are called, and whoever polls calls ring().");

static PyObject *inbox_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"loop", NULL};
    PyObject *loop;
    struct tb_state *state = PyType_GetModuleState(type);
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O:Inbox", names, &loop) || tb_load_future(state) < 0 ||
        load_asyncio(state) < 0)
        return NULL;
    struct tb_inbox *inbox = (struct tb_inbox *)type->tp_alloc(type, 0);
    if (inbox == NULL)
        return NULL;
    inbox->state = state;
    inbox->loop = Py_NewRef(loop);
    inbox->thread = PyThread_get_thread_ident();
    td_status status = td_group_new(&inbox->group);
    if (status == TD_OK)
        status = td_group_open_event(inbox->group, &inbox->fd);
    if (status != TD_OK) {
        Py_DECREF((PyObject *)inbox);
        (void)tb_raise_status(state, status, NULL);
        return NULL;
    }
    enlist(state, inbox);
    return (PyObject *)inbox;
}

static int inbox_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct tb_inbox *inbox = (struct tb_inbox *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(inbox->loop);
    Py_VISIT(inbox->keeper);
    for (struct tb_call *call = inbox->calls; call != NULL; call = call->next)
        Py_VISIT(call);
    return 0;
}

/* Whatever is pending will not be heard of, and is stopped. Errors have nobody to go to. */
static void drop_calls(struct tb_inbox *inbox)
{
    PyObject *raised = tb_exception_take();
    while (inbox->calls != NULL)
        if (tb_call_abandon(inbox->calls) < 0)
            PyErr_WriteUnraisable((PyObject *)inbox);
    if (raised != NULL)
        tb_exception_give(raised);
}

static int inbox_clear(PyObject *self)
{
    struct tb_inbox *inbox = (struct tb_inbox *)self;
    drop_calls(inbox);
    if (inbox->group != NULL) {
        td_group *group = inbox->group;
        inbox->group = NULL;
        td_group_free(group);
    }
    Py_CLEAR(inbox->keeper);
    Py_CLEAR(inbox->loop);
    return 0;
}

static void inbox_dealloc(PyObject *self)
{
    struct tb_inbox *inbox = (struct tb_inbox *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    delist(inbox->state, inbox);
    if (inbox->weak_references != NULL)
        PyObject_ClearWeakRefs(self);
    (void)inbox_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* ---- Methods ---------------------------------------------------------------------------------------------------- */

static PyObject *inbox_fileno(PyObject *self, PyObject *Py_UNUSED(unused))
{
    const struct tb_inbox *inbox = (struct tb_inbox *)self;
    return PyLong_FromLong(inbox->group != NULL ? inbox->fd : -1);
}

static PyObject *inbox_keep(PyObject *self, PyObject *keeper)
{
    Py_XSETREF(((struct tb_inbox *)self)->keeper, Py_NewRef(keeper));
    Py_RETURN_NONE;
}

static PyObject *inbox_follow(PyObject *self, PyObject *args)
{
    struct tb_inbox *inbox = (struct tb_inbox *)self;
    PyObject *future, *target;
    if (!PyArg_ParseTuple(args, "O!O:follow", inbox->state->future_type, &future, &target))
        return NULL;
    if (inbox->group == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the inbox is closed");
        return NULL;
    }
    const int followed = tb_call_follow(inbox, (struct tb_future *)future, target);
    return followed < 0 ? NULL : PyBool_FromLong(followed);
}

/* The loop shuts down: futures that are pending are cancelled, and with them their calls. */
static PyObject *inbox_close(PyObject *self, PyObject *Py_UNUSED(unused))
{
    struct tb_inbox *inbox = (struct tb_inbox *)self;
    while (inbox->calls != NULL) {
        struct tb_call *call = (struct tb_call *)Py_NewRef((PyObject *)inbox->calls);
        const int dropped = tb_call_drop(call);
        Py_DECREF((PyObject *)call);
        if (dropped < 0)
            return NULL;
    }
    (void)inbox_clear(self);
    inbox->loop = Py_NewRef(Py_None);
    Py_RETURN_NONE;
}

static PyMethodDef inbox_methods[] = {
    {"fileno", inbox_fileno, METH_NOARGS,
     PyDoc_STR("fileno($self)\n--\n\nThe descriptor; -1 once it is closed.")},
    {"ring", inbox_ring, METH_NOARGS,
     PyDoc_STR("ring($self)\n--\n\nHands over what has completed: for when the descriptor is readable.")},
    {"settle", inbox_settle, METH_NOARGS,
     PyDoc_STR("settle($self)\n--\n\nThe same at the end of a turn; then the descriptor will tell.")},
    {"follow", inbox_follow, METH_VARARGS,
     PyDoc_STR("follow($self, future, target, /)\n--\n\n"
               "Has the target told when the future is done; False where it cannot be.")},
    {"keep", inbox_keep, METH_O,
     PyDoc_STR("keep($self, keeper, /)\n--\n\nHolds an object for as long as it is open.")},
    {"close", inbox_close, METH_NOARGS,
     PyDoc_STR("close($self)\n--\n\nCancels what is pending, and closes the descriptor.")},
    {0},
};

static PyMemberDef inbox_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(struct tb_inbox, weak_references), READONLY, NULL},
    {0},
};

static PyType_Slot inbox_slots[] = {
    {Py_tp_doc, (void *)inbox_doc},         {Py_tp_new, (void *)inbox_new},
    {Py_tp_dealloc, (void *)inbox_dealloc}, {Py_tp_traverse, (void *)inbox_traverse},
    {Py_tp_clear, (void *)inbox_clear},     {Py_tp_methods, inbox_methods},
    {Py_tp_members, inbox_members},         {0, NULL},
};

static PyType_Spec inbox_spec = {
    .name = "treadle._engine.Inbox",
    .basicsize = sizeof(struct tb_inbox),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = inbox_slots,
};

int tb_inbox_init(PyObject *module, struct tb_state *state)
{
    state->inbox_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &inbox_spec, NULL);
    if (state->inbox_type == NULL || PyModule_AddType(module, state->inbox_type) < 0)
        return -1;
    return tb_call_init(module, state);
}
