/* tests/pool/test_pool.c: how pools end: closed, killed, dropped, broken, forked away from, and with their process. */
#include <pthread.h>

#include "os/event.h"
#include "pool/pool.h"
#include "tests/pool/crew.h"

static struct td_pool_stats stats_of(const struct crew *crew)
{
    struct td_pool_stats stats;
    td_pool_get_stats(crew->pool, &stats);
    return stats;
}

static void *join_pool(void *pool)
{
    CHECK_OK(td_pool_join_until(pool, td_deadline_after(CREW_PATIENCE_NS)));
    return NULL;
}

TD_TEST(a_pool_that_never_started_ends_at_once)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 2});
    CHECK_STATUS(td_pool_join_until(crew.pool, td_deadline_after(TD_NS_PER_MS)), TD_ETIMEDOUT);
    CHECK_OK(td_pool_idle_until(crew.pool, 0));
    crew_close(&crew);
    crew_open(&crew, &(struct td_pool_config){.max_workers = 2});
    td_pool_unref(crew.pool);
    crew_settle(&crew);
}

TD_TEST(a_started_pool_without_work_ends)
{
    for (uint32_t workers = 0; workers <= 2; workers++) {
        struct crew crew;
        crew_open(&crew, &(struct td_pool_config){.max_workers = 2});
        CHECK_OK(td_pool_start(crew.pool));
        CHECK_EQ(stats_of(&crew).zygote_starts, 1u);
        CHECK_OK(td_pool_prestart(crew.pool, workers));
        crew_close(&crew);
    }
}

struct latecomer {
    td_pool *pool;
    td_atomic_u32 started;
};

static void *start_again_and_ring(void *argument)
{
    struct latecomer *latecomer = argument;
    while (td_atomic_load_relaxed(&latecomer->started) == 0)
        sched_yield();
    CHECK_OK(td__pool_start(latecomer->pool));
    CHECK(td_drain_bell()->event_fd >= 0);
    td_bell_ring_loud(td_drain_bell());
    return NULL;
}

/* Edge L: what the second thread sees of the first one's start is `started`. */
TD_TEST(a_pool_that_another_thread_started_can_be_rung_for)
{
    struct crew crew;
    pthread_t thread;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    struct latecomer latecomer = {.pool = crew.pool};
    REQUIRE_EQ(pthread_create(&thread, NULL, start_again_and_ring, &latecomer), 0);
    CHECK_OK(td__pool_start(crew.pool));
    td_atomic_store_relaxed(&latecomer.started, 1);
    pthread_join(thread, NULL);
    crew_close(&crew);
}

TD_TEST(workers_are_started_on_demand)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 4});
    CHECK_EQ(crew_value(crew_submit(&crew, &(struct op){.code = OP_ADD, .a = 1})), 1);
    CHECK_EQ(stats_of(&crew).workers_started, 1u);
    for (uint64_t i = 0; i < 50; i++)
        CHECK_EQ(crew_value(crew_submit(&crew, &(struct op){.code = OP_ADD, .a = i})), i);
    CHECK_EQ(stats_of(&crew).workers_started, 1u);
    td_task *tasks[6];
    for (uint32_t i = 0; i < 6; i++)
        tasks[i] = crew_submit(&crew, &(struct op){.code = OP_GATE, .a = 1});
    crew_await_gate(1, 4);
    CHECK_EQ(stats_of(&crew).workers_started, 4u);
    CHECK_EQ(stats_of(&crew).running, 4u);
    CHECK_EQ(stats_of(&crew).queued, 2u);
    crew_open_gate(1);
    for (uint32_t i = 0; i < 6; i++)
        CHECK_EQ(crew_value(tasks[i]), 1);
    crew_close(&crew);
}

TD_TEST(a_worker_that_has_claimed_a_task_and_has_not_said_so_is_not_counted_on)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 2});
    td_task *rogue = crew_submit(&crew, &(struct op){.code = OP_ROGUE, .a = ROGUE_LAG});
    crew_await_gate(1, 1);
    CHECK(td_pool_is_short_handed(crew.pool));
    CHECK_EQ(crew_value(crew_submit(&crew, &(struct op){.code = OP_ADD, .a = 1})), 1);
    CHECK_EQ(stats_of(&crew).workers_started, 2u);
    crew_open_gate(1);
    CHECK_EQ(crew_wait(rogue), TD_TASK_DIED);
    td_task_unref(rogue);
    crew_close(&crew);
}

