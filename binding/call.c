/* call.c: Executor.run, which gives an asyncio future, and await, which need not go round the loop.
 *
 * run() submits as submit() does, makes a CallFuture, a subclass of asyncio's (aio/_future.py), and a call that ties it
 * to the task. The call waits in the loop's inbox, which delivers the outcome. An await looks first whether the outcome
 * is there, and may spin for it where a CPU is free: a result that comes within that time costs no turn of the loop.
 *
 * Not each await may: of the asyncio tasks that await in a turn, only the first (`hasty`) spins. A thousand coroutines
 * that each await one call would otherwise run one after the other, and so would their calls.
 * Invariants  B1 of inbox.c. A call that is not pending has let go of everything; until then its inbox holds it.
 * Tests       tests/unit/test_aio.py, tests/parity/test_asyncio.py, tests/fault/test_asyncio.py */
#include "call.h"

#include <string.h>
#include <structmember.h>

#include "base/clock.h"
#include "executor.h"

#define SPIN_NS (20 * TD_NS_PER_US)  /* as long as a wake-up takes */
#define TURN_NS (500 * TD_NS_PER_US) /* how long awaits may go on without a turn of the loop */

/* ---- In the inbox and out of it --------------------------------------------------------------------------------- */

static struct tb_call *call_new(struct tb_state *state, PyObject *target)
{
    struct tb_call *call = (struct tb_call *)state->call_type->tp_alloc(state->call_type, 0);
    if (call != NULL)
        call->target = Py_NewRef(target);
    return call;
}

/* Takes the task's reference over. 1; 0: the task is in a group already; -1. */
static int call_attach(struct tb_call *call, struct tb_inbox *inbox, td_task *task)
{
    const td_status status = td_group_add_as(inbox->group, task, (uint64_t)(uintptr_t)call);
    if (status != TD_OK) {
        td_task_unref(task);
        return status == TD_EINVAL ? 0 : tb_raise_status(inbox->state, status, NULL);
    }
    call->task = task;
    call->inbox = (struct tb_inbox *)Py_NewRef((PyObject *)inbox);
    call->next = inbox->calls;
    if (call->next != NULL)
        call->next->previous = call;
    inbox->calls = (struct tb_call *)Py_NewRef((PyObject *)call);
    return 1;
}

/* The caller holds a reference; gives the list's up, and the inbox's to the caller. The task stays. */
static struct tb_inbox *call_unlink(struct tb_call *call)
{
    struct tb_inbox *inbox = call->inbox;
    if (call->next != NULL)
        call->next->previous = call->previous;
    *(call->previous != NULL ? &call->previous->next : &inbox->calls) = call->next;
    call->next = call->previous = NULL;
    call->inbox = NULL;
    Py_DECREF((PyObject *)call);
    return inbox;
}

static void call_let_go(struct tb_call *call)
{
    td_task *task = call->task;
    call->task = NULL;
    if (task != NULL)
        td_task_unref(task);
    Py_CLEAR(call->handle);
    Py_CLEAR(call->source);
    Py_CLEAR(call->name);
    Py_CLEAR(call->target); /* which refers to the call */
}

/* Does the target get the outcome, or is it called? */
static bool takes_outcome(const struct tb_state *state, PyObject *target)
{
    return state->awaited_type != NULL && PyObject_TypeCheck(target, state->awaited_type);
}

int tb_call_abandon(struct tb_call *call)
{
    int done = 0;
    Py_INCREF((PyObject *)call);
    struct tb_inbox *inbox = call_unlink(call);
    if (inbox->group != NULL)
        (void)td_group_remove(inbox->group, call->task);
    if (!takes_outcome(inbox->state, call->target)) {
        done = 0; /* who asked to be called goes without; the future is somebody else's */
    } else if (call->source != NULL) {
        PyObject *cancelled = PyObject_CallMethod((PyObject *)call->source, "cancel", "O", Py_True);
        Py_XDECREF(cancelled);
        done = cancelled == NULL ? -1 : 0;
    } else {
        (void)td_task_cancel(call->task, true); /* refused where it is final, or the parent's */
    }
    call_let_go(call);
    Py_DECREF((PyObject *)inbox);
    Py_DECREF((PyObject *)call);
    return done;
}

