/* pickled.c: what treadle._travel made of an object, as a payload: the pickle, and behind it its large buffers.
 * Invariants  P1 what is measured is what is written: pieces are held, and are nobody else's; a buffer that was
 *                released since, or has become another, is an error.
 *             P2 a buffer is held while it is copied, which may be without the GIL: the PickleBuffer is not ours alone,
 *                and whoever has it may release it.
 * Crash      nothing is held but heap memory.   Tests  tests/unit/test_codec.py */
#include "pickled.h"

#include "memory/copy.h"

#define FILL_WITHOUT_GIL_BYTES (UINT64_C(1) << 20)

static bool is_elsewhere(const struct tb_pickled *p, uint32_t i)
{
    return p->elsewhere != NULL && p->elsewhere[i].parcel != 0;
}

bool tb_pickled_is_long(const struct tb_pickled *p)
{
    return PyList_CheckExact(p->pickle);
}

/* Piece i of the pickle. 0: there are no more; -1: it is neither bytes nor a PickleBuffer. */
static int get_piece(const struct tb_pickled *p, Py_ssize_t i, const void **data, uint64_t *bytes)
{
    if (i >= (tb_pickled_is_long(p) ? PyList_GET_SIZE(p->pickle) : 1))
        return 0;
    PyObject *piece = tb_pickled_is_long(p) ? PyList_GET_ITEM(p->pickle, i) : p->pickle;
    if (PyBytes_Check(piece)) {
        *data = PyBytes_AS_STRING(piece);
        *bytes = (uint64_t)PyBytes_GET_SIZE(piece);
        return 1;
    }
    const Py_buffer *view = PyPickleBuffer_GetBuffer(piece);
    if (view == NULL)
        return -1;
    *data = view->buf;
    *bytes = (uint64_t)view->len;
    return 1;
}

static int measure_pickle(struct tb_pickled *p)
{
    const void *data;
    uint64_t bytes;
    int more;
    p->pickle_len = 0;
    for (Py_ssize_t i = 0; (more = get_piece(p, i, &data, &bytes)) > 0; i++)
        p->pickle_len += bytes;
    return more;
}

static void write_pickle(const struct tb_pickled *p, uint8_t *at, const struct tb_room *room)
{
    const void *data;
    uint64_t bytes;
    for (Py_ssize_t i = 0; get_piece(p, i, &data, &bytes) > 0; i++) {
        tb_room_fill(room, at, data, bytes);
        at += bytes;
    }
}

int tb_pickled_measure(struct tb_pickled *p)
{
    if (!PyTuple_Check(p->pair) || PyTuple_GET_SIZE(p->pair) < 2 || PyTuple_GET_SIZE(p->pair) > 3) {
        PyErr_SetString(PyExc_TypeError, "a dump must be (pickle, buffers) or (pickle, buffers, blocks)");
        return -1;
    }
    p->blocks = PyTuple_GET_SIZE(p->pair) == 3 ? PyTuple_GET_ITEM(p->pair, 2) : NULL;
    p->pickle = PyTuple_GET_ITEM(p->pair, 0);
    p->buffers = PyTuple_GET_ITEM(p->pair, 1);
    if (measure_pickle(p) < 0)
        return -1;
    if (!PyList_CheckExact(p->buffers) || PyList_GET_SIZE(p->buffers) == 0) {
        p->spans = 0;
        p->total = 1 + p->pickle_len;
        return 0;
    }
    p->spans = (uint32_t)PyList_GET_SIZE(p->buffers);
    p->total = TB_PICKLE_HEAD + p->spans * sizeof(struct tb_span_entry) + p->pickle_len;
    for (uint32_t i = 0; i < p->spans; i++) {
        const Py_buffer *view = PyPickleBuffer_GetBuffer(PyList_GET_ITEM(p->buffers, i));
        if (view == NULL)
            return -1;
        if (!PyBuffer_IsContiguous(view, 'A')) {
            PyErr_SetString(PyExc_BufferError, "an out-of-band buffer must be contiguous");
            return -1;
        }
        if (!is_elsewhere(p, i))
            p->total = tb_align_up(p->total) + (uint64_t)view->len;
    }
    return 0;
}

int tb_pickled_open(struct tb_pickled *p, PyObject *pair)
{
    p->pair = pair;
    p->elsewhere = NULL;
    if (pair == NULL)
        return -1;
    if (tb_pickled_measure(p) == 0)
        return 0;
    Py_CLEAR(p->pair);
    return -1;
}

static void fill(const struct tb_room *room, void *at, const void *data, uint64_t bytes)
{
    if (room != NULL && room->fill != NULL)
        room->fill(room->ctx, at, data, bytes);
    else
        td_copy(at, data, bytes);
}

void tb_room_fill(const struct tb_room *room, void *at, const void *data, uint64_t bytes)
{
    if (bytes < FILL_WITHOUT_GIL_BYTES) {
        fill(room, at, data, bytes);
        return;
    }
    Py_BEGIN_ALLOW_THREADS fill(room, at, data, bytes);
    Py_END_ALLOW_THREADS
}

/* Copies a buffer behind `end`, where it is to start at `offset`. */
static int write_buffer(const struct tb_pickled *p, uint32_t i, uint8_t *at, uint64_t *end,
                        const struct tb_room *room)
{
    Py_buffer view;
    const uint64_t offset = tb_align_up(*end);
    if (PyObject_GetBuffer(PyList_GET_ITEM(p->buffers, i), &view, PyBUF_FULL_RO) < 0)
        return -1;
    const uint64_t len = (uint64_t)view.len;
    const bool fits = offset <= p->total && len <= p->total - offset && PyBuffer_IsContiguous(&view, 'A');
    if (fits) {
        const struct tb_span_entry entry = {offset, len, 0, view.readonly != 0};
        memset(at + *end, 0, offset - *end);
        tb_pickle_span_write(at, i, &entry);
        tb_room_fill(room, at + offset, view.buf, len);
        *end = offset + len;
    } else {
        PyErr_SetString(PyExc_BufferError, "an out-of-band buffer has changed while it was being sent");
    }
    PyBuffer_Release(&view);
    return fits ? 0 : -1;
}

int tb_pickled_write(const struct tb_pickled *p, uint8_t *at, const struct tb_room *room)
{
    if (p->spans == 0) {
        at[0] = TB_PICKLE;
        write_pickle(p, at + 1, room);
        return 0;
    }
    memset(at, 0, TB_PICKLE_HEAD);
    at[0] = TB_PICKLE_OOB;
    memcpy(at + 4, &p->spans, 4);
    memcpy(at + 8, &p->pickle_len, 8);
    uint64_t end = TB_PICKLE_HEAD + p->spans * sizeof(struct tb_span_entry);
    write_pickle(p, at + end, room);
    end += p->pickle_len;
    for (uint32_t i = 0; i < p->spans; i++) {
        if (is_elsewhere(p, i))
            tb_pickle_span_write(at, i, &p->elsewhere[i]);
        else if (write_buffer(p, i, at, &end, room) < 0)
            return -1;
    }
    return 0;
}

int tb_pickled_emit(const struct tb_pickled *p, uint8_t *at, const struct tb_room *room, struct tb_payload *out)
{
    const int done = tb_pickled_write(p, at, room);
    if (done == 0)
        out->len = p->total;
    else if (out->block.data != NULL)
        room->drop(room->ctx, &out->block);
    if (done < 0)
        out->block = (struct td_block){0};
    return done;
}
