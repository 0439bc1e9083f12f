/* fuzz/fuzz_frame.c: payloads, chunks and results of any bytes: what the readers accept lies inside of the payload. */
#include "frame.h"
#include "fuzz/harness.h"

static void inside(const uint8_t *data, size_t bytes, const uint8_t *part, uint64_t part_bytes)
{
    FUZZ_CHECK(part >= data && part_bytes <= bytes && (size_t)(part - data) <= bytes - part_bytes);
}

static void read_pickle(const uint8_t *data, size_t bytes)
{
    struct tb_pickle pickle;
    if (!tb_pickle_open(data, bytes, &pickle))
        return;
    inside(data, bytes, pickle.pickle, pickle.pickle_len);
    for (uint32_t i = 0; i < pickle.spans; i++) {
        const struct tb_span_entry span = tb_pickle_span(&pickle, i);
        if (span.parcel == 0)
            FUZZ_CHECK(span.offset <= bytes && span.len <= bytes - span.offset && span.offset % TB_ALIGN == 0);
        else
            FUZZ_CHECK(span.offset + span.len >= span.offset);
    }
}

/* A run of values, one after the other; of an array, all that tb_make_array and tb_make_vector read. */
static void read_values(const uint8_t *data, size_t bytes)
{
    struct tb_reader reader = {data, data + bytes, NULL};
    struct tb_item item;
    while (reader.at < reader.end && tb_read_item(&reader, &item)) {
        inside(data, bytes, reader.at, (uint64_t)(reader.end - reader.at));
        if (item.tag != TB_ARRAY && item.tag != TB_VECTOR)
            continue;
        inside(data, bytes, item.data, item.count);
        FUZZ_CHECK(item.data[1] <= TB_ARRAY_DIMENSIONS);
        if (item.tag == TB_VECTOR)
            FUZZ_CHECK(item.count == TB_VECTOR_HEAD - 1 + item.data[1] * 8u);
        else
            FUZZ_CHECK(item.count ==
                       TB_ARRAY_HEAD - 1 + item.data[1] * ((item.data[2] & TB_ARRAY_DENSE) != 0 ? 8u : 16u));
    }
}

#define ITEMS_TRIED 4096u /* a range has no bytes for each item */

static void read_chunk(const uint8_t *data, size_t bytes)
{
    struct tb_chunk_view chunk;
    if (!tb_chunk_open(data, bytes, &chunk))
        return;
    for (uint32_t i = 0; i <= chunk.items && i < ITEMS_TRIED; i++) {
        const uint8_t *item;
        uint64_t item_bytes;
        int64_t number;
        struct tb_reader reader;
        if (tb_chunk_item(&chunk, i, &item, &item_bytes)) {
            FUZZ_CHECK(i < chunk.items && chunk.layout <= TB_WIDE);
            inside(data, bytes, item, item_bytes);
        }
        if (tb_chunk_seek(&chunk, i, &reader)) {
            FUZZ_CHECK(i < chunk.items && chunk.layout == TB_DENSE && reader.at <= reader.end);
            inside(data, bytes, reader.at, (uint64_t)(reader.end - reader.at));
            for (unsigned j = 0; j < chunk.nargs; j++)
                if (!tb_skip_value(&reader))
                    break;
            FUZZ_CHECK(reader.at <= reader.end);
        }
        if (tb_chunk_number(&chunk, i, &number))
            FUZZ_CHECK(i < chunk.items && chunk.layout == TB_RANGE);
    }
}

/* As a map reads its results: a value, or a record. */
static void read_records(const uint8_t *data, size_t bytes)
{
    for (uint64_t at = 0; at < bytes;) {
        struct tb_reader reader = {data + at, data + bytes, NULL};
        struct tb_record record;
        const uint64_t before = at;
        if (tb_record_read(data, bytes, at, &record)) {
            inside(data, bytes, record.payload, record.len);
            at = record.next;
        } else if (tb_skip_value(&reader)) {
            inside(data, bytes, reader.at, 0);
            at = (uint64_t)(reader.at - data);
        } else {
            return;
        }
        FUZZ_CHECK(at > before);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    /* A copy of exactly this size: one byte too far is a finding. */
    uint8_t *copy = malloc(bytes > 0 ? bytes : 1);
    FUZZ_CHECK(copy != NULL);
    if (bytes > 0)
        memcpy(copy, data, bytes);
    (void)tb_payload_check(copy, bytes);
    read_pickle(copy, bytes);
    read_chunk(copy, bytes);
    read_records(copy, bytes);
    read_values(copy, bytes);
    free(copy);
    return 0;
}