int tb_call_drop(struct tb_call *call)
{
    const struct tb_inbox *inbox = call->inbox;
    if (takes_outcome(inbox->state, call->target)) {
        PyObject *target = Py_NewRef(call->target), *cancelled = PyObject_CallMethod(target, "cancel", NULL);
        Py_XDECREF(cancelled);
        Py_DECREF(target);
        if (cancelled == NULL)
            return -1;
    }
    return call->inbox != NULL ? tb_call_abandon(call) : 0;
}

/* ---- Delivery --------------------------------------------------------------------------------------------------- */

static int outcome_of(struct tb_call *call, struct tb_state *state, struct tb_ending *outcome)
{
    struct tb_future *source = call->source;
    if (source == NULL) {
        const int read = tb_ending_read(state, call->task, call->handle, call->name, call->timeout_ns, outcome);
        if (read == 0)
            td_task_drop_parcels(call->task);
        return read;
    }
    if (tb_future_settle(state, source) < 0)
        return -1;
    *outcome = (struct tb_ending){
        .result = Py_XNewRef(source->result),
        .exception = Py_XNewRef(source->exception),
        .state = (enum tb_future_state)source->state,
    };
    if (outcome->result == NULL && outcome->exception == NULL && outcome->state == TB_FINISHED)
        outcome->result = Py_NewRef(Py_None);
    return 0;
}

