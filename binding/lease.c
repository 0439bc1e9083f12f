/* lease.c: what keeps a block alive while decoded objects look into it.
 *
 * A lease stands for one payload in an arena's block, or for a parcel that came with one; a span is a buffer of that
 * payload, exported by the buffer protocol (NumPy's arrays, memoryviews). Spans hold the lease, the lease's end gives
 * the block back. A span may be private: a mapping of its own of the same pages, each copied when it is written to.
 * Invariants  L1 a span's memory lies inside the payload (frame.c checked it) and outlives the span; or is its own.
 *             L2 an armed lease calls release exactly once.
 * Crash       the block is its owner's to sweep.   Tests  tests/unit/test_codec.py */
#include "codec_internal.h"

/* Below, the heap has warm memory, and a copy is cheaper than the page faults of a mapping. What is larger the C
 * library maps anew each time. */
#define PRIVATE_BYTES (UINT64_C(32) << 20)

struct lease {
    PyObject_HEAD void (*release)(void *ctx, uint64_t ref);
    void *ctx;
    uint64_t ref;
    td_worker *worker;      /* NULL: there are no private views */
    tb_parcel_opener *open; /* NULL: there are no parcels */
    bool writable, armed;
};

struct span {
    PyObject_HEAD PyObject *lease;
    void *data;
    Py_ssize_t len;
    int readonly;
    struct td_private own; /* base NULL: it is not private */
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
    lease->worker = NULL;
    lease->open = NULL;
    lease->writable = writable;
    lease->armed = true;
    return (PyObject *)lease;
}

void tb_lease_belongs_to_worker(PyObject *lease, td_worker *worker)
{
    ((struct lease *)lease)->worker = worker;
    ((struct lease *)lease)->armed = false;
}

void tb_lease_arm(PyObject *lease)
{
    ((struct lease *)lease)->armed = true;
}

bool tb_lease_is_shared(PyObject *lease)
{
    return Py_REFCNT(lease) > 1;
}

bool tb_lease_is_writable(PyObject *lease)
{
    return ((struct lease *)lease)->writable;
}

void tb_lease_set_parcels(PyObject *lease, tb_parcel_opener *open)
{
    ((struct lease *)lease)->open = open;
}

PyObject *tb_lease_open_parcel(struct tb_codec *codec, PyObject *object, uint32_t i, struct td_view *view)
{
    const struct lease *lease = (const struct lease *)object;
    if (lease != NULL && lease->open != NULL)
        return lease->open(codec, lease->ctx, i, view);
    tb_codec_raise_corrupt(codec, "a buffer is in a parcel, and none came");
    return NULL;
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
    span->own = (struct td_private){0};
    return (PyObject *)span;
}

int tb_span_new_private(struct tb_codec *codec, PyObject *object, const void *data, uint64_t len,
                        PyObject **out)
{
    const struct lease *lease = (const struct lease *)object;
    struct td_private own;
    if (lease->worker == NULL || len < PRIVATE_BYTES ||
        td_worker_map_private(lease->worker, data, len, &own) != TD_OK)
        return 0;
    PyObject *span = tb_span_new(codec, object, own.data, len, false);
    if (span == NULL) {
        td_private_unmap(&own);
        return -1;
    }
    ((struct span *)span)->own = own;
    *out = span;
    return 1;
}

static void span_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    const struct span *span = (const struct span *)self;
    if (span->own.base != NULL)
        td_private_unmap(&span->own); /* before the block may be given back */
    Py_DECREF(span->lease);
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
