/* tests/ring/rig.h: a pool's shared memory without a pool, and the parent's side of it in its simplest form: slots that
 * are free, tasks that carry a number, replies that carry another. */
#ifndef TD_TESTS_RING_RIG_H
#define TD_TESTS_RING_RIG_H

#include <sched.h>

#include "ring/completion.h"
#include "ring/doorbell.h"
#include "ring/submission.h"
#include "tests/harness.h"

struct rig {
    struct td_segment_map map;
    struct td_bell_map bell;
    uint32_t *free_slots;
    uint32_t free_count;
};

TEST_UNUSED static void rig_init(struct rig *rig, uint32_t slots, uint32_t workers)
{
    REQUIRE_OK(td_segment_new(&rig->map, slots, workers, 2, 0));
    REQUIRE_OK(td_bell_new(&rig->bell));
    rig->free_slots = malloc(slots * sizeof *rig->free_slots);
    for (uint32_t i = 0; i < slots; i++)
        rig->free_slots[i] = slots - 1 - i;
    rig->free_count = slots;
}

TEST_UNUSED static void rig_fini(struct rig *rig)
{
    td_bell_fini(&rig->bell);
    td_segment_fini(&rig->map);
    free(rig->free_slots);
}

/* What a request for `number` looks like, in fields that are not atomic: ThreadSanitizer watches them. */
TEST_UNUSED static void rig_write_request(struct td_slot *slot, uint32_t number)
{
    slot->fn = number;
    slot->args_bytes = TD_INLINE_ARGS;
    memset(slot->args, (int)(number % 251), TD_INLINE_ARGS);
}

TEST_UNUSED static uint32_t rig_read_request(const struct td_slot *slot)
{
    CHECK_EQ(slot->args[0], slot->fn % 251);
    CHECK_EQ(slot->args[TD_INLINE_ARGS - 1], slot->fn % 251);
    return slot->fn;
}

TEST_UNUSED static void rig_write_reply(struct td_slot *slot, uint32_t number)
{
    slot->result_bytes = number * UINT64_C(3);
    memset(slot->result, (int)(number % 241), TD_INLINE_RESULT);
}

TEST_UNUSED static void rig_check_reply(const struct td_slot *slot, uint32_t number)
{
    CHECK_EQ(slot->result_bytes, number * UINT64_C(3));
    CHECK_EQ(slot->result[0], number % 241);
    CHECK_EQ(slot->result[TD_INLINE_RESULT - 1], number % 241);
}

/* Parent. TD_EAGAIN: no slot is free, or the lane is full. */
TEST_UNUSED static td_status rig_push_in(struct rig *rig, enum td_lane lane, uint32_t number,
                                         uint64_t *position)
{
    if (rig->free_count == 0)
        return TD_EAGAIN;
    const uint32_t slot = rig->free_slots[rig->free_count - 1];
    rig_write_request(&rig->map.slots[slot], number);
    const td_status status = td_submission_push(&rig->map, lane, slot, position);
    if (status == TD_OK)
        rig->free_count--;
    return status;
}

TEST_UNUSED static td_status rig_push(struct rig *rig, uint32_t number, uint64_t *position)
{
    return rig_push_in(rig, TD_LANE_NEW, number, position);
}

/* Parent. The slot is its own again: DONE was read, or its worker is dead. */
TEST_UNUSED static void rig_free_slot(struct rig *rig, uint32_t slot)
{
    td_atomic_store_relaxed(&rig->map.slots[slot].word, td_word(0, 0, TD_SLOT_FREE));
    rig->free_slots[rig->free_count++] = slot;
}

/* Spins, but lets others run: there may be more threads than CPUs. */
TEST_UNUSED static void rig_relax(uint32_t *turn)
{
    if (++*turn % 256 == 0)
        sched_yield();
    else
        td_pause();
}

/* A moment of random length, so that two threads meet at all offsets. */
TEST_UNUSED static void rig_dither(uint64_t *random, uint32_t most)
{
    for (uint64_t turns = test_random_below(random, most); turns > 0; turns--)
        __asm__ __volatile__("" ::: "memory");
}

/* Two threads go through rounds in step. */
struct rounds {
    td_atomic_u32 arrived;
};

TEST_UNUSED static void rounds_meet(struct rounds *rounds, uint32_t *mine)
{
    *mine += 2;
    td_atomic_fetch_add_seq(&rounds->arrived, 1);
    for (uint32_t turn = 0; (int32_t)(td_atomic_load_acquire(&rounds->arrived) - *mine) < 0;)
        rig_relax(&turn);
}

#endif
