/* pool/parcel.h: the table of a result's parcels, at the end of its block, as worker and parent see it. */
#ifndef TD_POOL_PARCEL_H
#define TD_POOL_PARCEL_H

#include <stdint.h>

#include "memory/arena.h"

static inline uint64_t td__parcel_table_bytes(uint32_t count)
{
    return count * sizeof(struct td_parcel);
}

/* The table of so many parcels: the first one stands last, so that more go before those that are there. */
static inline struct td_parcel *td__parcel_table(const struct td_block *block, uint32_t count)
{
    return (struct td_parcel *)(void *)((unsigned char *)block->data + block->capacity) - count;
}

/* Lends more parcels of a block that has `before` of them and room for their table, and writes them down. With an error
 * nothing is lent. */
td_status td__parcels_lend(td_arena *arena, const struct td_block *block, uint32_t before,
                           const struct td_parcel *parcels, uint32_t count);
/* The opposite, where nobody has heard of them. */
void td__parcels_reclaim(td_arena *arena, const struct td_block *block, uint32_t count);

#endif
