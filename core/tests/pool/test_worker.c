/* tests/pool/test_worker.c: a worker's end of a pool, with the parent's in the same process: each through a mapping of
 * its own, so that ThreadSanitizer sees the order within each side, and that between them in ring/ only. */
#include <pthread.h>

#include "memory/nursery.h"
#include "os/event.h"
#include "tests/pool/small_pool.h"

static uint32_t state_of(const struct small_pool *pool, uint32_t worker)
{
    return td_atomic_load_seq(&pool->rig.map.states[worker]);
}

static struct td_assignment take_next(td_worker *worker)
{
    struct td_assignment assignment = {0};
    REQUIRE_OK(td_worker_next(worker, &assignment));
    return assignment;
}

/* ---- A task's way ---- */

TD_TEST(a_task_comes_with_its_request_and_goes_with_its_reply)
{
    struct small_pool pool;
    td_worker *worker = small_pool_with_worker(&pool, 4, 1);
    CHECK_EQ(td_worker_index(worker), 0u);
    CHECK_EQ(state_of(&pool, 0), (uint32_t)TD_SEAT_SEARCHING);
    uint64_t position, product = 42, entry;
    REQUIRE_OK(push_task(&pool, 6, 7, NULL, 0, &position));
    struct td_assignment assignment = take_next(worker);
    CHECK_EQ(assignment.fn, 6u);
    CHECK_EQ(assignment.position, position);
    CHECK_EQ(assignment.end, 0u);
    CHECK(assignment.fn_bytes.data == NULL && assignment.args_data == NULL);
    CHECK_EQ(number_of(&assignment), 7u);
    CHECK_EQ(state_of(&pool, 0), (uint32_t)TD_SEAT_BUSY);
    struct td_slot *slot = &pool.rig.map.slots[0];
    CHECK_EQ(td_atomic_load_relaxed(&pool.rig.map.seats[0].current), td_cell(position, 0));
    const uint64_t started_ns = td_atomic_load_relaxed(&slot->started_ns);
    CHECK_NE(started_ns, 0u);
    CHECK_STATUS(td_worker_next(worker, &assignment), TD_EINVAL);
    CHECK_STATUS(td_worker_reply(worker, true, &product, NULL, TD_INLINE_RESULT + 1, false), TD_EINVAL);
    CHECK_OK(td_worker_reply(worker, true, &product, NULL, sizeof product, true));
    CHECK_STATUS(td_worker_reply(worker, true, &product, NULL, sizeof product, false), TD_EINVAL);
    REQUIRE(td_completion_pop(&pool.rig.map, 0, &pool.seats[0].head, &entry));
    CHECK_EQ(entry, td_cell(position, 0));
    CHECK_EQ(slot->result_ref, 0u);
    CHECK_EQ(slot->result_bytes, sizeof product);
    CHECK_EQ(slot->reply_flags, 0u); /* inline arguments are nothing to keep */
    CHECK_LE((int64_t)started_ns, slot->ended_ns);
    CHECK_EQ(td_atomic_load_relaxed(&pool.rig.map.seats[0].tasks_done), 1u);
    CHECK_EQ(td_atomic_load_relaxed(&pool.rig.map.seats[0].current), 0u);
    small_pool_end(&pool, worker);
}

