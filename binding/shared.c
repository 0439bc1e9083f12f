/* shared.c: treadle._engine.SharedBlock, by which Python holds a block of shared memory (core/memory/heap.c), and what
 * treadle._sharing needs to recognise, name and open blocks.
 *
 * Invariant  S1 the block lives as long as the object; its buffer's consumers (arrays, memoryviews) hold the object.
 * Tests      tests/unit/test_shared.py */
#include "shared.h"

#include <unistd.h>

#include "array.h"
#include "codec_internal.h"
#include "module.h"

struct shared {
    PyObject_HEAD td_hold *hold;
};

PyObject *tb_shared_of(struct tb_codec *codec, td_hold *hold)
{
    struct shared *shared = PyObject_New(struct shared, codec->shared_type);
    if (shared == NULL)
        td_hold_unref(hold);
    else
        shared->hold = hold;
    return (PyObject *)shared;
}

static void shared_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    td_hold_unref(((struct shared *)self)->hold);
    PyObject_Free(self);
    Py_DECREF(type);
}

static int shared_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
    const td_hold *hold = ((struct shared *)self)->hold;
    return PyBuffer_FillInfo(view, self, td_hold_data(hold), (Py_ssize_t)td_hold_bytes(hold), 0, flags);
}

static PyObject *shared_name(PyObject *self, PyObject *Py_UNUSED(unused))
{
    struct td_share share;
    td_hold_share(((struct shared *)self)->hold, &share);
    return PyBytes_FromStringAndSize((const char *)&share, sizeof share);
}

static PyObject *shared_address(PyObject *self, void *Py_UNUSED(unused))
{
    return PyLong_FromVoidPtr(td_hold_data(((struct shared *)self)->hold));
}

static PyObject *shared_nbytes(PyObject *self, void *Py_UNUSED(unused))
{
    return PyLong_FromUnsignedLongLong(td_hold_bytes(((struct shared *)self)->hold));
}

static PyMethodDef block_methods[] = {
    {"name", shared_name, METH_NOARGS, PyDoc_STR("What another process opens it by.")},
    {0},
};

static PyGetSetDef block_getset[] = {
    {"address", shared_address, NULL, PyDoc_STR("Of its first byte, in this process."), NULL},
    {"nbytes", shared_nbytes, NULL, PyDoc_STR("Its length."), NULL},
    {0},
};

static PyType_Slot shared_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t) "A block of shared memory: a writable buffer."},
    {Py_tp_dealloc, (void *)shared_dealloc},
    {Py_bf_getbuffer, (void *)shared_getbuffer},
    {Py_tp_methods, block_methods},
    {Py_tp_getset, block_getset},
    {0, NULL},
};

PyType_Spec tb_shared_spec = {
    .name = "treadle._engine.SharedBlock",
    .basicsize = sizeof(struct shared),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = shared_slots,
};

/* ---- Functions --------------------------------------------------------------------------------------------- */

static PyObject *shared_new(PyObject *module, PyObject *args)
{
    struct tb_state *state = tb_state_of(module);
    unsigned long long bytes;
    int zeros;
    td_hold *hold = NULL;
    td_status status;
    if (!PyArg_ParseTuple(args, "Kp:shared_new", &bytes, &zeros))
        return NULL;
    if (bytes > (unsigned long long)PY_SSIZE_T_MAX)
        return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS status = td_hold_new(bytes, zeros != 0, &hold);
    Py_END_ALLOW_THREADS if (status == TD_OK) return tb_shared_of(&state->codec, hold);
    (void)tb_raise_status(state, status, NULL);
    return NULL;
}

static PyObject *shared_find(PyObject *module, PyObject *args)
{
    unsigned long long address, bytes;
    if (!PyArg_ParseTuple(args, "KK:shared_find", &address, &bytes))
        return NULL;
    td_hold *hold =
        td_hold_find((const void *)(uintptr_t)address, bytes); /* NOLINT(performance-no-int-to-ptr) */
    if (hold == NULL)
        Py_RETURN_NONE;
    return tb_shared_of(tb_codec_of(module), hold);
}

PyObject *tb_shared_open(struct tb_codec *codec, const struct td_share *share)
{
    td_hold *hold = NULL;
    const td_status status = td_share_open(share, &hold);
    if (status == TD_OK)
        return tb_shared_of(codec, hold);
    if (status == TD_EPROTO && access("/proc/self/fd", X_OK) != 0)
        PyErr_SetString(PyExc_OSError, "shared arrays are opened through /proc, which is not mounted here");
    else if (status == TD_EPROTO || status == TD_EINVAL)
        (void)tb_codec_corrupt(codec, "a shared array was freed before it arrived, or its process has ended");
    else
        (void)tb_raise_status((struct tb_state *)PyType_GetModuleState(codec->shared_type), status, NULL);
    return NULL;
}

td_hold *tb_shared_hold(const struct tb_codec *codec, PyObject *block)
{
    if (Py_IS_TYPE(block, codec->shared_type))
        return ((struct shared *)block)->hold;
    PyErr_Format(PyExc_TypeError, "a shared block is needed, not %.200s", Py_TYPE(block)->tp_name);
    return NULL;
}

void *tb_shared_data(PyObject *block)
{
    return td_hold_data(((struct shared *)block)->hold);
}

