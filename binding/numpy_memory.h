/* numpy_memory.h: NumPy's arrays in memory of ours, by its data-memory handler (NEP 49). */
#ifndef TB_NUMPY_MEMORY_H
#define TB_NUMPY_MEMORY_H

#include <Python.h>
#include <stdbool.h>
#include <stddef.h>

/* Where arrays come from. Called from any thread, as a rule with the GIL. */
struct tb_memory_source {
    void *(*take)(void *ctx, size_t bytes, bool zeros); /* NULL: none now */
    bool (*owns)(void *ctx, const void *data);          /* did it come from here? */
    void (*give)(void *ctx, void *data);                /* its end */
    size_t (*capacity)(void *ctx, const void *data);    /* bytes that fit there */
    void *ctx;                                          /* outlives every array that came from here */
    bool
        only; /* where there is none, there is none: NumPy raises MemoryError. Else its own allocator has some */
};

/* The functions that NumPy exports, by their fixed places; NULL when it is not loaded, or none whose interface we know
 * (1.22 and later). Never raises; cheap when it is not loaded. */
void *const *tb_numpy_table(void);

/* A handler for tb_numpy_set_handler: arrays of at least `least` bytes come from the source where that has some; all
 * else from the handler in force now. A new reference; NULL with an exception. NumPy must be there. */
PyObject *tb_numpy_handler(const char *name, const struct tb_memory_source *source, size_t least);

/* Puts a handler in force in the current context: a thread of its own has its own, and so does an asyncio task. Arrays
 * keep the handler that they were made with. The one before, a new reference; NULL with an exception. */
PyObject *tb_numpy_set_handler(PyObject *handler);

#endif
