/* birth.h: a worker, or a process that will be one: what birth.c and worker.c share. */
#ifndef TB_BIRTH_H
#define TB_BIRTH_H

#include "codec_internal.h"
#include "move.h"

#define TB_FUNCTIONS 256u /* slots of the table of callables, a power of two */

struct tb_function {
    uint32_t number;
    PyObject *callable; /* NULL: the slot is free */
    PyObject *refresh;  /* puts the globals back that it came with; NULL: it came with none */
    uint64_t epoch;     /* of the globals that it was last used with */
    uint64_t ref;       /* of its bytes, where they name shared blocks; else 0 */
};

/* A birth, and from attach() on the worker that came of it. */
struct tb_birth {
    PyObject_HEAD struct td_birth birth;
    td_worker *worker; /* NULL before attach */
    struct tb_codec *codec;
    PyObject *sys_dict, *name_stdout, *name_stderr, *name_flush;
    bool interrupted; /* the running assignment was told to stop */
    bool disowned;    /* a child that a task forked: the worker is its parent */
    int64_t flushed_at;
    struct tb_moves moves;
    struct tb_function functions[TB_FUNCTIONS];
    uint32_t holding; /* of them have a ref, at most */
};

/* Sets the status's exception. Returns -1. */
int tb_birth_raise(struct tb_birth *self, td_status status);
/* Runs tasks until the worker is to leave: None, or NULL with an exception. */
PyObject *tb_birth_run(PyObject *birth, PyObject *unused);

#endif