static int target_call(PyObject *target, const char *method, PyObject *value)
{
    PyObject *done = value != NULL ? PyObject_CallMethod(target, method, "(O)", value)
                                   : PyObject_CallMethod(target, method, NULL);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* Somebody else has set or cancelled it meanwhile: that is his business. */
static bool is_done(PyObject *target)
{
    PyObject *raised = tb_exception_take();
    PyObject *done = PyObject_CallMethod(target, "done", NULL);
    const bool yes = done == Py_True;
    Py_XDECREF(done);
    PyErr_Clear();
    if (raised != NULL)
        tb_exception_give(raised);
    return yes;
}

static int target_give(PyObject *target, const struct tb_ending *outcome)
{
    int given;
    if (outcome->state != TB_FINISHED)
        given = target_call(target, "cancel", NULL);
    else if (outcome->exception != NULL)
        given = target_call(target, "set_exception", outcome->exception);
    else
        given = target_call(target, "set_result", outcome->result);
    if (given == 0 || !tb_is_ordinary_error())
        return given;
    PyObject *refusal = tb_exception_take();
    if (!is_done(target)) /* an exception that asyncio has no use for, such as StopIteration: it says why */
        given = target_call(target, "set_exception", refusal);
    else
        given = 0;
    Py_DECREF(refusal);
    return given;
}

int tb_call_deliver(struct tb_call *call)
{
    struct tb_ending outcome;
    Py_INCREF((PyObject *)call);
    struct tb_inbox *inbox = call_unlink(call);
    int delivered;
    if (!takes_outcome(inbox->state, call->target)) {
        PyObject *told = PyObject_CallNoArgs(call->target);
        Py_XDECREF(told);
        delivered = told == NULL ? -1 : 0;
    } else {
        delivered = outcome_of(call, inbox->state, &outcome);
        if (delivered == 0) {
            delivered = target_give(call->target, &outcome);
            Py_XDECREF(outcome.result);
            Py_XDECREF(outcome.exception);
        }
    }
    call_let_go(call);
    Py_DECREF((PyObject *)inbox);
    Py_DECREF((PyObject *)call);
    return delivered;
}

/* ---- Await ------------------------------------------------------------------------------------------------------ */

/* May the running asyncio task spin? The first that asks in a turn, and in the next turn another one. 1, 0, -1. */
static int may_spin(struct tb_inbox *inbox)
{
    PyObject *task = PyObject_CallOneArg(inbox->state->current_task, inbox->loop);
    if (task == NULL)
        return -1;
    if (inbox->hasty == NULL)
        inbox->hasty = task;
    const bool may = inbox->hasty == task;
    Py_DECREF(task);
    return may;
}

/* Delivers the outcome if it is there, or comes soon. 0 or -1. */
static int hasten(struct tb_call *call)
{
    struct tb_inbox *inbox = call->inbox;
    if (!tb_inbox_is_here(inbox) || inbox->loop == Py_None)
        return 0;
    if (tb_inbox_turn(inbox) < 0)
        return -1;
    if (td_now_ns() - inbox->turn_ns > TURN_NS)
        return 0;
    bool final = td_task_poll(call->task);
    if (!final) {
        const int may = may_spin(inbox);
        if (may <= 0)
            return may;
        td_task *task = td_task_ref(call->task);
        Py_BEGIN_ALLOW_THREADS;
        final = td_task_spin(task, SPIN_NS);
        Py_END_ALLOW_THREADS;
        td_task_unref(task);
    }
    if (!final || call->inbox == NULL)
        return 0;
    (void)td_group_remove(inbox->group, call->task);
    return tb_call_deliver(call);
}

/* Where a CallFuture keeps its call. */
static PyObject **slot_of(const struct tb_state *state, PyObject *future)
{
    return (PyObject **)((char *)future + state->call_offset);
}

static struct tb_call *call_of(const struct tb_state *state, PyObject *future)
{
    PyObject *call = *slot_of(state, future);
    return call != NULL && Py_IS_TYPE(call, state->call_type) ? (struct tb_call *)call : NULL;
}

/* CallFuture.__await__ */
static PyObject *await(PyObject *module, PyObject *future)
{
    struct tb_state *state = tb_state_of(module);
    if (state->awaited_type == NULL || !PyObject_TypeCheck(future, state->awaited_type))
        return PyErr_Format(PyExc_TypeError, "a CallFuture is awaited so, not %.200s",
                            Py_TYPE(future)->tp_name);
    struct tb_call *call = call_of(state, future);
    if (call != NULL && call->inbox != NULL && hasten(call) < 0)
        return NULL;
    return PyObject_CallOneArg(state->base_await, future);
}

/* A CallFuture of the inbox's loop, without a call. */
static PyObject *future_new(struct tb_inbox *inbox)
{
    static const char *const names[] = {"loop"};
    PyObject *keywords = Py_BuildValue("(s)", names[0]);
    if (keywords == NULL)
        return NULL;
    PyObject *const arguments[] = {inbox->loop};
    PyObject *future = PyObject_Vectorcall((PyObject *)inbox->state->awaited_type, arguments, 0, keywords);
    Py_DECREF(keywords);
    return future;
}

/* Ties them together, and has the loop look at its next turn. */
static int future_begin(struct tb_inbox *inbox, PyObject *future, struct tb_call *call)
{
    Py_XSETREF(*slot_of(inbox->state, future), Py_NewRef((PyObject *)call));
    return tb_inbox_turn(inbox);
}

/* ---- Following a future ------------------------------------------------------------------------------------------ */

int tb_call_follow(struct tb_inbox *inbox, struct tb_future *future, PyObject *target)
{
    td_task *task = tb_future_task(future);
    if (task == NULL)
        return 0;
    struct tb_call *call = call_new(inbox->state, target);
    if (call == NULL) {
        td_task_unref(task);
        return -1;
    }
    call->source = (struct tb_future *)Py_NewRef((PyObject *)future);
    int followed = call_attach(call, inbox, task);
    if (followed > 0 && inbox->loop == Py_None)
        td_group_arm(inbox->group);
    else if (followed > 0 && takes_outcome(inbox->state, target))
        followed = future_begin(inbox, target, call) < 0 ? -1 : 1;
    else if (followed > 0)
        followed = tb_inbox_turn(inbox) < 0 ? -1 : 1;
    Py_DECREF((PyObject *)call);
    return followed;
}

/* An asyncio future that does as this one: the engine's by the inbox, another by asyncio's own means. */
static PyObject *follow(struct tb_state *state, PyObject *future)
{
    struct tb_inbox *inbox = tb_inbox_here(state);
    if (inbox == NULL)
        return NULL;
    PyObject *target = future_new(inbox);
    const int followed = target != NULL ? tb_call_follow(inbox, (struct tb_future *)future, target) : -1;
    Py_DECREF((PyObject *)inbox);
    if (followed > 0)
        return target;
    Py_XDECREF(target);
    if (followed < 0)
        return NULL;
    PyObject *home = PyImport_ImportModule("treadle.aio._future");
    PyObject *wrapped = home != NULL ? PyObject_CallMethod(home, "wrap", "O", future) : NULL;
    Py_XDECREF(home);
    return wrapped;
}

static PyObject *call_follow_in_loop(PyObject *module, PyObject *args)
{
    struct tb_state *state = tb_state_of(module);
    PyObject *future, *target;
    if (tb_load_future(state) < 0 || !PyArg_ParseTuple(args, "O!O", state->future_type, &future, &target))
        return NULL;
    struct tb_inbox *inbox = tb_inbox_here(state);
    if (inbox == NULL)
        return NULL;
    const int followed = tb_call_follow(inbox, (struct tb_future *)future, target);
    Py_DECREF((PyObject *)inbox);
    return followed < 0 ? NULL : PyBool_FromLong(followed);
}

static PyObject *call_follow(PyObject *module, PyObject *future)
{
    struct tb_state *state = tb_state_of(module);
    if (tb_load_future(state) < 0)
        return NULL;
    if (!tb_future_check(state, future))
        return PyErr_Format(PyExc_TypeError, "a treadle.Future is followed, not %.200s",
                            Py_TYPE(future)->tp_name);
    return follow(state, future);
}

int tb_call_chain(struct tb_future *future, PyObject *callback)
{
    if (!PyFunction_Check(callback))
        return 0;
    const PyCodeObject *code = (const PyCodeObject *)PyFunction_GET_CODE(callback);
    if (PyUnicode_CompareWithASCIIString(code->co_name, "_call_set_state") != 0)
        return 0;
    PyObject *home = PyImport_ImportModule("treadle.aio._chain");
    PyObject *chained = home != NULL ? PyObject_CallMethod(home, "chain", "OO", future, callback) : NULL;
    const int done = chained != NULL ? chained == Py_True : -1;
    Py_XDECREF(chained);
    Py_XDECREF(home);
    return done;
}

PyObject *tb_future_await(PyObject *self)
{
    PyObject *followed = follow(tb_state_of_final(self), self);
    PyObject *iterator = followed != NULL ? PyObject_CallMethod(followed, "__await__", NULL) : NULL;
    Py_XDECREF(followed);
    return iterator;
}

/* ---- Executor.run ------------------------------------------------------------------------------------------------ */

/* Refuses what would only make a coroutine, and takes `context` out of the keywords. The rest of it is slow, and in
 * Python. 1: go on with this callable; -1. */
static bool is_plain(PyObject *callable, PyObject *kwnames)
{
    if (kwnames != NULL)
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(kwnames); i++)
            if (PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, i), "context") == 0)
                return false;
    if (PyMethod_Check(callable))
        callable = PyMethod_GET_FUNCTION(callable);
    if (PyFunction_Check(callable)) {
        const PyCodeObject *code = (const PyCodeObject *)PyFunction_GET_CODE(callable);
        return (code->co_flags & (CO_COROUTINE | CO_ASYNC_GENERATOR)) == 0;
    }
    return PyCFunction_Check(callable) || PyType_Check(callable);
}

