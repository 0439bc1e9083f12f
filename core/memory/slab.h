/* memory/slab.h: small blocks: slots of one size class in a slab of 64 KiB. Internal to memory/.
 * Everything here stands in the owner's heap; the caller holds the arena's lock. */
#ifndef TD_MEMORY_SLAB_H
#define TD_MEMORY_SLAB_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "memory/span.h"

#define TD__SLAB_GRANULES 4u
#define TD__SLAB_BYTES (TD__SLAB_GRANULES << TD__GRANULE_SHIFT)
#define TD__SLOT_MIN 128u /* header and payload */
#define TD__SLOT_MAX 16384u
#define TD__SLAB_SLOTS (TD__SLAB_BYTES / TD__SLOT_MIN)
#define TD__CLASSES 27u

/* One slab. Slot i is at byte i * stride of its granules. */
typedef struct td__slab {
    td_list place;   /* in its class's list while a slot is free, else on its own */
    uint32_t start;  /* first granule */
    uint32_t stride; /* bytes */
    uint32_t slot_class;
    uint32_t slots, free_slots;
    uint64_t free[TD__SLAB_SLOTS / 64]; /* bit i: slot i is free */
    uint32_t words[];                   /* of each slot's block: generation and state (arena.c) */
} td__slab;

typedef struct td__slabs {
    td_list open[TD__CLASSES]; /* slabs with a free slot; the one used last first */
} td__slabs;

void td__slabs_init(td__slabs *slabs);
void td__slabs_fini(td__slabs *slabs, const td__spans *spans);

/* The class for `bytes` (header included, at most TD__SLOT_MAX), and the size of its slots. */
uint32_t td__slot_class(uint64_t bytes);
uint32_t td__slot_stride(uint32_t slot_class);

static inline bool td__slab_ready(const td__slabs *slabs, uint32_t slot_class)
{
    return !td_list_empty(&slabs->open[slot_class]);
}

/* A slot, from a new slab if need be.   TD_ENOROOM, TD_ENOMEM: nothing has changed. */
td_status td__slot_take(td__slabs *slabs, td__spans *spans, uint32_t slot_class, bool thrifty, td__slab **slab,
                        uint32_t *slot);

/* Gives a slot back; needs no memory. Frees the slab unless it is the class's only open one. */
void td__slot_give(td__slabs *slabs, td__spans *spans, td__slab *slab, uint32_t slot);

/* Frees empty slabs that are kept in reserve. */
void td__slabs_trim(td__slabs *slabs, td__spans *spans);

#endif
