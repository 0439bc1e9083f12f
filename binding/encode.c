/* encode.c: Python objects -> payloads (frame.h).
 *
 * A compact value is tried first, straight into the caller's small buffer; one that does not fit there is measured
 * and written into a block of exactly its size. What is not compact is pickled whole, by treadle._travel, and its
 * large buffers are copied once, into the block.
 * Invariants  E1 what is measured is what is written: compact values are immutable and of exact built-in types.
 *             E2 a failed call leaves nothing behind: no block, no reference.
 * Crash       a block not yet submitted belongs to this process's arena and goes with it.
 * Tests  tests/unit/test_codec.py */
#include "codec_internal.h"
#include "frame.h"

enum outcome { WROTE, NO_FIT, NOT_COMPACT };

struct writer {
    uint8_t *at, *end;
};

#define COPY_WITHOUT_GIL_BYTES (UINT64_C(1) << 20)

/* ---- Compact values --------------------------------------------------------------------------------------- */

static enum outcome write_int(struct writer *w, int64_t value)
{
    if (value >= 0 && value < 128) {
        if (w->at == w->end)
            return NO_FIT;
        *w->at++ = (uint8_t)(TB_SMALL | value);
        return WROTE;
    }
    if (w->end - w->at < 11)
        return NO_FIT;
    *w->at++ = TB_INT;
    uint64_t left = tb_zigzag(value);
    for (; left >= 0x80; left >>= 7)
        *w->at++ = (uint8_t)(left | 0x80);
    *w->at++ = (uint8_t)left;
    return WROTE;
}

static enum outcome write_run(struct writer *w, uint8_t tag, const void *data, uint64_t count, unsigned width)
{
    uint64_t bytes = count * width;
    if (w->end - w->at < 11 || (uint64_t)(w->end - w->at) - 11 < bytes)
        return NO_FIT;
    *w->at++ = tag;
    uint64_t left = count;
    for (; left >= 0x80; left >>= 7)
        *w->at++ = (uint8_t)(left | 0x80);
    *w->at++ = (uint8_t)left;
    memcpy(w->at, data, bytes);
    w->at += bytes;
    return WROTE;
}

static uint8_t text_tag(int kind)
{
    return kind == PyUnicode_1BYTE_KIND ? TB_TEXT1 : kind == PyUnicode_2BYTE_KIND ? TB_TEXT2 : TB_TEXT4;
}

static enum outcome write_text(struct writer *w, PyObject *text)
{
    int kind = (int)PyUnicode_KIND(text);
    return write_run(w, text_tag(kind), PyUnicode_DATA(text), (uint64_t)PyUnicode_GET_LENGTH(text),
                     (unsigned)kind);
}

static enum outcome write_tag(struct writer *w, uint8_t tag)
{
    if (w->at == w->end)
        return NO_FIT;
    *w->at++ = tag;
    return WROTE;
}

static enum outcome write_value(struct writer *w, PyObject *value, unsigned depth);

static enum outcome write_tuple(struct writer *w, PyObject *tuple, unsigned depth)
{
    Py_ssize_t count = PyTuple_GET_SIZE(tuple);
    if (count > TB_MAX_TUPLE || depth == TB_MAX_DEPTH)
        return NOT_COMPACT;
    if (w->end - w->at < 2)
        return NO_FIT;
    *w->at++ = TB_TUPLE;
    *w->at++ = (uint8_t)count;
    for (Py_ssize_t i = 0; i < count; i++) {
        enum outcome outcome = write_value(w, PyTuple_GET_ITEM(tuple, i), depth + 1);
        if (outcome != WROTE)
            return outcome;
    }
    return WROTE;
}

