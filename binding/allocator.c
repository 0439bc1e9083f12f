/* allocator.c: what treadle.shared.allocator is made of: NumPy's arrays born in this process's heap.
 *
 * Invariant  L1 an array holds the block that it was born in, until it gives it back: tasks that use it hold it, too.
 * Fork       an array that a child was born with is given back there without a trace (heap.c).
 * Tests      tests/unit/test_shared_allocator.py */
#include "memory/heap.h"

#include "numpy_memory.h"
#include "shared.h"

static void *shared_take(void *ctx, size_t bytes, bool zeros)
{
    (void)ctx;
    return td_heap_take(bytes, zeros);
}

static bool shared_owns(void *ctx, const void *data)
{
    (void)ctx;
    return td_heap_capacity(data) != 0;
}

static void shared_give(void *ctx, void *data)
{
    (void)ctx;
    td_heap_give(data);
}

static size_t shared_capacity(void *ctx, const void *data)
{
    (void)ctx;
    return td_heap_capacity(data);
}

static PyObject *numpy_allocator(PyObject *Py_UNUSED(module), PyObject *least)
{
    static const struct tb_memory_source source = {
        shared_take, shared_owns, shared_give, shared_capacity, NULL, true,
    };
    const size_t bytes = PyLong_AsSize_t(least);
    return bytes == (size_t)-1 && PyErr_Occurred() ? NULL : tb_numpy_handler("treadle.shared", &source, bytes);
}

static PyObject *numpy_use_allocator(PyObject *Py_UNUSED(module), PyObject *handler)
{
    return tb_numpy_set_handler(handler);
}

PyMethodDef tb_allocator_methods[] = {
    {"numpy_allocator", numpy_allocator, METH_O,
     PyDoc_STR(
         "numpy_allocator(min_bytes, /)\n--\n\n"
         "What has NumPy's arrays of so many bytes born in shared memory, and others where they are now.")},
    {"numpy_use_allocator", numpy_use_allocator, METH_O,
     PyDoc_STR("numpy_use_allocator(allocator, /)\n--\n\nFrom now on, in this context; the one before.")},
    {0},
};