static PyObject *run_slowly(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *home = PyImport_ImportModule("treadle.aio._run");
    PyObject *run = home != NULL ? PyObject_GetAttrString(home, "run") : NULL;
    Py_XDECREF(home);
    if (run == NULL)
        return NULL;
    const Py_ssize_t count = nargs + (kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0);
    PyObject **all = PyMem_Malloc((size_t)(count + 1) * sizeof *all);
    PyObject *future = NULL;
    if (all != NULL) {
        all[0] = self;
        memcpy(all + 1, args, (size_t)count * sizeof *all);
        future = PyObject_Vectorcall(run, all, (size_t)nargs + 1, kwnames);
        PyMem_Free(all);
    } else {
        PyErr_NoMemory();
    }
    Py_DECREF(run);
    return future;
}

/* Ends the future with the exception that is set. */
static int future_fail(PyObject *future)
{
    if (!tb_is_ordinary_error())
        return -1;
    PyObject *exception = tb_exception_take();
    const int failed = target_call(future, "set_exception", exception);
    Py_DECREF(exception);
    return failed;
}

/* Sends it, and ties the task to the future. What is wrong with the call is the future's outcome. 0 or -1. */
static int run_in(struct tb_executor *executor, struct tb_inbox *inbox, PyObject *callable,
                  const struct tb_arguments *arguments, PyObject *future)
{
    if (!executor->begun && tb_executor_prepare(executor) < 0)
        return -1;
    struct tb_function *function = tb_executor_function(executor, callable);
    if (function == NULL)
        return tb_executor_is_forked_error(executor) ? -1 : future_fail(future);
    bool own_failure = false;
    td_task *task;
    struct tb_call *call = call_new(inbox->state, future);
    int done = call == NULL ? -1
                            : tb_executor_send(executor, function, arguments, &executor->defaults,
                                               (uint64_t)(uintptr_t)call, &task, &own_failure);
    if (done == 0) {
        call->handle = (struct tb_handle *)Py_NewRef((PyObject *)function->handle);
        call->name = Py_NewRef(function->name);
        call->timeout_ns = executor->defaults.timeout_ns;
        done = call_attach(call, inbox, task) < 0 ? -1 : future_begin(inbox, future, call);
    } else if (own_failure) {
        done = future_fail(future);
    }
    Py_XDECREF((PyObject *)call);
    Py_DECREF((PyObject *)function);
    return done;
}

