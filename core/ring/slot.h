/* ring/slot.h: a task in shared memory, and the word that names who owns it.
 *
 * Invariants  I1 A slot's word is {position, worker, state}. The position, unique over the life of a pool, is that of
 *                the submission lane's cell that announced the task; so a word read for one task never matches another.
 *             I2 FREE and READY belong to the parent, CLAIMED and DONE to the worker in the word. Only these moves
 *                exist: parent FREE->READY, READY->FREE (cancelled), DONE->FREE, CLAIMED->FREE (its worker's death is
 *                confirmed); worker READY->CLAIMED->DONE.
 *             I3 The parent writes the request before READY and leaves it alone until FREE, but for cutting `range`.
 *                The worker writes the reply between CLAIMED and DONE.
 * Ordering    S: write request, READY -> release cell -> acquire cell -> claiming CAS, read request. The word itself
 *                needs no order: whoever claims has come through the cell (submission.h, A), which carries the request
 *                too.
 *             R: write reply -> release DONE -> acquire DONE -> read reply.
 *             T: write an item's result, parcels -> release partial_items -> acquire partial_items -> read the results.
 *             M: copy results to a larger block -> release partial_ref -> acquire partial_ref -> read the copies.
 * Crash       a worker's death at any point leaves READY (untouched), CLAIMED (lost, but for the items published) or
 *             DONE (complete).
 * Tests       tests/ring/test_submission.c, tests/ring/test_completion.c */
#ifndef TD_RING_SLOT_H
#define TD_RING_SLOT_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/atomic.h"
#include "treadle.h"

enum td_slot_state { TD_SLOT_FREE = 0, TD_SLOT_READY, TD_SLOT_CLAIMED, TD_SLOT_DONE };

/* {position:44, worker:16, state:4}; a position is {lane:1, count:43}: it lasts 100 days at a million tasks a
 * second. */
#define TD_POSITION_BITS 44u
#define TD_POSITION_MASK ((UINT64_C(1) << TD_POSITION_BITS) - 1)
#define TD_POSITION_LANE (UINT64_C(1) << (TD_POSITION_BITS - 1))

/* Which of the two lines a task stands in (submission.h). */
enum td_lane { TD_LANE_NEW = 0, TD_LANE_AGAIN };
#define TD_LANES 2u

static inline uint64_t td_lane_position(enum td_lane lane, uint64_t count)
{
    return (lane == TD_LANE_AGAIN ? TD_POSITION_LANE : 0) | count;
}
static inline enum td_lane td_position_lane(uint64_t position)
{
    return (position & TD_POSITION_LANE) != 0 ? TD_LANE_AGAIN : TD_LANE_NEW;
}
/* Tasks of a lower rank are claimed first. */
static inline uint64_t td_position_rank(uint64_t position)
{
    return position ^ TD_POSITION_LANE;
}

static inline uint64_t td_word(uint64_t position, uint32_t worker, enum td_slot_state state)
{
    return position << 20 | (uint64_t)(worker & 0xffffu) << 4 | (uint64_t)state;
}
static inline uint64_t td_word_position(uint64_t word)
{
    return word >> 20;
}
static inline uint32_t td_word_worker(uint64_t word)
{
    return (uint32_t)(word >> 4) & 0xffffu;
}
static inline enum td_slot_state td_word_state(uint64_t word)
{
    return (enum td_slot_state)(word & 0xfu);
}

/* A chunk's items still to run: {end:32, next:32}. */
static inline uint64_t td_range(uint32_t next, uint32_t end)
{
    return (uint64_t)end << 32 | next;
}
static inline uint32_t td_range_next(uint64_t range)
{
    return (uint32_t)range;
}
static inline uint32_t td_range_end(uint64_t range)
{
    return (uint32_t)(range >> 32);
}

/* request_flags */
#define TD_SLOT_FN_HOLDS 2u /* the function's bytes name shared blocks */
#define TD_SLOT_SOLE_ARGS                                                                                      \
    1u /* nobody else reads the arguments' block, now or at another attempt: it may be overwritten */
/* reply_flags */
#define TD_SLOT_KEEP_ARGS 1u /* the worker still holds the arguments' block */
#define TD_SLOT_ERROR 2u     /* the result is an exception's payload */
#define TD_SLOT_HELD 4u      /* the shared blocks that the worker holds are others than it last told: these */
#define TD_SLOT_UNTOLD 8u    /* they are, and there was no room to tell which */

struct td_slot {
    /* the request */
    td_atomic_u64 word;
    td_atomic_u64 range; /* a chunk's items; 0, 0 for a plain task */
    uint32_t fn;
    uint32_t attempt; /* 0 for the first */
    uint64_t fn_ref;  /* in the parent's arena */
    uint64_t fn_bytes;
    uint64_t args_ref; /* in the parent's arena; 0: inline */
    uint64_t args_bytes;
    uint8_t args[TD_INLINE_ARGS];
    uint16_t request_flags;
    /* the reply */
    uint16_t reply_flags;        /* TD_SLOT_KEEP_ARGS, TD_SLOT_ERROR, TD_SLOT_HELD, TD_SLOT_UNTOLD */
    uint32_t held_count;         /* TD_SLOT_HELD: how many td_held are in that block */
    uint64_t held_ref;           /* in the worker's arena */
    td_atomic_u32 parcels;       /* blocks that come with the result's, at whose end it is written which */
    td_atomic_u32 partial_items; /* a chunk's items whose results can be read */
    td_atomic_u64 partial_ref;   /* of the block that holds them, in the worker's arena */
    td_atomic_u64 started_ns;    /* of the claim that the word names; 0 until the worker has written it */
    int64_t ended_ns;
    uint64_t result_ref; /* in the worker's arena; 0: inline */
    uint64_t result_bytes;
    uint8_t result[TD_INLINE_RESULT];
};

static_assert(sizeof(struct td_slot) == 256, "a slot is four cache lines");

#endif