TD_TEST(blocks_travel_both_ways_and_come_back)
{
    struct small_pool pool;
    td_worker *worker = small_pool_with_worker(&pool, 4, 1);
    struct td_block args, result;
    uint64_t position;
    REQUIRE_OK(td_arena_alloc(pool.args, 1000, &args));
    REQUIRE_OK(td_arena_lend(pool.args, args.ref));
    REQUIRE_OK(push_task(&pool, 2, 21, &args, TD_SLOT_SOLE_ARGS, &position));
    struct td_assignment assignment = take_next(worker);
    CHECK_EQ(assignment.args.ref, args.ref);
    CHECK(assignment.args_data == assignment.args.data && assignment.args_data != NULL);
    REQUIRE_OK(td_worker_block(worker, 10, &result));
    memcpy(result.data, "0123456789", 10);
    const uint64_t before_growth = result.ref;
    REQUIRE_OK(td_worker_block_grow(worker, &result, 10, 100000));
    CHECK_NE(result.ref, before_growth);
    CHECK_LE(100000u, result.capacity);
    CHECK_STATUS(td_worker_block_grow(worker, &result, result.capacity + 1, 200000), TD_EINVAL);
    CHECK_STATUS(td_worker_reply(worker, false, NULL, &result, result.capacity + 1, true), TD_EINVAL);
    const uint64_t result_ref = result.ref;
    REQUIRE_OK(td_worker_reply(worker, false, NULL, &result, 10, true));
    CHECK_EQ(result.ref, 0u);
    const struct td_slot *slot = &pool.rig.map.slots[0];
    CHECK_EQ(slot->reply_flags, TD_SLOT_ERROR | TD_SLOT_KEEP_ARGS);
    CHECK_EQ(slot->result_ref, result_ref);
    void *data;
    REQUIRE_OK(td_arena_peek(pool.seats[0].results, slot->result_ref, slot->result_bytes, &data));
    CHECK_MEM(data, "0123456789", 10);
    CHECK_OK(td_block_give(pool.seats[0].results, slot->result_ref));
    CHECK_EQ(td_arena_sweep(pool.args), 0u);
    td_worker_give_args(worker, assignment.args.ref);
    CHECK_EQ(td_arena_sweep(pool.args), 1u);
    small_pool_end(&pool, worker);
}

TD_TEST(arguments_that_others_may_read_are_not_writable)
{
    struct small_pool pool;
    td_worker *worker = small_pool_with_worker(&pool, 4, 1);
    struct td_block args;
    uint64_t position;
    REQUIRE_OK(td_arena_alloc(pool.args, 1000, &args));
    REQUIRE_OK(push_task(&pool, 2, 21, &args, 0, &position));
    const struct td_assignment assignment = take_next(worker);
    CHECK_EQ(number_of(&assignment), 21u);
    CHECK(assignment.args_data == NULL);
    small_pool_end(&pool, worker);
}

TD_TEST(what_is_written_to_a_private_mapping_of_arguments_nobody_else_sees)
{
    struct small_pool pool;
    td_worker *worker = small_pool_with_worker(&pool, 4, 1);
    struct td_block args;
    struct td_private first, second;
    uint64_t position;
    unsigned char elsewhere[16];
    REQUIRE_OK(td_arena_alloc(pool.args, 100000, &args));
    memset(args.data, 7, 100000);
    REQUIRE_OK(push_task(&pool, 2, 21, &args, 0, &position));
    const struct td_assignment assignment = take_next(worker);
    const unsigned char *shared = assignment.args.data;
    REQUIRE_OK(td_worker_map_private(worker, shared + 5000, 90000, &first));
    REQUIRE_OK(td_worker_map_private(worker, shared, 100, &second));
    CHECK_MEM(first.data, shared + 5000, 90000);
    memset(first.data, 9, 90000);
    CHECK_EQ(shared[5000], 7);
    CHECK_EQ(shared[94999], 7);
    CHECK_MEM(second.data, shared, 100);
    td_private_unmap(&first);
    td_private_unmap(&second);
    CHECK_STATUS(td_worker_map_private(worker, elsewhere, sizeof elsewhere, &first), TD_EINVAL);
    CHECK_STATUS(td_worker_map_private(worker, shared, td_arena_size(pool.args), &first), TD_EINVAL);
    small_pool_end(&pool, worker);
}

TD_TEST(requests_that_make_no_sense_are_refused)
{
    struct small_pool pool;
    small_pool_init(&pool, 8, 1);
    struct td_block args;
    uint64_t position;
    REQUIRE_OK(td_arena_alloc(pool.args, 64, &args));
    for (int bad = 0; bad < 6; bad++) {
        td_worker *worker = worker_here(&pool, 0);
        REQUIRE_OK(push_task(&pool, 2, 21, NULL, 0, &position));
        struct td_slot *slot = &pool.rig.map.slots[bad];
        if (bad == 0)
            slot->args_bytes = TD_INLINE_ARGS + 1;
        if (bad == 1)
            slot->args_ref = args.ref + 64;
        if (bad == 2)
            slot->args_ref = UINT64_MAX;
        if (bad == 3) {
            slot->args_ref = args.ref;
            slot->args_bytes = args.capacity + 1;
        }
        if (bad == 4)
            slot->fn_ref = args.ref ^ UINT64_C(1) << 50;
        if (bad == 5)
            td_atomic_store_relaxed(&slot->range, td_range(5, 4));
        struct td_assignment assignment;
        CHECK_STATUS(td_worker_next(worker, &assignment), TD_EPROTO);
        td_worker_detach(worker);
        seat_close(&pool, 0);
    }
    small_pool_fini(&pool);
}