const char tb_executor_run_doc[] =
    "run($self, fn, /, *args, context=(), **kwargs)\n--\n\n"
    "Has a worker call `fn(*args, **kwargs)`, for `await` in a coroutine; an asyncio future of the outcome.\n\n"
    "A plain function: nothing need be awaited for the work to begin, and gathering makes no coroutine. A "
    "result that "
    "comes within 20 us completes the await without a turn of the event loop. Cancelling the future, or "
    "whoever "
    "awaits it, drops work that is queued and stops work that runs: TaskCancelled is raised in it, and its "
    "worker is "
    "killed after the grace time (TREADLE_GRACE, 1 s). Arguments and results travel as with submit().\n\n"
    "context is a sequence of context variables, defined at a module's top level, whose values the call "
    "has.\n\n"
    "Raises:\n"
    "    TypeError: fn is a coroutine function.\n"
    "    RuntimeError: no event loop runs in this thread.\n"
    "    PoolClosed, PoolBroken, ForkedPool: as submit().\n\n"
    "Source: binding/call.c, binding/inbox.c.";

PyObject *tb_executor_run(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    struct tb_executor *executor = (struct tb_executor *)self;
    if (nargs == 0)
        return PyErr_Format(PyExc_TypeError, "%s.run() missing 1 required positional argument: 'fn'",
                            Py_TYPE(self)->tp_name);
    if (!is_plain(args[0], kwnames))
        return run_slowly(self, args, nargs, kwnames);
    struct tb_inbox *inbox = tb_inbox_here(executor->state);
    if (inbox == NULL)
        return NULL;
    const struct tb_arguments arguments = {.values = args + 1, .count = nargs - 1, .names = kwnames};
    PyObject *future = future_new(inbox);
    if (future != NULL && run_in(executor, inbox, args[0], &arguments, future) < 0)
        Py_CLEAR(future);
    Py_DECREF((PyObject *)inbox);
    return future;
}

