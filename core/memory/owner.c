/* memory/owner.c: the owner's side of an arena: allocate, free, lend, sweep, trim.
 *
 * Small blocks are slots of slabs, others are runs of granules. Lent blocks stand in a queue; a sweep takes
 * them from its front, frees those that were given back and puts the others at its end. How many of the latter
 * it looks at is bounded by the number of blocks lent since, so that sweeping costs a constant for each block
 * lent, however many are out.
 *
 * Invariants  I1 a live block's word here says OWNED or LENT; each LENT block is in the queue exactly once, and
 *                nothing else is.
 *             I2 the queue has room for all live blocks, so lending needs no memory.
 *             I3 nothing that peers can write decides where memory is handed out: of a lent block's header only
 *                the word is read, and only compared with what "given back" looks like for its ref.
 * Ordering    G (arena_G): see arena.c; this is the acquiring side.
 * Crash       the tables die with the owner. Peers go on reading the blocks they hold; nobody frees them, the
 *             arena goes as a whole with its last mapping.
 * Locking     one mutex for all of it, held also while pages are committed or released.
 * Tests       tests/memory/test_arena.c, test_arena_model.c, test_arena_faults.c, test_arena_threads.c */
#include "memory/owner.h"

#include <stdlib.h>

#include "base/assert.h"
#include "os/memfd.h"

#define LENT_FIRST 64u
#define SWEEP_EVERY 16u /* after so many lends, a glance at the oldest */
#define SWEEP_GLANCE 4u /* blocks still out that a glance looks at */
#define SWEEP_LOOK 16u  /* the same before cold memory is touched, plus SWEEP_SHARE for each lend since then */
#define SWEEP_SHARE 4u
#define ROOM_RESERVE (UINT64_C(16) << 20) /* left to the heaps of everybody else under the same limit */

/* ---- The machine ----------------------------------------------------------------------------------------- */

static td_status kernel_commit(void *context, int fd, uint64_t offset, uint64_t bytes)
{
    (void)context;
    td_status status = td_memfd_commit(fd, offset, bytes);
    return status == TD_ENOMEM ? TD_ENOROOM : status; /* it was pages that lacked, not this process's heap */
}

static td_status kernel_release(void *context, int fd, uint64_t offset, uint64_t bytes)
{
    (void)context;
    return td_memfd_release(fd, offset, bytes);
}

static uint64_t kernel_room(void *context, uint64_t wanted)
{
    if (context == NULL)
        return UINT64_MAX;
    uint64_t room = td_memory_room(context, wanted + ROOM_RESERVE);
    return room > ROOM_RESERVE ? room - ROOM_RESERVE : 0;
}

/* ---- Finding blocks -------------------------------------------------------------------------------------- */

static void place_slot(td__place *place, td__slab *slab, uint32_t slot)
{
    uint64_t start = ((uint64_t)slab->start << TD__GRANULE_SHIFT) + (uint64_t)slot * slab->stride;
    *place = (td__place){.slab = slab,
                         .slot = slot,
                         .word = &slab->words[slot],
                         .offset = start + TD__BLOCK_HEADER,
                         .bytes = slab->stride};
}

static void place_run(td__place *place, td__granule *run, uint32_t start)
{
    *place = (td__place){.run = run,
                         .start = start,
                         .word = &run->as.word,
                         .offset = ((uint64_t)start << TD__GRANULE_SHIFT) + TD__BLOCK_HEADER,
                         .bytes = (uint64_t)run->count << TD__GRANULE_SHIFT};
}

td_status td__place_find(td__owner *owner, uint64_t ref, td__place *place)
{
    uint64_t offset = td_ref_offset(ref);
    uint64_t index = offset >> TD__GRANULE_SHIFT;
    if (index >= owner->spans.top)
        return TD_EINVAL;
    td__granule *granule = td__granule_at(&owner->spans, (uint32_t)index);
    if (granule->kind == TD__RUN) {
        place_run(place, granule, (uint32_t)index);
    } else if (granule->kind == TD__SLAB) {
        td__slab *slab = granule->as.slab;
        uint32_t inside = (uint32_t)(offset - ((uint64_t)slab->start << TD__GRANULE_SHIFT));
        uint32_t slot = inside / slab->stride;
        if (slot >= slab->slots)
            return TD_EINVAL;
        place_slot(place, slab, slot);
    } else {
        return TD_EINVAL;
    }
    bool live = *place->word == td__word(ref, TD__STATE_OWNED) || *place->word == td__word(ref, TD__STATE_LENT);
    return live && place->offset == offset ? TD_OK : TD_EINVAL;
}