/* ---- Chunks ---- */

TD_TEST(items_are_taken_in_order_until_the_end_that_the_parent_may_cut)
{
    struct small_pool pool;
    td_worker *worker = small_pool_with_worker(&pool, 4, 1);
    uint64_t position;
    struct td_slot *slot = &pool.rig.map.slots[0];
    uint32_t item;
    CHECK_STATUS(td_worker_take_item(worker, &item), TD_EINVAL);
    REQUIRE_OK(push_task(&pool, 2, 21, NULL, 0, &position));
    td_atomic_store_relaxed(&slot->range, td_range(10, 20));
    const struct td_assignment assignment = take_next(worker);
    CHECK_EQ(assignment.begin, 10u);
    CHECK_EQ(assignment.end, 20u);
    for (uint32_t i = 10; i < 13; i++) {
        REQUIRE_OK(td_worker_take_item(worker, &item));
        CHECK_EQ(item, i);
    }
    uint64_t range = td_range(13, 20);
    CHECK(td_atomic_cas_strong_relaxed(&slot->range, &range, td_range(13, 14)));
    REQUIRE_OK(td_worker_take_item(worker, &item));
    CHECK_EQ(item, 13u);
    CHECK_STATUS(td_worker_take_item(worker, &item), TD_ECLOSED);
    small_pool_end(&pool, worker);
}

#define ITEMS 2000u

struct publishing {
    td_worker *worker;
    struct td_block block;
};

static void *publish_items(void *argument)
{
    struct publishing *publishing = argument;
    uint32_t item;
    uint64_t used = 0;
    while (td_worker_take_item(publishing->worker, &item) == TD_OK) {
        const uint32_t square = item * item;
        memcpy((char *)publishing->block.data + used, &square, sizeof square);
        used += sizeof square;
        td_worker_publish(publishing->worker, &publishing->block, used, item + 1);
    }
    return NULL;
}

/* The task's slot in the worker's own mapping: ThreadSanitizer can't tell that two addresses are one memory. */
static const struct td_slot *slot_of(const struct td_assignment *assignment)
{
    const char *inline_args = assignment->args.data;
    return (const void *)(inline_args - offsetof(struct td_slot, args));
}

/* Edge T. */
TD_TEST(published_items_can_be_read_while_the_chunk_runs)
{
    struct small_pool pool;
    small_pool_init(&pool, 4, 1);
    struct publishing publishing = {.worker = worker_here(&pool, 0)};
    uint64_t position;
    REQUIRE_OK(push_task(&pool, 1, 0, NULL, 0, &position));
    td_atomic_store_relaxed(&pool.rig.map.slots[0].range, td_range(0, ITEMS));
    const struct td_assignment assignment = take_next(publishing.worker);
    const struct td_slot *slot = slot_of(&assignment);
    REQUIRE_OK(td_worker_block(publishing.worker, ITEMS * sizeof(uint32_t), &publishing.block));
    pthread_t thread;
    REQUIRE_EQ(pthread_create(&thread, NULL, publish_items, &publishing), 0);
    uint32_t items = 0, turn = 0;
    while (items < ITEMS) {
        const uint32_t published = td_atomic_load_acquire(&slot->partial_items); /* T */
        if (published == items)
            rig_relax(&turn);
        for (; items < published; items++)
            CHECK_EQ(((const uint32_t *)publishing.block.data)[items], items * items);
    }
    pthread_join(thread, NULL);
    void *data;
    REQUIRE_OK(td_arena_peek(pool.seats[0].results, td_atomic_load_relaxed(&slot->partial_ref),
                             slot->result_bytes, &data));
    CHECK_EQ(slot->result_bytes, ITEMS * sizeof items);
    CHECK_MEM(data, publishing.block.data, slot->result_bytes);
    CHECK_OK(td_worker_reply(publishing.worker, true, NULL, &publishing.block, slot->result_bytes, false));
    td_worker_detach(publishing.worker);
    small_pool_fini(&pool);
}

