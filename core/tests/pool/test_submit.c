/* tests/pool/test_submit.c: from td_pool_submit to the result, over few slots, from many threads. */
#include <pthread.h>

#include "tests/pool/crew.h"

TD_TEST(a_task_comes_back)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 2});
    td_task *task = crew_submit(&crew, &(struct op){.code = OP_ADD, .a = 1, .b = 2});
    CHECK_EQ(crew_value(task), 3);
    crew_close(&crew);
}

TD_TEST(each_way_of_starting_workers_works)
{
    for (int start = TD_START_SHARED; start <= TD_START_SINGLE; start++) {
        struct crew crew;
        crew_open(&crew, &(struct td_pool_config){.max_workers = 2, .start = (enum td_start)start});
        CHECK_OK(td_pool_prestart(crew.pool, 2));
        for (uint64_t i = 0; i < 20; i++)
            CHECK_EQ(crew_value(crew_submit(&crew, &(struct op){.code = OP_ADD, .a = i, .b = 2})), i + 2);
        crew_close(&crew);
    }
}

TD_TEST(arguments_and_results_of_any_size_come_through)
{
    static const uint64_t sizes[] = {
        sizeof(struct op), TD_INLINE_RESULT, TD_INLINE_ARGS, TD_INLINE_ARGS + 1, 4096, 1 << 20};
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 2});
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        char *bytes = malloc(sizes[i]);
        REQUIRE(bytes != NULL);
        memset(bytes, (int)('a' + i), sizes[i]);
        memcpy(bytes, &(struct op){.code = OP_ECHO}, sizeof(struct op));
        struct td_call call = {.fn = crew.fn, .args_bytes = sizes[i]};
        if (sizes[i] <= TD_INLINE_ARGS) {
            call.args = bytes;
        } else {
            REQUIRE_OK(td_pool_block_until(crew.pool, sizes[i], TD_FOREVER, &call.block));
            memcpy(call.block.data, bytes, sizes[i]);
        }
        td_task *task;
        struct td_view view = {0};
        REQUIRE_OK(td_pool_submit(crew.pool, &call, &task));
        CHECK_EQ(crew_wait(task), TD_TASK_RESULT);
        CHECK_OK(td_task_result(task, &view));
        CHECK_EQ(view.bytes, sizes[i]);
        if (view.bytes == sizes[i])
            CHECK_MEM(view.data, bytes, sizes[i]);
        td_task_unref(task);
        free(bytes);
    }
    crew_close(&crew);
}

static void *read_once_final(void *task)
{
    struct td_view view = {0};
    struct td_timing timing;
    uint64_t value = 0;
    while (td_task_state(task) <= TD_TASK_RUNNING)
        sched_yield();
    CHECK_OK(td_task_result(task, &view));
    CHECK_EQ(view.bytes, sizeof value);
    if (view.bytes == sizeof value)
        memcpy(&value, view.data, sizeof value);
    CHECK_EQ(value, 3u);
    td_task_timing(task, &timing);
    CHECK_LE(timing.submitted_ns, timing.completed_ns);
    return NULL;
}

/* Edge F: the thread that looks at the task has nothing else in common with the one that drains. */
TD_TEST(a_task_that_another_thread_ended_can_be_read)
{
    struct crew crew;
    pthread_t thread;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    td_task *task = crew_submit(&crew, &(struct op){.code = OP_ADD, .a = 1, .b = 2});
    REQUIRE_EQ(pthread_create(&thread, NULL, read_once_final, task), 0);
    crew_wait(task);
    pthread_join(thread, NULL);
    td_task_unref(task);
    crew_close(&crew);
}

TD_TEST(a_raised_exception_is_an_error_with_its_payload)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    td_task *task = crew_submit(&crew, &(struct op){.code = OP_FAIL, .a = 42});
    CHECK_EQ(crew_wait(task), TD_TASK_ERROR);
    CHECK_EQ(crew_value(task), 42);
    crew_close(&crew);
}

TD_TEST(one_worker_runs_tasks_in_the_order_of_their_submission_beyond_all_slots)
{
    setenv("TREADLE_SLOTS", "64", 1);
    enum { COUNT = 1000 };
    struct crew crew;
    td_task *tasks[COUNT];
    int64_t before = 0;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    td_task *gate = crew_submit(&crew, &(struct op){.code = OP_GATE, .a = 1});
    crew_await_gate(1, 1);
    for (uint32_t i = 0; i < COUNT; i++)
        tasks[i] = crew_submit(&crew, &(struct op){.code = OP_ADD, .a = i});
    CHECK_EQ(td_task_state(gate), TD_TASK_RUNNING);
    CHECK_EQ(td_task_state(tasks[0]), TD_TASK_QUEUED);
    CHECK_EQ(td_task_state(tasks[COUNT - 1]), TD_TASK_QUEUED);
    crew_open_gate(1);
    for (uint32_t i = 0; i < COUNT; i++) {
        struct td_timing timing;
        crew_wait(tasks[i]);
        td_task_timing(tasks[i], &timing);
        CHECK_LE(before, timing.started_ns);
        CHECK_LE(timing.started_ns, timing.ended_ns);
        CHECK_LE(timing.ended_ns, timing.completed_ns);
        before = timing.ended_ns;
        CHECK_EQ(crew_value(tasks[i]), i);
    }
    td_task_unref(gate);
    crew_close(&crew);
}

