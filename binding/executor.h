/* executor.h: the C base type of the process pool: functions known to the engine, and submit. */
#ifndef TB_EXECUTOR_H
#define TB_EXECUTOR_H

#include "future.h"
#include "module.h"
#include "pool.h"

/* A function as the engine knows it: a Python object, so that table, maps and running submits share it. */
struct tb_function {
    PyObject_HEAD PyObject *callable; /* NULL: not in the table */
    PyObject *watch;                  /* NULL: good for ever; else while tb_watch_holds */
    PyObject *name;                   /* str */
    struct tb_handle *handle;
    uint32_t number; /* td_pool_intern's */
    bool interned;
};

/* Known callables by identity: open addressing, a power of two, at most half full. */
struct tb_functions {
    struct tb_function **slots;
    size_t capacity, count;
};

struct tb_options {
    int64_t timeout_ns; /* of running time; 0: none */
    uint32_t retries;
    PyObject *name; /* str, or NULL: the function's; borrowed */
};

/* A call's arguments, in whichever form they came. */
struct tb_arguments {
    PyObject *const *values; /* vectorcall form ... */
    Py_ssize_t count;
    PyObject *names;
    PyObject *tuple, *dict; /* ... or, with a tuple, this */
};

struct tb_map;

/* Fields are under the executor's critical section. */
struct tb_executor {
    PyObject_HEAD struct tb_state *state;
    struct tb_handle *handle; /* NULL until _create, and once the pool has ended */
    struct tb_functions functions;
    struct tb_options defaults;
    struct tb_map *maps; /* those with input left, newest first; map.c */
    uint32_t workers;
    unsigned encode_flags; /* TB_MAIN_BY_REFERENCE */
    bool begun;            /* submit may go ahead */
    bool ended;            /* all that is left of the pool: */
    struct td_pool_stats last_stats;
    PyObject *last_reason; /* str or NULL */
    PyObject *last_deaths; /* list or NULL */
};

int tb_executor_init(PyObject *module, struct tb_state *state);

/* A new reference, or NULL: not begun, or ended. */
struct tb_handle *tb_executor_handle(struct tb_executor *executor);
/* The pool has ended: lets go of it, and of its memory as soon as the last future is read. */
void tb_executor_end(struct tb_executor *executor);

/* Ready to submit? Begins it (the package's _begin) when it was not; -1 with an exception when it is over. */
int tb_executor_prepare(struct tb_executor *executor);
/* Before a submit that will start a worker: the package takes the context anew (_refresh). -1 with an exception. */
int tb_executor_refresh(struct tb_executor *executor, td_pool *pool);
/* The function for a callable, packed and interned when it has to be: a new reference, or NULL. */
struct tb_function *tb_executor_function(struct tb_executor *executor, PyObject *callable);
/* Sends the call: a task with that tag. -1: an exception is set, and *own_failure tells whether it is about the
 * arguments, and so the call's own outcome. */
int tb_executor_send(struct tb_executor *executor, struct tb_function *function,
                     const struct tb_arguments *arguments, const struct tb_options *options, uint64_t tag,
                     td_task **task, bool *own_failure);
/* Is the exception that is set about the pool, which is the parent's, and not about the call? */
bool tb_executor_is_forked_error(struct tb_executor *executor);
/* The name of the function with that number, while it is in the table: a new reference, or NULL. */
PyObject *tb_executor_name(struct tb_executor *executor, uint32_t number);
/* __qualname__, or whatever tells what it is: str. Never raises but for memory. */
PyObject *tb_name_of(PyObject *callable);
/* (timeout, retries, name) of the package's options; each may be NULL. name is borrowed. */
int tb_options_parse(PyObject *timeout, PyObject *retries, PyObject *name, struct tb_options *options);

#endif