TD_TEST(idle_is_when_nothing_is_queued_or_running)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 2});
    for (uint32_t i = 1; i <= 500; i++)
        td_task_unref(crew_submit(&crew, &(struct op){.code = OP_SPIN, .id = i, .a = 10000}));
    CHECK_OK(td_pool_idle_until(crew.pool, TD_FOREVER));
    for (uint32_t i = 1; i <= 500; i++)
        CHECK_EQ(td_atomic_load_relaxed(&crew_board->runs[i]), 0x10001u);
    crew_close(&crew);
}

TD_TEST(closing_with_cancel_ends_what_is_queued_and_finishes_what_runs)
{
    setenv("TREADLE_SLOTS", "64", 1);
    enum { COUNT = 100 };
    struct crew crew;
    td_task *tasks[COUNT];
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    td_task *gate = crew_submit(&crew, &(struct op){.code = OP_GATE, .a = 1});
    crew_await_gate(1, 1);
    for (uint32_t i = 0; i < COUNT; i++)
        tasks[i] = crew_submit(&crew, &(struct op){.code = OP_ADD});
    CHECK_OK(td_pool_close(crew.pool, TD_CLOSE_CANCEL_QUEUED));
    for (uint32_t i = 0; i < COUNT; i++) {
        CHECK_EQ(td_task_state(tasks[i]), TD_TASK_CANCELLED);
        td_task_unref(tasks[i]);
    }
    crew_open_gate(1);
    CHECK_EQ(crew_value(gate), 1);
    crew_close(&crew);
}

TD_TEST(several_threads_wait_for_the_end)
{
    struct crew crew;
    pthread_t threads[3];
    crew_open(&crew, &(struct td_pool_config){.max_workers = 2});
    td_task *gate = crew_submit(&crew, &(struct op){.code = OP_GATE, .a = 1});
    crew_await_gate(1, 1);
    for (uint32_t i = 0; i < 3; i++)
        REQUIRE_EQ(pthread_create(&threads[i], NULL, join_pool, crew.pool), 0);
    CHECK_OK(td_pool_close(crew.pool, 0));
    crew_open_gate(1);
    for (uint32_t i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    CHECK_EQ(crew_value(gate), 1);
    crew_close(&crew);
}

TD_TEST(killing_and_terminating_end_everything_with_a_reason)
{
    static const uint32_t flags[] = {TD_CLOSE_TERMINATE, TD_CLOSE_KILL};
    for (uint32_t i = 0; i < 2; i++) {
        struct crew crew;
        crew_open(&crew, &(struct td_pool_config){.max_workers = 2, .grace_ns = 20 * TD_NS_PER_MS});
        td_task *deaf = crew_submit(&crew, &(struct op){.code = OP_DEAF, .a = 1});
        crew_await_gate(1, 1);
        td_task *queued = crew_submit(&crew, &(struct op){.code = OP_DEAF, .a = 2});
        CHECK_OK(td_pool_close(crew.pool, flags[i]));
        CHECK_EQ(crew_wait(deaf), TD_TASK_BROKEN);
        CHECK(crew_wait(queued) == TD_TASK_CANCELLED || td_task_state(queued) == TD_TASK_BROKEN);
        CHECK_CONTAINS(td_pool_broken_reason(crew.pool), i == 0 ? "terminate" : "kill");
        td_task_unref(deaf);
        td_task_unref(queued);
        crew_close(&crew);
        while (waitpid(-1, NULL, 0) > 0) /* with their zygote killed, they are their subreaper's */
            continue;
    }
}

TD_TEST(a_kill_follows_where_terminating_is_not_enough)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1, .grace_ns = 3600 * TD_NS_PER_S});
    td_task *deaf = crew_submit(&crew, &(struct op){.code = OP_DEAF, .a = 1});
    crew_await_gate(1, 1);
    CHECK_OK(td_pool_close(crew.pool, TD_CLOSE_TERMINATE));
    CHECK_STATUS(td_pool_join_until(crew.pool, td_deadline_after(5 * TD_NS_PER_MS)), TD_ETIMEDOUT);
    td_task_unref(deaf);
    crew_close_with(&crew, TD_CLOSE_KILL);
    while (waitpid(-1, NULL, 0) > 0)
        continue;
}