static enum outcome write_value(struct writer *w, PyObject *value, unsigned depth)
{
    if (PyLong_CheckExact(value)) {
        int overflow;
        long long integer = PyLong_AsLongLongAndOverflow(value, &overflow);
        return overflow ? NOT_COMPACT : write_int(w, integer);
    }
    if (value == Py_None)
        return write_tag(w, TB_NONE);
    if (PyUnicode_CheckExact(value))
        return write_text(w, value);
    if (PyFloat_CheckExact(value)) {
        double real = PyFloat_AS_DOUBLE(value);
        if (w->end - w->at < 9)
            return NO_FIT;
        *w->at++ = TB_FLOAT;
        memcpy(w->at, &real, 8);
        w->at += 8;
        return WROTE;
    }
    if (PyTuple_CheckExact(value))
        return write_tuple(w, value, depth);
    if (value == Py_True || value == Py_False)
        return write_tag(w, value == Py_True ? TB_TRUE : TB_FALSE);
    if (PyBytes_CheckExact(value))
        return write_run(w, TB_BYTES, PyBytes_AS_STRING(value), (uint64_t)PyBytes_GET_SIZE(value), 1);
    return NOT_COMPACT;
}

/* An upper bound of what write_value needs; 0 when the value is not compact. */
static uint64_t measure_value(PyObject *value, unsigned depth)
{
    if (PyUnicode_CheckExact(value))
        return 11 + (uint64_t)PyUnicode_GET_LENGTH(value) * (unsigned)PyUnicode_KIND(value);
    if (PyBytes_CheckExact(value))
        return 11 + (uint64_t)PyBytes_GET_SIZE(value);
    if (!PyTuple_CheckExact(value)) {
        uint8_t scratch[16];
        struct writer w = {scratch, scratch + sizeof scratch};
        return write_value(&w, value, depth) == WROTE ? 11 : 0;
    }
    if (PyTuple_GET_SIZE(value) > TB_MAX_TUPLE || depth == TB_MAX_DEPTH)
        return 0;
    uint64_t sum = 2;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(value); i++) {
        uint64_t bytes = measure_value(PyTuple_GET_ITEM(value, i), depth + 1);
        if (bytes == 0)
            return 0;
        sum += bytes;
    }
    return sum;
}

/* ---- Compact calls ---------------------------------------------------------------------------------------- */

struct call {
    PyObject *const *args;
    Py_ssize_t nargs;
    PyObject *kwnames;
};

static Py_ssize_t call_keywords(const struct call *call)
{
    return call->kwnames == NULL ? 0 : PyTuple_GET_SIZE(call->kwnames);
}

static enum outcome write_call(struct writer *w, const struct call *call)
{
    Py_ssize_t nkw = call_keywords(call);
    if (call->nargs > 255 || nkw > 255)
        return NOT_COMPACT;
    if (w->end - w->at < 3)
        return NO_FIT;
    *w->at++ = TB_CALL;
    *w->at++ = (uint8_t)call->nargs;
    *w->at++ = (uint8_t)nkw;
    enum outcome outcome = WROTE;
    for (Py_ssize_t i = 0; outcome == WROTE && i < call->nargs; i++)
        outcome = write_value(w, call->args[i], 0);
    for (Py_ssize_t i = 0; outcome == WROTE && i < nkw; i++) {
        PyObject *name = PyTuple_GET_ITEM(call->kwnames, i);
        outcome = PyUnicode_CheckExact(name) ? write_text(w, name) : NOT_COMPACT;
        if (outcome == WROTE)
            outcome = write_value(w, call->args[call->nargs + i], 0);
    }
    return outcome;
}

static uint64_t measure_call(const struct call *call)
{
    Py_ssize_t nkw = call_keywords(call);
    uint64_t sum = 3;
    if (call->nargs > 255 || nkw > 255)
        return 0;
    for (Py_ssize_t i = 0; i < call->nargs + nkw; i++) {
        uint64_t bytes = measure_value(call->args[i], 0);
        if (bytes == 0)
            return 0;
        sum += bytes;
    }
    for (Py_ssize_t i = 0; i < nkw; i++)
        sum += measure_value(PyTuple_GET_ITEM(call->kwnames, i), 0);
    return sum;
}