static PyObject *shared_open(PyObject *module, PyObject *name)
{
    struct td_share share;
    if (!PyBytes_Check(name) || PyBytes_GET_SIZE(name) != (Py_ssize_t)sizeof share) {
        (void)tb_codec_corrupt(tb_codec_of(module), "this is no name of a shared block");
        return NULL;
    }
    memcpy(&share, PyBytes_AS_STRING(name), sizeof share);
    return tb_shared_open(tb_codec_of(module), &share);
}

/* The lowest and the last address of a buffer, whatever its strides. */
static PyObject *shared_extent(PyObject *Py_UNUSED(module), PyObject *object)
{
    Py_buffer view;
    if (PyObject_GetBuffer(object, &view, PyBUF_FULL_RO) < 0)
        return NULL;
    const uintptr_t first = (uintptr_t)view.buf;
    uint64_t before = 0, behind = 0;
    const bool found = view.len != 0 && view.suboffsets == NULL &&
                       tb_reach(view.strides != NULL ? view.ndim : 0, view.shape, view.strides,
                                (uint64_t)view.itemsize, &before, &behind) &&
                       before <= first && behind <= UINTPTR_MAX - first;
    PyBuffer_Release(&view);
    if (!found)
        Py_RETURN_NONE;
    return Py_BuildValue("(KKK)", (unsigned long long)(first - before), (unsigned long long)(before + behind),
                         (unsigned long long)before);
}

static PyObject *shared_info(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    struct td_heap_info info;
    td_heap_get_info(&info);
    return Py_BuildValue("{sK sK sK sK sK sI sK sK}", "blocks", (unsigned long long)info.blocks, "bytes",
                         (unsigned long long)info.bytes, "committed_bytes",
                         (unsigned long long)info.committed_bytes, "foreign_blocks",
                         (unsigned long long)info.foreign_blocks, "foreign_bytes",
                         (unsigned long long)info.foreign_bytes, "foreign_heaps", info.foreign_heaps, "device",
                         (unsigned long long)info.device, "inode", (unsigned long long)info.inode);
}

static PyObject *shared_trim(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    Py_BEGIN_ALLOW_THREADS td_heap_trim();
    Py_END_ALLOW_THREADS Py_RETURN_NONE;
}

PyMethodDef tb_shared_methods[] = {
    {"shared_new", shared_new, METH_VARARGS,
     PyDoc_STR("shared_new(nbytes, zeros, /)\n--\n\nA new block; its bytes are zero, or anything.")},
    {"shared_find", shared_find, METH_VARARGS,
     PyDoc_STR("shared_find(address, nbytes, /)\n--\n\nThe block that has all these bytes in it, or None.")},
    {"shared_open", shared_open, METH_O,
     PyDoc_STR("shared_open(name, /)\n--\n\nThe block that another process named.")},
    {"shared_extent", shared_extent, METH_O,
     PyDoc_STR("shared_extent(buffer, /)\n--\n\n"
               "(lowest address, bytes from there to its end, offset of its first item); None: it is empty.")},
    {"shared_trim", shared_trim, METH_NOARGS,
     PyDoc_STR("shared_trim()\n--\n\nGives the kernel back what is kept for the next blocks.")},
    {"shared_info", shared_info, METH_NOARGS,
     PyDoc_STR("shared_info()\n--\n\nHow many blocks there are, and how many bytes they take.")},
    {0},
};

/* ---- Holds beside a payload -------------------------------------------------------------------------------- */

static int reserve(struct tb_holds *holds, size_t more)
{
    if (holds->count + more <= holds->room)
        return 0;
    const size_t room = (holds->count + more) * 2;
    td_hold **items = PyMem_Realloc(holds->items, room * sizeof *items);
    if (items == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    holds->items = items;
    holds->room = room;
    return 0;
}

int tb_holds_add(const struct tb_codec *codec, struct tb_holds *holds, PyObject *blocks)
{
    if (blocks == NULL)
        return 0;
    if (!PyList_CheckExact(blocks)) {
        PyErr_SetString(PyExc_TypeError, "the shared blocks of a dump must be in a list");
        return -1;
    }
    const Py_ssize_t count = PyList_GET_SIZE(blocks);
    if (reserve(holds, (size_t)count) < 0)
        return -1;
    for (Py_ssize_t i = 0; i < count; i++)
        if (!Py_IS_TYPE(PyList_GET_ITEM(blocks, i), codec->shared_type)) {
            PyErr_SetString(PyExc_TypeError, "a dump's list of shared blocks has something else in it");
            return -1;
        }
    for (Py_ssize_t i = 0; i < count; i++)
        holds->items[holds->count++] = td_hold_ref(((struct shared *)PyList_GET_ITEM(blocks, i))->hold);
    return 0;
}

int tb_holds_push(struct tb_holds *holds, td_hold *hold)
{
    if (reserve(holds, 1) < 0) {
        td_hold_unref(hold);
        return -1;
    }
    holds->items[holds->count++] = hold;
    return 0;
}

void tb_holds_cut(struct tb_holds *holds, size_t count)
{
    while (holds->count > count)
        td_hold_unref(holds->items[--holds->count]);
}

void tb_holds_fini(struct tb_holds *holds)
{
    tb_holds_cut(holds, 0);
    PyMem_Free(holds->items);
    *holds = (struct tb_holds){0};
}
