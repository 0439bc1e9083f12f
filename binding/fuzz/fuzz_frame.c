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
        FUZZ_CHECK(span.offset <= bytes && span.len <= bytes - span.offset && span.offset % TB_ALIGN == 0);
    }
}

static void read_chunk(const uint8_t *data, size_t bytes)
{
    struct tb_chunk_view chunk;
    if (!tb_chunk_open(data, bytes, &chunk))
        return;
    for (uint32_t i = 0; i <= chunk.items; i++) {
        const uint8_t *item;
        uint64_t item_bytes;
        if (tb_chunk_item(&chunk, i, &item, &item_bytes)) {
            FUZZ_CHECK(i < chunk.items);
            inside(data, bytes, item, item_bytes);
        }
    }
}

static void read_records(const uint8_t *data, size_t bytes)
{
    struct tb_record record;
    for (uint64_t at = 0; tb_record_read(data, bytes, at, &record); at = record.next) {
        inside(data, bytes, record.payload, record.len);
        FUZZ_CHECK(record.next > at);
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
    free(copy);
    return 0;
}
