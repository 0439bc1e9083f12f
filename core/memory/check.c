/* memory/check.c: walks all of an owner's tables and compares them with each other: the invariants of span.c,
 * slab.c and owner.c, spelled out. For tests.
 * Locking     takes the arena's lock.   Tests  every test of memory/ calls it */
#include "memory/owner.h"

/* Ends the function with what failed known to a debugger as the line it stands on. */
#define EXPECT(cond)                                                                                           \
    do {                                                                                                       \
        if (!(cond))                                                                                           \
            return TD_EINVAL;                                                                                  \
    } while (0)

typedef struct tally {
    uint64_t free_blocks, warm, live_blocks, lent_blocks, live_bytes;
} tally;

static td_status check_word(uint32_t word, uint64_t bytes, tally *sums)
{
    td__state state = td__word_state(word);
    EXPECT(state == TD__STATE_OWNED || state == TD__STATE_LENT);
    sums->live_blocks++;
    sums->lent_blocks += state == TD__STATE_LENT;
    sums->live_bytes += bytes;
    return TD_OK;
}

static td_status check_slab(const td__owner *owner, uint32_t start, tally *sums)
{
    const td__slab *slab = td__granule_at(&owner->spans, start)->as.slab;
    uint32_t free_slots = 0;
    EXPECT(slab->start == start && start % TD__SLAB_GRANULES == 0);
    EXPECT(slab->stride == td__slot_stride(slab->slot_class) && slab->slots == TD__SLAB_BYTES / slab->stride);
    for (uint32_t i = 0; i < TD__SLAB_GRANULES; i++) {
        const td__granule *granule = td__granule_at(&owner->spans, start + i);
        EXPECT(granule->kind == TD__SLAB && granule->as.slab == slab);
    }
    for (uint32_t i = 0; i < TD__SLAB_SLOTS; i++) {
        bool is_free = (slab->free[i / 64] >> i % 64 & 1) != 0;
        EXPECT(i < slab->slots || !is_free);
        if (i < slab->slots && is_free)
            EXPECT(td__word_state(slab->words[i]) == TD__STATE_FREE);
        if (i < slab->slots && !is_free)
            EXPECT(check_word(slab->words[i], slab->stride, sums) == TD_OK);
        free_slots += is_free;
    }
    EXPECT(free_slots == slab->free_slots);
    EXPECT(td_list_empty(&slab->place) == (free_slots == 0));
    return TD_OK;
}

static td_status check_free(const td__spans *spans, uint32_t start, tally *sums)
{
    const td__granule *block = td__granule_at(spans, start);
    uint32_t size = 1u << block->order, buddy = start ^ size;
    EXPECT(block->order < TD__ORDERS && start % size == 0 && size <= spans->top - start);
    EXPECT(td__span_committed(spans, start, size) == block->count);
    if (buddy + size <= spans->top) {
        const td__granule *other = td__granule_at(spans, buddy);
        EXPECT(other->kind != TD__FREE || other->order != block->order);
    }
    sums->free_blocks++;
    sums->warm += block->count;
    return TD_OK;
}

static td_status check_tiles(const td__owner *owner, tally *sums)
{
    const td__spans *spans = &owner->spans;
    EXPECT(spans->top <= spans->limit && spans->top <= (uint64_t)spans->segment_count << TD__SEGMENT_SHIFT);
    for (uint32_t i = 0; i < spans->top;) {
        const td__granule *granule = td__granule_at(spans, i);
        uint32_t length = granule->kind == TD__FREE ? 1u << granule->order : granule->count;
        if (granule->kind == TD__SLAB) {
            EXPECT(check_slab(owner, i, sums) == TD_OK);
            length = TD__SLAB_GRANULES;
        } else if (granule->kind == TD__FREE) {
            EXPECT(check_free(spans, i, sums) == TD_OK);
        } else {
            EXPECT(granule->kind == TD__RUN && length > 0 && length <= spans->top - i);
            EXPECT(i == 0 || check_word(granule->as.word, length * TD__GRANULE, sums) == TD_OK);
        }
        EXPECT(granule->kind == TD__FREE || td__span_committed(spans, i, length) == length);
        for (uint32_t j = 1; j < length && granule->kind != TD__SLAB; j++)
            EXPECT(td__granule_at(spans, i + j)->kind == TD__INSIDE);
        i += length;
    }
    EXPECT(td__span_committed(spans, 0, spans->top) == spans->committed);
    EXPECT(spans->committed <= spans->high_water);
    return TD_OK;
}

static td_status check_lists(const td__spans *spans, uint64_t free_blocks)
{
    for (uint32_t side = 0; side < 2; side++) {
        for (uint32_t order = 0; order < TD__ORDERS; order++) {
            if (!(spans->filled[side] & 1u << order))
                continue;
            uint32_t i = spans->heads[side][order];
            do {
                EXPECT(free_blocks-- > 0);
                const td__granule *block = td__granule_at(spans, i);
                EXPECT(block->kind == TD__FREE && block->order == order && (block->count != 0) == (side != 0));
                EXPECT(td__granule_at(spans, block->as.link.next)->as.link.prev == i);
                i = block->as.link.next;
            } while (i != spans->heads[side][order]);
        }
    }
    EXPECT(free_blocks == 0);
    return TD_OK;
}

static td_status check_open_slabs(const td__slabs *slabs)
{
    for (uint32_t i = 0; i < TD__CLASSES; i++) {
        uint32_t empty = 0;
        TD_LIST_EACH(place, &slabs->open[i])
        {
            const td__slab *slab = TD_LIST_ENTRY(place, td__slab, place);
            EXPECT(slab->slot_class == i && slab->free_slots != 0);
            empty += slab->free_slots == slab->slots;
        }
        EXPECT(empty <= 1);
    }
    return TD_OK;
}

static td_status check_owner(td__owner *owner)
{
    tally sums = {0};
    EXPECT(check_tiles(owner, &sums) == TD_OK);
    EXPECT(check_lists(&owner->spans, sums.free_blocks) == TD_OK);
    EXPECT(check_open_slabs(&owner->slabs) == TD_OK);
    EXPECT(sums.warm == owner->spans.warm);
    EXPECT(sums.live_blocks == owner->live_blocks && sums.live_bytes == owner->live_bytes);
    EXPECT(sums.lent_blocks == owner->lent_count && owner->live_blocks <= owner->lent_room);
    for (uint64_t i = 0; i < owner->lent_count; i++) {
        td__place place;
        uint64_t ref = owner->lent[(owner->lent_head + i) & (owner->lent_room - 1)];
        EXPECT(td__place_find(owner, ref, &place) == TD_OK && td__word_state(*place.word) == TD__STATE_LENT);
    }
    return TD_OK;
}

td_status td_arena_validate(td_arena *arena)
{
    if (arena->owner == NULL)
        return TD_EINVAL;
    pthread_mutex_lock(&arena->owner->lock);
    td_status status = check_owner(arena->owner);
    pthread_mutex_unlock(&arena->owner->lock);
    return status;
}
