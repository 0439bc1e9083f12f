/* cache.h: the store on disk. */
#ifndef TB_CACHE_H
#define TB_CACHE_H

#include "cache/store.h"
#include "module.h"

/* Adds Store and Entry to the module; 0, or -1 with an exception. */
int tb_cache_init(PyObject *module);

/* entry.c: Entry. */
int tb_entry_init(PyObject *module);
/* Takes over the handle; NULL with an exception. */
PyObject *tb_entry_of(const struct tb_state *state, td_entry *handle, bool readonly);

#endif