/* ---- Pickles ---------------------------------------------------------------------------------------------- */

/* What treadle._travel made of an object: (bytes, list of PickleBuffer or None), and its measure. */
struct pickled {
    PyObject *pair, *bytes, *buffers;
    uint64_t pickle_len, total;
    uint32_t spans;
};

static uint64_t align_up(uint64_t value)
{
    return (value + (TB_ALIGN - 1)) & ~(uint64_t)(TB_ALIGN - 1);
}

static int pickled_measure(struct pickled *p)
{
    if (!PyTuple_Check(p->pair) || PyTuple_GET_SIZE(p->pair) != 2 ||
        !PyBytes_Check(PyTuple_GET_ITEM(p->pair, 0))) {
        PyErr_SetString(PyExc_TypeError, "a dump must be (bytes, buffers)");
        return -1;
    }
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
        p->total = align_up(p->total) + (uint64_t)view->len;
    }
    return 0;
}

/* Takes over pair, which may be NULL (the dump failed). */
static int pickled_open(struct pickled *p, PyObject *pair)
{
    p->pair = pair;
    if (pair == NULL)
        return -1;
    if (pickled_measure(p) == 0)
        return 0;
    Py_CLEAR(p->pair);
    return -1;
}

static void copy_buffer(uint8_t *at, const Py_buffer *view)
{
    if ((uint64_t)view->len < COPY_WITHOUT_GIL_BYTES) {
        memcpy(at, view->buf, (size_t)view->len);
        return;
    }
    Py_BEGIN_ALLOW_THREADS memcpy(at, view->buf, (size_t)view->len);
    Py_END_ALLOW_THREADS
}

/* Writes p->total bytes at a place that is 64-aligned where there are buffers. */
static void pickled_write(const struct pickled *p, uint8_t *at)
{
    if (p->spans == 0) {
        at[0] = TB_PICKLE;
        memcpy(at + 1, PyBytes_AS_STRING(p->bytes), p->pickle_len);
        return;
    }
    memset(at, 0, TB_PICKLE_HEAD);
    at[0] = TB_PICKLE_OOB;
    memcpy(at + 4, &p->spans, 4);
    memcpy(at + 8, &p->pickle_len, 8);
    uint64_t end = TB_PICKLE_HEAD + p->spans * sizeof(struct tb_span_entry);
    memcpy(at + end, PyBytes_AS_STRING(p->bytes), p->pickle_len);
    end += p->pickle_len;
    for (uint32_t i = 0; i < p->spans; i++) {
        const Py_buffer *view = PyPickleBuffer_GetBuffer(PyList_GET_ITEM(p->buffers, i));
        uint64_t offset = align_up(end);
        struct tb_span_entry entry = {offset, (uint64_t)view->len, view->readonly != 0};
        memset(at + end, 0, offset - end);
        memcpy(at + TB_PICKLE_HEAD + i * sizeof entry, &entry, sizeof entry);
        copy_buffer(at + offset, view);
        end = offset + entry.len;
    }
}

static int take_block(const struct tb_room *room, uint64_t bytes, struct tb_payload *out)
{
    struct td_block block;
    if (room->take(room->ctx, bytes, &block) < 0)
        return -1;
    out->block = block;
    return 0;
}

static int emit_pickled(PyObject *pair, uint8_t *small, size_t cap, const struct tb_room *room,
                        struct tb_payload *out)
{
    struct pickled p;
    uint8_t *at = small;
    if (pickled_open(&p, pair) < 0)
        return -1;
    if (p.spans > 0 || p.total > cap) {
        if (take_block(room, p.total, out) < 0) {
            Py_DECREF(p.pair);
            return -1;
        }
        at = out->block.data;
    }
    pickled_write(&p, at);
    out->len = p.total;
    Py_DECREF(p.pair);
    return 0;
}

/* ---- Calls and values ------------------------------------------------------------------------------------- */