TD_TEST(a_pool_broken_from_outside_fails_its_tasks_and_ends)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1, .grace_ns = 20 * TD_NS_PER_MS});
    td_task *deaf = crew_submit(&crew, &(struct op){.code = OP_DEAF, .a = 1});
    crew_await_gate(1, 1);
    td_pool_break(crew.pool, "the first reason");
    td_pool_break(crew.pool, "the second reason");
    CHECK_EQ(crew_wait(deaf), TD_TASK_BROKEN);
    CHECK_STR(td_pool_broken_reason(crew.pool), "the first reason");
    td_task_unref(deaf);
    crew_close(&crew);
    while (waitpid(-1, NULL, 0) > 0)
        continue;
}

TD_TEST(a_dropped_pool_ends_what_runs)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 2});
    td_task *deaf = crew_submit(&crew, &(struct op){.code = OP_DEAF, .a = 1});
    crew_await_gate(1, 1);
    td_pool_ref(crew.pool);
    td_pool_unref(crew.pool);
    CHECK_EQ(td_task_state(deaf), TD_TASK_RUNNING);
    td_pool_unref(crew.pool);
    CHECK_EQ(crew_wait(deaf), TD_TASK_BROKEN);
    td_task_unref(deaf);
    crew_settle(&crew);
    while (waitpid(-1, NULL, 0) > 0)
        continue;
}

TD_TEST(a_closed_pool_that_is_dropped_finishes_its_work)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 2});
    for (uint32_t i = 1; i <= 200; i++)
        td_task_unref(crew_submit(&crew, &(struct op){.code = OP_SPIN, .id = i, .a = 10000}));
    CHECK_OK(td_pool_close(crew.pool, 0));
    td_pool_unref(crew.pool);
    td_native_end();
    for (uint32_t i = 1; i <= 200; i++)
        CHECK_EQ(td_atomic_load_relaxed(&crew_board->runs[i]), 0x10001u);
    crew_settle(&crew);
}

TD_TEST(results_outlive_their_pool)
{
    struct crew crew;
    struct td_view view = {0};
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    td_task *task = crew_submit(&crew, &(struct op){.code = OP_BIG, .a = 1 << 20, .b = 'x'});
    crew_wait(task);
    CHECK_EQ(stats_of(&crew).result_bytes_live, 1u << 20);
    td_task *dropped = crew_submit(&crew, &(struct op){.code = OP_BIG, .a = 1 << 20, .b = 'x'});
    crew_wait(dropped);
    CHECK_EQ(stats_of(&crew).result_bytes_live, 2u << 20);
    td_task_unref(dropped);
    CHECK_EQ(stats_of(&crew).result_bytes_live, 1u << 20);
    crew_close(&crew);
    CHECK_OK(td_task_result(task, &view));
    CHECK_EQ(view.bytes, 1u << 20);
    if (view.bytes == 1u << 20)
        CHECK_EQ(((const char *)view.data)[(1 << 20) - 1], 'x');
    td_task_unref(task);
}

/* Bytes of addresses in use. */
static uint64_t address_bytes(void)
{
    unsigned long long pages = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    REQUIRE(file != NULL);
    REQUIRE_EQ(fscanf(file, "%llu", &pages), 1);
    fclose(file);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

TD_TEST(results_of_many_dead_workers_take_few_addresses)
{
    enum { COUNT = 40 };
    struct crew crew;
    td_task *tasks[COUNT];
    struct td_view view = {0};
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1, .max_tasks_per_worker = 1});
    const uint64_t before = address_bytes();
    CHECK_OK(td_pool_prestart(crew.pool, 1));
    const uint64_t of_one = address_bytes() - before;
    for (uint32_t i = 0; i < COUNT; i++) {
        tasks[i] = crew_submit(&crew, &(struct op){.code = OP_BIG, .a = 1000, .b = 'a' + i});
        CHECK_EQ(crew_wait(tasks[i]), TD_TASK_RESULT);
    }
    CHECK_LE(address_bytes() - before, 4 * of_one);
    crew_close(&crew);
    for (uint32_t i = 0; i < COUNT; i++) {
        CHECK_OK(td_task_result(tasks[i], &view));
        CHECK_EQ(((const char *)view.data)[999], (char)('a' + i));
        td_task_unref(tasks[i]);
    }
}

