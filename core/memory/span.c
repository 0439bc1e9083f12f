/* memory/span.c: buddy allocator over an arena's granules, with the pages under them.
 *
 * The range is handed out from the bottom up to `top`, the high-water mark; tables exist only below it. A free
 * block has 2^order granules and starts at a multiple of that; freeing merges it with its buddy as long as that
 * is free. A run of n granules is the front of a block of the next power of two, whose tail goes straight back
 * to the free lists, so that nothing is lost to rounding.
 *
 * Warmth. A fresh page costs ten times a warm one, so each order has two lists: free blocks with committed
 * pages (the most recently freed first) and those without. Taking prefers the block with the fewest pages
 * missing. It does not break up warm blocks far larger than needed, since the next large request would have to
 * commit all of its pages again: what that costs is bounded by the limit on warm memory. Small requests commit
 * ahead in steps that double.
 *
 * Invariants  I1 [0, top) is tiled by free blocks, runs and slabs; every other granule's kind is TD__INSIDE.
 *             I2 no two free buddies of one order; a free block's count is its number of committed granules, it
 *                is in the warm list iff that isn't 0.
 *             I3 all granules of runs and slabs are committed.
 *             I4 giving and trimming need no memory, so they can't fail.
 * Crash       all of this is heap memory of the owner; the pages go with the last mapping.
 * Locking     the caller holds the arena's lock, also while pages are committed.
 * Tests       tests/memory/test_span.c, test_arena_model.c */
#include "memory/span.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/trace.h"

enum { COLD, WARM };

#define STEP_FIRST 4u   /* 64 KiB */
#define STEP_LAST 256u  /* 4 MiB */
#define GROW_ORDER 8u   /* the range grows by at least 4 MiB */
#define BREAK_ORDERS 4u /* a warm block this many orders larger than needed, and over 4 MiB, stays whole */
#define CREDIT_LAST (UINT64_C(16) << 20)
#define CREDIT_SHARE 16u /* of the room that is left, this part may be committed before it is asked for again */

/* ---- The bitmap of committed granules -------------------------------------------------------------------- */

static uint64_t *bits_at(const td__spans *spans, uint32_t index)
{
    return &spans->segments[index >> TD__SEGMENT_SHIFT]->committed[(index & (TD__SEGMENT - 1)) / 64];
}

static uint64_t *filled_at(const td__spans *spans, uint32_t index)
{
    return &spans->segments[index >> TD__SEGMENT_SHIFT]->filled[(index & (TD__SEGMENT - 1)) / 64];
}

/* Bits of the word of `index` that stand for granules in [index, end). */
static uint64_t mask_from(uint32_t index, uint32_t end)
{
    uint32_t low = index % 64, count = end - index;
    uint64_t mask = UINT64_MAX << low;
    if (count < 64 - low)
        mask &= (UINT64_C(1) << (low + count)) - 1;
    return mask;
}

static uint32_t next_word(uint32_t index)
{
    return (index | 63u) + 1;
}

uint32_t td__span_committed(const td__spans *spans, uint32_t start, uint32_t count)
{
    uint32_t sum = 0, end = start + count;
    for (uint32_t i = start; i < end; i = next_word(i))
        sum += (uint32_t)__builtin_popcountll(*bits_at(spans, i) & mask_from(i, end));
    return sum;
}

uint32_t td__span_fill(td__spans *spans, uint32_t start, uint32_t count)
{
    uint32_t sum = 0, end = start + count;
    for (uint32_t i = start; i < end; i = next_word(i)) {
        uint64_t *word = filled_at(spans, i);
        sum += (uint32_t)__builtin_popcountll(~*word & mask_from(i, end));
        *word |= mask_from(i, end);
    }
    return sum;
}

typedef uint64_t *bitmap(const td__spans *spans, uint32_t index);

/* The first granule from `start` on whose bit is set (or isn't); `end` when there is none. */
static uint32_t find_bit(bitmap *word_at, const td__spans *spans, uint32_t start, uint32_t end, bool set)
{
    for (uint32_t i = start; i < end; i = next_word(i)) {
        uint64_t word = *word_at(spans, i);
        uint64_t hits = (set ? word : ~word) & mask_from(i, end);
        if (hits != 0)
            return (i & ~63u) + (uint32_t)__builtin_ctzll(hits);
    }
    return end;
}