/* (args, kwargs) of a call in vectorcall form. */
static int call_objects(const struct call *call, PyObject **args_out, PyObject **kwargs_out)
{
    PyObject *kwargs = NULL, *args = PyTuple_New(call->nargs);
    if (args == NULL)
        return -1;
    for (Py_ssize_t i = 0; i < call->nargs; i++)
        PyTuple_SET_ITEM(args, i, Py_NewRef(call->args[i]));
    kwargs = PyDict_New();
    if (kwargs == NULL)
        goto failed;
    for (Py_ssize_t i = 0; i < call_keywords(call); i++)
        if (PyDict_SetItem(kwargs, PyTuple_GET_ITEM(call->kwnames, i), call->args[call->nargs + i]) < 0)
            goto failed;
    *args_out = args;
    *kwargs_out = kwargs;
    return 0;
failed:
    Py_DECREF(args);
    Py_XDECREF(kwargs);
    return -1;
}

/* A new (bytes, buffers), or NULL. */
static PyObject *dump_call(struct tb_codec *codec, PyObject *args, PyObject *kwargs, unsigned flags)
{
    PyObject *dump = tb_codec_import(&codec->dump_call, "treadle._travel", "dump_call");
    if (dump == NULL)
        return NULL;
    PyObject *by_reference = flags & TB_MAIN_BY_REFERENCE ? Py_True : Py_False;
    PyObject *stack[3] = {args, kwargs, by_reference};
    return PyObject_Vectorcall(dump, stack, 3, NULL);
}

static PyObject *dump_vector(struct tb_codec *codec, const struct call *call, unsigned flags)
{
    PyObject *args, *kwargs;
    if (call_objects(call, &args, &kwargs) < 0)
        return NULL;
    PyObject *pair = dump_call(codec, args, kwargs, flags);
    Py_DECREF(args);
    Py_DECREF(kwargs);
    return pair;
}

int tb_encode_call(struct tb_codec *codec, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                   unsigned flags, uint8_t *small, size_t cap, const struct tb_room *room,
                   struct tb_payload *out)
{
    struct call call = {args, nargs, kwnames};
    struct writer w = {small, small + cap};
    enum outcome outcome = write_call(&w, &call);
    out->block = (struct td_block){0};
    if (outcome == WROTE) {
        out->len = (uint64_t)(w.at - small);
        return 0;
    }
    uint64_t bytes = outcome == NO_FIT ? measure_call(&call) : 0;
    if (bytes == 0)
        return emit_pickled(dump_vector(codec, &call, flags), small, cap, room, out);
    if (take_block(room, bytes, out) < 0)
        return -1;
    w = (struct writer){out->block.data, (uint8_t *)out->block.data + bytes};
    (void)write_call(&w, &call);
    out->len = (uint64_t)(w.at - (uint8_t *)out->block.data);
    return 0;
}

int tb_encode_call_objects(struct tb_codec *codec, PyObject *args, PyObject *kwargs, unsigned flags,
                           uint8_t *small, size_t cap, const struct tb_room *room, struct tb_payload *out)
{
    if (kwargs == NULL || PyDict_GET_SIZE(kwargs) == 0)
        return tb_encode_call(codec, &PyTuple_GET_ITEM(args, 0), PyTuple_GET_SIZE(args), NULL, flags, small,
                              cap, room, out);
    out->block = (struct td_block){0};
    return emit_pickled(dump_call(codec, args, kwargs, flags), small, cap, room, out);
}

int tb_encode_value(struct tb_codec *codec, PyObject *value, uint8_t *small, size_t cap,
                    const struct tb_room *room, struct tb_payload *out)
{
    struct writer w = {small, small + cap};
    enum outcome outcome = write_value(&w, value, 0);
    out->block = (struct td_block){0};
    if (outcome == WROTE) {
        out->len = (uint64_t)(w.at - small);
        return 0;
    }
    uint64_t bytes = outcome == NO_FIT ? measure_value(value, 0) : 0;
    if (bytes == 0) {
        PyObject *dump = tb_codec_import(&codec->dump_result, "treadle._travel", "dump_result");
        return dump == NULL ? -1 : emit_pickled(PyObject_CallOneArg(dump, value), small, cap, room, out);
    }
    if (take_block(room, bytes, out) < 0)
        return -1;
    w = (struct writer){out->block.data, (uint8_t *)out->block.data + bytes};
    (void)write_value(&w, value, 0);
    out->len = (uint64_t)(w.at - (uint8_t *)out->block.data);
    return 0;
}

