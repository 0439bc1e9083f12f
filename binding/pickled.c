/* pickled.c: what treadle._travel made of an object, as a payload: the pickle, and behind it its large buffers.
 * Invariant  P1 what is measured is what is written: the buffers are held, and cannot change their size.
 * Crash      nothing is held but heap memory.   Tests  tests/unit/test_codec.py */
#include "pickled.h"

#include "memory/copy.h"

#define FILL_WITHOUT_GIL_BYTES (UINT64_C(1) << 20)

static bool is_elsewhere(const struct tb_pickled *p, uint32_t i)
{
    return p->elsewhere != NULL && p->elsewhere[i].parcel != 0;
}

int tb_pickled_measure(struct tb_pickled *p)
{
    if (!PyTuple_Check(p->pair) || PyTuple_GET_SIZE(p->pair) < 2 || PyTuple_GET_SIZE(p->pair) > 3 ||
        !PyBytes_Check(PyTuple_GET_ITEM(p->pair, 0))) {
        PyErr_SetString(PyExc_TypeError, "a dump must be (bytes, buffers) or (bytes, buffers, blocks)");
        return -1;
    }
    p->blocks = PyTuple_GET_SIZE(p->pair) == 3 ? PyTuple_GET_ITEM(p->pair, 2) : NULL;
    p->bytes = PyTuple_GET_ITEM(p->pair, 0);
    p->buffers = PyTuple_GET_ITEM(p->pair, 1);
    p->pickle_len = (uint64_t)PyBytes_GET_SIZE(p->bytes);
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

void tb_pickled_write(const struct tb_pickled *p, uint8_t *at, const struct tb_room *room)
{
    if (p->spans == 0) {
        at[0] = TB_PICKLE;
        tb_room_fill(room, at + 1, PyBytes_AS_STRING(p->bytes), p->pickle_len);
        return;
    }
    memset(at, 0, TB_PICKLE_HEAD);
    at[0] = TB_PICKLE_OOB;
    memcpy(at + 4, &p->spans, 4);
    memcpy(at + 8, &p->pickle_len, 8);
    uint64_t end = TB_PICKLE_HEAD + p->spans * sizeof(struct tb_span_entry);
    tb_room_fill(room, at + end, PyBytes_AS_STRING(p->bytes), p->pickle_len);
    end += p->pickle_len;
    for (uint32_t i = 0; i < p->spans; i++) {
        if (is_elsewhere(p, i)) {
            tb_pickle_span_write(at, i, &p->elsewhere[i]);
            continue;
        }
        const Py_buffer *view = PyPickleBuffer_GetBuffer(PyList_GET_ITEM(p->buffers, i));
        uint64_t offset = tb_align_up(end);
        struct tb_span_entry entry = {offset, (uint64_t)view->len, 0, view->readonly != 0};
        memset(at + end, 0, offset - end);
        tb_pickle_span_write(at, i, &entry);
        tb_room_fill(room, at + offset, view->buf, entry.len);
        end = offset + entry.len;
    }
}
