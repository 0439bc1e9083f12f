/* tests/ring/test_submission.c: announcing and claiming: units, a model, and threads. */
#include "ring/submission.h"

#include <pthread.h>

#include "tests/ring/rig.h"

/* ---- Units ---- */

TD_TEST(tasks_are_claimed_in_the_order_of_their_announcement)
{
    struct rig rig;
    rig_init(&rig, 8, 2);
    uint64_t position, from[2][TD_LANES] = {{0}}, claimed;
    uint32_t slot;
    CHECK_STATUS(td_submission_claim(&rig.map, 0, from[0], &slot, &claimed), TD_EAGAIN);
    for (uint32_t i = 0; i < 1000; i++) {
        REQUIRE_OK(rig_push(&rig, 2 * i, &position));
        CHECK_EQ(position, 8 + 2 * i);
        REQUIRE_OK(rig_push(&rig, 2 * i + 1, &position));
        CHECK_EQ(td_submission_waiting(&rig.map), 2u);
        for (uint32_t worker = 0; worker < 2; worker++) {
            REQUIRE_OK(td_submission_claim(&rig.map, worker, from[worker], &slot, &claimed));
            CHECK_EQ(claimed, 8 + 2 * i + worker);
            CHECK_EQ(rig_read_request(&rig.map.slots[slot]), 2 * i + worker);
            CHECK_EQ(td_atomic_load_relaxed(&rig.map.slots[slot].word),
                     td_word(claimed, worker, TD_SLOT_CLAIMED));
            rig_free_slot(&rig, slot);
        }
        CHECK_STATUS(td_submission_claim(&rig.map, i % 2, from[i % 2], &slot, &claimed), TD_EAGAIN);
        CHECK_EQ(td_submission_waiting(&rig.map), 0u);
    }
    rig_fini(&rig);
}

TD_TEST(a_task_is_either_cancelled_or_claimed)
{
    struct rig rig;
    rig_init(&rig, 4, 1);
    uint64_t first, second, from[TD_LANES] = {0}, claimed;
    uint32_t slot;
    REQUIRE_OK(rig_push(&rig, 1, &first));
    REQUIRE_OK(rig_push(&rig, 2, &second));
    CHECK(td_submission_cancel(&rig.map, 0, first));
    CHECK(!td_submission_cancel(&rig.map, 0, first));
    REQUIRE_OK(td_submission_claim(&rig.map, 0, from, &slot, &claimed));
    CHECK_EQ(claimed, second);
    CHECK(!td_submission_cancel(&rig.map, slot, second));
    CHECK_STATUS(td_submission_claim(&rig.map, 0, from, &slot, &claimed), TD_EAGAIN);
    rig_fini(&rig);
}

TD_TEST(what_was_cancelled_before_the_oldest_task_does_not_count_as_waiting)
{
    struct rig rig;
    rig_init(&rig, 8, 1);
    uint64_t positions[6], from[TD_LANES] = {0}, claimed;
    uint32_t slots[6], slot;
    for (uint32_t lap = 0; lap < 5; lap++) {
        for (uint32_t i = 0; i < 6; i++) {
            slots[i] = rig.free_slots[rig.free_count - 1];
            REQUIRE_OK(rig_push_in(&rig, i < 3 ? TD_LANE_NEW : TD_LANE_AGAIN, i, &positions[i]));
        }
        static const uint32_t cancelled[] = {1, 0, 3, 4, 5}, waiting[] = {6, 4, 3, 2, 1};
        for (uint32_t i = 0; i < 5; i++) {
            CHECK(td_submission_cancel(&rig.map, slots[cancelled[i]], positions[cancelled[i]]));
            td_submission_skip(&rig.map);
            CHECK_EQ(td_submission_waiting(&rig.map), waiting[i]);
            rig.free_slots[rig.free_count++] = slots[cancelled[i]];
        }
        REQUIRE_OK(td_submission_claim(&rig.map, 0, from, &slot, &claimed));
        CHECK_EQ(claimed, positions[2]);
        rig_free_slot(&rig, slot);
    }
    rig_fini(&rig);
}

