/* ring/submission.h: the parent announces tasks, workers claim them.
 *
 * A ring of N cells, each {position, slot}. The parent, the only writer, puts a slot's number into the cell of the next
 * position. A worker walks positions from the head hint, and claims with one compare-and-swap on the *slot's* word; a
 * cell is never consumed, so nothing is half-taken when a worker dies, and there is nothing to give back.
 *
 * Invariants  I1 A cell is overwritten only when the task it announced is no longer READY under that position, so no
 *                task is ever hidden from workers.
 *             I2 The hint may be stale or go back; it only decides where a walk starts. A walk that starts too early
 *                skips claimed tasks; one never starts too late, because
 *                whoever wrote the hint had seen every position below it claimed, or had read a hint that said so.
 * Ordering    A: write request, READY -> release cell -> acquire cell -> read word, request. So a walker that sees a cell
 *             never sees an older word, which would look as if the task were claimed, and it would be lost.
 *             Walkers don't read tail: it is for those who think of sleeping (doorbell.h, D).
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
 * (started_ns, partial_items, partial_ref); *position names the task from now on. TD_EAGAIN when the ring is
 * full: its oldest task still waits. One thread at a time. */
td_status td_submission_push(struct td_segment_map *map, uint32_t slot, uint64_t *position);

/* Parent. Takes a task back that no worker claimed yet: READY -> FREE. False when a worker has it, or had it. */
bool td_submission_cancel(struct td_segment_map *map, uint32_t slot, uint64_t position);

/* Worker. Claims the oldest waiting task for `worker`; *from is where its walk starts, private to the worker and kept
 * between calls. TD_EAGAIN when none waits, and every position below *from is claimed; TD_EPROTO when a cell is
 * damaged. */
td_status td_submission_claim(struct td_segment_map *map, uint32_t worker, uint64_t *from, uint32_t *slot,
                              uint64_t *position);

/* How many tasks wait, at most; exact when the hint is. */
static inline uint64_t td_submission_waiting(const struct td_segment_map *map)
{
    const uint64_t tail = td_atomic_load_seq(&map->head->tail);
    const uint64_t head = td_atomic_load_relaxed(&map->head->head_hint);
    return tail > head ? tail - head : 0;
}

#endif