static void *move_items(void *argument)
{
    struct publishing *publishing = argument;
    CHECK_OK(td_worker_block_grow(publishing->worker, &publishing->block, ITEMS * sizeof(uint32_t), 1 << 20));
    return NULL;
}

/* Edge M. The block's address follows from that of the one before it: both are in one mapping. */
TD_TEST(published_items_can_be_read_where_they_were_moved)
{
    struct small_pool pool;
    td_worker *worker = small_pool_with_worker(&pool, 4, 1);
    struct publishing publishing = {.worker = worker};
    uint64_t position;
    REQUIRE_OK(push_task(&pool, 1, 0, NULL, 0, &position));
    const struct td_assignment assignment = take_next(worker);
    const struct td_slot *slot = slot_of(&assignment);
    REQUIRE_OK(td_worker_block(worker, ITEMS * sizeof(uint32_t), &publishing.block));
    const uint64_t before = publishing.block.ref;
    const char *mapping = (const char *)publishing.block.data - td_ref_offset(before);
    for (uint32_t item = 0; item < ITEMS; item++)
        ((uint32_t *)publishing.block.data)[item] = item * item;
    td_worker_publish(worker, &publishing.block, ITEMS * sizeof(uint32_t), ITEMS);
    pthread_t thread;
    REQUIRE_EQ(pthread_create(&thread, NULL, move_items, &publishing), 0);
    uint64_t ref;
    for (uint32_t turn = 0; (ref = td_atomic_load_acquire(&slot->partial_ref)) == before;) /* M */
        rig_relax(&turn);
    const uint32_t *items = (const void *)(mapping + td_ref_offset(ref));
    for (uint32_t item = 0; item < ITEMS; item++)
        CHECK_EQ(items[item], item * item);
    pthread_join(thread, NULL);
    CHECK_EQ(ref, publishing.block.ref);
    td_worker_block_drop(worker, &publishing.block);
    small_pool_end(&pool, worker);
}

TD_TEST(published_items_move_with_their_block)
{
    struct small_pool pool;
    td_worker *worker = small_pool_with_worker(&pool, 4, 1);
    struct td_slot *slot = &pool.rig.map.slots[0];
    struct td_block block;
    uint64_t position;
    REQUIRE_OK(push_task(&pool, 1, 0, NULL, 0, &position));
    take_next(worker);
    REQUIRE_OK(td_worker_block(worker, 8, &block));
    memcpy(block.data, "partial", 8);
    td_worker_publish(worker, &block, 8, 1);
    CHECK_EQ(td_atomic_load_relaxed(&slot->partial_ref), block.ref);
    REQUIRE_OK(td_worker_block_grow(worker, &block, 8, 1 << 20));
    void *data;
    CHECK_EQ(td_atomic_load_relaxed(&slot->partial_ref), block.ref);
    REQUIRE_OK(td_arena_peek(pool.seats[0].results, td_atomic_load_relaxed(&slot->partial_ref), 8, &data));
    CHECK_MEM(data, "partial", 8);
    td_worker_block_drop(worker, &block);
    CHECK_EQ(block.ref, 0u);
    CHECK_EQ(td_atomic_load_relaxed(&slot->partial_items), 0u);
    CHECK_EQ(td_atomic_load_relaxed(&slot->partial_ref), 0u);
    td_worker_block_drop(worker, &block);
    small_pool_end(&pool, worker);
}

/* ---- Parcels ---- */

static struct td_parcel parcel_of(td_worker *worker, uint64_t bytes)
{
    struct td_block block;
    REQUIRE_OK(td_worker_block(worker, bytes, &block));
    return (struct td_parcel){.ref = block.ref, .bytes = bytes};
}

static td_status peek_parcel(const struct small_pool *pool, const struct td_parcel *parcel)
{
    void *data;
    return td_arena_peek(pool->seats[0].results, parcel->ref, parcel->bytes, &data);
}

/* The table, from its end. */
static const struct td_parcel *enclosed(const struct td_block *block, uint32_t number)
{
    return (const struct td_parcel *)(const void *)((const char *)block->data + block->capacity) - 1 - number;
}

