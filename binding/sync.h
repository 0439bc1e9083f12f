/* sync.h: what processes synchronise with, for Python. */
#ifndef TB_SYNC_H
#define TB_SYNC_H

#include <Python.h>

/* Adds Lock to the module; 0, or -1 with an exception. */
int tb_lock_init(PyObject *module);
/* Adds the functions by which treadle._sync makes Event, Barrier and Counter of blocks. */
int tb_sync_init(PyObject *module);

#endif