/* Nobody waits for a single one: the native thread alone moves what is queued. */
TD_TEST(tasks_that_nobody_waits_for_are_run)
{
    setenv("TREADLE_SLOTS", "64", 1);
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 2});
    for (uint32_t i = 0; i < 5000; i++)
        td_task_unref(crew_submit(&crew, &(struct op){.code = OP_ADD, .id = 1 + i}));
    for (uint32_t i = 0; i < 5000; i++)
        while (td_atomic_load_relaxed(&crew_board->runs[1 + i]) != 0x10001u)
            sched_yield();
    crew_close(&crew);
}

TD_TEST(a_closed_pool_finishes_what_was_queued_and_takes_no_more)
{
    setenv("TREADLE_SLOTS", "64", 1);
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 2});
    for (uint32_t i = 0; i < 1000; i++)
        td_task_unref(crew_submit(&crew, &(struct op){.code = OP_ADD, .id = 1 + i}));
    CHECK_OK(td_pool_close(crew.pool, 0));
    td_task *task = NULL;
    const struct td_call call = crew_call(&crew, &(struct op){.code = OP_ADD});
    CHECK_STATUS(td_pool_submit(crew.pool, &call, &task), TD_ECLOSED);
    CHECK_OK(td_pool_join_until(crew.pool, TD_FOREVER));
    for (uint32_t i = 0; i < 1000; i++)
        CHECK_EQ(td_atomic_load_relaxed(&crew_board->runs[1 + i]), 0x10001u);
    crew_close(&crew);
}

TD_TEST(bad_calls_are_refused)
{
    struct crew crew;
    td_task *task = NULL;
    const struct op op = {.code = OP_ADD};
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    struct td_call call = crew_call(&crew, &op);
    call.fn += 1;
    CHECK_STATUS(td_pool_submit(crew.pool, &call, &task), TD_EINVAL);
    call = crew_call(&crew, &op);
    call.args_bytes = TD_INLINE_ARGS + 1;
    CHECK_STATUS(td_pool_submit(crew.pool, &call, &task), TD_EINVAL);
    call = crew_call(&crew, &op);
    call.args = NULL;
    CHECK_STATUS(td_pool_submit(crew.pool, &call, &task), TD_EINVAL);
    CHECK(task == NULL);
    crew_close(&crew);
}

/* ---- Threads ---- */

struct party {
    struct crew *crew;
    uint32_t first, count;
    pthread_t thread;
};

static void *submit_and_wait(void *context)
{
    struct party *party = context;
    enum { WINDOW = 50 };
    td_task *window[WINDOW] = {0};
    for (uint32_t i = 0; i < party->count + WINDOW; i++) {
        td_task **place = &window[i % WINDOW];
        if (*place != NULL)
            CHECK_EQ(crew_value(*place), party->first + i - WINDOW);
        *place = NULL;
        if (i < party->count)
            *place = crew_submit(party->crew, &(struct op){.code = OP_ADD, .a = party->first + i});
    }
    return NULL;
}

static void run_parties(struct party *parties, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        REQUIRE_EQ(pthread_create(&parties[i].thread, NULL, submit_and_wait, &parties[i]), 0);
    for (uint32_t i = 0; i < count; i++)
        pthread_join(parties[i].thread, NULL);
}

TD_TEST(threads_submit_and_wait_at_once_over_few_slots)
{
    setenv("TREADLE_SLOTS", "64", 1);
    struct crew crew;
    struct party parties[4];
    const uint32_t share = (uint32_t)test_rounds(5000);
    crew_open(&crew, &(struct td_pool_config){.max_workers = 2});
    for (uint32_t i = 0; i < 4; i++)
        parties[i] = (struct party){.crew = &crew, .first = i * share, .count = share};
    run_parties(parties, 4);
    crew_close(&crew);
}

TD_TEST(threads_wait_for_tasks_of_two_pools_at_once)
{
    struct crew crews[2];
    struct party parties[4];
    const uint32_t share = (uint32_t)test_rounds(2000);
    crew_open(&crews[0], &(struct td_pool_config){.max_workers = 2});
    crews[1] = crews[0];
    crew_add_pool(&crews[1], &(struct td_pool_config){.max_workers = 1});
    for (uint32_t i = 0; i < 4; i++)
        parties[i] = (struct party){.crew = &crews[i % 2], .first = i * share, .count = share};
    run_parties(parties, 4);
    crew_end_pool(&crews[1], 0);
    crew_close(&crews[0]);
}

TD_TEST(a_hundred_thousand_tasks_go_through_64_slots)
{
    setenv("TREADLE_SLOTS", "64", 1);
    const uint64_t count = test_rounds(100000);
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 2});
    td_task **tasks = calloc(count, sizeof *tasks);
    REQUIRE(tasks != NULL);
    for (uint64_t i = 0; i < count; i++)
        tasks[i] = crew_submit(&crew, &(struct op){.code = OP_ADD, .a = i, .b = 1});
    for (uint64_t i = 0; i < count; i++)
        CHECK_EQ(crew_value(tasks[i]), i + 1);
    free(tasks);
    struct td_pool_stats stats;
    td_pool_get_stats(crew.pool, &stats);
    CHECK_EQ(stats.submitted, count);
    CHECK_EQ(stats.succeeded, count);
    CHECK_EQ(stats.queued + stats.running, 0u);
    crew_close(&crew);
}

CREW_TEST_MAIN
