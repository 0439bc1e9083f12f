/* memory/slab.c: small blocks out of slabs of 64 KiB, one size class each.
 *
 * Classes go in steps of 64 bytes up to 512, then four to each doubling, up to 16 KiB; so at most a fifth of a
 * slot is lost to rounding (beyond the header's 64 bytes), and every slot starts at a multiple of 64.
 *
 * Invariants  I1 a slab is in its class's open list iff it has a free slot.
 *             I2 free_slots is the number of bits set in `free`; bits from `slots` on are 0.
 *             I3 all TD__SLAB_GRANULES granules of a slab point at it.
 *             I4 a class keeps at most one empty slab.
 * Locking     the caller holds the arena's lock.   Tests  tests/memory/test_slab.c, test_arena_model.c */
#include "memory/slab.h"

#include <stdlib.h>

#include "base/assert.h"

uint32_t td__slot_class(uint64_t bytes)
{
    uint32_t units = (uint32_t)((bytes + 63) / 64);
    if (units <= 8)
        return units < 2 ? 0 : units - 2;
    uint32_t last = units - 1;
    uint32_t doubling = 31u - (uint32_t)__builtin_clz(last); /* 3: up to 1 KiB, 4: up to 2 KiB, ... */
    return 7 + (doubling - 3) * 4 + ((last >> (doubling - 2)) & 3);
}

uint32_t td__slot_stride(uint32_t slot_class)
{
    if (slot_class < 7)
        return (slot_class + 2) * 64;
    uint32_t doubling = 3 + (slot_class - 7) / 4, quarter = (slot_class - 7) % 4;
    return ((5 + quarter) << (doubling - 2)) * 64;
}

void td__slabs_init(td__slabs *slabs)
{
    for (uint32_t i = 0; i < TD__CLASSES; i++)
        td_list_init(&slabs->open[i]);
}

/* Full slabs are in no list, so they are found by their granules. */
void td__slabs_fini(td__slabs *slabs, const td__spans *spans)
{
    for (uint32_t i = 0; i < spans->top;) {
        const td__granule *granule = td__granule_at(spans, i);
        if (granule->kind == TD__SLAB)
            free(granule->as.slab);
        i += granule->kind == TD__FREE  ? 1u << granule->order
             : granule->kind == TD__RUN ? granule->count
                                        : TD__SLAB_GRANULES;
    }
    td__slabs_init(slabs);
}

static td_status slab_new(td__slabs *slabs, td__spans *spans, uint32_t slot_class, bool thrifty)
{
    uint32_t stride = td__slot_stride(slot_class), slots = TD__SLAB_BYTES / stride;
    td__slab *slab = calloc(1, sizeof *slab + slots * sizeof slab->words[0]);
    if (slab == NULL)
        return TD_ENOMEM;
    td_status status = td__span_take(spans, TD__SLAB_GRANULES, thrifty, &slab->start);
    if (status != TD_OK) {
        free(slab);
        return status;
    }
    slab->stride = stride;
    slab->slot_class = slot_class;
    slab->slots = slab->free_slots = slots;
    for (uint32_t i = 0; i < slots; i++)
        slab->free[i / 64] |= UINT64_C(1) << i % 64;
    for (uint32_t i = 0; i < TD__SLAB_GRANULES; i++) {
        td__granule *granule = td__granule_at(spans, slab->start + i);
        granule->kind = TD__SLAB;
        granule->as.slab = slab;
    }
    td_list_insert_after(&slabs->open[slot_class], &slab->place);
    return TD_OK;
}

static void slab_free(td__spans *spans, td__slab *slab)
{
    td_list_remove(&slab->place);
    for (uint32_t i = 0; i < TD__SLAB_GRANULES; i++)
        td__granule_at(spans, slab->start + i)->kind = TD__INSIDE;
    td__span_give(spans, slab->start, TD__SLAB_GRANULES);
    free(slab);
}

td_status td__slot_take(td__slabs *slabs, td__spans *spans, uint32_t slot_class, bool thrifty, td__slab **out,
                        uint32_t *slot)
{
    td_list *open = &slabs->open[slot_class];
    if (td_list_empty(open)) {
        td_status status = slab_new(slabs, spans, slot_class, thrifty);
        if (status != TD_OK)
            return status;
    }
    td__slab *slab = TD_LIST_ENTRY(open->next, td__slab, place);
    uint32_t word = 0;
    while (slab->free[word] == 0)
        word++;
    *slot = word * 64 + (uint32_t)__builtin_ctzll(slab->free[word]);
    slab->free[word] &= slab->free[word] - 1;
    if (--slab->free_slots == 0)
        td_list_remove(&slab->place);
    *out = slab;
    return TD_OK;
}

void td__slot_give(td__slabs *slabs, td__spans *spans, td__slab *slab, uint32_t slot)
{
    td_list *open = &slabs->open[slab->slot_class];
    TD_ASSERT((slab->free[slot / 64] & UINT64_C(1) << slot % 64) == 0);
    slab->free[slot / 64] |= UINT64_C(1) << slot % 64;
    slab->free_slots++;
    if (slab->free_slots == slab->slots && !(open->next == &slab->place && open->prev == &slab->place)) {
        slab_free(spans, slab);
    } else if (open->next != &slab->place) { /* warmest first */
        td_list_remove(&slab->place);
        td_list_insert_after(open, &slab->place);
    }
}

void td__slabs_trim(td__slabs *slabs, td__spans *spans)
{
    for (uint32_t i = 0; i < TD__CLASSES; i++) {
        TD_LIST_EACH(place, &slabs->open[i])
        {
            td__slab *slab = TD_LIST_ENTRY(place, td__slab, place);
            if (slab->free_slots == slab->slots)
                slab_free(spans, slab);
        }
    }
}
