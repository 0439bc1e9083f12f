/* frame.c: what of a payload's layout is too long for frame.h.
 * Invariants  F1 nothing outside [data, data+len) is read, whatever the bytes say.
 *             F2 recursion is bounded by TB_MAX_DEPTH.
 * Crash       nothing is held.   Tests  tests/unit/test_codec.py, binding/fuzz/fuzz_frame.c */
#include "frame.h"

#define ALIGN_UP(value, to) (((value) + ((to)-1u)) & ~(uint64_t)((to)-1u))

static uint32_t load32(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint64_t load64(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

/* ---- Pickles ---------------------------------------------------------------------------------------------- */

bool tb_pickle_open(const void *data, uint64_t len, struct tb_pickle *out)
{
    const uint8_t *bytes = data;
    if (len < TB_PICKLE_HEAD || bytes[0] != TB_PICKLE_OOB)
        return false;
    uint32_t spans = load32(bytes + 4);
    uint64_t pickle_len = load64(bytes + 8);
    uint64_t left = len - TB_PICKLE_HEAD;
    if (spans > left / sizeof(struct tb_span_entry))
        return false;
    left -= spans * sizeof(struct tb_span_entry);
    if (pickle_len > left)
        return false;
    out->payload = bytes;
    out->pickle = bytes + (len - left);
    out->pickle_len = pickle_len;
    out->spans = spans;
    for (uint32_t i = 0; i < spans; i++) {
        struct tb_span_entry entry = tb_pickle_span(out, i);
        const bool in_payload =
            entry.offset % TB_ALIGN == 0 && entry.offset <= len && entry.len <= len - entry.offset;
        if (entry.parcel == 0 ? !in_payload : entry.len > UINT64_MAX - entry.offset)
            return false;
    }
    return true;
}

bool tb_pickle_is_compact(const struct tb_pickle *pickle)
{
    const uint8_t tag = pickle->pickle_len == 0 ? 0 : *pickle->pickle;
    return tag == TB_CALL || tag == TB_VECTOR || tag == TB_TUPLE;
}

struct tb_span_entry tb_pickle_span(const struct tb_pickle *pickle, uint32_t i)
{
    struct tb_span_entry entry;
    memcpy(&entry, pickle->payload + TB_PICKLE_HEAD + i * sizeof entry, sizeof entry);
    return entry;
}

void tb_pickle_span_write(uint8_t *payload, uint32_t i, const struct tb_span_entry *entry)
{
    memcpy(payload + TB_PICKLE_HEAD + i * sizeof *entry, entry, sizeof *entry);
}

/* ---- Chunks ----------------------------------------------------------------------------------------------- */

#define CHUNK_HEAD 8u /* u32 items, u8 layout, u8 nargs, u16 zero */

static uint64_t chunk_offsets(uint32_t items, enum tb_layout layout)
{
    if (layout == TB_RANGE)
        return 2;
    return layout == TB_DENSE ? ((uint64_t)items + (TB_STRIDE - 1)) / TB_STRIDE + 1 : (uint64_t)items + 1;
}

uint64_t tb_chunk_head_bytes(uint32_t items, enum tb_layout layout)
{
    return CHUNK_HEAD + chunk_offsets(items, layout) * (layout == TB_NARROW ? 4u : 8u);
}

void tb_chunk_head_write(uint8_t *at, uint32_t items, enum tb_layout layout, uint8_t nargs)
{
    const uint8_t shape[4] = {(uint8_t)layout, nargs, 0, 0};
    memcpy(at, &items, 4);
    memcpy(at + 4, shape, 4);
}

void tb_chunk_offset_write(uint8_t *at, enum tb_layout layout, uint32_t i, uint64_t offset)
{
    if (layout != TB_NARROW) {
        memcpy(at + CHUNK_HEAD + (uint64_t)i * 8, &offset, 8);
    } else {
        uint32_t narrow = (uint32_t)offset;
        memcpy(at + CHUNK_HEAD + (uint64_t)i * 4, &narrow, 4);
    }
}

static uint64_t chunk_offset(const struct tb_chunk_view *chunk, uint32_t i)
{
    if (chunk->layout != TB_NARROW)
        return load64(chunk->data + CHUNK_HEAD + (uint64_t)i * 8);
    return load32(chunk->data + CHUNK_HEAD + (uint64_t)i * 4);
}

bool tb_chunk_open(const void *data, uint64_t len, struct tb_chunk_view *out)
{
    const uint8_t *bytes = data;
    if (len < CHUNK_HEAD)
        return false;
    struct tb_chunk_view chunk = {.data = bytes, .len = len, .items = load32(bytes), .nargs = bytes[5]};
    if (bytes[4] > TB_RANGE || chunk.nargs > TB_DENSE_ARGS || bytes[6] != 0 || bytes[7] != 0)
        return false;
    chunk.layout = (enum tb_layout)bytes[4];
    if (tb_chunk_head_bytes(chunk.items, chunk.layout) > len)
        return false;
    if (chunk.layout == TB_RANGE) {
        chunk.start = (int64_t)chunk_offset(&chunk, 0);
        chunk.step = (int64_t)chunk_offset(&chunk, 1);
    }
    *out = chunk;
    return true;
}

bool tb_chunk_item(const struct tb_chunk_view *chunk, uint32_t i, const uint8_t **data, uint64_t *len)
{
    if (i >= chunk->items || chunk->layout > TB_WIDE)
        return false;
    uint64_t from = chunk_offset(chunk, i), to = chunk_offset(chunk, i + 1);
    if (from > to || to > chunk->len)
        return false;
    *data = chunk->data + from;
    *len = to - from;
    return true;
}

bool tb_chunk_seek(const struct tb_chunk_view *chunk, uint32_t i, struct tb_reader *out)
{
    if (i >= chunk->items || chunk->layout != TB_DENSE)
        return false;
    const uint32_t last = (uint32_t)chunk_offsets(chunk->items, TB_DENSE) - 1;
    const uint64_t from = chunk_offset(chunk, i / TB_STRIDE), to = chunk_offset(chunk, last);
    if (from > to || to > chunk->len)
        return false;
    struct tb_reader reader = {chunk->data + from, chunk->data + to, NULL};
    for (uint32_t values = i % TB_STRIDE * chunk->nargs; values > 0; values--)
        if (!tb_skip_value(&reader))
            return false;
    *out = reader;
    return true;
}

bool tb_chunk_number(const struct tb_chunk_view *chunk, uint32_t i, int64_t *out)
{
    int64_t distance;
    return i < chunk->items && chunk->layout == TB_RANGE &&
           !__builtin_mul_overflow((int64_t)i, chunk->step, &distance) &&
           !__builtin_add_overflow(chunk->start, distance, out);
}

/* ---- Records ---------------------------------------------------------------------------------------------- */

#define RECORD_LEN_BITS 48
#define RECORD_LEN_MASK ((UINT64_C(1) << RECORD_LEN_BITS) - 1)

bool tb_record_read(const uint8_t *data, uint64_t len, uint64_t at, struct tb_record *out)
{
    if (at > len || len - at < TB_RECORD_HEAD || data[at] != TB_RECORD)
        return false;
    uint64_t word = load64(data + at + 1);
    uint64_t skip = (word >> RECORD_LEN_BITS) & 0xff, bytes = word & RECORD_LEN_MASK, kind = word >> 56;
    uint64_t left = len - at - TB_RECORD_HEAD;
    if ((kind != TB_RECORD_VALUE && kind != TB_RECORD_ERROR) || skip > left || bytes > left - skip)
        return false;
    uint64_t payload_at = at + TB_RECORD_HEAD + skip;
    out->payload = data + payload_at;
    out->len = bytes;
    out->kind = (enum tb_record_kind)kind;
    out->next = payload_at + bytes;
    return true;
}

uint64_t tb_record_payload_at(uint64_t at, bool aligned)
{
    return aligned ? ALIGN_UP(at + TB_RECORD_HEAD, TB_ALIGN) : at + TB_RECORD_HEAD;
}

uint64_t tb_record_write(uint8_t *data, uint64_t at, uint64_t payload_at, uint64_t len,
                         enum tb_record_kind kind)
{
    uint64_t skip = payload_at - at - TB_RECORD_HEAD;
    uint64_t word = (len & RECORD_LEN_MASK) | skip << RECORD_LEN_BITS | (uint64_t)kind << 56;
    data[at] = TB_RECORD;
    memcpy(data + at + 1, &word, sizeof word);
    return payload_at + len;
}

/* ---- Whole payloads --------------------------------------------------------------------------------------- */

static bool check_value(struct tb_reader *reader, unsigned depth)
{
    struct tb_item item;
    if (!tb_read_item(reader, &item))
        return false;
    if (item.tag != TB_TUPLE)
        return true;
    if (depth == TB_MAX_DEPTH)
        return false;
    for (uint64_t i = 0; i < item.count; i++)
        if (!check_value(reader, depth + 1))
            return false;
    return true;
}

bool tb_skip_value(struct tb_reader *reader)
{
    return check_value(reader, 0);
}

static bool check_call(struct tb_reader *reader)
{
    if (reader->end - reader->at < 2)
        return false;
    unsigned nargs = reader->at[0], nkw = reader->at[1];
    reader->at += 2;
    for (unsigned i = 0; i < nargs; i++)
        if (!check_value(reader, 0))
            return false;
    for (unsigned i = 0; i < nkw; i++) {
        struct tb_item name;
        if (!tb_read_item(reader, &name) ||
            (name.tag != TB_TEXT1 && name.tag != TB_TEXT2 && name.tag != TB_TEXT4) || !check_value(reader, 0))
            return false;
    }
    return true;
}

bool tb_payload_check(const void *data, uint64_t len)
{
    const uint8_t *bytes = data;
    struct tb_reader reader = {bytes, bytes + len, NULL};
    struct tb_pickle pickle;
    if (len == 0)
        return false;
    switch (bytes[0]) {
    case TB_PICKLE:
    case TB_ERROR:
    case TB_NO_MEMORY:
        return true;
    case TB_PICKLE_OOB:
        if (!tb_pickle_open(data, len, &pickle))
            return false;
        return !tb_pickle_is_compact(&pickle) || tb_payload_check(pickle.pickle, pickle.pickle_len);
    case TB_CALL:
        reader.at++;
        return check_call(&reader); /* a chunk may pad behind it */
    default:
        return check_value(&reader, 0) && reader.at == reader.end;
    }
}
