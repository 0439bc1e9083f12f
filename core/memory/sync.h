/* memory/sync.h: how the blocks of locks, flags, barriers and counters begin, so that one is not taken for another. */
#ifndef TD_MEMORY_SYNC_H
#define TD_MEMORY_SYNC_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "treadle.h"

/* Each with the version of its layout in the last digit. */
enum {
    TD_SYNC_LOCK = 0x4c6f6301,
    TD_SYNC_FLAG = 0x466c6101,
    TD_SYNC_BARRIER = 0x42617201,
    TD_SYNC_COUNTER = 0x436e7401
};

struct td_sync_head {
    uint32_t kind, unused;
};

/* A block of zeros but for its head. */
td_status td__sync_new(uint32_t kind, uint64_t bytes, td_hold **out);

/* The block's data, where it is of that kind and of at least so many bytes; else NULL. */
static inline void *td__sync_peek(const td_hold *hold, uint32_t kind, uint64_t bytes)
{
    struct td_sync_head *head = td_hold_data(hold);
    return td_hold_bytes(hold) >= bytes && head->kind == kind ? head : NULL;
}

#endif
