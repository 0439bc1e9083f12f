/* module.h: the state of treadle._engine, and what all files of the binding share. */
#ifndef TB_MODULE_H
#define TB_MODULE_H

#include <Python.h>
#include <stdbool.h>
#include <stdint.h>

#include "codec.h"
#include "compat.h"
#include "treadle.h"

struct tb_state {
    PyObject *module; /* borrowed: the module owns this state */
    struct tb_codec codec;

    PyTypeObject *handle_type;    /* a pool of the engine, counted by Python (pool.c) */
    PyTypeObject *function_type;  /* a callable that the engine knows (executor.c) */
    PyTypeObject *executor_type;  /* executor.c */
    PyTypeObject *map_type;       /* map.c */
    PyTypeObject *completed_type; /* group.c: the iterator of as_completed */
    PyTypeObject *segment_type;   /* named.c */
    PyTypeObject *mapping_type;   /* named.c: the memory of one */
    PyTypeObject *entry_type;     /* cache.c */
    PyTypeObject *part_type;      /* cache.c */
    PyTypeObject *pages_type;     /* cache.c: the memory of an entry */

    /* Made by tb_load_future, at the first use of Future, wait or as_completed: concurrent.futures is slow to
     * import, and `import treadle` must not. */
    PyTypeObject *future_type; /* future.c */
    PyTypeObject *timing_type; /* future.c */
    PyObject *futures_base;    /* the module concurrent.futures._base */
    PyObject *cancelled_error; /* its CancelledError */
    PyObject *state_names[6];  /* its 'PENDING' and so on, by enum tb_future_state */

    /* Made for the first event loop (inbox.c), which has imported asyncio. */
    struct tb_inbox *inboxes; /* those of the loops there are; the list holds no references */
    PyTypeObject *inbox_type;
    PyTypeObject *call_type;    /* call.c */
    PyTypeObject *awaited_type; /* treadle.aio._future.CallFuture */
    Py_ssize_t call_offset;     /* of its slot `_call` */
    PyObject *base_await;       /* asyncio.Future.__await__ */
    PyObject *running_loop;     /* asyncio._get_running_loop */
    PyObject *current_task;     /* asyncio.current_task */

    PyObject *errors;     /* the module treadle._errors, at first use */
    PyObject *dispatcher; /* the thread that runs callbacks, or NULL; dispatch.c */
    bool dispatching;     /* it runs, or is about to */
};

static inline struct tb_state *tb_state_of(PyObject *module)
{
    return (struct tb_state *)PyModule_GetState(module);
}

/* For types that Python code may derive from; NULL with an exception. */
struct tb_state *tb_state_of_executor(PyTypeObject *type);

/* For objects of the binding's final types. */
static inline struct tb_state *tb_state_of_final(PyObject *object)
{
    return (struct tb_state *)PyType_GetModuleState(Py_TYPE(object));
}

/* Loads what needs concurrent.futures; cheap when done. 0, or -1 with an exception. */
int tb_load_future(struct tb_state *state);

/* What an iterator's type is made of; clear ends the iteration, and is all that its dealloc does. */
struct tb_iterator_type {
    const char *name, *doc;
    size_t basicsize;
    traverseproc traverse;
    inquiry clear;
    iternextfunc next;
    PyMethodDef *methods;
};

/* A final type, collected by the garbage collector: a new reference or NULL. */
PyTypeObject *tb_iterator_type_new(PyObject *module, const struct tb_iterator_type *type);

/* ---- status.c --------------------------------------------------------------------------------------------- */

/* treadle._errors, borrowed; NULL with an exception. */
PyObject *tb_errors(struct tb_state *state);
/* Sets the exception that the engine's table names for a status; -1. pool (may be NULL) tells why it is broken. */
int tb_raise_status(struct tb_state *state, td_status status, td_pool *pool);
/* The exception of a task that is final without an answer (died, timed out, broken): a new reference or NULL. */
PyObject *tb_task_exception(struct tb_state *state, const td_task *task, td_pool *pool, PyObject *name,
                            int64_t timeout_ns);

/* An exception made by a function of treadle._errors: a new reference or NULL. The format is Py_BuildValue's, of a
 * tuple. */
PyObject *tb_call_errors(struct tb_state *state, const char *function, const char *format, ...);

/* ---- wait.c ----------------------------------------------------------------------------------------------- */

/* Seconds (None: forever) to an absolute deadline; a number that is not positive has passed. -1 with an exception. */
int tb_deadline(PyObject *seconds, int64_t *deadline_ns);
/* Seconds (None: none) to nanoseconds for the engine, at least 1. what names the argument in errors. */
int tb_duration(PyObject *seconds, const char *what, int64_t *ns);

/* One of the engine's waits. */
typedef td_status tb_wait(void *subject, int64_t deadline_ns);

/* Waits without the GIL. 1: done; 0: the deadline passed; -1: an exception (a signal's handler's, or the status's,
 * for which pool may be NULL). The caller keeps the subject. */
int tb_wait_until(struct tb_state *state, td_pool *pool, tb_wait *wait, void *subject, int64_t deadline_ns);
/* The same, but for what is done at once: that keeps the GIL. */
int tb_poll_or_wait(struct tb_state *state, td_pool *pool, tb_wait *wait, void *subject, int64_t deadline_ns);
/* Waits until a task is final. The caller holds a reference to it. */
int tb_task_wait(struct tb_state *state, td_task *task, int64_t deadline_ns);
/* Waits for a task of the group that is final: a reference. */
int tb_group_pop(struct tb_state *state, td_pool *pool, td_group *group, int64_t deadline_ns, td_task **task);

static inline bool tb_is_final(enum td_task_state state)
{
    return state >= TD_TASK_RESULT;
}

/* The message of an exception is about an ordinary failure, which a future may carry; else (KeyboardInterrupt,
 * SystemExit) it belongs to the caller. */
static inline bool tb_is_ordinary_error(void)
{
    return PyErr_ExceptionMatches(PyExc_Exception);
}

#endif
