/* memory/index.h: which of many ranges of addresses has a given address in it: a skip list by where they start.
 * Ranges don't overlap. The caller's lock covers an index.   Tests  tests/memory/test_index.c */
#ifndef TD_MEMORY_INDEX_H
#define TD_MEMORY_INDEX_H

#include <stdint.h>

#define TD__INDEX_LEVELS 12u /* a quarter of a level's ranges are in the next: enough for 16 million */

/* Stands inside what it is the range of. */
struct td__range {
    uintptr_t start;
    uint64_t bytes; /* 1 at least */
    uint32_t levels;
    struct td__range *next[TD__INDEX_LEVELS];
};

struct td__index {
    struct td__range *heads[TD__INDEX_LEVELS];
    uint32_t dice;
};

/* Zeroed memory is an empty index. `start` and `bytes` of the range are set. */
void td__index_add(struct td__index *index, struct td__range *range);
void td__index_remove(struct td__index *index, struct td__range *range);

/* A range that has one of the bytes at [address, address + bytes) in it; NULL. `bytes` is 1 at least. */
struct td__range *td__index_meets(struct td__index *index, uintptr_t address, uint64_t bytes);

/* The range that has all of [address, address + bytes) in it; NULL. */
struct td__range *td__index_find(struct td__index *index, uintptr_t address, uint64_t bytes);

#endif
