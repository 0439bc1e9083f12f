/* lease.c: what keeps a block alive while decoded objects look into it.
 *
 * A lease stands for one payload in an arena's block; a span is a buffer of that payload, exported by the buffer
 * protocol (NumPy's arrays, memoryviews). Spans hold the lease, the lease's end gives the block back.
 * Invariants  L1 a span's memory lies inside the payload (frame.c checked it) and outlives the span.
 *             L2 an armed lease calls release exactly once.
 * Crash       the block is its owner's to sweep.   Tests  tests/unit/test_codec.py */
#include "codec_internal.h"

struct lease {
    PyObject_HEAD void (*release)(void *ctx, uint64_t ref);
    void *ctx;
    uint64_t ref;
    bool writable, armed;
};

struct span {
    PyObject_HEAD PyObject *lease;
    void *data;
    Py_ssize_t len;
    int readonly;
};

PyObject *tb_lease_new(struct tb_codec *codec, void (*release)(void *ctx, uint64_t ref), void *ctx,
                       uint64_t ref, bool writable)
{
    struct lease *lease = PyObject_New(struct lease, codec->lease_type);
    if (lease == NULL)
        return NULL;
    lease->release = release;
    lease->ctx = ctx;
    lease->ref = ref;
    lease->writable = writable;
    lease->armed = true;
    return (PyObject *)lease;
}

void tb_lease_arm(PyObject *lease, bool armed)
{
    ((struct lease *)lease)->armed = armed;
}

bool tb_lease_is_shared(PyObject *lease)
{
    return Py_REFCNT(lease) > 1;
}

bool tb_lease_is_writable(PyObject *lease)
{
    return ((struct lease *)lease)->writable;
}

static void lease_dealloc(PyObject *self)
{
    struct lease *lease = (struct lease *)self;
    PyTypeObject *type = Py_TYPE(self);
    if (lease->armed)
        lease->release(lease->ctx, lease->ref);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyType_Slot lease_slots[] = {{Py_tp_dealloc, lease_dealloc}, {0, NULL}};

PyType_Spec tb_lease_spec = {
    .name = "treadle._engine.Lease",
    .basicsize = sizeof(struct lease),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = lease_slots,
};

PyObject *tb_span_new(struct tb_codec *codec, PyObject *lease, const void *data, uint64_t len, bool readonly)
{
    struct span *span = PyObject_New(struct span, codec->span_type);
    if (span == NULL)
        return NULL;
    span->lease = Py_NewRef(lease);
    span->data = (void *)(uintptr_t)data; /* written through only when the span is not read-only */
    span->len = (Py_ssize_t)len;
    span->readonly = readonly;
    return (PyObject *)span;
}

static void span_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_DECREF(((struct span *)self)->lease);
    PyObject_Free(self);
    Py_DECREF(type);
}

static int span_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
    struct span *span = (struct span *)self;
    return PyBuffer_FillInfo(view, self, span->data, span->len, span->readonly, flags);
}

static PyType_Slot span_slots[] = {
    {Py_tp_dealloc, span_dealloc},
    {Py_bf_getbuffer, span_getbuffer},
    {0, NULL},
};

PyType_Spec tb_span_spec = {
    .name = "treadle._engine.Span",
    .basicsize = sizeof(struct span),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = span_slots,
};