static td_status find_held(td__owner *owner, uint64_t ref, td__state state, td__place *place)
{
    td_status status = td__place_find(owner, ref, place);
    return status == TD_OK && td__word_state(*place->word) != state ? TD_EINVAL : status;
}

/* ---- Freeing --------------------------------------------------------------------------------------------- */

static void free_place(td_arena *arena, const td__place *place)
{
    td__owner *owner = arena->owner;
    td_atomic_store_relaxed(&td__header_at(arena, place->offset)->word, TD__STATE_FREE);
    *place->word = TD__STATE_FREE;
    owner->live_blocks--;
    owner->live_bytes -= place->bytes;
    if (place->slab != NULL)
        td__slot_give(&owner->slabs, &owner->spans, place->slab, place->slot);
    else
        td__span_give(&owner->spans, place->start, place->run->count);
    if (owner->spans.warm > owner->warm_granules) /* a quarter less: the next free shall not come here again */
        td__span_trim(&owner->spans, owner->warm_granules - owner->warm_granules / 4);
}

/* Goes through the lent blocks, oldest first, until `patience` of them were found still out. */
static uint64_t sweep_locked(td_arena *arena, uint64_t patience)
{
    td__owner *owner = arena->owner;
    uint64_t freed = 0, mask = owner->lent_room - 1;
    for (uint64_t left = owner->lent_count; left > 0 && patience > 0; left--) {
        uint64_t ref = owner->lent[owner->lent_head++ & mask];
        td__block_header *header = td__header_at(arena, td_ref_offset(ref));
        if (td_atomic_load_acquire(&header->word) == td__word(ref, TD__STATE_GIVEN)) { /* G */
            td__place place;
            td_status status = find_held(owner, ref, TD__STATE_LENT, &place);
            TD_ASSERT(status == TD_OK);
            (void)status;
            owner->lent_count--;
            free_place(arena, &place);
            freed++;
        } else {
            owner->lent[(owner->lent_head + owner->lent_count - 1) & mask] = ref;
            patience--;
        }
    }
    return freed;
}

/* ---- Allocating ------------------------------------------------------------------------------------------ */

static td_status reserve_lent(td__owner *owner)
{
    if (owner->live_blocks < owner->lent_room)
        return TD_OK;
    uint64_t room = owner->lent_room == 0 ? LENT_FIRST : owner->lent_room * 2;
    uint64_t *lent = malloc(room * sizeof *lent);
    if (lent == NULL)
        return TD_ENOMEM;
    for (uint64_t i = 0; i < owner->lent_count; i++)
        lent[i] = owner->lent[(owner->lent_head + i) & (owner->lent_room - 1)];
    free(owner->lent);
    owner->lent = lent;
    owner->lent_head = 0;
    owner->lent_room = room;
    return TD_OK;
}

static uint32_t granules_for(uint64_t bytes)
{
    return (uint32_t)((bytes + TD__GRANULE - 1) >> TD__GRANULE_SHIFT);
}

/* What a block of `bytes`, header included, takes. */
static uint64_t rounded(uint64_t bytes)
{
    return bytes <= TD__SLOT_MAX ? td__slot_stride(td__slot_class(bytes))
                                 : (uint64_t)granules_for(bytes) << TD__GRANULE_SHIFT;
}

static bool is_over_cap(const td__owner *owner, uint64_t bytes)
{
    return owner->live_bytes > owner->cap_bytes || owner->cap_bytes - owner->live_bytes < rounded(bytes);
}

static bool ready(const td__owner *owner, uint64_t bytes)
{
    return bytes <= TD__SLOT_MAX ? td__slab_ready(&owner->slabs, td__slot_class(bytes))
                                 : td__span_ready(&owner->spans, granules_for(bytes));
}

static td_status take_place(td__owner *owner, uint64_t bytes, bool thrifty, td__place *place)
{
    if (is_over_cap(owner, bytes))
        return TD_ENOROOM;
    if (bytes <= TD__SLOT_MAX) {
        td__slab *slab;
        uint32_t slot;
        td_status status =
            td__slot_take(&owner->slabs, &owner->spans, td__slot_class(bytes), thrifty, &slab, &slot);
        if (status == TD_OK)
            place_slot(place, slab, slot);
        return status;
    }
    uint32_t start;
    td_status status = td__span_take(&owner->spans, granules_for(bytes), thrifty, &start);
    if (status == TD_OK)
        place_run(place, td__granule_at(&owner->spans, start), start);
    return status;
}

