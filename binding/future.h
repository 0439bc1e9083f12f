/* future.h: the Future, a C type under concurrent.futures.Future.
 *
 * A future follows a task of the engine (state TB_ENGINE: whatever the task says) until its outcome was read into
 * Python objects, and from then on it is as good as a local one. A local future is one that Python code finishes
 * (set_result ...): threads, tests, and calls that could not be sent.
 *
 * Watching. `watch` exists once somebody asked to be told: a callback, the _condition or _waiters that the stdlib's
 * wait and as_completed reach for, or a thread that waits for a local future. A watched future of the engine is
 * *announced* when its task is final: by the dispatcher thread or by the one who cancelled it, whoever is first. Until
 * then _state says RUNNING, so that who takes _condition, reads _state and appends to _waiters never misses it. */
#ifndef TB_FUTURE_H
#define TB_FUTURE_H

#include "module.h"
#include "pool.h"

enum tb_future_state {
    TB_ENGINE = 0, /* ask the task */
    TB_PENDING,
    TB_RUNNING,
    TB_CANCELLED,
    TB_NOTIFIED, /* cancelled, and who waits was told */
    TB_FINISHED,
};

/* A thread in result() of a local future, on its stack. */
struct tb_sleeper {
    struct tb_sleeper *next;
    PyThread_type_lock lock;
    bool woken;
};

struct tb_watch_list {
    PyObject *condition; /* threading.Condition, or NULL: nobody asked */
    PyObject *waiters;   /* list, or NULL */
    PyObject *callbacks; /* list, or NULL */
    struct tb_sleeper *sleepers;
};

/* What a task's outcome leaves behind of its times. */
struct tb_spent {
    int64_t queued_ns, transfer_ns, run_ns;
    int32_t pid;
    uint32_t attempts;
};

/* Fields are under the future's critical section. Not tracked by the collector while it holds nothing that could
 * be part of a cycle (tb_future_track). */
struct tb_future {
    PyObject_HEAD
#if PY_VERSION_HEX < 0x030c0000
        PyObject *weak_references; /* where the Python base class has them; later versions keep them in front */
#endif
    td_task *task;            /* NULL: local, or read */
    struct tb_handle *handle; /* keeps the task's pool */
    PyObject *name;           /* str: what is called, for errors; or NULL */
    PyObject *result;
    PyObject *exception;
    struct tb_watch_list *watch;
    int64_t timeout_ns; /* of the task; for its error */
    struct tb_spent spent;
    uint8_t state;    /* enum tb_future_state */
    bool observed;    /* the dispatcher will get its task, with a reference to this future */
    bool unannounced; /* and whoever watches was not told yet */
};

/* Makes the type, given concurrent.futures._base. */
int tb_future_init(struct tb_state *state, PyObject *base);

/* A future without a task yet, in state TB_ENGINE: the caller submits with its address as the tag and then gives it
 * the task with tb_future_adopt, or makes it fail. handle and name may be NULL; references are taken. */
struct tb_future *tb_future_new(struct tb_state *state, struct tb_handle *handle, PyObject *name);
static inline void tb_future_adopt(struct tb_future *future, td_task *task, int64_t timeout_ns)
{
    future->task = task;
    future->timeout_ns = timeout_ns;
}
/* Not shared yet: makes it a local, finished one. Steals the exception. */
void tb_future_fail(struct tb_future *future, PyObject *exception);

static inline bool tb_future_check(const struct tb_state *state, PyObject *object)
{
    return state->future_type != NULL && Py_IS_TYPE(object, state->future_type);
}

static inline uint64_t tb_future_tag(struct tb_future *future)
{
    return (uint64_t)(uintptr_t)future;
}

/* The state with the task's taken in; never TB_ENGINE. Critical section held. */
enum tb_future_state tb_future_state(const struct tb_future *future);
/* A reference to the task, or NULL when there is none (any more). */
td_task *tb_future_task(struct tb_future *future);
/* Is it final? With drains a little. */
bool tb_future_is_done(struct tb_future *future);
/* Final and neither cancelled nor a result? For FIRST_EXCEPTION. */
bool tb_future_has_failed(struct tb_future *future);
/* Waits until it is final: 1, 0 (deadline), -1. */
int tb_future_wait(struct tb_state *state, struct tb_future *future, int64_t deadline_ns);