TD_TEST(a_cell_whose_task_still_waits_is_not_overwritten)
{
    struct rig rig;
    rig_init(&rig, 4, 1);
    uint64_t oldest, position, from[TD_LANES] = {0}, claimed;
    uint32_t slot;
    REQUIRE_OK(rig_push(&rig, 1, &oldest)); /* slot 0 */
    for (uint32_t i = 0; i < 3; i++) {
        REQUIRE_OK(rig_push(&rig, 2, &position)); /* slot 1, each time */
        REQUIRE(td_submission_cancel(&rig.map, 1, position));
        rig.free_slots[rig.free_count++] = 1;
    }
    CHECK_STATUS(rig_push(&rig, 3, &position), TD_EAGAIN);
    REQUIRE_OK(td_submission_claim(&rig.map, 0, from, &slot, &claimed));
    CHECK_EQ(claimed, oldest);
    CHECK_OK(rig_push(&rig, 3, &position));
    REQUIRE_OK(td_submission_claim(&rig.map, 0, from, &slot, &claimed));
    CHECK_EQ(claimed, position);
    rig_fini(&rig);
}

TD_TEST(a_task_that_runs_again_is_claimed_before_all_new_ones)
{
    struct rig rig;
    rig_init(&rig, 8, 1);
    uint64_t new[3], again[2], from[TD_LANES] = {0}, claimed;
    uint32_t slot;
    for (uint32_t round = 0; round < 20; round++) {
        REQUIRE_OK(rig_push(&rig, 1, &new[0]));
        REQUIRE_OK(rig_push(&rig, 2, &new[1]));
        REQUIRE_OK(rig_push_in(&rig, TD_LANE_AGAIN, 3, &again[0]));
        REQUIRE_OK(rig_push_in(&rig, TD_LANE_AGAIN, 4, &again[1]));
        REQUIRE_OK(rig_push(&rig, 5, &new[2]));
        CHECK_EQ(td_submission_waiting(&rig.map), 5u);
        CHECK(td_position_rank(again[1]) < td_position_rank(new[0]));
        const uint64_t order[] = {again[0], again[1], new[0], new[1], new[2]};
        for (uint32_t i = 0; i < 5; i++) {
            REQUIRE_OK(td_submission_claim(&rig.map, 0, from, &slot, &claimed));
            CHECK_EQ(claimed, order[i]);
            rig_free_slot(&rig, slot);
        }
        CHECK_STATUS(td_submission_claim(&rig.map, 0, from, &slot, &claimed), TD_EAGAIN);
        CHECK_EQ(td_submission_waiting(&rig.map), 0u);
    }
    rig_fini(&rig);
}

TD_TEST(a_full_lane_leaves_room_in_the_other)
{
    struct rig rig;
    rig_init(&rig, 4, 1);
    uint64_t oldest, position;
    REQUIRE_OK(rig_push_in(&rig, TD_LANE_AGAIN, 1, &oldest)); /* slot 0 */
    for (uint32_t i = 0; i < 3; i++) {
        REQUIRE_OK(rig_push_in(&rig, TD_LANE_AGAIN, 2, &position)); /* slot 1, each time */
        REQUIRE(td_submission_cancel(&rig.map, 1, position));
        rig.free_slots[rig.free_count++] = 1;
    }
    CHECK_STATUS(rig_push_in(&rig, TD_LANE_AGAIN, 3, &position), TD_EAGAIN);
    CHECK_OK(rig_push(&rig, 3, &position));
    rig_fini(&rig);
}

TD_TEST(a_walk_from_laps_ago_arrives_at_the_oldest_task)
{
    struct rig rig;
    rig_init(&rig, 4, 2);
    uint64_t position, ahead[TD_LANES] = {0}, behind[TD_LANES] = {0}, claimed;
    uint32_t slot;
    for (uint32_t i = 0; i < 103; i++) {
        REQUIRE_OK(rig_push(&rig, i, &position));
        REQUIRE_OK(td_submission_claim(&rig.map, 0, ahead, &slot, &claimed));
        rig_free_slot(&rig, slot);
    }
    REQUIRE_OK(rig_push(&rig, 200, &position));
    REQUIRE_OK(rig_push(&rig, 201, &claimed));
    td_atomic_store_relaxed(&rig.map.head->head_hints[TD_LANE_NEW], 5);
    REQUIRE_OK(td_submission_claim(&rig.map, 1, behind, &slot, &claimed));
    CHECK_EQ(claimed, position);
    rig_fini(&rig);
}

