/* sched/deque.h: the work-stealing deque of Chase and Lev: one thread puts ranges of a loop in at the bottom and takes
 * them out there again; all others take from the top.
 *
 *            top                       bottom
 *       ------+---------+---------+------+------         counts only grow; cell = count mod TD_DEQUE_CELLS
 *     thieves | oldest  |         | newest | the owner
 *       take ->                            <- takes, and puts
 *
 * Bounded: what finds no room is done at once by who would have put it in. So cells never move, no memory is ever
 * retired, and a thief may read a cell that is no longer there: it finds out when it tries to take it.
 *
 * Invariants  I1 0 <= bottom - top <= TD_DEQUE_CELLS, but for a moment of a take by the owner (-1).
 *             I2 only the owner writes bottom and the cells. top only grows, by a compare-and-swap of whoever takes the
 *                range at it.
 *             I3 each range that was published is taken once.
 * Ordering    P: write the loop, the cell -> release bottom -> acquire bottom -> read the cell; take it by top; read
 *                the loop.
 *             R: read the cell -> release top (the compare-and-swap) -> acquire top -> overwrite the cell. Who reads
 *                a cell while it is overwritten fails at the compare-and-swap: for the owner has seen that top had
 *                gone on. So a cell is four words, read one by one.
 *             O: owner:  bottom -= 1 (O1); look at top (O2); it takes without a compare-and-swap if two or more were
 *                        there.
 *                thief:  look at top (O3); look at bottom (O4); take by a compare-and-swap of top (O5).
 *                All are seq_cst, in one total order. Would both take the range b: the owner saw top < b at O2, so O2
 *                stands before the O5 that made top b, which stands before this thief's O3. So O1 stands before O4,
 *                and O4 found bottom = b, at most: nothing to take. The last range (top = b at O2) is the
 *                owner's only if its own compare-and-swap of top is the one that succeeds.
 *             S: publishing is the first half of a pair, too: sched/park.h.
 *             O1 and P are written as exchanges: see ring/doorbell.h.
 * Crash       in the memory of one process: none is left to see it.
 * Tests       tests/sched/test_deque.c */
#ifndef TD_SCHED_DEQUE_H
#define TD_SCHED_DEQUE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/atomic.h"

#define TD_DEQUE_CELLS 256u

struct td_region;

/* A part of a loop: the units [first, last) of its region. The tag says who may take it (sched/hand.h); it can be read
 * before the range is taken, when the region may be gone. */
struct td_range {
    struct td_region *region;
    uint64_t first, last;
    uint64_t tag;
};

struct td_deque_cell {
    td_atomic_ptr region;
    td_atomic_u64 first, last, tag;
};

struct td_deque {
    TD_ALIGNED(TD_CACHELINE) td_atomic_u64 top;
    TD_ALIGNED(TD_CACHELINE) td_atomic_u64 bottom;
    struct td_deque_cell cells[TD_DEQUE_CELLS];
};

/* Nobody else may use it meanwhile. */
static inline void td_deque_init(struct td_deque *deque)
{
    td_atomic_store_relaxed(&deque->top, 0);
    td_atomic_store_relaxed(&deque->bottom, 0);
}

/* Owner. Writes a range above the bottom, `staged` others being there already; false: there is no room. Nobody sees it
 * until it is published. */
static inline bool td_deque_stage(struct td_deque *deque, uint32_t staged, const struct td_range *range)
{
    const uint64_t at = td_atomic_load_relaxed(&deque->bottom) + staged;
    if (at - td_atomic_load_acquire(&deque->top) >= TD_DEQUE_CELLS) /* R */
        return false;
    struct td_deque_cell *cell = &deque->cells[at % TD_DEQUE_CELLS];
    td_atomic_store_relaxed(&cell->region, range->region);
    td_atomic_store_relaxed(&cell->first, range->first);
    td_atomic_store_relaxed(&cell->last, range->last);
    td_atomic_store_relaxed(&cell->tag, range->tag);
    return true;
}

/* Owner. From now on the staged ranges can be taken, the one staged first from the top. */
static inline void td_deque_publish(struct td_deque *deque, uint32_t staged)
{
    const uint64_t bottom = td_atomic_load_relaxed(&deque->bottom) + staged;
    (void)TD_EDGE(park_S3, TD_EDGE(deque_P, td_atomic_exchange_seq, td_atomic_store_relaxed),
                  td_atomic_store_release)(&deque->bottom, bottom); /* P, S3 */
}

static inline void td_deque_read(const struct td_deque *deque, uint64_t at, struct td_range *range)
{
    const struct td_deque_cell *cell = &deque->cells[at % TD_DEQUE_CELLS];
    range->region = td_atomic_load_relaxed(&cell->region);
    range->first = td_atomic_load_relaxed(&cell->first);
    range->last = td_atomic_load_relaxed(&cell->last);
    range->tag = td_atomic_load_relaxed(&cell->tag);
}

/* Owner. How many ranges are there, at most: thieves may be taking them. */
static inline uint64_t td_deque_count(const struct td_deque *deque)
{
    return td_atomic_load_relaxed(&deque->bottom) - td_atomic_load_relaxed(&deque->top);
}

/* Owner. Takes the newest range; false: there is none. */
static inline bool td_deque_pop(struct td_deque *deque, struct td_range *range)
{
    const uint64_t bottom = td_atomic_load_relaxed(&deque->bottom), newest = bottom - 1;
    if (td_atomic_load_relaxed(&deque->top) == bottom)
        return false;
    (void)TD_EDGE(deque_O1, td_atomic_exchange_seq, td_atomic_store_relaxed)(&deque->bottom, newest); /* O1 */
    uint64_t top = td_atomic_load_seq(&deque->top);                                                   /* O2 */
    if ((int64_t)(newest - top) > 0) {
        td_deque_read(deque, newest, range);
        return true;
    }
    const bool mine = top == newest && td_atomic_cas_strong_seq(&deque->top, &top, top + 1);
    if (mine)
        td_deque_read(deque, newest, range);
    td_atomic_store_relaxed(&deque->bottom, bottom);
    return mine;
}

/* Anyone. The oldest range as it was a moment ago, and its place for td_deque_take; false: there was none. */
static inline bool td_deque_peek(const struct td_deque *deque, struct td_range *range, uint64_t *place)
{
    const uint64_t top = td_atomic_load_seq(&deque->top);       /* O3 */
    const uint64_t bottom = td_atomic_load_seq(&deque->bottom); /* O4, P, S2 */
    if ((int64_t)(bottom - top) <= 0)
        return false;
    td_deque_read(deque, top, range);
    *place = top;
    return true;
}

/* Anyone. Takes what was peeked at; false: somebody else has, and what was read means nothing. */
static inline bool td_deque_take(struct td_deque *deque, uint64_t place)
{
    return td_atomic_cas_strong_seq(&deque->top, &place, place + 1); /* O5, R */
}

#endif