int tb_encode_error(struct tb_codec *codec, PyObject *exception, uint8_t *small, size_t cap,
                    const struct tb_room *room, struct tb_payload *out)
{
    PyObject *dump = tb_codec_import(&codec->dump_exception, "treadle._remote", "dump_exception");
    PyObject *bytes = dump == NULL ? NULL : PyObject_CallOneArg(dump, exception);
    if (bytes == NULL)
        return -1;
    if (!PyBytes_Check(bytes)) {
        Py_DECREF(bytes);
        PyErr_SetString(PyExc_TypeError, "dump_exception must return bytes");
        return -1;
    }
    uint64_t len = (uint64_t)PyBytes_GET_SIZE(bytes);
    uint8_t *at = small;
    out->block = (struct td_block){0};
    if (len + 1 > cap) {
        if (take_block(room, len + 1, out) < 0) {
            Py_DECREF(bytes);
            return -1;
        }
        at = out->block.data;
    }
    at[0] = TB_ERROR;
    memcpy(at + 1, PyBytes_AS_STRING(bytes), len);
    out->len = len + 1;
    Py_DECREF(bytes);
    return 0;
}

/* ---- Chunks ----------------------------------------------------------------------------------------------- */

/* An item: bytes at `offset` of the chunk's heap memory, or a pickle with buffers, kept until the layout. */
struct tb_chunk_item {
    uint64_t offset, len;
    PyObject *pair;
};

static int chunk_reserve(struct tb_chunk *chunk, uint64_t bytes)
{
    if (chunk->items == chunk->table_cap) {
        size_t cap = chunk->table_cap == 0 ? 64 : chunk->table_cap * 2;
        void *table = PyMem_Realloc(chunk->table, cap * sizeof *chunk->table);
        if (table == NULL)
            goto failed;
        chunk->table = table;
        chunk->table_cap = cap;
    }
    if (chunk->data_cap - chunk->used < bytes) {
        size_t cap = chunk->data_cap == 0 ? 4096 : chunk->data_cap * 2;
        if (cap < chunk->used + bytes)
            cap = chunk->used + bytes;
        void *data = PyMem_Realloc(chunk->data, cap);
        if (data == NULL)
            goto failed;
        chunk->data = data;
        chunk->data_cap = cap;
    }
    return 0;
failed:
    PyErr_NoMemory();
    return -1;
}

static void chunk_commit(struct tb_chunk *chunk, uint64_t len, PyObject *pair)
{
    chunk->table[chunk->items++] = (struct tb_chunk_item){chunk->used, len, pair};
    chunk->bytes += len;
    if (pair == NULL) {
        chunk->used += len;
    } else {
        chunk->bytes += TB_ALIGN;
        chunk->has_buffers = true;
    }
}

static int chunk_append_pickled(struct tb_chunk *chunk, PyObject *pair)
{
    struct pickled p;
    if (pickled_open(&p, pair) < 0)
        return -1;
    if (p.spans > 0) {
        chunk_commit(chunk, p.total, p.pair);
        return 0;
    }
    int rc = chunk_reserve(chunk, p.total);
    if (rc == 0) {
        pickled_write(&p, chunk->data + chunk->used);
        chunk_commit(chunk, p.total, NULL);
    }
    Py_DECREF(p.pair);
    return rc;
}