TD_TEST(a_worker_that_has_done_its_last_task_is_no_hand)
{
    for (uint32_t max_tasks = 0; max_tasks <= 1; max_tasks++) {
        struct crew crew;
        crew_open(&crew, &(struct td_pool_config){.max_workers = 1, .max_tasks_per_worker = max_tasks});
        CHECK(td_pool_is_short_handed(crew.pool));
        CHECK_EQ(crew_value(crew_submit(&crew, &(struct op){.code = OP_ADD, .a = 5})), 5);
        CHECK_EQ(td_pool_is_short_handed(crew.pool), max_tasks == 1);
        crew_close(&crew);
    }
}

/* ---- Blocks for arguments ---- */

static void fill_and_submit(const struct crew *crew, uint64_t bytes, const struct op *op, td_task **task)
{
    struct td_call call = {.fn = crew->fn, .args_bytes = bytes};
    REQUIRE_OK(td_pool_block_until(crew->pool, bytes, td_deadline_after(CREW_PATIENCE_NS), &call.block));
    memcpy(call.block.data, op, sizeof *op);
    REQUIRE_OK(td_pool_submit(crew->pool, &call, task));
}

TD_TEST(the_cap_on_argument_bytes_makes_submitters_wait)
{
    setenv("TREADLE_ARENA_BYTES", "4M", 1);
    enum { COUNT = 64 };
    struct crew crew;
    td_task *tasks[COUNT];
    struct td_block block;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    CHECK_STATUS(td_pool_block_until(crew.pool, 8 << 20, TD_FOREVER, &block), TD_ENOROOM);
    for (uint32_t i = 0; i < 3; i++)
        fill_and_submit(&crew, 1 << 20, &(struct op){.code = OP_GATE, .a = 1}, &tasks[i]);
    const int64_t soon = td_deadline_after(2 * TD_NS_PER_MS);
    CHECK_STATUS(td_pool_block_until(crew.pool, 2 << 20, soon, &block), TD_ETIMEDOUT);
    crew_open_gate(1);
    for (uint32_t i = 3; i < COUNT; i++)
        fill_and_submit(&crew, 1 << 20, &(struct op){.code = OP_ADD, .a = 1}, &tasks[i]);
    for (uint32_t i = 0; i < COUNT; i++)
        CHECK_EQ(crew_value(tasks[i]), 1);
    CHECK_LE(stats_of(&crew).argument_bytes_live, 4u << 20);
    crew_close(&crew);
}

TD_TEST(arguments_of_what_still_runs_in_a_broken_pool_stay_whole)
{
    enum { BYTES = 64 << 10 };
    struct crew crew;
    struct td_block block;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    struct td_call call = {.fn = crew.fn, .args_bytes = BYTES};
    td_task *task;
    REQUIRE_OK(td_pool_block_until(crew.pool, BYTES, TD_FOREVER, &call.block));
    memset(call.block.data, 7, BYTES);
    memcpy(call.block.data, &(struct op){.code = OP_DEAF, .a = 1}, sizeof(struct op));
    REQUIRE_OK(td_pool_submit(crew.pool, &call, &task));
    crew_await_gate(1, 1);
    td_pool_break(crew.pool, "for a test");
    CHECK_EQ(crew_wait(task), TD_TASK_BROKEN);
    for (uint32_t i = 0; i < 20; i++) /* for submits that will be refused */
        if (td_pool_block_until(crew.pool, BYTES, 0, &block) == TD_OK) {
            CHECK_NE((uintptr_t)block.data, (uintptr_t)call.block.data);
            td_pool_block_drop(crew.pool, &block);
        }
    td_task_unref(task);
    crew_open_gate(1);
    crew_close(&crew);
}

TD_TEST(only_arguments_that_nobody_reads_again_may_be_overwritten)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    static const struct {
        uint32_t items, retries;
        bool may;
    } cases[] = {{0, 0, true}, {0, 1, false}, {1, 0, true}, {1, 1, false}, {2, 0, false}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct op op = {.code = OP_WRITE};
        struct td_call call = {
            .fn = crew.fn, .args_bytes = 4096, .items = cases[i].items, .retries = cases[i].retries};
        td_task *task;
        REQUIRE_OK(td_pool_block_until(crew.pool, 4096, TD_FOREVER, &call.block));
        memcpy(call.block.data, &op, sizeof op);
        REQUIRE_OK(td_pool_submit(crew.pool, &call, &task));
        CHECK_EQ(crew_value(task), (uint64_t)cases[i].may);
    }
    crew_close(&crew);
}

