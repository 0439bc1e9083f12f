/* ring/completion.h: one ring per worker on which it tells the parent what it finished.
 *
 * Bounded, single producer (the worker), single consumer (whoever holds the parent's drain token). An entry is
 * {position, slot} as in submission.h; the reply itself is in the slot. There are as many entries as slots and a slot
 * is in at most one ring, once, until the parent frees it: so the ring can't overflow, and a worker never waits to
 * report.
 *
 * Invariants  I1 done_tail - head <= slot_count. I2 only the worker writes done_tail; head is the consumer's, private.
 * Ordering    C: write reply, DONE, entry -> release done_tail -> acquire done_tail -> read entry, word, reply.
 *             done_tail is written seq_cst because the worker then looks whether the parent sleeps (doorbell.h, B).
 *             R (slot.h) serves whoever looks at a slot without the ring.
 * Crash       dying before C leaves the slot DONE but unreported; the parent looks through the slots of a dead worker.
 * Tests       tests/ring/test_completion.c */
#ifndef TD_RING_COMPLETION_H
#define TD_RING_COMPLETION_H

#include "ring/segment.h"
#include "ring/submission.h"

/* Worker. Marks the slot DONE and reports it. */
static inline void td_completion_push(struct td_segment_map *map, uint32_t worker, uint32_t slot,
                                      uint64_t position)
{
    td_atomic_u64 *ring = map->completions + (uint64_t)worker * map->slot_count;
    td_atomic_u64 *done_tail = &map->seats[worker].done_tail;
    const uint64_t tail = td_atomic_load_relaxed(done_tail);
    TD_EDGE(slot_R, td_atomic_store_release, td_atomic_store_relaxed)
    (&map->slots[slot].word, td_word(position, worker, TD_SLOT_DONE)); /* R */
    td_atomic_store_relaxed(&ring[tail & (map->slot_count - 1)], td_cell(position, slot));
    (void)TD_EDGE(bell_B3, TD_EDGE(completion_C, td_atomic_exchange_seq, td_atomic_store_relaxed),
                  td_atomic_store_release)(done_tail, tail + 1); /* C, B3 */
}

/* Parent. The next entry of `worker` after *head, which moves on. False when there is none. A damaged entry is
 * returned as it is: the caller checks slot and position against its own books. */
static inline bool td_completion_pop(struct td_segment_map *map, uint32_t worker, uint64_t *head,
                                     uint64_t *entry)
{
    const uint64_t tail = td_atomic_load_acquire(&map->seats[worker].done_tail); /* C */
    if (tail == *head || tail - *head > map->slot_count)
        return false;
    td_atomic_u64 *ring = map->completions + (uint64_t)worker * map->slot_count;
    *entry = td_atomic_load_relaxed(&ring[*head & (map->slot_count - 1)]);
    ++*head;
    return true;
}

/* Parent. Has the worker written a count that can't be? Then no entry can be taken. */
static inline bool td_completion_is_damaged(const struct td_segment_map *map, uint32_t worker, uint64_t head)
{
    return td_atomic_load_relaxed(&map->seats[worker].done_tail) - head > map->slot_count;
}

/* Parent. Is there an entry after `head`? seq_cst: the look before a sleep (doorbell.h, B). */
static inline bool td_completion_waits(const struct td_segment_map *map, uint32_t worker, uint64_t head)
{
    return td_atomic_load_seq(&map->seats[worker].done_tail) != head;
}

#endif