TD_TEST(a_hint_left_behind_is_put_right_when_nothing_waits)
{
    struct rig rig;
    rig_init(&rig, 4, 1);
    uint64_t position, from[TD_LANES] = {0}, claimed;
    uint32_t slot;
    REQUIRE_OK(rig_push(&rig, 1, &position));
    REQUIRE_OK(td_submission_claim(&rig.map, 0, from, &slot, &claimed));
    td_atomic_store_relaxed(&rig.map.head->head_hints[TD_LANE_NEW], position);
    CHECK_EQ(td_submission_waiting(&rig.map), 1u);
    CHECK_STATUS(td_submission_claim(&rig.map, 0, from, &slot, &claimed), TD_EAGAIN);
    CHECK_EQ(td_submission_waiting(&rig.map), 0u);
    rig_fini(&rig);
}

TD_TEST(damaged_cells_are_reported_and_never_followed)
{
    struct rig rig;
    rig_init(&rig, 4, 1);
    uint64_t position, claimed;
    uint32_t slot;
    REQUIRE_OK(rig_push(&rig, 1, &position));
    const uint64_t bad[] = {td_cell(position, 4),         td_cell(position, 0xfffff),
                            td_cell(position + 1, 0),     td_cell(position + 3, 1),
                            td_cell(TD_POSITION_MASK, 2), td_cell(position | TD_POSITION_LANE, 1)};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        uint64_t from[TD_LANES] = {0};
        td_atomic_store_relaxed(&rig.map.cells[position % 4], bad[i]);
        CHECK_STATUS(td_submission_claim(&rig.map, 0, from, &slot, &claimed), TD_EPROTO);
    }
    uint64_t later;
    for (uint32_t i = 0; i < 3; i++)
        REQUIRE_OK(rig_push(&rig, 2, &later));
    rig_free_slot(&rig, 3);
    td_atomic_store_relaxed(&rig.map.cells[position % 4], td_cell(position, 0xfffff));
    CHECK_OK(rig_push(&rig, 3, &later));
    rig_fini(&rig);
}

/* ---- A model: a queue for each lane, and who has what ---- */

#define MODEL_SLOTS 8u
#define MODEL_WORKERS 3u

struct queue {
    uint64_t positions[1024]; /* of waiting tasks, oldest first */
    uint32_t slots[1024];
    uint32_t count;
};

struct model {
    struct queue lanes[TD_LANES];
    bool claimed[MODEL_SLOTS];
};

static void queue_remove(struct queue *queue, uint32_t at)
{
    for (uint32_t i = at; i + 1 < queue->count; i++) {
        queue->positions[i] = queue->positions[i + 1];
        queue->slots[i] = queue->slots[i + 1];
    }
    queue->count--;
}

static void model_push(struct rig *rig, struct model *model, enum td_lane lane, uint32_t number)
{
    struct queue *queue = &model->lanes[lane];
    uint64_t position;
    const uint64_t tail = td_atomic_load_relaxed(&rig->map.head->tails[lane]);
    const bool full = queue->count > 0 && queue->positions[0] + MODEL_SLOTS <= tail;
    const uint32_t slot = rig->free_count > 0 ? rig->free_slots[rig->free_count - 1] : 0;
    const td_status expected = rig->free_count == 0 || full ? TD_EAGAIN : TD_OK;
    CHECK_STATUS(rig_push_in(rig, lane, number, &position), expected);
    if (expected != TD_OK)
        return;
    CHECK_EQ(position, tail);
    queue->positions[queue->count] = position;
    queue->slots[queue->count++] = slot;
}

static void model_claim(struct rig *rig, struct model *model, uint32_t worker, uint64_t *from)
{
    struct queue *queue = &model->lanes[model->lanes[TD_LANE_AGAIN].count > 0 ? TD_LANE_AGAIN : TD_LANE_NEW];
    uint32_t slot;
    uint64_t position;
    const td_status status = td_submission_claim(&rig->map, worker, from, &slot, &position);
    REQUIRE_EQ(status, queue->count > 0 ? TD_OK : TD_EAGAIN);
    if (status != TD_OK)
        return;
    CHECK_EQ(position, queue->positions[0]);
    CHECK_EQ(slot, queue->slots[0]);
    model->claimed[slot] = true;
    queue_remove(queue, 0);
}

