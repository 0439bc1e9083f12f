/* ring/submission.h: the parent announces tasks, workers claim them.
 *
 * A ring of N cells, each {position, slot}. The parent, the only writer, puts a slot's number into the cell of the next
 * position. A worker walks positions from the head hint, and claims with one compare-and-swap on the *slot's* word; a
 * cell is never consumed, so nothing is half-taken when a worker dies, and there is nothing to give back.
 *
 * There are two such rings, lanes, that share the slots and differ in a bit of their positions: NEW, and AGAIN for what
 * lost its worker, which must not wait behind all that was submitted since. A worker looks at AGAIN first: while that
 * is empty, one load of a cell that hardly ever changes.
 *
 * Invariants  I1 A cell is overwritten only when the task it announced is no longer READY under that position, so no
 *                task is ever hidden from workers.
 *             I2 A lane's hint may be stale or go back; it only decides where a walk starts. A walk that starts too
 *                early skips claimed tasks; one never starts too late, because
 *                whoever wrote the hint had seen every position below it claimed or cancelled, or had read a hint that
 *                said so.
 *             I3 A task is in one lane, that of its position, so two lanes never lead to one claim.
 * Ordering    A: write request, READY -> release cell -> acquire cell -> read word, request. So a walker that sees a
 *             cell never sees an older word, which would look as if the task were claimed, and it would be lost.
 *             Each lane has its own cells, and both have this edge. Between lanes no order is needed: a walker that
 *             does not see the newest task of one takes an older one of the other, as if it had come earlier.
 *             Walkers don't read tails: those are for who thinks of sleeping (doorbell.h, D).
 * Not covered sleeping: see doorbell.h.   Tests  tests/ring/test_submission.c */
#ifndef TD_RING_SUBMISSION_H
#define TD_RING_SUBMISSION_H

#include "ring/segment.h"

/* A cell, and an entry of a completion ring: {position:44, slot:20}. */
static inline uint64_t td_cell(uint64_t position, uint32_t slot)
{
    return position << 20 | slot;
}
static inline uint64_t td_cell_position(uint64_t cell)
{
    return cell >> 20;
}
static inline uint32_t td_cell_slot(uint64_t cell)
{
    return (uint32_t)cell & 0xfffffu;
}

/* Parent. Announces a FREE slot whose request is written, and those parts of the reply reset that count before DONE
 * (started_ns, partial_items, partial_ref); *position names the task from now on. TD_EAGAIN when the lane is
 * full: its oldest task still waits. One thread at a time. */
td_status td_submission_push(struct td_segment_map *map, enum td_lane lane, uint32_t slot, uint64_t *position);

/* Parent. Takes a task back that no worker claimed yet: READY -> FREE. False when a worker has it, or had it. */
bool td_submission_cancel(struct td_segment_map *map, uint32_t slot, uint64_t position);

/* Parent, after cancelling: what lies before the oldest task that waits does not count as waiting. */
void td_submission_skip(struct td_segment_map *map);

/* Worker. Claims the oldest task of lane AGAIN for `worker`, else that of NEW; from[] is where its walks start, 0 at
 * first, private to the worker and kept between calls. TD_EAGAIN when none waits, and in each lane every position below
 * from[lane] is claimed; TD_EPROTO when a cell is damaged. */
td_status td_submission_claim(struct td_segment_map *map, uint32_t worker, uint64_t from[TD_LANES],
                              uint32_t *slot, uint64_t *position);

/* Where the parent announces the position, or did: if the cell still has it. */
static inline td_atomic_u64 *td_submission_cell(const struct td_segment_map *map, enum td_lane lane,
                                                uint64_t position)
{
    return &map->cells[(uint64_t)lane * map->slot_count + (position & (map->slot_count - 1))];
}

/* Has anything been announced at from[lane], or behind it? */
static inline bool td_submission_is_ahead(const struct td_segment_map *map, enum td_lane lane,
                                          const uint64_t from[TD_LANES])
{
    return td_cell_position(td_atomic_load_relaxed(td_submission_cell(map, lane, from[lane]))) >= from[lane];
}

/* How many tasks wait, at most: those cancelled count until nothing older waits. Exact when the hints are. */
static inline uint64_t td_submission_waiting(const struct td_segment_map *map)
{
    uint64_t waiting = 0;
    for (uint32_t lane = 0; lane < TD_LANES; lane++) {
        const uint64_t tail = td_atomic_load_seq(&map->head->tails[lane]);
        const uint64_t head = td_atomic_load_relaxed(&map->head->head_hints[lane]);
        waiting += tail > head ? tail - head : 0;
    }
    return waiting;
}

#endif