int tb_chunk_append(struct tb_codec *codec, struct tb_chunk *chunk, PyObject *const *args, Py_ssize_t nargs,
                    unsigned flags)
{
    struct call call = {args, nargs, NULL};
    uint64_t room = 32;
    for (;;) {
        if (chunk->items == UINT32_MAX || chunk_reserve(chunk, room) < 0)
            return -1;
        struct writer w = {chunk->data + chunk->used, chunk->data + chunk->data_cap};
        enum outcome outcome = write_call(&w, &call);
        if (outcome == WROTE) {
            chunk_commit(chunk, (uint64_t)(w.at - (chunk->data + chunk->used)), NULL);
            return 0;
        }
        room = outcome == NO_FIT ? measure_call(&call) : 0;
        if (room == 0)
            return chunk_append_pickled(chunk, dump_vector(codec, &call, flags));
    }
}

static uint64_t chunk_total(const struct tb_chunk *chunk, bool wide)
{
    uint64_t end = tb_chunk_head_bytes(chunk->items, wide);
    if (!chunk->has_buffers)
        return end + chunk->used;
    for (uint32_t i = 0; i < chunk->items; i++)
        end = (chunk->table[i].pair == NULL ? end : align_up(end)) + chunk->table[i].len;
    return end;
}

/* Items with buffers: each is laid out on its own. An item's bytes end where the next one's offset says, so the
 * padding before an aligned item counts as the tail of the one before it. */
static uint64_t chunk_write_aligned(const struct tb_chunk *chunk, uint8_t *at, bool wide)
{
    uint64_t end = tb_chunk_head_bytes(chunk->items, wide);
    for (uint32_t i = 0; i < chunk->items; i++) {
        const struct tb_chunk_item *item = &chunk->table[i];
        uint64_t start = item->pair == NULL ? end : align_up(end);
        memset(at + end, 0, start - end);
        tb_chunk_offset_write(at, wide, i, start);
        if (item->pair == NULL) {
            memcpy(at + start, chunk->data + item->offset, item->len);
        } else {
            struct pickled p = {.pair = item->pair};
            if (pickled_measure(&p) == 0) /* as it did at append: the buffers are held since */
                pickled_write(&p, at + start);
        }
        end = start + item->len;
    }
    return end;
}

int tb_chunk_finish(struct tb_chunk *chunk, uint8_t *small, size_t cap, const struct tb_room *room,
                    struct tb_payload *out)
{
    uint64_t narrow = chunk_total(chunk, false);
    bool wide = narrow > UINT32_MAX;
    uint64_t total = wide ? chunk_total(chunk, true) : narrow, end;
    uint8_t *at = small;
    out->block = (struct td_block){0};
    if (total > cap || chunk->has_buffers) {
        if (take_block(room, total, out) < 0)
            return -1;
        at = out->block.data;
    }
    tb_chunk_head_write(at, chunk->items, wide);
    if (chunk->has_buffers) {
        end = chunk_write_aligned(chunk, at, wide);
    } else {
        uint64_t head = tb_chunk_head_bytes(chunk->items, wide);
        for (uint32_t i = 0; i < chunk->items; i++)
            tb_chunk_offset_write(at, wide, i, head + chunk->table[i].offset);
        if (chunk->used > 0)
            memcpy(at + head, chunk->data, chunk->used);
        end = head + chunk->used;
    }
    tb_chunk_offset_write(at, wide, chunk->items, end);
    out->len = end;
    tb_chunk_clear(chunk);
    return 0;
}

void tb_chunk_clear(struct tb_chunk *chunk)
{
    if (chunk->has_buffers)
        for (uint32_t i = 0; i < chunk->items; i++)
            Py_XDECREF(chunk->table[i].pair);
    chunk->items = 0;
    chunk->has_buffers = false;
    chunk->bytes = 0;
    chunk->used = 0;
}

void tb_chunk_fini(struct tb_chunk *chunk)
{
    tb_chunk_clear(chunk);
    PyMem_Free(chunk->data);
    PyMem_Free(chunk->table);
    *chunk = (struct tb_chunk){0};
}