TD_TEST(random_operations_agree_with_two_queues)
{
    struct rig rig;
    rig_init(&rig, MODEL_SLOTS, MODEL_WORKERS);
    struct model model = {0};
    uint64_t random = test_seed, from[MODEL_WORKERS][TD_LANES] = {{0}};
    for (uint64_t round = test_rounds(200000); round > 0; round--) {
        const uint32_t worker = (uint32_t)test_random_below(&random, MODEL_WORKERS);
        const enum td_lane lane = (enum td_lane)test_random_below(&random, TD_LANES);
        struct queue *queue = &model.lanes[lane];
        switch (test_random_below(&random, 8)) {
        case 0:
        case 1:
        case 2:
            model_push(&rig, &model, lane, (uint32_t)round);
            break;
        case 3:
            if (queue->count > 0) {
                const uint32_t at = (uint32_t)test_random_below(&random, queue->count);
                const uint32_t slot = queue->slots[at];
                CHECK(td_submission_cancel(&rig.map, slot, queue->positions[at]));
                queue_remove(queue, at);
                rig.free_slots[rig.free_count++] = slot;
            }
            break;
        case 4: { /* a slow worker's hint, from any time ago */
            td_atomic_u64 *hint = &rig.map.head->head_hints[lane];
            const uint64_t first = td_lane_position(lane, MODEL_SLOTS);
            td_atomic_store_relaxed(
                hint, first + test_random_below(&random, td_atomic_load_relaxed(hint) - first + 1));
            break;
        }
        case 5: { /* a new worker in that seat */
            memset(from[worker], 0, sizeof from[worker]);
            break;
        }
        default:
            model_claim(&rig, &model, worker, from[worker]);
        }
        for (uint32_t slot = 0; slot < MODEL_SLOTS; slot++)
            if (model.claimed[slot] && test_random_below(&random, 4) == 0) {
                model.claimed[slot] = false;
                rig_free_slot(&rig, slot);
            }
    }
    rig_fini(&rig);
}

/* ---- Threads ---- */

#define THREAD_WORKERS 3u

struct crowd {
    struct rig rig;
    uint32_t tasks;
    td_atomic_u32 *claims; /* by task */
    td_atomic_u32 claimed;
};

struct claimer {
    struct crowd *crowd;
    uint32_t worker;
    pthread_t thread;
};

static void *claim_all(void *argument)
{
    const struct claimer *claimer = argument;
    struct crowd *crowd = claimer->crowd;
    uint64_t from[TD_LANES] = {0}, position;
    uint32_t slot, turn = 0;
    while (td_atomic_load_relaxed(&crowd->claimed) < crowd->tasks) {
        if (td_submission_claim(&crowd->rig.map, claimer->worker, from, &slot, &position) != TD_OK) {
            rig_relax(&turn);
            continue;
        }
        const uint32_t number = rig_read_request(&crowd->rig.map.slots[slot]);
        td_atomic_fetch_add_relaxed(&crowd->claims[number], 1);
        td_atomic_fetch_add_relaxed(&crowd->claimed, 1);
        rig_write_reply(&crowd->rig.map.slots[slot], number);
        td_completion_push(&crowd->rig.map, claimer->worker, slot, position);
    }
    return NULL;
}

TD_TEST(threads_claim_each_task_once_and_read_it_whole)
{
    struct crowd crowd = {.tasks = (uint32_t)test_rounds(60000)};
    rig_init(&crowd.rig, 16, THREAD_WORKERS);
    crowd.claims = calloc(crowd.tasks, sizeof *crowd.claims);
    struct claimer claimers[THREAD_WORKERS];
    for (uint32_t i = 0; i < THREAD_WORKERS; i++) {
        claimers[i].crowd = &crowd;
        claimers[i].worker = i;
        REQUIRE_EQ(pthread_create(&claimers[i].thread, NULL, claim_all, &claimers[i]), 0);
    }
    uint64_t heads[THREAD_WORKERS] = {0}, position, entry;
    uint32_t pushed = 0, done = 0, turn = 0;
    while (done < crowd.tasks) {
        while (pushed < crowd.tasks &&
               rig_push_in(&crowd.rig, (enum td_lane)(pushed % TD_LANES), pushed, &position) == TD_OK)
            pushed++;
        for (uint32_t i = 0; i < THREAD_WORKERS; i++)
            while (td_completion_pop(&crowd.rig.map, i, &heads[i], &entry)) {
                const struct td_slot *slot = &crowd.rig.map.slots[td_cell_slot(entry)];
                rig_check_reply(slot, slot->fn);
                rig_free_slot(&crowd.rig, td_cell_slot(entry));
                done++;
            }
        rig_relax(&turn);
    }
    for (uint32_t i = 0; i < THREAD_WORKERS; i++)
        pthread_join(claimers[i].thread, NULL);
    for (uint32_t i = 0; i < crowd.tasks; i++)
        CHECK_EQ(td_atomic_load_relaxed(&crowd.claims[i]), 1u);
    free(crowd.claims);
    rig_fini(&crowd.rig);
}

TD_TEST_MAIN
