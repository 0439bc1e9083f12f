/* tests/pool/test_chunk.c: chunks of a map: shared with idle workers, cancelled, and taken apart when a worker dies. */
#include "tests/pool/crew.h"

#define NO_ITEM UINT32_MAX

static td_task *submit_items(const struct crew *crew, uint32_t items, const struct op *op, uint32_t retries)
{
    struct td_call call = crew_call(crew, op);
    td_task *task = NULL;
    call.items = items;
    call.retries = retries;
    REQUIRE_OK(td_pool_submit(crew->pool, &call, &task));
    return task;
}

static uint32_t runs_of(uint32_t item)
{
    return td_atomic_load_relaxed(&crew_board->runs[item]);
}

static void check_items(const td_task *part, uint32_t begin, uint32_t end)
{
    struct td_view view = {0};
    CHECK_OK(td_task_result(part, &view));
    CHECK_LE((uint64_t)(end - begin) * sizeof(uint64_t), view.bytes);
    for (uint32_t item = begin; item < end && view.bytes >= (uint64_t)(end - begin) * 8; item++) {
        uint64_t value;
        memcpy(&value, (const char *)view.data + (size_t)(item - begin) * sizeof value, sizeof value);
        CHECK_EQ(value, (uint64_t)item * 2);
    }
}

struct tally {
    uint32_t parts, results, cancelled, died, timed_out, first_dead;
};

/* Waits for all parts, which must cover [0, items) in order; counts the items of each state. */
static struct tally collect(td_task *task, uint32_t items)
{
    struct tally tally = {.first_dead = NO_ITEM};
    uint32_t next = 0, begin, end;
    for (td_task *part = task; part != NULL; part = td_task_rest(part)) {
        const enum td_task_state state = crew_wait(part);
        td_task_range(part, &begin, &end);
        CHECK_EQ(begin, next);
        CHECK_LE(begin, end);
        next = end;
        tally.parts++;
        switch (state) {
        case TD_TASK_RESULT:
            if (begin < end)
                check_items(part, begin, end);
            tally.results += end - begin;
            break;
        case TD_TASK_CANCELLED:
            tally.cancelled += end - begin;
            break;
        case TD_TASK_DIED:
            tally.died += end - begin;
            tally.first_dead = begin;
            break;
        case TD_TASK_TIMED_OUT:
            tally.timed_out += end - begin;
            break;
        default:
            test_fail(__FILE__, __LINE__, "state %d", (int)state);
        }
    }
    CHECK_EQ(next, items);
    td_task_unref(task);
    return tally;
}

TD_TEST(a_chunk_comes_back_whole)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    for (uint32_t items = 1; items <= 1000; items *= 10) {
        const struct tally tally =
            collect(submit_items(&crew, items, &(struct op){.code = OP_ITEMS, .b = NO_ITEM}, 0), items);
        CHECK_EQ(tally.results, items);
        CHECK_EQ(tally.parts, 1u);
    }
    crew_close(&crew);
}

/* Item 0 waits at the gate of the round; until another worker has run one of the others. */
static void await_another_item(uint32_t items, uint32_t round)
{
    crew_await_gate(round, 1);
    for (uint32_t item = 1; runs_of(item) != round * 0x10001u; item = item % (items - 1) + 1)
        sched_yield();
}

TD_TEST(a_long_chunk_is_shared_with_idle_workers)
{
    enum { ITEMS = 400 };
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 3});
    CHECK_OK(td_pool_prestart(crew.pool, 3));
    for (uint32_t round = 1; round <= 3; round++) {
        td_task *task = submit_items(&crew, ITEMS, &(struct op){.code = OP_ITEMS, .a = round, .c = OP_GATE}, 0);
        await_another_item(ITEMS, round);
        crew_open_gate(round);
        const struct tally tally = collect(task, ITEMS);
        CHECK_EQ(tally.results, ITEMS);
        CHECK_LT(1u, tally.parts);
    }
    for (uint32_t item = 0; item < ITEMS; item++)
        CHECK_EQ(runs_of(item), 0x30003u);
    crew_close(&crew);
}

TD_TEST(one_long_item_does_not_keep_those_behind_it)
{
    enum { ITEMS = 64 };
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 2});
    CHECK_OK(td_pool_prestart(crew.pool, 2));
    CHECK_EQ(crew_value(crew_submit(&crew, &(struct op){.code = OP_ADD, .a = 1})), 1);
    /* Item 5 waits until the last of the others has been run, by the other worker. */
    td_task *task = submit_items(&crew, ITEMS, &(struct op){.code = OP_ITEMS, .a = 1, .b = 5, .c = OP_GATE}, 0);
    crew_await_gate(1, 1);
    for (uint32_t item = 0; item < ITEMS; item++)
        while (item != 5 && runs_of(item) != 0x10001u)
            sched_yield();
    crew_open_gate(1);
    CHECK_EQ(collect(task, ITEMS).results, ITEMS);
    crew_close(&crew);
}

