/* call.h: a task that an event loop waits for, and the asyncio future that gets its outcome. */
#ifndef TB_CALL_H
#define TB_CALL_H

#include "future.h"
#include "inbox.h"

/* Pending while it has an inbox: then it is in its list, and its task in its group. The inbox's thread alone uses it.
 */
struct tb_call {
    PyObject_HEAD struct tb_call *next, *previous;
    struct tb_inbox *inbox; /* NULL: delivered, cancelled, or dropped */
    td_task *task;
    struct tb_handle *handle;
    PyObject *name;           /* as a future's */
    struct tb_future *source; /* the future that is followed, which reads the outcome; or NULL */
    PyObject *target;         /* a CallFuture, or what is called without arguments */
    int64_t timeout_ns;
};

int tb_call_init(PyObject *module, struct tb_state *state);

/* Its task is final and out of the group: gives the outcome to the target. 0, or -1 with what is no ordinary error. */
int tb_call_deliver(struct tb_call *call);
/* Nobody waits any more: what is queued is dropped, and what runs is stopped. */
int tb_call_abandon(struct tb_call *call);

/* The loop shuts down: a future that would get the outcome is cancelled, and with it the call; another is left alone.
 * The caller holds the call. */
int tb_call_drop(struct tb_call *call);

/* Follows a future with a call whose outcome goes to the target. 1; 0: it cannot be followed so; -1. */
int tb_call_follow(struct tb_inbox *inbox, struct tb_future *future, PyObject *target);

/* Is it asyncio's, which would tell a future of the running loop from another thread? Then the loop's inbox does it.
 * 1, 0, -1. */
int tb_call_chain(struct tb_future *future, PyObject *callback);

/* Executor.run, and Future.__await__. */
PyObject *tb_executor_run(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *tb_executor_run_any(PyObject *self, PyObject *args);
extern const char tb_executor_run_doc[];
PyObject *tb_future_await(PyObject *self);

#endif