/* Would the block fit if everything that lives now were freed? */
static bool may_fit_later(td__owner *owner, uint64_t bytes)
{
    td__spans *spans = &owner->spans;
    uint64_t needed = rounded(bytes);
    if (owner->live_blocks == 0 || needed > owner->cap_bytes ||
        1u << td__order_of(granules_for(bytes)) > spans->limit / 2)
        return false;
    uint64_t held = spans->committed << TD__GRANULE_SHIFT;
    return needed <= held || spans->backing.room(spans->backing.context, needed - held) >= needed - held;
}

/* The first attempt failed for lack of room: now everything that costs time. */
static td_status take_place_hard(td_arena *arena, uint64_t bytes, td__place *place)
{
    td__owner *owner = arena->owner;
    sweep_locked(arena, UINT64_MAX);
    td_status status = take_place(owner, bytes, true, place);
    if (status == TD_ENOROOM && !is_over_cap(owner, bytes)) {
        td__slabs_trim(&owner->slabs, &owner->spans);
        td__span_trim(&owner->spans, 0);
        status = take_place(owner, bytes, true, place);
    }
    return status == TD_ENOROOM && may_fit_later(owner, bytes) ? TD_EAGAIN : status;
}

static uint64_t publish_place(td_arena *arena, const td__place *place)
{
    td__owner *owner = arena->owner;
    owner->generation = (owner->generation + 1) % TD__GENERATIONS;
    uint64_t ref = (uint64_t)owner->generation << 40 | place->offset;
    td__block_header *header = td__header_at(arena, place->offset);
    *place->word = td__word(ref, TD__STATE_OWNED);
    td_atomic_store_relaxed(&header->magic, TD__BLOCK_MAGIC ^ place->offset);
    td_atomic_store_relaxed(&header->capacity, place->bytes - TD__BLOCK_HEADER);
    td_atomic_store_relaxed(&header->word, *place->word);
    owner->live_blocks++;
    owner->live_bytes += place->bytes;
    return ref;
}

static void hand_out(td_arena *arena, const td__place *place, struct td_block *out)
{
    out->ref = publish_place(arena, place);
    out->data = arena->base + place->offset;
    out->capacity = place->bytes - TD__BLOCK_HEADER;
}

/* What was given back makes room before cold memory is touched. */
static void sweep_unless_ready(td_arena *arena, uint64_t bytes)
{
    td__owner *owner = arena->owner;
    if (owner->lent_count == 0 || ready(owner, bytes))
        return;
    sweep_locked(arena, SWEEP_LOOK + SWEEP_SHARE * owner->lends);
    owner->lends = 0;
}

static td_status alloc_locked(td_arena *arena, uint64_t bytes, struct td_block *out)
{
    td__owner *owner = arena->owner;
    td__place place;
    td_status status = reserve_lent(owner);
    if (status != TD_OK)
        return status;
    sweep_unless_ready(arena, bytes);
    status = take_place(owner, bytes, false, &place);
    if (status == TD_ENOROOM)
        status = take_place_hard(arena, bytes, &place);
    if (status != TD_OK)
        return status;
    hand_out(arena, &place, out);
    return TD_OK;
}

static td_status alloc_warm_locked(td_arena *arena, uint64_t bytes, bool look, struct td_block *out)
{
    td__owner *owner = arena->owner;
    td__place place;
    uint32_t start;
    td_status status = reserve_lent(owner);
    if (status != TD_OK)
        return status;
    if (look)
        sweep_unless_ready(arena, bytes);
    if (is_over_cap(owner, bytes))
        return TD_EAGAIN;
    if (bytes <= TD__SLOT_MAX) {
        status = ready(owner, bytes) ? take_place(owner, bytes, false, &place) : TD_EAGAIN;
    } else {
        status = td__span_take_warm(&owner->spans, granules_for(bytes), &start);
        if (status == TD_OK)
            place_run(&place, td__granule_at(&owner->spans, start), start);
    }
    if (status == TD_OK)
        hand_out(arena, &place, out);
    return status;
}

