/* ring/relief.h: memory that lies warm in one process of a pool and lacks in another.
 *
 * Each process keeps freed blocks warm, and finds out what was given back to it when it next allocates. So under a
 * limit for all of them together one may find no room for a block although little is in use. Before that is an error it
 * asks:
 *
 *      asker    asked += 1: its number (L1); wakes the workers that sleep (L2), rings for the parent; sleeps on `news`
 *               until everybody has answered its number
 *      others   the answer is older than `asked`: trim; answer = what `asked` was; news += 1, wake the askers
 *
 * Workers answer when they search, between tasks and between the items of a chunk; the parent when it drains; and who
 * asks has trimmed and so has answered, and goes on answering while it waits, so that any number may ask at the same
 * time. One that runs a long task answers too late, and is waited for no longer than the deadline.
 *
 * Ordering  L1 before L2, and in the worker PARKED (D1) before its look at `asked`, in one total order: it is woken, or
 *           sees the question. What was trimmed is the kernel's by then: nothing else is published. L1 has no weakened
 *           build: the asker's own answer comes between it and L2, and its two seq_cst stores and its wake-up order
 *           the two on every machine.
 * Crash     who dies does not answer: the deadline ends the wait. No answer holds anything.
 * Tests     tests/ring/test_relief.c, tests/fault/test_memory_limit.py */
#ifndef TD_RING_RELIEF_H
#define TD_RING_RELIEF_H

#include "base/clock.h"
#include "ring/doorbell.h"

#define TD_RELIEF_PARENT UINT32_MAX /* in place of a worker's number */

/* Has anybody asked since `who` last answered? One or two loads. */
bool td_relief_is_due(const struct td_segment_map *map, uint32_t who);

/* `who` is about to trim: what stands in `asked` before it does so is what it answers afterwards. */
uint32_t td_relief_begin(const struct td_segment_map *map);
void td_relief_answer(struct td_segment_map *map, uint32_t who, uint32_t asked);

#define TD_RELIEF_NS (TD_NS_PER_S / 5) /* the longest wait, for those that are busy with something else */

/* Asks, for `who`, which has trimmed. `bell` is rung for the parent. Returns when all that could answer have, or at the
 * deadline. */
void td_relief_ask_until(struct td_segment_map *map, struct td_bell_map *bell, uint32_t who,
                         int64_t deadline_ns);

#endif
