/* numpy_memory.c: see numpy_memory.h. NumPy's functions are found in the table that it exports for extension modules,
 * so that its headers are not needed, and it is not imported before somebody else does.
 * Invariants  N1 an array's memory goes back to where it came from, which its address tells, whatever handler is in
 *                force by then.
 *             N2 the handler below lives as long as ours: the capsule holds it.
 * Crash       nothing is held.   Tests  tests/unit/test_moves.py */
#include "numpy_memory.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* As in NumPy's ndarraytypes.h, version 1 of the structure. */
typedef struct {
    void *ctx;
    void *(*malloc)(void *ctx, size_t size);
    void *(*calloc)(void *ctx, size_t count, size_t size);
    void *(*realloc)(void *ctx, void *data, size_t size);
    void (*free)(void *ctx, void *data, size_t size);
} numpy_allocator;

typedef struct {
    char name[127];
    uint8_t version;
    numpy_allocator allocator;
} numpy_handler;

#define CAPSULE "mem_handler"
/* Places in the table, fixed for good. */
enum { ABI_VERSION = 0, FEATURE_VERSION = 211, SET_HANDLER = 304, GET_HANDLER = 305 };
#define FEATURES_LEAST 0xfu /* NumPy 1.22 */
#define ABI_OLD 0x01u
#define ABI_NEW 0x02u

typedef unsigned (*version_function)(void);
typedef PyObject *(*set_function)(PyObject *handler);
typedef PyObject *(*get_function)(void);

struct handler {
    numpy_handler numpy;
    struct tb_memory_source source;
    size_t least;
    PyObject *below_capsule;
    const numpy_allocator *below;
};

/* ---- NumPy's table --------------------------------------------------------------------------------------------- */

/* Borrowed; NULL without an exception: it is not loaded. */
static PyObject *loaded_module(const char *name)
{
    return PyDict_GetItemString(PyImport_GetModuleDict(), name);
}

/* NULL without an exception: there is none. */
static void **find_table(void)
{
    if (loaded_module("numpy") == NULL)
        return NULL;
    PyObject *module = loaded_module("numpy._core._multiarray_umath");
    if (module == NULL)
        module = loaded_module("numpy.core._multiarray_umath");
    PyObject *capsule = module == NULL ? NULL : PyObject_GetAttrString(module, "_ARRAY_API");
    void **table = capsule == NULL ? NULL : PyCapsule_GetPointer(capsule, NULL);
    Py_XDECREF(capsule);
    PyErr_Clear();
    return table;
}

void *const *tb_numpy_table(void)
{
    void **table = find_table();
    if (table == NULL)
        return NULL;
    version_function abi, features;
    memcpy(&abi, &table[ABI_VERSION], sizeof abi);
    memcpy(&features, &table[FEATURE_VERSION], sizeof features);
    const unsigned major = abi() >> 24;
    return (major == ABI_OLD || major == ABI_NEW) && features() >= FEATURES_LEAST ? table : NULL;
}

/* ---- The handler ----------------------------------------------------------------------------------------------- */

/* From the source; NULL: from below, unless *done. */
static void *take(const struct handler *handler, size_t bytes, bool zeros, bool *done)
{
    void *data = bytes < handler->least ? NULL : handler->source.take(handler->source.ctx, bytes, zeros);
    *done = data != NULL || (handler->source.only && bytes >= handler->least);
    return data;
}

static void *handler_malloc(void *ctx, size_t size)
{
    const struct handler *handler = ctx;
    bool done;
    void *data = take(handler, size, false, &done);
    return done ? data : handler->below->malloc(handler->below->ctx, size);
}

static void *handler_calloc(void *ctx, size_t count, size_t size)
{
    const struct handler *handler = ctx;
    size_t bytes;
    bool done;
    if (__builtin_mul_overflow(count, size, &bytes))
        return NULL;
    void *data = take(handler, bytes, true, &done);
    return done ? data : handler->below->calloc(handler->below->ctx, count, size);
}

static void handler_free(void *ctx, void *data, size_t size)
{
    const struct handler *handler = ctx;
    if (handler->source.owns(handler->source.ctx, data))
        handler->source.give(handler->source.ctx, data);
    else
        handler->below->free(handler->below->ctx, data, size);
}

static void *handler_realloc(void *ctx, void *data, size_t size)
{
    const struct handler *handler = ctx;
    if (data == NULL)
        return handler_malloc(ctx, size);
    if (!handler->source.owns(handler->source.ctx, data))
        return handler->below->realloc(handler->below->ctx, data, size);
    const size_t capacity = handler->source.capacity(handler->source.ctx, data);
    if (size <= capacity && size >= capacity / 2)
        return data;
    void *moved = handler_malloc(ctx, size);
    if (moved == NULL)
        return NULL;
    memcpy(moved, data, size < capacity ? size : capacity);
    handler->source.give(handler->source.ctx, data);
    return moved;
}

static void capsule_end(PyObject *capsule)
{
    struct handler *handler = PyCapsule_GetPointer(capsule, CAPSULE);
    if (handler != NULL)
        Py_XDECREF(handler->below_capsule);
    PyMem_Free(handler);
}

PyObject *tb_numpy_handler(const char *name, const struct tb_memory_source *source, size_t least)
{
    void *const *table = tb_numpy_table();
    if (table == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "NumPy 1.22 or newer is not loaded");
        return NULL;
    }
    get_function get;
    memcpy(&get, &table[GET_HANDLER], sizeof get);
    PyObject *below = get();
    const numpy_handler *numpy = below == NULL ? NULL : PyCapsule_GetPointer(below, CAPSULE);
    if (numpy == NULL) {
        Py_XDECREF(below);
        return NULL;
    }
    struct handler *handler = PyMem_Calloc(1, sizeof *handler);
    if (handler == NULL) {
        Py_DECREF(below);
        return PyErr_NoMemory();
    }
    snprintf(handler->numpy.name, sizeof handler->numpy.name, "%s", name);
    if (numpy->allocator.malloc ==
        handler_malloc) { /* one of ours: what it has of the same source is not below this */
        const struct handler *outer = numpy->allocator.ctx;
        if (outer->source.take == source->take) {
            Py_SETREF(below, Py_NewRef(outer->below_capsule));
            numpy = PyCapsule_GetPointer(below, CAPSULE);
        }
    }
    handler->numpy.version = 1;
    handler->numpy.allocator =
        (numpy_allocator){handler, handler_malloc, handler_calloc, handler_realloc, handler_free};
    handler->source = *source;
    handler->least = least;
    handler->below_capsule = below;
    handler->below = &numpy->allocator;
    PyObject *capsule = PyCapsule_New(handler, CAPSULE, capsule_end);
    if (capsule == NULL) {
        Py_DECREF(below);
        PyMem_Free(handler);
    }
    return capsule;
}

PyObject *tb_numpy_set_handler(PyObject *capsule)
{
    void *const *table = tb_numpy_table();
    if (table == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "NumPy 1.22 or newer is not loaded");
        return NULL;
    }
    set_function set;
    memcpy(&set, &table[SET_HANDLER], sizeof set);
    return set(capsule);
}