td_status td_arena_alloc(td_arena *arena, uint64_t bytes, struct td_block *out)
{
    td__owner *owner = arena->owner;
    if (owner == NULL)
        return TD_EINVAL;
    if (bytes > arena->size - TD__GRANULE - TD__BLOCK_HEADER)
        return TD_ENOROOM;
    pthread_mutex_lock(&owner->lock);
    const td_status status = alloc_locked(arena, bytes + TD__BLOCK_HEADER, out);
    pthread_mutex_unlock(&owner->lock);
    return status;
}

td_status td_arena_alloc_uncapped(td_arena *arena, uint64_t bytes, struct td_block *out)
{
    td__owner *owner = arena->owner;
    if (owner == NULL)
        return TD_EINVAL;
    if (bytes > arena->size - TD__GRANULE - TD__BLOCK_HEADER)
        return TD_ENOROOM;
    pthread_mutex_lock(&owner->lock);
    const uint64_t cap_bytes = owner->cap_bytes;
    owner->cap_bytes = UINT64_MAX;
    const td_status status = alloc_locked(arena, bytes + TD__BLOCK_HEADER, out);
    owner->cap_bytes = cap_bytes;
    pthread_mutex_unlock(&owner->lock);
    return status == TD_EAGAIN ? TD_ENOROOM : status;
}

td_status td_arena_alloc_warm(td_arena *arena, uint64_t bytes, bool look, struct td_block *out)
{
    td__owner *owner = arena->owner;
    if (owner == NULL)
        return TD_EINVAL;
    if (bytes > arena->size - TD__GRANULE - TD__BLOCK_HEADER)
        return TD_EAGAIN;
    pthread_mutex_lock(&owner->lock);
    const td_status status = alloc_warm_locked(arena, bytes + TD__BLOCK_HEADER, look, out);
    pthread_mutex_unlock(&owner->lock);
    return status;
}

bool td_arena_is_full(td_arena *arena, uint64_t bytes)
{
    td__owner *owner = arena->owner;
    pthread_mutex_lock(&owner->lock);
    const bool full = is_over_cap(owner, bytes + TD__BLOCK_HEADER);
    pthread_mutex_unlock(&owner->lock);
    return full;
}

/* ---- The other operations -------------------------------------------------------------------------------- */

/* With TD_OK the lock is held. */
static td_status lock_held(td_arena *arena, uint64_t ref, td__state state, td__place *place)
{
    td__owner *owner = arena->owner;
    if (owner == NULL)
        return TD_EINVAL;
    pthread_mutex_lock(&owner->lock);
    td_status status = find_held(owner, ref, state, place);
    if (status != TD_OK)
        pthread_mutex_unlock(&owner->lock);
    return status;
}

static td_status shrink_locked(td_arena *arena, const td__place *place, uint64_t bytes)
{
    td__owner *owner = arena->owner;
    if (bytes > place->bytes - TD__BLOCK_HEADER)
        return TD_EINVAL;
    if (place->run == NULL)
        return TD_OK;
    uint32_t keep = granules_for(bytes + TD__BLOCK_HEADER), drop = place->run->count - keep;
    if (drop == 0)
        return TD_OK;
    uint64_t capacity = ((uint64_t)keep << TD__GRANULE_SHIFT) - TD__BLOCK_HEADER;
    place->run->count = keep;
    td_atomic_store_relaxed(&td__header_at(arena, place->offset)->capacity, capacity);
    td__span_give(&owner->spans, place->start + keep, drop);
    owner->live_bytes -= (uint64_t)drop << TD__GRANULE_SHIFT;
    return TD_OK;
}

td_status td_arena_shrink(td_arena *arena, uint64_t ref, uint64_t bytes)
{
    td__place place;
    td_status status = lock_held(arena, ref, TD__STATE_OWNED, &place);
    if (status != TD_OK)
        return status;
    status = shrink_locked(arena, &place, bytes);
    pthread_mutex_unlock(&arena->owner->lock);
    return status;
}

td_status td_arena_free(td_arena *arena, uint64_t ref)
{
    td__place place;
    td_status status = lock_held(arena, ref, TD__STATE_OWNED, &place);
    if (status != TD_OK)
        return status;
    free_place(arena, &place);
    pthread_mutex_unlock(&arena->owner->lock);
    return TD_OK;
}