/* A keeper that rings the bell in its own turn, as a worker may while another pool is asked. */
struct ringer {
    struct td_keeper keeper;
    td_atomic_u32 asked, ring, leave;
};

static int64_t keep_ringer(struct td_keeper *keeper)
{
    struct ringer *ringer = TD_LIST_ENTRY(keeper, struct ringer, keeper);
    if (td_atomic_exchange_seq(&ringer->ring, 0) != 0)
        td_event_ring(td_drain_bell()->event_fd);
    td_atomic_fetch_add_seq(&ringer->asked, 1);
    td_futex_wake(&ringer->asked, 1, false);
    return td_atomic_load_seq(&ringer->leave) != 0 ? TD_KEEP_END : TD_FOREVER;
}

static void ringer_ended(struct td_keeper *keeper)
{
    (void)keeper;
}

TD_TEST(what_rings_while_pools_are_asked_is_heard_by_all_of_them)
{
    struct crew first, second;
    struct ringer ringer = {.keeper = {.keep = keep_ringer, .ended = ringer_ended}};
    crew_open(&first, &(struct td_pool_config){.max_workers = 1});
    CHECK_EQ(crew_value(crew_submit(&first, &(struct op){.code = OP_ADD, .a = 1})), 1);
    REQUIRE_OK(td_native_add(&ringer.keeper));
    second = first;
    crew_add_pool(&second, &(struct td_pool_config){.max_workers = 1});
    CHECK_EQ(crew_value(crew_submit(&second, &(struct op){.code = OP_ADD, .a = 2})), 2);
    for (uint32_t round = 0; round < 10; round++) {
        const uint32_t before = td_atomic_load_seq(&ringer.asked);
        td_atomic_store_seq(&ringer.ring, 1);
        td_native_wake();
        /* The turn in which it rings, and another one for that. */
        for (uint32_t seen; (seen = td_atomic_load_seq(&ringer.asked)) < before + 2;)
            td_futex_wait_until(&ringer.asked, seen, TD_FOREVER, false);
    }
    td_atomic_store_seq(&ringer.leave, 1);
    crew_end_pool(&second, 0);
    crew_close(&first);
}

TD_TEST(each_worker_gets_the_context_of_its_order)
{
    struct crew crew;
    char context[64];
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1, .max_tasks_per_worker = 1});
    for (uint64_t i = 0; i < 30; i++) {
        snprintf(context, sizeof context, "context %d", (int)i);
        CHECK_OK(td_pool_set_context(crew.pool, context, strlen(context) + 1));
        CHECK_EQ(crew_value(crew_submit(&crew, &(struct op){.code = OP_ADD, .a = i})), i);
    }
    crew_close(&crew);
}

/* ---- Forks ---- */