TD_TEST(parcels_stand_at_the_end_of_the_block_wherever_it_grows)
{
    struct small_pool pool;
    td_worker *worker = small_pool_with_worker(&pool, 4, 1);
    struct td_slot *slot = &pool.rig.map.slots[0];
    struct td_block block;
    struct td_parcel parcels[5];
    uint64_t position;
    REQUIRE_OK(push_task(&pool, 1, 0, NULL, 0, &position));
    take_next(worker);
    REQUIRE_OK(td_worker_block(worker, 8 + 5 * sizeof parcels[0], &block));
    memcpy(block.data, "results", 8);
    for (uint32_t i = 0; i < 5; i++)
        parcels[i] = parcel_of(worker, 100 + i);
    CHECK_OK(td_worker_enclose(worker, &block, 8, parcels, 2));
    REQUIRE_OK(td_worker_block_grow(worker, &block, 8, 100000));
    CHECK_OK(td_worker_enclose(worker, &block, 8, parcels + 2, 3));
    CHECK_OK(td_worker_enclose(worker, &block, 8, NULL, 0));
    CHECK_EQ(td_atomic_load_relaxed(&slot->parcels), 5u);
    for (uint32_t i = 0; i < 5; i++) {
        CHECK_MEM(enclosed(&block, i), &parcels[i], sizeof parcels[i]);
        CHECK_OK(peek_parcel(&pool, &parcels[i]));
    }
    const uint64_t most = block.capacity - 5 * sizeof parcels[0];
    CHECK_STATUS(td_worker_reply(worker, true, NULL, &block, most + 1, false), TD_EINVAL);
    const uint64_t ref = block.ref;
    CHECK_OK(td_worker_reply(worker, true, NULL, &block, 8, false));
    CHECK_EQ(slot->result_ref, ref);
    CHECK_OK(td_block_give(pool.seats[0].results, ref));
    for (uint32_t i = 0; i < 5; i++)
        CHECK_OK(td_block_give(pool.seats[0].results, parcels[i].ref));
    small_pool_end(&pool, worker);
}

TD_TEST(parcels_end_with_a_block_that_is_dropped)
{
    struct small_pool pool;
    td_worker *worker = small_pool_with_worker(&pool, 4, 1);
    struct td_block block, other;
    uint64_t position;
    REQUIRE_OK(push_task(&pool, 1, 0, NULL, 0, &position));
    take_next(worker);
    const struct td_parcel parcel = parcel_of(worker, 1000);
    REQUIRE_OK(td_worker_block(worker, 1000, &block));
    REQUIRE_OK(td_worker_block(worker, 1000, &other));
    CHECK_OK(td_worker_enclose(worker, &block, 8, &parcel, 1));
    td_worker_block_drop(worker, &other);
    CHECK_OK(peek_parcel(&pool, &parcel));
    td_worker_block_drop(worker, &block);
    CHECK_STATUS(peek_parcel(&pool, &parcel), TD_EPROTO);
    CHECK_EQ(td_atomic_load_relaxed(&pool.rig.map.slots[0].parcels), 0u);
    REQUIRE_OK(td_worker_reply(worker, true, NULL, NULL, 0, false));
    small_pool_end(&pool, worker);
}

TD_TEST(parcels_that_cannot_be_are_refused_and_stay_the_workers)
{
    struct small_pool pool;
    td_worker *worker = small_pool_with_worker(&pool, 4, 1);
    struct td_block block;
    struct td_parcel parcels[2];
    uint64_t position;
    REQUIRE_OK(push_task(&pool, 1, 0, NULL, 0, &position));
    take_next(worker);
    parcels[0] = parcel_of(worker, 1000);
    parcels[1] = (struct td_parcel){.ref = parcels[0].ref + 64, .bytes = 10};
    REQUIRE_OK(td_worker_block(worker, 1000, &block));
    CHECK_STATUS(td_worker_enclose(worker, &block, 8, parcels, 2), TD_EINVAL);
    CHECK_STATUS(td_worker_enclose(worker, &block, block.capacity - 23, parcels, 1), TD_EINVAL);
    CHECK_STATUS(td_worker_enclose(worker, &block, block.capacity + 1, parcels, 1), TD_EINVAL);
    CHECK_EQ(td_atomic_load_relaxed(&pool.rig.map.slots[0].parcels), 0u);
    CHECK_STATUS(td_block_give(pool.seats[0].results, parcels[0].ref),
                 TD_EPROTO); /* not lent, or given back by it */
    td_worker_block_drop(worker, &block);
    small_pool_end(&pool, worker);
}