static uint32_t find_granule(const td__spans *spans, uint32_t start, uint32_t end, bool committed)
{
    return find_bit(bits_at, spans, start, end, committed);
}

bool td__span_find_filled(const td__spans *spans, uint32_t *start, uint32_t end, uint32_t *stop)
{
    *start = find_bit(filled_at, spans, *start, end, true);
    *stop = find_bit(filled_at, spans, *start, end, false);
    return *start < end;
}

static void mark_granules(td__spans *spans, uint32_t start, uint32_t end, bool committed)
{
    for (uint32_t i = start; i < end; i = next_word(i)) {
        if (committed)
            *bits_at(spans, i) |= mask_from(i, end);
        else
            *bits_at(spans, i) &= ~mask_from(i, end);
    }
}

/* ---- Pages ----------------------------------------------------------------------------------------------- */

/* Asking for the room reads files, so a part of the answer is used up before it is asked for again. */
static td_status check_room(td__spans *spans, uint64_t bytes)
{
    if (bytes <= spans->room_credit) {
        spans->room_credit -= bytes;
        return TD_OK;
    }
    spans->room_credit = 0;
    uint64_t room = spans->backing.room(spans->backing.context, bytes + CREDIT_LAST * CREDIT_SHARE);
    if (room < bytes)
        return TD_ENOROOM;
    uint64_t credit = (room - bytes) / CREDIT_SHARE;
    spans->room_credit = credit < CREDIT_LAST ? credit : CREDIT_LAST;
    return TD_OK;
}

static td_status commit_gap(td__spans *spans, uint32_t start, uint32_t end)
{
    uint64_t offset = (uint64_t)start << TD__GRANULE_SHIFT, bytes = (uint64_t)(end - start)
                                                                    << TD__GRANULE_SHIFT;
    td_status status = spans->backing.commit(spans->backing.context, spans->fd, offset, bytes);
    if (status != TD_OK) {
        /* Some of it may be there, and nobody would know of it. */
        (void)spans->backing.release(spans->backing.context, spans->fd, offset, bytes);
        spans->room_credit = 0;
        return status;
    }
    mark_granules(spans, start, end, true);
    for (uint32_t i = start; i < end; i = next_word(i))
        *filled_at(spans, i) &= ~mask_from(i, end);
    spans->committed += end - start;
    if (spans->committed > spans->high_water)
        spans->high_water = spans->committed;
    TD_TRACE(GROW, spans->fd, bytes);
    return TD_OK;
}

/* Commits what is missing in [start, start + count), which is in no free list. On failure some of it is
 * committed. */
static td_status commit_span(td__spans *spans, uint32_t start, uint32_t count)
{
    uint32_t end = start + count, missing = count - td__span_committed(spans, start, count);
    if (missing == 0)
        return TD_OK;
    td_status status = check_room(spans, (uint64_t)missing << TD__GRANULE_SHIFT);
    uint32_t i = find_granule(spans, start, end, false);
    while (status == TD_OK && i < end) {
        uint32_t stop = find_granule(spans, i, end, true);
        status = commit_gap(spans, i, stop);
        i = find_granule(spans, stop, end, false);
    }
    return status;
}

/* ---- Free lists ------------------------------------------------------------------------------------------ */

static void link_block(td__spans *spans, uint32_t start, uint32_t order, uint32_t warm)
{
    uint32_t side = warm != 0 ? WARM : COLD;
    uint32_t *head = &spans->heads[side][order];
    td__granule *block = td__granule_at(spans, start);
    block->kind = TD__FREE;
    block->order = (uint8_t)order;
    block->count = warm;
    if (spans->filled[side] & (1u << order)) {
        uint32_t first = *head, last = td__granule_at(spans, first)->as.link.prev;
        block->as.link.next = first;
        block->as.link.prev = last;
        td__granule_at(spans, first)->as.link.prev = start;
        td__granule_at(spans, last)->as.link.next = start;
    } else {
        block->as.link.next = block->as.link.prev = start;
        spans->filled[side] |= 1u << order;
    }
    *head = start;
    spans->warm += warm;
}