/* _run(fn, args, kwargs): without a look at what is called. */
PyObject *tb_executor_run_any(PyObject *self, PyObject *args)
{
    struct tb_executor *executor = (struct tb_executor *)self;
    struct tb_arguments arguments = {0};
    PyObject *callable;
    if (!PyArg_ParseTuple(args, "OO!O!:_run", &callable, &PyTuple_Type, &arguments.tuple, &PyDict_Type,
                          &arguments.dict))
        return NULL;
    struct tb_inbox *inbox = tb_inbox_here(executor->state);
    PyObject *future = inbox != NULL ? future_new(inbox) : NULL;
    if (future != NULL && run_in(executor, inbox, callable, &arguments, future) < 0)
        Py_CLEAR(future);
    Py_XDECREF((PyObject *)inbox);
    return future;
}

/* ---- The type --------------------------------------------------------------------------------------------------- */

static int call_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct tb_call *call = (struct tb_call *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(call->inbox);
    Py_VISIT(call->source);
    Py_VISIT(call->target);
    return 0;
}

static void call_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    call_let_go((struct tb_call *)self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *call_cancel(PyObject *self, PyObject *Py_UNUSED(unused))
{
    struct tb_call *call = (struct tb_call *)self;
    if (call->inbox != NULL && tb_call_abandon(call) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef call_methods[] = {
    {"cancel", call_cancel, METH_NOARGS,
     PyDoc_STR("cancel($self)\n--\n\nDrops the call if it is queued, and stops it if it runs.")},
    {0},
};

static PyType_Slot call_slots[] = {
    {Py_tp_dealloc, (void *)call_dealloc},
    {Py_tp_traverse, (void *)call_traverse},
    {Py_tp_methods, call_methods},
    {0, NULL},
};

static PyType_Spec call_spec = {
    .name = "treadle._engine.Call",
    .basicsize = sizeof(struct tb_call),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = call_slots,
};

/* _use_future(CallFuture, descriptor of its slot, asyncio.Future.__await__): what run() makes from here on. */
static PyObject *use_future(PyObject *module, PyObject *args)
{
    struct tb_state *state = tb_state_of(module);
    PyObject *type, *slot, *base;
    if (!PyArg_ParseTuple(args, "O!O!O:_use_future", &PyType_Type, &type, &PyMemberDescr_Type, &slot, &base))
        return NULL;
    const PyMemberDescrObject *member = (const PyMemberDescrObject *)slot;
    if (PyDescr_TYPE(member) != (PyTypeObject *)type) {
        PyErr_SetString(PyExc_TypeError, "the slot is another type's");
        return NULL;
    }
    state->call_offset = member->d_member->offset;
    Py_XSETREF(state->base_await, Py_NewRef(base));
    Py_XSETREF(state->awaited_type, (PyTypeObject *)Py_NewRef(type));
    Py_RETURN_NONE;
}

static PyMethodDef module_methods[] = {
    {"await_call", await, METH_O, NULL},
    {"follow", call_follow, METH_O,
     PyDoc_STR("follow($module, future, /)\n--\n\n"
               "An asyncio future of the running loop that gets the future's outcome, and cancels it.")},
    {"follow_in_loop", call_follow_in_loop, METH_VARARGS,
     PyDoc_STR("follow_in_loop($module, future, target, /)\n--\n\n"
               "Has the running loop call the target when the future is done; False where it cannot.")},
    {"_use_future", use_future, METH_VARARGS, NULL},
    {0},
};

int tb_call_init(PyObject *module, struct tb_state *state)
{
    state->call_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &call_spec, NULL);
    return state->call_type != NULL ? PyModule_AddFunctions(module, module_methods) : -1;
}