TD_TEST(arrays_are_born_where_results_go)
{
    struct small_pool pool;
    td_worker *worker = small_pool_with_worker(&pool, 4, 1);
    td_nursery *nursery = NULL, *same = NULL;
    struct td_block block;
    REQUIRE_OK(td_worker_nursery(worker, &nursery));
    REQUIRE_OK(td_worker_nursery(worker, &same));
    CHECK(nursery == same && nursery != NULL);
    REQUIRE_OK(td_worker_block(worker, 300000, &block));
    void *data = block.data;
    td_worker_block_drop(worker, &block);
    CHECK(td_nursery_take(nursery, 300000) == data);
    small_pool_end(&pool, worker);
}

/* ---- Leaving ---- */

TD_TEST(a_worker_leaves_when_told_after_its_task)
{
    for (int reason = 0; reason < 3; reason++) {
        struct small_pool pool;
        small_pool_init(&pool, 4, 2);
        pool.rig.map.seats[0].max_tasks = reason == 2 ? 1 : 0;
        td_worker *worker = worker_here(&pool, 0);
        struct td_assignment assignment;
        uint64_t position;
        REQUIRE_OK(push_task(&pool, 1, 1, NULL, 0, &position));
        REQUIRE_OK(push_task(&pool, 1, 2, NULL, 0, &position));
        take_next(worker);
        if (reason == 0)
            td_atomic_store_seq(&pool.rig.map.seats[0].dismissed, 1);
        if (reason == 1)
            td_worker_leave(worker);
        REQUIRE_OK(td_worker_reply(worker, true, NULL, NULL, 0, false));
        td_atomic_store_seq(&pool.rig.map.states[1], TD_SEAT_PARKED);
        CHECK_STATUS(td_worker_next(worker, &assignment), TD_ECLOSED);
        CHECK_EQ(state_of(&pool, 0), (uint32_t)TD_SEAT_LEAVING);
        CHECK_EQ(td_atomic_load_relaxed(&pool.rig.map.seats[0].leaving), 1u); /* or its end would be a crash */
        CHECK_EQ(state_of(&pool, 1), (uint32_t)TD_SEAT_WOKEN);                /* for the other task */
        small_pool_end(&pool, worker);
    }
}

TD_TEST(a_closing_pool_is_left_when_nothing_is_queued)
{
    struct small_pool pool;
    td_worker *worker = small_pool_with_worker(&pool, 4, 1);
    for (uint32_t i = 0; i < 3; i++)
        REQUIRE_OK(push_number(&pool, 2, i));
    td_atomic_store_seq(&pool.rig.map.head->closing, 1);
    CHECK_STATUS(multiply_until_closed(worker), TD_ECLOSED);
    for (uint32_t i = 0; i < 3; i++)
        CHECK_EQ(wait_for_product(&pool), 2 * i);
    small_pool_end(&pool, worker);
}

static void interrupt(int signal)
{
    (void)signal;
}

TD_TEST(a_signal_ends_the_wait_and_the_next_call_finds_the_task)
{
    struct small_pool pool;
    td_worker *worker = small_pool_with_worker(&pool, 4, 1);
    const struct sigaction action = {.sa_handler = interrupt};
    sigaction(SIGUSR1, &action, NULL);
    const pid_t child = fork();
    if (child == 0) {
        /* Again and again, for the first may come just before the sleep. */
        while (state_of(&pool, 0) != TD_SEAT_BUSY) {
            kill(getppid(), SIGUSR1);
            sched_yield();
        }
        _exit(0);
    }
    struct td_assignment assignment;
    CHECK_STATUS(td_worker_next(worker, &assignment), TD_EINTR);
    CHECK_EQ(state_of(&pool, 0), (uint32_t)TD_SEAT_BUSY); /* nobody counts on it while a handler runs */
    CHECK_EQ(test_wait_child(child), 0);
    REQUIRE_OK(push_number(&pool, 2, 4));
    CHECK_OK(td_worker_next(worker, &assignment));
    small_pool_end(&pool, worker);
}