TD_TEST(a_death_in_a_chunk_loses_exactly_the_item_that_ran)
{
    enum { ITEMS = 100 };
    static const uint32_t at[] = {0, 1, 50, 98, 99};
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    for (uint32_t i = 0; i < 5; i++) {
        const struct op op = {.code = OP_ITEMS, .a = 7, .b = at[i], .c = OP_EXIT};
        td_task *task = submit_items(&crew, ITEMS, &op, 0);
        const struct tally tally = collect(task, ITEMS);
        CHECK_EQ(tally.died, 1u);
        CHECK_EQ(tally.first_dead, at[i]);
        CHECK_EQ(tally.results, ITEMS - 1u);
        for (uint32_t item = 0; item < ITEMS; item++)
            CHECK_EQ(td_atomic_exchange_relaxed(&crew_board->runs[item], 0), item == at[i] ? 1u : 0x10001u);
    }
    crew_close(&crew);
}

TD_TEST(the_rest_of_a_chunk_does_not_wait_behind_what_was_submitted_later)
{
    enum { ITEMS = 10, AT = 5 };
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    td_task *gate = crew_submit(&crew, &(struct op){.code = OP_GATE});
    crew_await_gate(0, 1);
    const struct op op = {.code = OP_ITEMS, .b = AT, .c = OP_EXIT};
    td_task *task = submit_items(&crew, ITEMS, &op, 1);
    td_task *others[4];
    for (uint32_t i = 0; i < 4; i++)
        others[i] = crew_submit(&crew, &(struct op){.code = OP_ADD});
    crew_open_gate(0);
    crew_wait(gate);
    td_task_unref(gate);
    td_task_ref(task);
    const struct tally tally = collect(task, ITEMS);
    CHECK_EQ(tally.died, 1u);
    CHECK_EQ(tally.first_dead, (uint32_t)AT);
    struct td_timing timing, last = {0};
    for (td_task *part = td_task_rest(task); part != NULL; part = td_task_rest(part)) {
        uint32_t begin, end;
        td_task_range(part, &begin, &end);
        if (begin > AT)
            td_task_timing(part, &last);
    }
    for (uint32_t i = 0; i < 4; i++) {
        crew_wait(others[i]);
        td_task_timing(others[i], &timing);
        CHECK_LT(last.started_ns, timing.started_ns);
        td_task_unref(others[i]);
    }
    td_task_unref(task);
    crew_close(&crew);
}

TD_TEST(the_item_that_kills_runs_again_and_the_others_do_not)
{
    enum { ITEMS = 100 };
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    const struct op op = {.code = OP_ITEMS, .a = 7, .b = 30, .c = OP_EXIT};
    td_task *task = submit_items(&crew, ITEMS, &op, 2);
    td_task_ref(task);
    const struct tally tally = collect(task, ITEMS);
    CHECK_EQ(tally.died, 1u);
    CHECK_EQ(tally.first_dead, 30u);
    for (td_task *part = task; part != NULL; part = td_task_rest(part)) {
        struct td_death death;
        if (td_task_state(part) != TD_TASK_DIED)
            continue;
        CHECK_OK(td_task_death(part, &death));
        CHECK_EQ(death.deaths, 3u);
        CHECK_EQ(death.quarantined, 1u);
        CHECK_EQ(death.exit_code, 7);
    }
    td_task_unref(task);
    for (uint32_t item = 0; item < ITEMS; item++)
        CHECK_EQ(runs_of(item), item == 30 ? 3u : 0x10001u);
    crew_close(&crew);
}