static void unlink_block(td__spans *spans, uint32_t start)
{
    td__granule *block = td__granule_at(spans, start);
    TD_ASSERT_EQ((unsigned)block->kind, (unsigned)TD__FREE);
    uint32_t side = block->count != 0 ? WARM : COLD, order = block->order;
    uint32_t next = block->as.link.next, prev = block->as.link.prev;
    if (next == start) {
        spans->filled[side] &= ~(1u << order);
    } else {
        td__granule_at(spans, next)->as.link.prev = prev;
        td__granule_at(spans, prev)->as.link.next = next;
        if (spans->heads[side][order] == start)
            spans->heads[side][order] = next;
    }
    block->kind = TD__INSIDE;
    spans->warm -= block->count;
}

/* Frees one aligned block, merging it upwards. */
static void free_block(td__spans *spans, uint32_t start, uint32_t order, uint32_t warm)
{
    for (; order + 1 < TD__ORDERS; order++) {
        uint32_t size = 1u << order, buddy = start ^ size;
        if (buddy + size > spans->top)
            break;
        const td__granule *other = td__granule_at(spans, buddy);
        if (other->kind != TD__FREE || other->order != order)
            break;
        warm += other->count;
        unlink_block(spans, buddy);
        start &= ~size;
    }
    link_block(spans, start, order, warm);
}

/* Frees [start, end) as the largest aligned blocks it consists of. */
static void free_span(td__spans *spans, uint32_t start, uint32_t end)
{
    while (start < end) {
        uint32_t order = 31u - (uint32_t)__builtin_clz(end - start);
        if (start != 0 && (uint32_t)__builtin_ctz(start) < order)
            order = (uint32_t)__builtin_ctz(start);
        free_block(spans, start, order, td__span_committed(spans, start, 1u << order));
        start += 1u << order;
    }
}

void td__span_give(td__spans *spans, uint32_t start, uint32_t count)
{
    td__granule_at(spans, start)->kind = TD__INSIDE;
    free_span(spans, start, start + count);
}

/* ---- Growing the range ----------------------------------------------------------------------------------- */

static td_status grow_tables(td__spans *spans, uint32_t top)
{
    uint32_t needed = (top + TD__SEGMENT - 1) >> TD__SEGMENT_SHIFT;
    if (needed <= spans->segment_count)
        return TD_OK;
    td__segment **segments = realloc(spans->segments, needed * sizeof *segments);
    if (segments == NULL)
        return TD_ENOMEM;
    spans->segments = segments;
    while (spans->segment_count < needed) {
        td__segment *segment = calloc(1, sizeof *segment);
        if (segment == NULL)
            return TD_ENOMEM;
        segments[spans->segment_count++] = segment;
    }
    return TD_OK;
}

/* Puts a new, cold block of at least `order` into the free lists. The room is checked before the tables are
 * made, so that an absurd request doesn't cost the heap what its pages would have. */
static td_status grow_range(td__spans *spans, uint32_t order, uint32_t count)
{
    uint32_t old_top = spans->top, big = order > GROW_ORDER ? order : GROW_ORDER;
    uint64_t start = 0, end = UINT64_MAX;
    for (; end > spans->limit; big = order) {
        start = ((uint64_t)old_top + (1u << big) - 1) >> big << big;
        end = start + (1u << big);
        if (end > spans->limit && big == order)
            return TD_ENOROOM;
        if (end <= spans->limit)
            break;
    }
    uint64_t bytes = (uint64_t)count << TD__GRANULE_SHIFT;
    if (bytes > spans->room_credit && spans->backing.room(spans->backing.context, bytes) < bytes)
        return TD_ENOROOM;
    td_status status = grow_tables(spans, (uint32_t)end);
    if (status != TD_OK)
        return status;
    spans->top = (uint32_t)end;
    free_span(spans, old_top, (uint32_t)start);
    free_block(spans, (uint32_t)start, big, 0);
    return TD_OK;
}

/* ---- Taking ---------------------------------------------------------------------------------------------- */