TD_TEST(an_interrupt_is_for_the_task_it_names)
{
    struct small_pool pool;
    td_worker *worker = small_pool_with_worker(&pool, 4, 1);
    td_atomic_u64 *request = &pool.rig.map.seats[0].interrupt;
    uint64_t first, second;
    CHECK(!td_worker_interrupted(worker));
    REQUIRE_OK(push_task(&pool, 1, 1, NULL, 0, &first));
    REQUIRE_OK(push_task(&pool, 1, 2, NULL, 0, &second));
    take_next(worker);
    td_atomic_store_seq(request, second);
    CHECK(!td_worker_interrupted(worker));
    td_atomic_store_seq(request, first);
    CHECK(td_worker_interrupted(worker));
    CHECK(!td_worker_interrupted(worker));
    td_atomic_store_seq(request, first);
    REQUIRE_OK(td_worker_reply(worker, true, NULL, NULL, 0, false));
    CHECK(!td_worker_interrupted(worker));
    take_next(worker);
    CHECK(!td_worker_interrupted(worker));
    small_pool_end(&pool, worker);
}

/* ---- What the parent wants to hear ---- */

static bool is_rung(const struct small_pool *pool)
{
    uint64_t rings;
    CHECK_OK(td_event_drain(pool->rig.bell.event_fd, &rings));
    return rings > 0;
}

TD_TEST(a_worker_that_finds_nothing_says_so_if_it_matters)
{
    struct small_pool pool;
    td_worker *worker = small_pool_with_worker(&pool, 32, 1);
    td_atomic_u32 *wants = &pool.rig.map.head->wants;
    td_atomic_store_seq(&pool.rig.map.head->closing, 1); /* so that next comes back */
    struct td_assignment assignment;
    td_worker_next(worker, &assignment);
    CHECK(!is_rung(&pool));
    const uint32_t kinds[] = {TD_WANT_HUNGRY, TD_WANT_LOW, TD_WANT_HUNGRY | TD_WANT_LOW};
    for (size_t i = 0; i < 3; i++) {
        td_atomic_store_seq(wants, kinds[i]);
        td_atomic_store_seq(&pool.rig.map.seats[0].leaving, 0); /* it has left for good, but for this test */
        td_worker_next(worker, &assignment);
        CHECK(is_rung(&pool));
        CHECK_EQ(td_atomic_load_relaxed(wants), 0u);
    }
    small_pool_end(&pool, worker);
}

TD_TEST(a_ring_that_runs_low_is_announced_before_it_is_empty)
{
    struct small_pool pool;
    td_worker *worker = small_pool_with_worker(&pool, 128, 1);
    for (uint32_t i = 0; i < 128; i++)
        REQUIRE_OK(push_number(&pool, 1, i));
    td_atomic_store_seq(&pool.rig.map.head->wants, TD_WANT_LOW);
    uint32_t done = 0;
    while (!is_rung(&pool)) {
        REQUIRE(done < 128);
        take_next(worker);
        REQUIRE_OK(td_worker_reply(worker, true, NULL, NULL, 0, false));
        done++;
    }
    CHECK_LE(96u, done);
    CHECK_LE(done, 96u + 16u);
    small_pool_end(&pool, worker);
}

TD_TEST(a_worker_with_items_left_speaks_for_those_asleep)
{
    struct small_pool pool;
    td_worker *worker = small_pool_with_worker(&pool, 8, 2);
    td_atomic_u32 *wants = &pool.rig.map.head->wants;
    uint64_t position;
    uint32_t item;
    REQUIRE_OK(push_task(&pool, 1, 0, NULL, 0, &position));
    td_atomic_store_relaxed(&pool.rig.map.slots[0].range, td_range(0, 10));
    take_next(worker);
    REQUIRE_OK(td_worker_take_item(worker, &item)); /* the parent doesn't ask */
    td_atomic_store_seq(wants, TD_WANT_HUNGRY);
    REQUIRE_OK(td_worker_take_item(worker, &item)); /* nobody sleeps */
    td_atomic_store_seq(&pool.rig.map.states[1], TD_SEAT_PARKED);
    REQUIRE_OK(push_task(&pool, 1, 0, NULL, 0, &position));
    REQUIRE_OK(td_worker_take_item(worker, &item)); /* another task waits */
    CHECK(!is_rung(&pool));
    REQUIRE(td_submission_cancel(&pool.rig.map, 1, position));
    td_atomic_store_relaxed(&pool.rig.map.head->head_hints[TD_LANE_NEW], position + 1);
    REQUIRE_OK(td_worker_take_item(worker, &item));
    CHECK(is_rung(&pool));
    CHECK_EQ(td_atomic_load_relaxed(wants), 0u);
    small_pool_end(&pool, worker);
}