/* In the child: what was there is still, what needs the parent's processes is refused, and a pool of its own works. */
static void find_it_inert(struct crew *crew, td_task *done, td_task *gate, td_group *group, td_group *late)
{
    td_task *task = NULL;
    struct td_view view = {0};
    CHECK_OK(td_group_pop_until(group, TD_FOREVER, &task)); /* it was final before the fork */
    CHECK(task == done);
    td_task_unref(task);
    CHECK_STATUS(td_group_pop_until(group, TD_FOREVER, &task), TD_EFORKED);
    CHECK_STATUS(td_group_add(late, gate), TD_EFORKED);
    td_group_free(group);
    td_group_free(late);
    struct td_block block;
    struct td_pool_stats stats;
    uint32_t fn;
    const struct td_call call = crew_call(crew, &(struct op){.code = OP_ADD});
    CHECK_STATUS(td_pool_submit(crew->pool, &call, &task), TD_EFORKED);
    CHECK_STATUS(td_pool_start(crew->pool), TD_EFORKED);
    CHECK_STATUS(td_pool_prestart(crew->pool, 1), TD_EFORKED);
    CHECK_STATUS(td_pool_close(crew->pool, TD_CLOSE_KILL), TD_EFORKED);
    CHECK_STATUS(td_pool_join_until(crew->pool, TD_FOREVER), TD_EFORKED);
    CHECK_STATUS(td_pool_idle_until(crew->pool, TD_FOREVER), TD_EFORKED);
    CHECK_STATUS(td_pool_block_until(crew->pool, 100, 0, &block), TD_EFORKED);
    CHECK_STATUS(td_pool_intern(crew->pool, "x", 1, &fn), TD_EFORKED);
    CHECK_STATUS(td_pool_set_context(crew->pool, "x", 1), TD_EFORKED);
    CHECK_STATUS(td_task_wait_until(gate, TD_FOREVER), TD_EFORKED);
    CHECK_STATUS(td_task_cancel(gate, true), TD_EFORKED);
    CHECK_STATUS(td_task_observe(gate), TD_EFORKED);
    CHECK_EQ(td_task_state(gate), TD_TASK_RUNNING);
    td_pool_get_stats(crew->pool, &stats);
    CHECK_OK(td_task_result(done, &view)); /* what was there before is still */
    td_task_unref(gate);
    td_task_unref(done);
    td_pool_unref(crew->pool);
    struct crew own;
    crew_open(&own, &(struct td_pool_config){.max_workers = 1});
    CHECK_EQ(crew_value(crew_submit(&own, &(struct op){.code = OP_ADD, .a = 5})), 5);
    crew_close(&own);
    _exit(td_atomic_load_relaxed(&test_failures) != 0);
}

TD_TEST(a_live_pool_is_inert_in_a_forked_child_and_its_own_pool_works)
{
    struct crew crew;
    struct td_view view = {0};
    if (crew_emulator() != NULL)
        SKIP("the emulator does not survive a fork while threads run");
    crew_open(&crew, &(struct td_pool_config){.max_workers = 2});
    td_task *done = crew_submit(&crew, &(struct op){.code = OP_BIG, .a = 4096, .b = 'x'});
    crew_wait(done);
    td_task *gate = crew_submit(&crew, &(struct op){.code = OP_GATE, .a = 1});
    crew_await_gate(1, 1);
    td_group *group, *late;
    REQUIRE_OK(td_group_new(&group));
    REQUIRE_OK(td_group_new(&late));
    CHECK_OK(td_group_add(group, done));
    CHECK_OK(td_group_add(group, gate));
    fflush(NULL);
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0)
        find_it_inert(&crew, done, gate, group, late);
    CHECK_EQ(test_wait_child(child), 0);
    crew_open_gate(1);
    CHECK_EQ(crew_value(gate), 1);
    CHECK_OK(td_task_result(done, &view));
    CHECK_EQ(*(const char *)view.data, 'x');
    td_task_unref(done);
    td_group_free(group);
    td_group_free(late);
    CHECK_EQ(crew_value(crew_submit(&crew, &(struct op){.code = OP_ADD, .a = 6})), 6);
    crew_close(&crew);
}

struct taker {
    td_pool *pool;
    td_atomic_u32 stop;
};

static void *take_and_drop(void *argument)
{
    struct taker *taker = argument;
    while (td_atomic_load_relaxed(&taker->stop) == 0) {
        struct td_block block;
        CHECK_OK(td_pool_block_until(taker->pool, 4096, TD_FOREVER, &block));
        td_pool_block_drop(taker->pool, &block);
        td_pool_get_deaths(taker->pool, NULL, 0); /* a fork that holds the pool's lock stops it (asan_fork.c) */
    }
    return NULL;
}

TD_TEST(a_fork_while_another_thread_takes_blocks_leaves_figures_to_be_read)
{
    if (crew_emulator() != NULL)
        SKIP("the emulator does not survive a fork while threads run");
    struct crew crew;
    pthread_t thread;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    struct taker taker = {.pool = crew.pool};
    REQUIRE_EQ(pthread_create(&thread, NULL, take_and_drop, &taker), 0);
    fflush(NULL);
    for (uint64_t round = 0; round < test_rounds(100); round++) {
        const pid_t child = fork();
        REQUIRE(child >= 0);
        if (child == 0) {
            (void)stats_of(&crew);
            _exit(0);
        }
        CHECK_EQ(test_wait_child(child), 0);
    }
    td_atomic_store_relaxed(&taker.stop, 1);
    pthread_join(thread, NULL);
    crew_close(&crew);
}