/* The free block to take `count` granules from: the one with the fewest pages missing, among those the
 * smallest. TD__NO_GRANULE when there is none, or only warm ones too large to be broken up. */
static uint32_t pick_block(const td__spans *spans, uint32_t count, bool thrifty, uint32_t *missing)
{
    uint32_t order = td__order_of(count), at_least = UINT32_MAX << order;
    uint32_t last = order + BREAK_ORDERS > GROW_ORDER ? order + BREAK_ORDERS : GROW_ORDER;
    uint32_t best = TD__NO_GRANULE;
    *missing = UINT32_MAX;
    for (uint32_t left = spans->filled[WARM] & at_least; left != 0; left &= left - 1) {
        uint32_t size = (uint32_t)__builtin_ctz(left), block = spans->heads[WARM][size];
        if (size > last && !thrifty)
            break;
        uint32_t warm = td__granule_at(spans, block)->count;
        uint32_t lacks = warm < count ? count - warm : 0;
        if (lacks < *missing) {
            best = block;
            *missing = lacks;
        }
        if (lacks == 0)
            break;
    }
    uint32_t cold = spans->filled[COLD] & at_least;
    if (best == TD__NO_GRANULE && cold != 0) {
        best = spans->heads[COLD][__builtin_ctz(cold)];
        *missing = count;
    }
    return best;
}

bool td__span_ready(const td__spans *spans, uint32_t count)
{
    uint32_t missing;
    return pick_block(spans, count, false, &missing) != TD__NO_GRANULE && missing == 0;
}

/* Halves a block that is in no list down to `order`, keeping the warmer half, of two alike the lower one. */
static uint32_t split_block(td__spans *spans, uint32_t start, uint32_t from, uint32_t order, uint32_t *warm)
{
    while (from > order) {
        uint32_t half = 1u << --from;
        uint32_t low = *warm == 0 ? 0 : *warm == 2 * half ? half : td__span_committed(spans, start, half);
        uint32_t high = *warm - low;
        if (high > low) {
            link_block(spans, start, from, low);
            start += half;
            *warm = high;
        } else {
            link_block(spans, start + half, from, high);
            *warm = low;
        }
    }
    return start;
}

/* Commits a whole block of up to the step's size around what is needed, if that can be had. */
static uint32_t commit_ahead(td__spans *spans, uint32_t start, uint32_t *order, uint32_t needed, uint32_t *warm)
{
    uint32_t ahead = td__order_of(spans->step);
    if (ahead > *order)
        ahead = *order;
    if (ahead <= needed)
        return start;
    start = split_block(spans, start, *order, ahead, warm);
    *order = ahead;
    if (commit_span(spans, start, 1u << ahead) == TD_OK && spans->step < STEP_LAST)
        spans->step *= 2;
    *warm = td__span_committed(spans, start, 1u << ahead);
    return start;
}

/* Makes the first `count` granules of a block of order `needed`, which is in no list, a run; the rest is free. */
static uint32_t make_run(td__spans *spans, uint32_t start, uint32_t count, uint32_t needed)
{
    td__granule *run = td__granule_at(spans, start);
    run->kind = TD__RUN;
    run->count = count;
    run->as.word = 0;
    free_span(spans, start + count, start + (1u << needed));
    return start;
}

td_status td__span_take(td__spans *spans, uint32_t count, bool thrifty, uint32_t *out)
{
    uint32_t needed = td__order_of(count), missing, block = TD__NO_GRANULE;
    if (count == 0 || count > spans->limit)
        return TD_ENOROOM;
    block = pick_block(spans, count, thrifty, &missing);
    if (block == TD__NO_GRANULE) {
        td_status status = grow_range(spans, needed, count);
        if (status != TD_OK)
            return status;
        block = pick_block(spans, count, thrifty, &missing);
        TD_ASSERT(block != TD__NO_GRANULE);
    }
    uint32_t order = td__granule_at(spans, block)->order, warm = td__granule_at(spans, block)->count;
    uint32_t start = block;
    unlink_block(spans, block);
    if (missing != 0)
        start = commit_ahead(spans, start, &order, needed, &warm);
    start = split_block(spans, start, order, needed, &warm);
    if (warm != 1u << needed) {
        td_status status = commit_span(spans, start, count);
        if (status != TD_OK) {
            free_span(spans, start, start + (1u << needed));
            return status;
        }
    }
    *out = make_run(spans, start, count, needed);
    return TD_OK;
}

