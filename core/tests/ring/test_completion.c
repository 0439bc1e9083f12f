/* tests/ring/test_completion.c: handing in results: units, and threads for the edges C and R. */
#include "ring/completion.h"

#include <pthread.h>

#include "tests/ring/rig.h"

/* Pushes a task and claims it for `worker`. */
static uint32_t claim_one(struct rig *rig, uint32_t worker, uint64_t *from, uint32_t number, uint64_t *position)
{
    uint32_t slot = 0;
    REQUIRE_OK(rig_push(rig, number, position));
    REQUIRE_OK(td_submission_claim(&rig->map, worker, from, &slot, position));
    return slot;
}

TD_TEST(completions_come_out_in_order_each_from_its_worker)
{
    struct rig rig;
    rig_init(&rig, 4, 2);
    uint64_t from[TD_LANES] = {0}, heads[2] = {0}, position, entry;
    for (uint32_t i = 0; i < 1000; i++) {
        const uint32_t worker = i % 3 == 0;
        const uint32_t slot = claim_one(&rig, worker, from, i, &position);
        CHECK(!td_completion_waits(&rig.map, worker, heads[worker]));
        CHECK(!td_completion_pop(&rig.map, worker, &heads[worker], &entry));
        rig_write_reply(&rig.map.slots[slot], i);
        td_completion_push(&rig.map, worker, slot, position);
        CHECK(td_completion_waits(&rig.map, worker, heads[worker]));
        CHECK(!td_completion_waits(&rig.map, 1 - worker, heads[1 - worker]));
        REQUIRE(td_completion_pop(&rig.map, worker, &heads[worker], &entry));
        CHECK_EQ(td_cell_position(entry), position);
        CHECK_EQ(td_cell_slot(entry), slot);
        CHECK_EQ(td_atomic_load_acquire(&rig.map.slots[slot].word), td_word(position, worker, TD_SLOT_DONE));
        rig_check_reply(&rig.map.slots[slot], i);
        rig_free_slot(&rig, slot);
    }
    rig_fini(&rig);
}

TD_TEST(all_slots_fit_one_workers_ring)
{
    struct rig rig;
    rig_init(&rig, 64, 2);
    uint64_t from[TD_LANES] = {0}, head = 0, positions[64], entry;
    for (uint32_t round = 0; round < 10; round++) {
        for (uint32_t i = 0; i < 64; i++) {
            const uint32_t slot = claim_one(&rig, 1, from, i, &positions[i]);
            td_completion_push(&rig.map, 1, slot, positions[i]);
        }
        for (uint32_t i = 0; i < 64; i++) {
            REQUIRE(td_completion_pop(&rig.map, 1, &head, &entry));
            CHECK_EQ(td_cell_position(entry), positions[i]);
        }
        CHECK(!td_completion_pop(&rig.map, 1, &head, &entry));
        for (uint32_t slot = 0; slot < 64; slot++)
            rig_free_slot(&rig, slot);
    }
    rig_fini(&rig);
}

TD_TEST(a_damaged_tail_yields_nothing)
{
    struct rig rig;
    rig_init(&rig, 4, 1);
    uint64_t head = 3, entry;
    const uint64_t bad[] = {2, 8, UINT64_MAX, 1u << 20};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        td_atomic_store_relaxed(&rig.map.seats[0].done_tail, bad[i]);
        CHECK(!td_completion_pop(&rig.map, 0, &head, &entry));
        CHECK_EQ(head, 3u);
    }
    rig_fini(&rig);
}

/* ---- Threads: a worker replies, the parent reads ---- */

#define REPLIES 20000u

struct pair {
    struct rig rig;
    uint32_t tasks;
};

static void *reply_to_all(void *argument)
{
    struct pair *pair = argument;
    uint64_t from[TD_LANES] = {0}, position;
    uint32_t slot, turn = 0;
    for (uint32_t done = 0; done < pair->tasks;) {
        if (td_submission_claim(&pair->rig.map, 0, from, &slot, &position) != TD_OK) {
            rig_relax(&turn);
            continue;
        }
        rig_write_reply(&pair->rig.map.slots[slot], rig_read_request(&pair->rig.map.slots[slot]));
        td_completion_push(&pair->rig.map, 0, slot, position);
        done++;
    }
    return NULL;
}

/* Edge C: what comes off the ring can be read, without a look at the slot's word. */
TD_TEST(a_reply_taken_from_the_ring_is_whole)
{
    struct pair pair = {.tasks = (uint32_t)test_rounds(REPLIES)};
    rig_init(&pair.rig, 8, 1);
    pthread_t thread;
    REQUIRE_EQ(pthread_create(&thread, NULL, reply_to_all, &pair), 0);
    uint64_t head = 0, position, entry;
    uint32_t pushed = 0, turn = 0;
    for (uint32_t done = 0; done < pair.tasks;) {
        while (pushed < pair.tasks && rig_push(&pair.rig, pushed, &position) == TD_OK)
            pushed++;
        if (!td_completion_pop(&pair.rig.map, 0, &head, &entry)) {
            rig_relax(&turn);
            continue;
        }
        CHECK_EQ(td_cell_position(entry), 8 + done);
        rig_check_reply(&pair.rig.map.slots[td_cell_slot(entry)], done);
        rig_free_slot(&pair.rig, td_cell_slot(entry));
        done++;
    }
    pthread_join(thread, NULL);
    rig_fini(&pair.rig);
}

/* Edge R: a slot whose word says DONE can be read, without a look at the ring. */
TD_TEST(a_reply_found_in_its_slot_is_whole)
{
    struct pair pair = {.tasks = (uint32_t)test_rounds(REPLIES)};
    rig_init(&pair.rig, 8, 1);
    pthread_t thread;
    REQUIRE_EQ(pthread_create(&thread, NULL, reply_to_all, &pair), 0);
    uint64_t position;
    uint32_t pushed = 0, turn = 0;
    for (uint32_t done = 0; done < pair.tasks;) {
        while (pushed < pair.tasks && rig_push(&pair.rig, pushed, &position) == TD_OK)
            pushed++;
        for (uint32_t slot = 0; slot < 8; slot++) {
            struct td_slot *task = &pair.rig.map.slots[slot];
            if (td_word_state(td_atomic_load_acquire(&task->word)) != TD_SLOT_DONE)
                continue;
            rig_check_reply(task, task->fn);
            rig_free_slot(&pair.rig, slot);
            done++;
        }
        rig_relax(&turn);
    }
    pthread_join(thread, NULL);
    rig_fini(&pair.rig);
}

TD_TEST_MAIN