static void *fork_now_and_then(void *stop)
{
    while (td_atomic_load_relaxed((td_atomic_u32 *)stop) == 0) {
        const pid_t child = fork();
        if (child == 0)
            _exit(0);
        CHECK_EQ(test_wait_child(child), 0);
    }
    return NULL;
}

TD_TEST(forks_at_any_moment_leave_parent_and_child_whole)
{
    struct crew crew;
    pthread_t forker;
    td_atomic_u32 stop;
    if (crew_emulator() != NULL)
        SKIP("the emulator does not survive a fork while threads run");
    td_atomic_init(&stop, 0);
    crew_open(&crew, &(struct td_pool_config){.max_workers = 2, .max_tasks_per_worker = 50});
    REQUIRE_EQ(pthread_create(&forker, NULL, fork_now_and_then, &stop), 0);
    for (uint64_t i = 0; i < test_rounds(2000); i++)
        CHECK_EQ(crew_value(crew_submit(&crew, &(struct op){.code = OP_ADD, .a = i})), i);
    td_atomic_store_relaxed(&stop, 1);
    pthread_join(forker, NULL);
    crew_close(&crew);
}

TD_TEST(a_pool_whose_zygote_was_never_forked_ends_its_first_worker)
{
    struct crew crew;
    crew_make_board(&crew);
    for (int alive = 0; alive < 2; alive++) {
        pid_t pid;
        const struct td_pool_config config = {.max_workers = 2, .start = TD_START_ADOPTED};
        REQUIRE_OK(td_pool_new(&config, &crew.pool));
        REQUIRE_OK(td_pool_set_context(crew.pool, "context", sizeof "context"));
        if (alive) {
            pid = crew_fork_worker(&crew);
        } else {
            int ends[2];
            REQUIRE_OK(td_channel_new(ends));
            fflush(NULL);
            pid = fork();
            REQUIRE(pid >= 0);
            if (pid == 0)
                _exit(0);
            close(ends[1]);
            REQUIRE_OK(td_pool_adopt_worker(crew.pool, pid, ends[0]));
        }
        td_pool_unref(crew.pool);
        CHECK_EQ(kill(pid, 0), -1);
    }
    crew_settle(&crew);
}

/* ---- The end of the process ---- */

/* Makes a pool whose workers run for ever, tells their processes and then itself, and is killed. */
static void live_until_killed(const struct td_pool_config *config, int tell)
{
    struct crew crew;
    crew_open(&crew, config);
    for (uint32_t i = 0; i < 2; i++)
        crew_submit(&crew,
                    &(struct op){.code = i == 0 ? OP_SPIN : OP_DEAF, .id = 1 + i, .a = i == 0 ? INT64_MAX : 1});
    for (uint32_t i = 0; i < 2; i++)
        while (td_atomic_load_relaxed(&crew_board->pids[1 + i]) == 0)
            sched_yield();
    const int32_t pids[3] = {(int32_t)td_atomic_load_relaxed(&crew_board->pids[1]),
                             (int32_t)td_atomic_load_relaxed(&crew_board->pids[2]), stats_of(&crew).zygote_pid};
    if (write(tell, pids, sizeof pids) != sizeof pids)
        abort();
    for (;;)
        pause();
}

TD_TEST(a_killed_parent_takes_workers_and_zygote_along)
{
    if (crew_emulator() != NULL)
        SKIP("orphans of an emulated process are not handed to their subreaper");
    for (int start = TD_START_SHARED; start <= TD_START_SINGLE; start++) {
        int ends[2];
        int32_t pids[3];
        REQUIRE_EQ(pipe2(ends, O_CLOEXEC), 0);
        fflush(NULL);
        const pid_t parent = fork();
        REQUIRE(parent >= 0);
        if (parent == 0)
            live_until_killed(&(struct td_pool_config){.max_workers = 2, .start = (enum td_start)start},
                              ends[1]);
        close(ends[1]);
        REQUIRE_EQ(read(ends[0], pids, sizeof pids), (ssize_t)sizeof pids);
        CHECK_EQ(kill(pids[0], 0) | kill(pids[1], 0), 0);
        kill(parent, SIGKILL);
        while (waitpid(-1, NULL, 0) > 0) /* orphans become our children */
            continue;
        CHECK_EQ(kill(pids[0], 0) & kill(pids[1], 0), -1);
        close(ends[0]);
    }
}

CREW_TEST_MAIN