TD_TEST(random_kills_in_chunks_lose_an_item_each_at_most)
{
    enum { ITEMS = 500 };
    struct crew crew;
    uint64_t random = test_seed;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 3, .max_barren_deaths = 1000});
    for (uint64_t round = 0; round < test_rounds(30); round++) {
        const struct op op = {.code = OP_ITEMS, .a = 20000, .b = NO_ITEM, .c = OP_SPIN};
        uint32_t kills = 0;
        td_task *task = submit_items(&crew, ITEMS, &op, 0);
        while (td_task_state(task) <= TD_TASK_RUNNING && kills < 3) {
            struct td_worker_info info[3];
            for (uint64_t turns = test_random_below(&random, 3000); turns > 0; turns--)
                sched_yield();
            const uint32_t workers = td_pool_get_workers(crew.pool, info, 3);
            const uint32_t chosen = workers == 0 ? 0 : (uint32_t)test_random_below(&random, workers);
            kills += workers > 0 && info[chosen].pid > 0 && kill(info[chosen].pid, SIGKILL) == 0;
        }
        const struct tally tally = collect(task, ITEMS);
        CHECK_LE(tally.died, kills);
        CHECK_EQ(tally.results + tally.died, ITEMS);
        for (uint32_t item = 0; item < ITEMS; item++) {
            const uint32_t runs = td_atomic_exchange_relaxed(&crew_board->runs[item], 0);
            CHECK_LE(runs & 0xffff, 1u);
        }
    }
    crew_close(&crew);
}

TD_TEST(cancelling_a_running_chunk_takes_the_items_that_nobody_has)
{
    enum { ITEMS = 100 };
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    td_task *task = submit_items(&crew, ITEMS, &(struct op){.code = OP_ITEMS, .a = 1, .b = 9, .c = OP_GATE}, 0);
    crew_await_gate(1, 1);
    CHECK_STATUS(td_task_cancel(task, false), TD_EAGAIN);
    crew_open_gate(1);
    const struct tally tally = collect(task, ITEMS);
    CHECK_EQ(tally.results, 10u);
    CHECK_EQ(tally.cancelled, 90u);
    CHECK_EQ(runs_of(10), 0u);
    crew_close(&crew);
}

TD_TEST(cancelling_a_chunk_by_force_stops_the_running_item)
{
    enum { ITEMS = 100 };
    for (uint64_t deaf = 0; deaf < 2; deaf++) {
        struct crew crew;
        crew_open(&crew, &(struct td_pool_config){.max_workers = 1, .grace_ns = 20 * TD_NS_PER_MS});
        const struct op op = {.code = OP_ITEMS, .a = 1, .b = 9, .c = deaf != 0 ? OP_DEAF : OP_GATE};
        td_task *task = submit_items(&crew, ITEMS, &op, 5);
        crew_await_gate(1, 1);
        CHECK_OK(td_task_cancel(task, true));
        const struct tally tally = collect(task, ITEMS);
        CHECK_LE(tally.results, 9u);
        CHECK_EQ(tally.results + tally.cancelled, ITEMS);
        CHECK_EQ(runs_of(10), 0u);
        crew_close(&crew);
    }
}

TD_TEST(a_queued_chunk_is_cancelled_whole)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    td_task *gate = crew_submit(&crew, &(struct op){.code = OP_GATE, .a = 1});
    crew_await_gate(1, 1);
    td_task *task = submit_items(&crew, 50, &(struct op){.code = OP_ITEMS, .b = NO_ITEM}, 0);
    CHECK_OK(td_task_cancel(task, false));
    CHECK_EQ(collect(task, 50).cancelled, 50u);
    crew_open_gate(1);
    CHECK_EQ(crew_value(gate), 1);
    crew_close(&crew);
}

TD_TEST(parts_share_their_arguments_until_the_last_of_them_ends)
{
    enum { ITEMS = 300 };
    struct crew crew;
    struct td_pool_stats stats;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 2});
    CHECK_OK(td_pool_prestart(crew.pool, 2));
    td_pool_get_stats(crew.pool, &stats);
    const uint64_t before = stats.argument_bytes_live;
    const struct op op = {.code = OP_ITEMS, .a = 1, .c = OP_GATE};
    struct td_call call = {.fn = crew.fn, .items = ITEMS, .args_bytes = 1 << 20};
    REQUIRE_OK(td_pool_block_until(crew.pool, call.args_bytes, TD_FOREVER, &call.block));
    memcpy(call.block.data, &op, sizeof op);
    td_task *task;
    REQUIRE_OK(td_pool_submit(crew.pool, &call, &task));
    await_another_item(ITEMS, 1);
    crew_open_gate(1);
    const struct tally tally = collect(task, ITEMS);
    CHECK_EQ(tally.results, ITEMS);
    CHECK_LT(1u, tally.parts);
    struct td_block block; /* allocating sweeps what was given back */
    REQUIRE_OK(td_pool_block_until(crew.pool, 1 << 20, TD_FOREVER, &block));
    td_pool_block_drop(crew.pool, &block);
    td_pool_get_stats(crew.pool, &stats);
    CHECK_LE(stats.argument_bytes_live, before + (1 << 20) + 65536);
    crew_close(&crew);
}

CREW_TEST_MAIN