td_status td_arena_lend(td_arena *arena, uint64_t ref)
{
    td__owner *owner = arena->owner;
    td__place place;
    td_status status = lock_held(arena, ref, TD__STATE_OWNED, &place);
    if (status != TD_OK)
        return status;
    *place.word = td__word(ref, TD__STATE_LENT);
    td_atomic_store_relaxed(&td__header_at(arena, place.offset)->word, *place.word);
    TD_ASSERT_LT(owner->lent_count, owner->lent_room);
    owner->lent[(owner->lent_head + owner->lent_count++) & (owner->lent_room - 1)] = ref;
    if (++owner->lends % SWEEP_EVERY == 0)
        sweep_locked(arena, SWEEP_GLANCE);
    pthread_mutex_unlock(&owner->lock);
    return TD_OK;
}

td_status td_arena_reclaim(td_arena *arena, uint64_t ref)
{
    td__place place;
    td_status status = lock_held(arena, ref, TD__STATE_LENT, &place);
    if (status != TD_OK)
        return status;
    /* The next sweep meets it in the queue. */
    td_atomic_store_relaxed(&td__header_at(arena, place.offset)->word, td__word(ref, TD__STATE_GIVEN));
    pthread_mutex_unlock(&arena->owner->lock);
    return TD_OK;
}

uint64_t td_arena_sweep(td_arena *arena)
{
    td__owner *owner = arena->owner;
    if (owner == NULL)
        return 0;
    pthread_mutex_lock(&owner->lock);
    uint64_t freed = sweep_locked(arena, UINT64_MAX);
    pthread_mutex_unlock(&owner->lock);
    return freed;
}

uint64_t td_arena_trim(td_arena *arena, uint64_t keep_bytes)
{
    td__owner *owner = arena->owner;
    if (owner == NULL)
        return 0;
    pthread_mutex_lock(&owner->lock);
    sweep_locked(arena, UINT64_MAX);
    td__slabs_trim(&owner->slabs, &owner->spans);
    uint64_t released = td__span_trim(&owner->spans, keep_bytes >> TD__GRANULE_SHIFT);
    pthread_mutex_unlock(&owner->lock);
    return released << TD__GRANULE_SHIFT;
}

void td_arena_stats_read(td_arena *arena, td_arena_stats *out)
{
    td__owner *owner = arena->owner;
    *out = (td_arena_stats){0};
    if (owner == NULL)
        return;
    pthread_mutex_lock(&owner->lock);
    const td__spans *spans = &owner->spans;
    out->live_blocks = owner->live_blocks;
    out->lent_blocks = owner->lent_count;
    out->live_bytes = owner->live_bytes;
    out->committed_bytes = spans->committed << TD__GRANULE_SHIFT;
    out->warm_bytes = spans->warm << TD__GRANULE_SHIFT;
    out->high_water = spans->high_water << TD__GRANULE_SHIFT;
    out->range_bytes = (uint64_t)spans->top << TD__GRANULE_SHIFT;
    pthread_mutex_unlock(&owner->lock);
}

/* ---- Life ------------------------------------------------------------------------------------------------ */

td_status td__owner_new(int fd, uint64_t size, const td_arena_config *config, td__owner **out)
{
    td_arena_backing kernel = {kernel_commit, kernel_release, kernel_room, (void *)(uintptr_t)config->budget};
    td__owner *owner = calloc(1, sizeof *owner);
    uint32_t first;
    if (owner == NULL)
        return TD_ENOMEM;
    pthread_mutex_init(&owner->lock, NULL);
    td__spans_init(&owner->spans, fd, size, config->backing != NULL ? config->backing : &kernel);
    td__slabs_init(&owner->slabs);
    owner->cap_bytes = config->cap_bytes != 0 ? config->cap_bytes : UINT64_MAX;
    owner->warm_granules = config->warm_bytes >> TD__GRANULE_SHIFT;
    td_status status = td__span_take(&owner->spans, 1, false, &first); /* the header's run is never a block */
    if (status != TD_OK) {
        td__owner_free(owner);
        return status;
    }
    TD_ASSERT_EQ(first, 0u);
    *out = owner;
    return TD_OK;
}

/* The lock is not destroyed: in a forked child somebody else may seem to hold it, and it holds nothing. */
void td__owner_free(td__owner *owner)
{
    td__slabs_fini(&owner->slabs, &owner->spans);
    td__spans_fini(&owner->spans);
    free(owner->lent);
    free(owner);
}
