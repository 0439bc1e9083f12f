/* chunk.c: the arguments of a map's items, collected into one payload (frame.h).
 *
 * Items are dense as long as each has the same few compact arguments: nothing is kept for one but its values, and the
 * offset of each TB_STRIDE-th. The first item that is not spreads those before it, and the chunk goes on with a table
 * of offsets; so does the next chunk from its start, so that input of all kinds is spread once and not each time.
 * Invariants  H1 table has an entry for each item, while the chunk is dense for each TB_STRIDE-th.
 *             H2 a failed append changes nothing that finish looks at.
 * Crash       nothing is held but heap memory.   Tests  tests/unit/test_codec.py */
#include "array.h"
#include "compact.h"
#include "pickled.h"
#include "shared.h"

#define CALL_HEAD 3u          /* of a compact call without keywords */
#define LONG_BYTES (1L << 16) /* from here on pickle refers to bytes and does not copy them */

/* Bytes at `offset` of the chunk's heap memory, or a pickle in parts, kept until the layout. */
struct tb_chunk_item {
    uint64_t offset, len;
    PyObject *pair;
};

/* ---- Room --------------------------------------------------------------------------------------------------- */

static int reserve_entry(struct tb_chunk *chunk, size_t entry)
{
    if (entry < chunk->table_cap)
        return 0;
    size_t cap = chunk->table_cap == 0 ? 64 : chunk->table_cap * 2;
    void *table = PyMem_Realloc(chunk->table, cap * sizeof *chunk->table);
    if (table == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    chunk->table = table;
    chunk->table_cap = cap;
    return 0;
}

static int reserve_bytes(struct tb_chunk *chunk, uint64_t bytes)
{
    if (chunk->data_cap - chunk->used >= bytes)
        return 0;
    size_t cap = chunk->data_cap == 0 ? 4096 : chunk->data_cap * 2;
    if (cap < chunk->used + bytes)
        cap = chunk->used + bytes;
    void *data = PyMem_Realloc(chunk->data, cap);
    if (data == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    chunk->data = data;
    chunk->data_cap = cap;
    return 0;
}

/* ---- Appending ---------------------------------------------------------------------------------------------- */

static void commit(struct tb_chunk *chunk, uint64_t len, PyObject *pair)
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

static enum tb_outcome write_values(struct tb_writer *w, PyObject *const *args, Py_ssize_t nargs)
{
    enum tb_outcome outcome = TB_WROTE;
    for (Py_ssize_t i = 0; outcome == TB_WROTE && i < nargs; i++)
        outcome = tb_put_value(w, args[i]);
    return outcome;
}

static uint64_t measure_values(PyObject *const *args, Py_ssize_t nargs, const struct tb_sharing *sharing)
{
    uint64_t sum = CALL_HEAD;
    for (Py_ssize_t i = 0; i < nargs; i++) {
        uint64_t bytes = tb_measure_value(args[i], sharing);
        if (bytes == 0)
            return 0;
        sum += bytes;
    }
    return sum;
}

/* 1: appended; 0: the item does not belong into a dense chunk; -1. */
static int append_dense(struct tb_chunk *chunk, PyObject *const *args, Py_ssize_t nargs,
                        const struct tb_sharing *sharing)
{
    const size_t held = chunk->holds.count;
    if (chunk->items % TB_STRIDE == 0) {
        if (reserve_entry(chunk, chunk->items / TB_STRIDE) < 0 || reserve_bytes(chunk, 1) < 0)
            return -1; /* a byte, so that there is memory even if no item has arguments */
        chunk->table[chunk->items / TB_STRIDE].offset = chunk->used;
    }
    for (;;) {
        struct tb_writer w = {chunk->data + chunk->used, chunk->data + chunk->data_cap, sharing};
        enum tb_outcome outcome = write_values(&w, args, nargs);
        if (outcome == TB_WROTE) {
            size_t used = (size_t)(w.at - chunk->data);
            chunk->bytes += used - chunk->used;
            chunk->used = used;
            chunk->items++;
            return 1;
        }
        tb_holds_cut(&chunk->holds, held);
        uint64_t room = outcome == TB_NO_FIT ? measure_values(args, nargs, sharing) : 0;
        if (room == 0)
            return 0;
        if (reserve_bytes(chunk, room) < 0)
            return -1;
    }
}

/* From dense to a table: each item becomes a call of its own. */
static int spread(struct tb_chunk *chunk)
{
    size_t table_cap = (size_t)chunk->items + 64,
           data_cap = chunk->used + (size_t)chunk->items * CALL_HEAD + 4096;
    struct tb_chunk_item *table = PyMem_New(struct tb_chunk_item, table_cap);
    uint8_t *data = PyMem_Malloc(data_cap), *at = data;
    if (table == NULL || data == NULL) {
        PyMem_Free(table);
        PyMem_Free(data);
        PyErr_NoMemory();
        return -1;
    }
    struct tb_reader reader = {chunk->data, chunk->data + chunk->used, NULL};
    for (uint32_t i = 0; i < chunk->items; i++) {
        const uint8_t *values = reader.at;
        for (unsigned j = 0; j < chunk->nargs; j++)
            (void)tb_skip_value(&reader); /* we wrote it */
        size_t len = (size_t)(reader.at - values);
        table[i] = (struct tb_chunk_item){.offset = (uint64_t)(at - data), .len = CALL_HEAD + len};
        *at++ = TB_CALL;
        *at++ = chunk->nargs;
        *at++ = 0;
        memcpy(at, values, len);
        at += len;
    }
    PyMem_Free(chunk->table);
    PyMem_Free(chunk->data);
    chunk->table = table;
    chunk->table_cap = table_cap;
    chunk->data = data;
    chunk->data_cap = data_cap;
    chunk->used = (size_t)(at - data);
    chunk->bytes = chunk->used;
    chunk->layout = TB_NARROW;
    return 0;
}

static int append_pickled(const struct tb_codec *codec, struct tb_chunk *chunk, PyObject *pair)
{
    struct tb_pickled p;
    if (tb_pickled_open(&p, pair) < 0)
        return -1;
    chunk->odd = true;
    if (tb_holds_add(codec, &chunk->holds, p.blocks) < 0) {
        Py_DECREF(p.pair);
        return -1;
    }
    if (p.spans > 0 || tb_pickled_is_long(&p)) {
        commit(chunk, p.total, p.pair);
        return 0;
    }
    int rc = reserve_bytes(chunk, p.total);
    if (rc == 0)
        rc = tb_pickled_write(&p, chunk->data + chunk->used, NULL);
    if (rc == 0)
        commit(chunk, p.total, NULL);
    Py_DECREF(p.pair);
    return rc;
}

/* Bytes that long are better not copied twice: pickled, they stay where they are until the layout. */
static bool has_long_bytes(PyObject *const *args, Py_ssize_t nargs)
{
    for (Py_ssize_t i = 0; i < nargs; i++)
        if (PyBytes_CheckExact(args[i]) && PyBytes_GET_SIZE(args[i]) >= LONG_BYTES)
            return true;
    return false;
}

static int append_call(struct tb_codec *codec, struct tb_chunk *chunk, PyObject *const *args, Py_ssize_t nargs,
                       unsigned flags, const struct tb_sharing *sharing)
{
    const size_t held = chunk->holds.count;
    uint64_t room = 32;
    if (reserve_entry(chunk, chunk->items) < 0)
        return -1;
    while (nargs <= 255 && !has_long_bytes(args, nargs)) {
        if (reserve_bytes(chunk, room) < 0)
            return -1;
        uint8_t *head = chunk->data + chunk->used;
        struct tb_writer w = {head + CALL_HEAD, chunk->data + chunk->data_cap, sharing};
        enum tb_outcome outcome = write_values(&w, args, nargs);
        if (outcome == TB_WROTE) {
            const uint8_t call[CALL_HEAD] = {TB_CALL, (uint8_t)nargs, 0};
            memcpy(head, call, CALL_HEAD);
            chunk->odd |= nargs != chunk->nargs;
            commit(chunk, (uint64_t)(w.at - head), NULL);
            return 0;
        }
        tb_holds_cut(&chunk->holds, held);
        room = outcome == TB_NO_FIT ? measure_values(args, nargs, sharing) : 0;
        if (room == 0)
            break;
    }
    return append_pickled(codec, chunk, tb_dump_vector(codec, args, nargs, NULL, flags));
}

int tb_chunk_append(struct tb_codec *codec, struct tb_chunk *chunk, PyObject *const *args, Py_ssize_t nargs,
                    unsigned flags)
{
    if (chunk->items == 0) {
        chunk->layout = nargs > TB_DENSE_ARGS || chunk->odd ? TB_NARROW : TB_DENSE;
        chunk->odd = nargs > TB_DENSE_ARGS;
        chunk->nargs = (uint8_t)(chunk->odd ? 0 : nargs);
    }
    if (chunk->items == UINT32_MAX) {
        PyErr_NoMemory();
        return -1;
    }
    const struct tb_sharing arrays = {codec, &chunk->holds, NULL};
    const struct tb_sharing *sharing = codec->shares ? &arrays : NULL;
    if (chunk->layout == TB_DENSE) {
        const bool fits = nargs == chunk->nargs && !has_long_bytes(args, nargs);
        int done = fits ? append_dense(chunk, args, nargs, sharing) : 0;
        if (done != 0)
            return done > 0 ? 0 : -1;
        if (spread(chunk) < 0)
            return -1;
    }
    return append_call(codec, chunk, args, nargs, flags, sharing);
}

void tb_chunk_range(struct tb_chunk *chunk, int64_t start, int64_t step, uint32_t items)
{
    chunk->layout = TB_RANGE;
    chunk->start = start;
    chunk->step = step;
    chunk->items = items;
}

/* ---- Laying out --------------------------------------------------------------------------------------------- */

static uint64_t total_bytes(const struct tb_chunk *chunk, enum tb_layout layout)
{
    uint64_t end = tb_chunk_head_bytes(chunk->items, layout);
    if (!chunk->has_buffers)
        return end + chunk->used;
    for (uint32_t i = 0; i < chunk->items; i++)
        end = (chunk->table[i].pair == NULL ? end : tb_align_up(end)) + chunk->table[i].len;
    return end;
}

/* An item with buffers. They are held since it was appended, but for those that were released. */
static int write_pickled_item(const struct tb_chunk_item *item, uint8_t *at, const struct tb_room *room)
{
    struct tb_pickled p = {.pair = item->pair};
    if (tb_pickled_measure(&p) < 0)
        return -1;
    if (p.total == item->len)
        return tb_pickled_write(&p, at, room);
    PyErr_SetString(PyExc_BufferError, "an out-of-band buffer has changed while it waited to be sent");
    return -1;
}

/* Items with buffers: each is laid out on its own. An item's bytes end where the next one's offset says, so the
 * padding before an aligned item counts as the tail of the one before it. */
static int write_aligned(const struct tb_chunk *chunk, uint8_t *at, const struct tb_room *room)
{
    uint64_t end = tb_chunk_head_bytes(chunk->items, chunk->layout);
    for (uint32_t i = 0; i < chunk->items; i++) {
        const struct tb_chunk_item *item = &chunk->table[i];
        uint64_t start = item->pair == NULL ? end : tb_align_up(end);
        memset(at + end, 0, start - end);
        tb_chunk_offset_write(at, chunk->layout, i, start);
        if (item->pair == NULL)
            memcpy(at + start, chunk->data + item->offset, item->len);
        else if (write_pickled_item(item, at + start, room) < 0)
            return -1;
        end = start + item->len;
    }
    tb_chunk_offset_write(at, chunk->layout, chunk->items, end);
    return 0;
}

static void write_plain(const struct tb_chunk *chunk, uint8_t *at)
{
    uint64_t head = tb_chunk_head_bytes(chunk->items, chunk->layout);
    uint32_t entries = chunk->layout == TB_DENSE ? (chunk->items + (TB_STRIDE - 1)) / TB_STRIDE : chunk->items;
    for (uint32_t i = 0; i < entries; i++)
        tb_chunk_offset_write(at, chunk->layout, i, head + chunk->table[i].offset);
    if (chunk->used > 0)
        memcpy(at + head, chunk->data, chunk->used);
    tb_chunk_offset_write(at, chunk->layout, entries, head + chunk->used);
}

int tb_chunk_finish(struct tb_chunk *chunk, uint8_t *small, size_t cap, const struct tb_room *room,
                    struct tb_payload *out)
{
    if (chunk->layout == TB_NARROW && total_bytes(chunk, TB_NARROW) > UINT32_MAX)
        chunk->layout = TB_WIDE;
    uint64_t total = total_bytes(chunk, chunk->layout);
    uint8_t *at = small;
    out->block = (struct td_block){0};
    if (total > cap || chunk->has_buffers) {
        struct td_block block;
        if (room->take(room->ctx, total, &block) < 0)
            return -1;
        out->block = block;
        at = block.data;
    }
    tb_chunk_head_write(at, chunk->items, chunk->layout, chunk->layout == TB_DENSE ? chunk->nargs : 0);
    if (chunk->layout == TB_RANGE) {
        tb_chunk_offset_write(at, TB_RANGE, 0, (uint64_t)chunk->start);
        tb_chunk_offset_write(at, TB_RANGE, 1, (uint64_t)chunk->step);
    } else if (chunk->has_buffers) {
        if (write_aligned(chunk, at, room) < 0) {
            room->drop(room->ctx, &out->block);
            out->block = (struct td_block){0};
            return -1;
        }
    } else {
        write_plain(chunk, at);
    }
    out->len = total;
    out->holds = chunk->holds;
    chunk->holds = (struct tb_holds){0};
    tb_chunk_clear(chunk);
    return 0;
}

void tb_chunk_clear(struct tb_chunk *chunk)
{
    if (chunk->has_buffers)
        for (uint32_t i = 0; i < chunk->items; i++)
            Py_XDECREF(chunk->table[i].pair);
    tb_holds_fini(&chunk->holds);
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
