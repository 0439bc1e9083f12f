/* cache/entry.h: an entry as the bytes of its file: what cache/entry.c writes and reads. No system calls. */
#ifndef TD_CACHE_ENTRY_H
#define TD_CACHE_ENTRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "cache/store.h"

#define TD_ENTRY_ALIGN 64u
#define TD_ENTRY_MOST_PARTS (1u << 20)
#define TD_ENTRY_HEADER_BYTES 96u

/* The first bytes of a file. All that can be in them, up to the first part, is covered by `checksum`. */
struct td_entry_header {
    uint8_t magic[8];
    uint32_t version;
    uint32_t checksum; /* of the bytes up to the first part, as if this were 0 */
    uint64_t bytes;    /* of the file */
    int64_t created_ns;
    uint32_t parts;
    uint32_t key_bytes;
    uint8_t kind[TD_KIND_BYTES];
    uint64_t zero;
    uint8_t key[TD_KEY_BYTES];
};
_Static_assert(sizeof(struct td_entry_header) == TD_ENTRY_HEADER_BYTES, "the header's layout is the file's");

/* After it, one for each part. */
struct td_entry_row {
    uint64_t bytes;
    uint32_t checksum; /* of the part and of the zeros up to the next one */
    uint32_t zero;
};
_Static_assert(sizeof(struct td_entry_row) == 16, "a row's layout is the file's");

static inline uint64_t td_entry_align(uint64_t offset)
{
    return (offset + TD_ENTRY_ALIGN - 1) & ~(uint64_t)(TD_ENTRY_ALIGN - 1);
}

/* The bytes before the first part, of an entry of so many. */
static inline uint64_t td_entry_head_bytes(uint32_t parts)
{
    return td_entry_align(TD_ENTRY_HEADER_BYTES + (uint64_t)parts * sizeof(struct td_entry_row));
}

/* The head of an entry's file, malloc'ed, with all checksums; the parts follow it, each at the next multiple of
 * TD_ENTRY_ALIGN. TD_EINVAL: no key, too many parts, or 2^63 bytes; TD_ENOMEM. */
td_status td__entry_encode(const struct td_key *key, const char *kind, int64_t created_ns,
                           const struct td_part *parts, uint32_t count, void **head, uint64_t *bytes);

/* How long the head is, to judge by the file's first TD_ENTRY_HEADER_BYTES. TD_ECORRUPT: they are no entry's, of this
 * key and this length (key NULL: any). */
td_status td__entry_measure(const void *first, uint64_t file_bytes, const struct td_key *key, uint64_t *head);

/* Is the whole head right? The offsets of the parts follow from it then. TD_ECORRUPT. */
td_status td__entry_check_head(const void *head, uint64_t head_bytes);

/* The bytes of the file that the checksum of part `i` covers; offset is the part's place. The head is right. */
void td__entry_place(const void *head, uint32_t i, uint64_t offset, uint64_t *bytes, uint64_t *covered);

#endif