/* ---- local.c ------------------------------------------------------------------------------------------------ */

/* Waits until a future without a task is final: 1, 0 (deadline), -1. */
int tb_future_wait_local(struct tb_future *future, int64_t deadline_ns);
/* set_running_or_notify_cancel(), set_result(), set_exception(). */
PyObject *tb_future_start(PyObject *self, PyObject *unused);
PyObject *tb_future_set_result(PyObject *self, PyObject *result);
PyObject *tb_future_set_exception(PyObject *self, PyObject *exception);

/* ---- settle.c ----------------------------------------------------------------------------------------------- */

/* Reads the final task's outcome into result or exception, once. -1: an exception that belongs to the caller. */
int tb_future_settle(struct tb_state *state, struct tb_future *future);
void tb_spent_from(const td_task *task, struct tb_spent *spent);

/* The outcome of a final task, as it will stand in a future. */
struct tb_ending {
    PyObject *result, *exception;
    enum tb_future_state state; /* TB_FINISHED or TB_NOTIFIED */
};
/* name (may be NULL) and timeout_ns are for its error. An ordinary error in reading it is an outcome too; any other is
 * the caller's: -1. */
int tb_ending_read(struct tb_state *state, td_task *task, struct tb_handle *handle, PyObject *name,
                   int64_t timeout_ns, struct tb_ending *outcome);
/* Decodes a final task's payload; *ok tells a result from an exception object. NULL with an exception set. */
PyObject *tb_task_decode(struct tb_state *state, td_task *task, struct tb_handle *handle, bool *ok);
/* A lease on a task's result block (keeps task and pool), or NULL without an exception for an inline result.
 * -1 with an exception. */
int tb_task_lease(struct tb_state *state, td_task *task, struct tb_handle *handle, const struct td_view *view,
                  PyObject **lease);

/* ---- observe.c ---------------------------------------------------------------------------------------------- */

/* The events of a future's life; each is applied in one step under the condition (where there is one), then told. */
enum tb_event {
    TB_EVENT_ANNOUNCE, /* the engine's task is final */
    TB_EVENT_CANCEL,   /* local */
    TB_EVENT_START,    /* set_running_or_notify_cancel */
    TB_EVENT_RESULT,   /* set_result */
    TB_EVENT_EXCEPTION /* set_exception */
};

/* 1: applied; 0: refused by the state the future is in (cancel: see the state); -1 with an exception. */
int tb_future_apply(struct tb_state *state, struct tb_future *future, enum tb_event event, PyObject *value);

/* Waits until nobody holds its condition, where it has one: then whoever changes it under that is done. */
int tb_future_pass_condition(struct tb_future *future);
/* The lists that watching needs. Critical section held; -1 with MemoryError. */
int tb_future_watch(struct tb_future *future);
/* Has the dispatcher told when the task is final. Critical section held. 1; 0: it is final already; -1 with
 * ForkedPool: a forked child is never told. */
int tb_future_observe(struct tb_state *state, struct tb_future *future);
/* Calls it, or logs what it raises as the stdlib does. -1: what is no ordinary error. */
int tb_future_call_back(struct tb_state *state, struct tb_future *future, PyObject *callback);
extern PyGetSetDef tb_future_stdlib_getset[];

PyObject *tb_future_add_done_callback(PyObject *self, PyObject *callback);

/* From here on the collector looks at it. */
static inline void tb_future_track(struct tb_future *future)
{
    if (!PyObject_GC_IsTracked((PyObject *)future))
        PyObject_GC_Track((PyObject *)future);
}

/* ---- dispatch.c --------------------------------------------------------------------------------------------- */

/* Starts the thread that announces, when it does not run. */
int tb_dispatch_start(struct tb_state *state);
/* Adds the functions that the package calls at exit and in a forked child. */
int tb_dispatch_init(PyObject *module);

#endif