TD_TEST(a_worker_that_cannot_start_says_why)
{
    struct small_pool pool;
    td_worker *worker = small_pool_with_worker(&pool, 4, 1);
    const char *reason = "the initializer raised ValueError";
    CHECK_OK(td_worker_failed(worker, reason));
    CHECK(is_rung(&pool));
    CHECK_EQ(state_of(&pool, 0), (uint32_t)TD_SEAT_LEAVING);
    const struct td_seat *seat = &pool.rig.map.seats[0];
    const uint64_t failure = td_atomic_load_acquire(&seat->failure);
    void *text;
    CHECK_EQ(seat->failure_bytes, strlen(reason));
    REQUIRE_OK(td_arena_peek(pool.seats[0].results, failure, seat->failure_bytes, &text));
    CHECK_MEM(text, reason, strlen(reason));
    small_pool_end(&pool, worker);
}

/* ---- Attaching ---- */

TD_TEST(a_worker_whose_parent_is_gone_does_not_start)
{
    struct small_pool pool;
    small_pool_init(&pool, 4, 1);
    struct td_birth birth;
    td_worker *worker;
    seat_open(&pool, 0);
    seat_birth(&pool, 0, &birth);
    close_once(&pool.seats[0].lifeline);
    /* In a child: the armed lifeline of a parent that is gone may kill. */
    const pid_t child = fork();
    if (child == 0)
        _exit(td_worker_attach(&birth, &worker) == TD_ECLOSED ? 0 : 1);
    const int code = test_wait_child(child);
    CHECK(code == 0 || code == -SIGKILL);
    td_birth_fini(&birth);
    pool.seats[0].lifeline = dup(0);
    small_pool_fini(&pool);
}

TD_TEST(a_birth_with_a_wrong_part_is_refused_and_nothing_leaks)
{
    struct small_pool pool;
    small_pool_init(&pool, 4, 2);
    for (int wrong = 0; wrong < 5; wrong++) {
        struct td_birth birth;
        td_worker *worker;
        seat_open(&pool, 0);
        seat_birth(&pool, 0, &birth);
        int *const parts[] = {&birth.control_fd, &birth.bell_fd, &birth.args_fd, &birth.arena_fd};
        if (wrong < 4) {
            close(*parts[wrong]);
            *parts[wrong] = dup(wrong == 0 ? pool.rig.bell.fd : pool.rig.map.fd);
        } else {
            birth.worker = 2;
        }
        CHECK_STATUS(td_worker_attach(&birth, &worker), TD_EPROTO);
        td_birth_fini(&birth);
        seat_close(&pool, 0);
    }
    small_pool_fini(&pool);
}

/* ---- Threads ---- */

static void *multiply_in_thread(void *worker)
{
    CHECK_STATUS(multiply_until_closed(worker), TD_ECLOSED);
    return NULL;
}

TD_TEST(workers_in_threads_do_all_tasks_once)
{
    struct small_pool pool;
    small_pool_init(&pool, 16, 3);
    pool.rig.map.head->spin_ns = 20000;
    td_worker *workers[3];
    pthread_t threads[3];
    for (uint32_t i = 0; i < 3; i++) {
        workers[i] = worker_here(&pool, i);
        REQUIRE_EQ(pthread_create(&threads[i], NULL, multiply_in_thread, workers[i]), 0);
    }
    const uint64_t tasks = test_rounds(20000);
    uint64_t pushed = 0, sum = 0;
    for (uint64_t done = 0; done < tasks; done++) {
        while (pushed < tasks && push_number(&pool, 3, pushed) == TD_OK)
            pushed++;
        sum += wait_for_product(&pool);
    }
    CHECK_EQ(sum, 3 * (tasks * (tasks - 1) / 2));
    td_atomic_store_seq(&pool.rig.map.head->closing, 1);
    for (uint32_t i = 0; i < 3; i++)
        td_doorbell_wake_worker(&pool.rig.map, i);
    for (uint32_t i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
        td_worker_detach(workers[i]);
    }
    small_pool_fini(&pool);
}

TD_TEST_MAIN
