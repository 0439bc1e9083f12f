/* pool.h: a pool of the engine, counted by Python, and the calls of the engine that the package makes on it. */
#ifndef TB_POOL_H
#define TB_POOL_H

#include "module.h"

/* Holds one reference to the engine's pool. Executor, futures that are not read yet, functions and leases on results
 * hold the handle. */
struct tb_handle {
    PyObject_HEAD td_pool *pool;
};

int tb_pool_init(PyObject *module, struct tb_state *state);

/* Where arguments go: the pool's blocks. ctx is a struct tb_pool_room, which the caller keeps. */
struct tb_pool_room {
    struct tb_state *state;
    td_pool *pool;
};
struct tb_room tb_pool_room_of(struct tb_pool_room *room);

/* Methods of Executor (pool.c, stats.c); its own are in executor.c. */
PyObject *tb_pool_create(PyObject *self, PyObject *args, PyObject *kwargs);
PyObject *tb_pool_start(PyObject *self, PyObject *unused);
PyObject *tb_pool_adopt_worker(PyObject *self, PyObject *args);
PyObject *tb_pool_adopt(PyObject *self, PyObject *args);
PyObject *tb_pool_set_context(PyObject *self, PyObject *context);
PyObject *tb_pool_prestart(PyObject *self, PyObject *count);
PyObject *tb_pool_restart_zygote(PyObject *self, PyObject *unused);
PyObject *tb_pool_close(PyObject *self, PyObject *args);
PyObject *tb_pool_join(PyObject *self, PyObject *args);
PyObject *tb_pool_idle(PyObject *self, PyObject *args);
PyObject *tb_pool_break(PyObject *self, PyObject *reason);
PyObject *tb_pool_broken(PyObject *self, PyObject *unused);
PyObject *tb_pool_stats(PyObject *self, PyObject *unused);
PyObject *tb_pool_workers(PyObject *self, PyObject *unused);
PyObject *tb_pool_deaths(PyObject *self, PyObject *unused);

#define TB_POOL_METHODS                                                                                        \
    {"_create", (PyCFunction)(void (*)(void))tb_pool_create, METH_VARARGS | METH_KEYWORDS, NULL},              \
        {"_engine_start", tb_pool_start, METH_NOARGS, NULL},                                                   \
        {"_engine_adopt", tb_pool_adopt, METH_VARARGS, NULL},                                                  \
        {"_engine_adopt_worker", tb_pool_adopt_worker, METH_VARARGS, NULL},                                    \
        {"_set_context", tb_pool_set_context, METH_O, NULL}, {"_prestart", tb_pool_prestart, METH_O, NULL},    \
        {"_restart_zygote", tb_pool_restart_zygote, METH_NOARGS, NULL},                                        \
        {"_close", tb_pool_close, METH_VARARGS, NULL}, {"_join", tb_pool_join, METH_VARARGS, NULL},            \
        {"_idle", tb_pool_idle, METH_VARARGS, NULL}, {"_break", tb_pool_break, METH_O, NULL},                  \
        {"_broken_reason", tb_pool_broken, METH_NOARGS, NULL}, {"_stats", tb_pool_stats, METH_NOARGS, NULL},   \
        {"_deaths", tb_pool_deaths, METH_NOARGS, NULL},                                                        \
    {                                                                                                          \
        "_workers", tb_pool_workers, METH_NOARGS, NULL                                                         \
    }

#endif