/* A block's number of committed granules does not tell where in it they are, so the run is looked at again. */
td_status td__span_take_warm(td__spans *spans, uint32_t count, uint32_t *out)
{
    uint32_t needed = td__order_of(count), missing;
    if (count == 0 || count > spans->limit)
        return TD_EAGAIN;
    uint32_t start = pick_block(spans, count, false, &missing);
    if (start == TD__NO_GRANULE || missing != 0)
        return TD_EAGAIN;
    uint32_t order = td__granule_at(spans, start)->order, warm = td__granule_at(spans, start)->count;
    unlink_block(spans, start);
    start = split_block(spans, start, order, needed, &warm);
    if (warm != 1u << needed && td__span_committed(spans, start, count) != count) {
        free_span(spans, start, start + (1u << needed));
        return TD_EAGAIN;
    }
    *out = make_run(spans, start, count, needed);
    return TD_OK;
}

/* ---- Trimming -------------------------------------------------------------------------------------------- */

/* Releases up to `most` granules at the end of a free block, which is in no list; how many. */
static uint32_t release_tail(td__spans *spans, uint32_t start, uint32_t order, uint32_t warm, uint32_t most)
{
    uint32_t end = start + (1u << order), released = 0, i = start;
    if (warm > most) { /* keep the first warm - most */
        for (uint32_t keep = warm - most; keep > 0;) {
            i = find_granule(spans, i, end, true);
            uint32_t stop = find_granule(spans, i, end, false), length = stop - i;
            i += length < keep ? length : keep;
            keep -= length < keep ? length : keep;
        }
    }
    while ((i = find_granule(spans, i, end, true)) < end) {
        uint32_t stop = find_granule(spans, i, end, false);
        uint64_t offset = (uint64_t)i << TD__GRANULE_SHIFT, bytes = (uint64_t)(stop - i) << TD__GRANULE_SHIFT;
        if (spans->backing.release(spans->backing.context, spans->fd, offset, bytes) != TD_OK)
            break;
        mark_granules(spans, i, stop, false);
        spans->committed -= stop - i;
        released += stop - i;
        TD_TRACE(TRIM, spans->fd, bytes);
        i = stop;
    }
    return released;
}

uint64_t td__span_trim(td__spans *spans, uint64_t keep)
{
    uint64_t sum = 0;
    for (uint32_t order = TD__ORDERS; order-- > 0;) {
        while (spans->warm > keep && (spans->filled[WARM] & (1u << order))) {
            uint32_t block = td__granule_at(spans, spans->heads[WARM][order])->as.link.prev;
            uint32_t warm = td__granule_at(spans, block)->count;
            uint64_t excess = spans->warm - keep;
            uint32_t most = excess < warm ? (uint32_t)excess : warm;
            unlink_block(spans, block);
            uint32_t released = release_tail(spans, block, order, warm, most);
            link_block(spans, block, order, warm - released);
            sum += released;
            if (released < most)
                return sum; /* the kernel refuses: no use in asking on */
        }
    }
    if (sum != 0)
        spans->step = STEP_FIRST;
    return sum;
}

/* ---- Life ------------------------------------------------------------------------------------------------ */

void td__spans_init(td__spans *spans, int fd, uint64_t size, const td_arena_backing *backing)
{
    memset(spans, 0, sizeof *spans);
    spans->fd = fd;
    spans->limit = (uint32_t)(size >> TD__GRANULE_SHIFT);
    spans->step = STEP_FIRST;
    spans->room_credit =
        STEP_FIRST << TD__GRANULE_SHIFT; /* an arena can be made even where there is no room left */
    spans->backing = *backing;
}

void td__spans_fini(td__spans *spans)
{
    for (uint32_t i = 0; i < spans->segment_count; i++)
        free(spans->segments[i]);
    free(spans->segments);
}
