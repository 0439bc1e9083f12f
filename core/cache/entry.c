/* cache/entry.c: the format of an entry.
 *
 *        0                8          12         16            24
 *        ├────────────────┼──────────┼──────────┼─────────────┤
 *      0 │ magic          │ version  │ checksum │ bytes       │
 *     24 │ created_ns     │ parts    │ key_bytes│ kind ...    │
 *     48 │ ... kind       │ zero                │ key ...     │
 *     96 │ a row for each part: its bytes, its checksum      │
 *        │ zeros up to a multiple of 64                      │
 *        │ part 0                                            │
 *        │ zeros up to a multiple of 64                      │
 *        │ part 1, and so on; nothing after the last         │
 *
 * Numbers are little-endian, as the machines are that this is built for.
 * Invariants  E1 every byte of the file is covered by one checksum: the head's, or that of the part before it. So one
 *                changed byte, wherever it is, is found.
 *             E2 offsets are not stored but follow from the lengths, so they can't disagree, overlap or point outside.
 *             E3 the lengths are added up against the file's before anything else is believed: a file that was cut off,
 *                or that grew, is refused without looking at its parts.
 * Crash       a file has its name only when it is whole (cache/write.c). What a power failure leaves is refused here.
 * Tests       tests/cache/test_entry.c, fuzz/cache/fuzz_entry.c */
#include "cache/entry.h"

#include <stdlib.h>
#include <string.h>

#include "cache/checksum.h"

#define VERSION 1u

static const uint8_t magic[8] = {0x89, 'T', 'D', 'L', '\r', '\n', 0x1a, '\n'}; /* a text mode would change it */
static const uint8_t zeros[TD_ENTRY_ALIGN];

static uint32_t head_checksum(const void *head, uint64_t bytes)
{
    struct td_entry_header header;
    memcpy(&header, head, sizeof header);
    header.checksum = 0;
    const uint32_t first = td_checksum(0, &header, sizeof header);
    return td_checksum(first, (const uint8_t *)head + sizeof header, bytes - sizeof header);
}

static struct td_entry_row row_of(const void *head, uint32_t i)
{
    struct td_entry_row row;
    memcpy(&row, (const uint8_t *)head + TD_ENTRY_HEADER_BYTES + (size_t)i * sizeof row, sizeof row);
    return row;
}

/* ---- Writing ------------------------------------------------------------------------------------------- */

td_status td__entry_encode(const struct td_key *key, const char *kind, int64_t created_ns,
                           const struct td_part *parts, uint32_t count, void **out, uint64_t *bytes)
{
    const uint64_t head_bytes = td_entry_head_bytes(count);
    uint64_t end = head_bytes;
    if (key->length == 0 || key->length > TD_KEY_BYTES || count > TD_ENTRY_MOST_PARTS)
        return TD_EINVAL;
    for (uint32_t i = 0; i < count; i++) {
        end = td_entry_align(end);
        if (parts[i].bytes > (uint64_t)INT64_MAX - TD_ENTRY_ALIGN - end)
            return TD_EINVAL;
        end += parts[i].bytes;
    }
    uint8_t *head = calloc(1, head_bytes);
    if (head == NULL)
        return TD_ENOMEM;
    struct td_entry_header header = {
        .version = VERSION, .bytes = end, .created_ns = created_ns, .parts = count, .key_bytes = key->length};
    memcpy(header.magic, magic, sizeof magic);
    memcpy(header.kind, kind, strnlen(kind, sizeof header.kind));
    memcpy(header.key, key->bytes, key->length);
    memcpy(head, &header, sizeof header);
    for (uint32_t i = 0; i < count; i++) {
        struct td_entry_row row = {.bytes = parts[i].bytes};
        row.checksum = td_checksum(0, parts[i].data, parts[i].bytes);
        if (i + 1 < count)
            row.checksum = td_checksum(row.checksum, zeros, td_entry_align(row.bytes) - row.bytes);
        memcpy(head + TD_ENTRY_HEADER_BYTES + (size_t)i * sizeof row, &row, sizeof row);
    }
    header.checksum = head_checksum(head, head_bytes);
    memcpy(head, &header, sizeof header);
    *out = head;
    *bytes = end;
    return TD_OK;
}

/* ---- Reading ------------------------------------------------------------------------------------------- */

td_status td__entry_measure(const void *first, uint64_t file_bytes, const struct td_key *key, uint64_t *head)
{
    struct td_entry_header header;
    memcpy(&header, first, sizeof header);
    if (memcmp(header.magic, magic, sizeof magic) != 0 || header.version != VERSION ||
        header.bytes != file_bytes || header.parts > TD_ENTRY_MOST_PARTS || header.key_bytes == 0 ||
        header.key_bytes > TD_KEY_BYTES || td_entry_head_bytes(header.parts) > file_bytes)
        return TD_ECORRUPT;
    if (key != NULL && (header.key_bytes != key->length || memcmp(header.key, key->bytes, key->length) != 0))
        return TD_ECORRUPT;
    *head = td_entry_head_bytes(header.parts);
    return TD_OK;
}

td_status td__entry_check_head(const void *head, uint64_t head_bytes)
{
    struct td_entry_header header;
    memcpy(&header, head, sizeof header);
    if (header.checksum != head_checksum(head, head_bytes))
        return TD_ECORRUPT;
    uint64_t end = head_bytes;
    for (uint32_t i = 0; i < header.parts; i++) {
        end = td_entry_align(end);
        const uint64_t bytes = row_of(head, i).bytes;
        if (end > header.bytes || bytes > header.bytes - end)
            return TD_ECORRUPT;
        end += bytes;
    }
    return end == header.bytes ? TD_OK : TD_ECORRUPT;
}

void td__entry_place(const void *head, uint32_t i, uint64_t offset, uint64_t *bytes, uint64_t *covered)
{
    struct td_entry_header header;
    memcpy(&header, head, sizeof header);
    *bytes = row_of(head, i).bytes;
    *covered = i + 1 < header.parts ? td_entry_align(offset + *bytes) - offset : *bytes;
}
