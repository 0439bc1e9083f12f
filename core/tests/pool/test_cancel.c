/* tests/pool/test_cancel.c: queued work taken back, running work stopped, time limits. */
#include <pthread.h>

#include "os/pidfd.h"
#include "tests/pool/crew.h"

#define SHORT_NS (20 * TD_NS_PER_MS)

static struct td_pool_config config_of(uint32_t workers, int64_t grace_ns)
{
    return (struct td_pool_config){.max_workers = workers, .grace_ns = grace_ns};
}

static td_task *submit_limited(const struct crew *crew, const struct op *op, int64_t timeout_ns)
{
    struct td_call call = crew_call(crew, op);
    td_task *task = NULL;
    call.timeout_ns = timeout_ns;
    REQUIRE_OK(td_pool_submit(crew->pool, &call, &task));
    return task;
}

TD_TEST(queued_work_is_cancelled_at_once_and_never_runs)
{
    setenv("TREADLE_SLOTS", "64", 1);
    enum { COUNT = 200 }; /* more than there are slots */
    struct crew crew;
    td_task *tasks[COUNT];
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    td_task *gate = crew_submit(&crew, &(struct op){.code = OP_GATE, .a = 1});
    crew_await_gate(1, 1);
    for (uint32_t i = 0; i < COUNT; i++)
        tasks[i] = crew_submit(&crew, &(struct op){.code = OP_ADD, .id = 1 + i});
    CHECK_STATUS(td_task_cancel(gate, false), TD_EAGAIN);
    for (uint32_t i = 0; i < COUNT; i += 2) {
        CHECK_OK(td_task_cancel(tasks[i], false));
        CHECK_EQ(td_task_state(tasks[i]), TD_TASK_CANCELLED);
        CHECK_STATUS(td_task_cancel(tasks[i], true), TD_EINVAL);
    }
    crew_open_gate(1);
    for (uint32_t i = 0; i < COUNT; i++) {
        CHECK_EQ(crew_wait(tasks[i]), i % 2 == 0 ? TD_TASK_CANCELLED : TD_TASK_RESULT);
        CHECK_EQ(td_atomic_load_relaxed(&crew_board->runs[1 + i]), i % 2 == 0 ? 0u : 0x10001u);
        td_task_unref(tasks[i]);
    }
    CHECK_STATUS(td_task_cancel(gate, true), TD_EINVAL);
    CHECK_EQ(crew_value(gate), 1);
    crew_close(&crew);
}

TD_TEST(running_work_is_stopped_by_the_exception_and_its_worker_lives)
{
    struct crew crew;
    const struct td_pool_config config = config_of(1, 60 * TD_NS_PER_S);
    crew_open(&crew, &config);
    for (uint32_t i = 1; i <= 20; i++) {
        td_task *task = crew_submit(&crew, &(struct op){.code = OP_GATE, .id = i, .a = 1});
        crew_await_gate(1, i);
        CHECK_OK(td_task_cancel(task, true));
        CHECK_EQ(crew_wait(task), TD_TASK_CANCELLED);
        td_task_unref(task);
    }
    CHECK_EQ(td_atomic_load_relaxed(&crew_board->pids[1]), td_atomic_load_relaxed(&crew_board->pids[20]));
    crew_close(&crew);
}

TD_TEST(an_exception_signal_that_comes_to_nothing_is_sent_again)
{
    struct crew crew;
    const struct td_pool_config config = config_of(1, 3600 * TD_NS_PER_S);
    crew_open(&crew, &config);
    td_task *task = crew_submit(&crew, &(struct op){.code = OP_GATE, .id = 1, .a = 1, .b = 4});
    crew_await_gate(1, 1);
    CHECK_OK(td_task_cancel(task, true));
    CHECK_EQ(crew_wait(task), TD_TASK_CANCELLED);
    td_task_unref(task);
    td_task *next = crew_submit(&crew, &(struct op){.code = OP_ADD, .id = 2, .a = 4});
    CHECK_EQ(crew_value(next), 4);
    CHECK_EQ(td_atomic_load_relaxed(&crew_board->pids[1]), td_atomic_load_relaxed(&crew_board->pids[2]));
    crew_close(&crew);
}

TD_TEST(an_exception_that_was_lost_comes_again)
{
    struct crew crew;
    const struct td_pool_config config = config_of(1, 3600 * TD_NS_PER_S);
    crew_open(&crew, &config);
    td_task *task = crew_submit(&crew, &(struct op){.code = OP_CARELESS, .id = 1, .a = 1, .b = 3});
    crew_await_gate(1, 1);
    CHECK_OK(td_task_cancel(task, true));
    CHECK_EQ(crew_wait(task), TD_TASK_CANCELLED);
    td_task_unref(task);
    td_task *next = crew_submit(&crew, &(struct op){.code = OP_ADD, .id = 2, .a = 4});
    CHECK_EQ(crew_value(next), 4);
    CHECK_EQ(td_atomic_load_relaxed(&crew_board->pids[1]), td_atomic_load_relaxed(&crew_board->pids[2]));
    crew_close(&crew);
}

/* Wherever between claim and reply the signal comes: no cancel is lost, and none hits another task. */
TD_TEST(a_cancel_at_any_moment_stops_that_task_and_no_other)
{
    struct crew crew;
    uint64_t random = test_seed;
    const struct td_pool_config config = config_of(2, 60 * TD_NS_PER_S);
    crew_open(&crew, &config);
    for (uint64_t round = 0; round < test_rounds(3000); round++) {
        td_task *spinning = crew_submit(&crew, &(struct op){.code = OP_GATE, .a = 1}); /* never opened */
        td_task *other = crew_submit(&crew, &(struct op){.code = OP_SPIN, .a = 2000});
        for (uint64_t turns = test_random_below(&random, 300); turns > 0; turns--)
            td_pause();
        td_status status;
        while ((status = td_task_cancel(spinning, true)) == TD_EAGAIN) /* it is being claimed right now */
            continue;
        CHECK_OK(status);
        CHECK_EQ(crew_wait(spinning), TD_TASK_CANCELLED);
        CHECK_EQ(crew_wait(other), TD_TASK_RESULT);
        td_task_unref(spinning);
        td_task_unref(other);
    }
    struct td_pool_stats stats;
    td_pool_get_stats(crew.pool, &stats);
    CHECK_EQ(stats.restarts, 0u);
    crew_close(&crew);
}

TD_TEST(work_that_ignores_the_exception_is_killed_after_the_grace_time)
{
    struct crew crew;
    const struct td_pool_config config = config_of(1, SHORT_NS);
    crew_open(&crew, &config);
    for (uint32_t i = 1; i <= 12; i++) { /* more than the barren deaths that break a pool: these don't count */
        td_task *task = crew_submit(&crew, &(struct op){.code = OP_DEAF, .a = 1});
        crew_await_gate(1, i);
        const int64_t before = td_now_ns();
        CHECK_OK(td_task_cancel(task, true));
        CHECK_OK(td_task_cancel(task, true)); /* once more changes nothing */
        CHECK_EQ(crew_wait(task), TD_TASK_CANCELLED);
        CHECK_LE(SHORT_NS, td_now_ns() - before);
        td_task_unref(task);
    }
    CHECK_EQ(crew_value(crew_submit(&crew, &(struct op){.code = OP_ADD, .a = 4})), 4);
    crew_close(&crew);
}

/* A task that ends by itself about when it is to be killed, and one behind it, which must not be hit. */
TD_TEST(a_kill_hits_no_task_but_the_one_it_is_meant_for)
{
    struct crew crew;
    uint64_t random = test_seed;
    const struct td_pool_config config = config_of(1, TD_NS_PER_MS);
    crew_open(&crew, &config);
    for (uint32_t round = 1; round <= test_rounds(300); round++) {
        td_atomic_store_seq(&crew_board->open[1], 0);
        td_task *doomed = crew_submit(&crew, &(struct op){.code = OP_DEAF, .a = 1});
        td_task *next = crew_submit(&crew, &(struct op){.code = OP_SPIN, .a = 100000});
        crew_await_gate(1, round);
        const int64_t end =
            td_deadline_after(TD_NS_PER_MS + (int64_t)test_random_below(&random, 400000) - 200000);
        CHECK_OK(td_task_cancel(doomed, true));
        while (td_now_ns() < end)
            td_pause();
        crew_open_gate(1);
        CHECK_EQ(crew_wait(doomed), TD_TASK_CANCELLED);
        CHECK_EQ(crew_wait(next), TD_TASK_RESULT);
        td_task_unref(doomed);
        td_task_unref(next);
    }
    crew_close(&crew);
}

TD_TEST(a_time_limit_beyond_all_time_is_none)
{
    struct crew crew;
    const struct td_pool_config config = config_of(2, 60 * TD_NS_PER_S);
    crew_open(&crew, &config);
    td_task *patient = submit_limited(&crew, &(struct op){.code = OP_GATE, .a = 1}, TD_FOREVER - 1);
    crew_await_gate(1, 1);
    /* It is ended by who looks at all the clocks. */
    td_task *hasty = submit_limited(&crew, &(struct op){.code = OP_GATE, .a = 2}, SHORT_NS);
    CHECK_EQ(crew_wait(hasty), TD_TASK_TIMED_OUT);
    td_task_unref(hasty);
    crew_open_gate(1);
    CHECK_EQ(crew_wait(patient), TD_TASK_RESULT);
    td_task_unref(patient);
    crew_close(&crew);
}

TD_TEST(a_forced_cancel_does_not_break_a_pool_that_breaks_on_deaths)
{
    struct crew crew;
    struct td_pool_config config = config_of(1, SHORT_NS);
    config.break_on_death = 1;
    crew_open(&crew, &config);
    td_task *task = crew_submit(&crew, &(struct op){.code = OP_DEAF, .a = 1});
    crew_await_gate(1, 1);
    CHECK_OK(td_task_cancel(task, true));
    CHECK_EQ(crew_wait(task), TD_TASK_CANCELLED);
    td_task_unref(task);
    CHECK_EQ(crew_value(crew_submit(&crew, &(struct op){.code = OP_ADD, .a = 4})), 4);
    crew_close(&crew);
}

TD_TEST(time_limits_hold_for_running_time_only)
{
    struct crew crew;
    const struct td_pool_config config = config_of(1, SHORT_NS);
    crew_open(&crew, &config);
    td_task *first = crew_submit(&crew, &(struct op){.code = OP_GATE, .a = 2});
    td_task *soft = submit_limited(&crew, &(struct op){.code = OP_GATE, .a = 1}, SHORT_NS);
    td_task *hard = submit_limited(&crew, &(struct op){.code = OP_DEAF, .a = 1}, SHORT_NS);
    td_task *quick = submit_limited(&crew, &(struct op){.code = OP_ADD, .a = 1}, SHORT_NS);
    struct td_timing timing;
    crew_open_gate(2);
    CHECK_EQ(crew_value(first), 2);
    CHECK_EQ(crew_wait(soft), TD_TASK_TIMED_OUT);
    td_task_timing(soft, &timing);
    CHECK_LE(SHORT_NS, timing.completed_ns - timing.started_ns);
    CHECK_EQ(crew_wait(hard), TD_TASK_TIMED_OUT);
    /* It has waited longer than its limit; a machine that has no time for it may keep it running for so long, too. */
    const bool ran_out = crew_wait(quick) == TD_TASK_TIMED_OUT;
    td_task_timing(quick, &timing);
    CHECK_LE(SHORT_NS, timing.started_ns - timing.submitted_ns);
    if (ran_out)
        CHECK_LE(SHORT_NS, timing.completed_ns - timing.started_ns);
    else
        CHECK_EQ(td_task_state(quick), TD_TASK_RESULT);
    td_task *unlimited = submit_limited(&crew, &(struct op){.code = OP_SPIN, .a = 3 * SHORT_NS}, 0);
    CHECK_EQ(crew_wait(unlimited), TD_TASK_RESULT);
    struct td_pool_stats stats;
    td_pool_get_stats(crew.pool, &stats);
    CHECK_EQ(stats.timed_out, ran_out ? 3u : 2u);
    td_task_unref(soft);
    td_task_unref(hard);
    td_task_unref(quick);
    td_task_unref(unlimited);
    crew_close(&crew);
}

TD_TEST(time_limits_hold_where_nobody_waits)
{
    struct crew crew;
    const struct td_pool_config config = config_of(2, SHORT_NS);
    crew_open(&crew, &config);
    td_task *task = submit_limited(&crew, &(struct op){.code = OP_DEAF, .a = 1}, SHORT_NS);
    while (td_task_state(task) <= TD_TASK_RUNNING)
        sched_yield();
    CHECK_EQ(td_task_state(task), TD_TASK_TIMED_OUT);
    td_task_unref(task);
    crew_close(&crew);
}

TD_TEST(cancelling_wakes_whoever_waits_for_the_task)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    td_task *gate = crew_submit(&crew, &(struct op){.code = OP_GATE, .a = 1});
    td_task *queued = crew_submit(&crew, &(struct op){.code = OP_ADD});
    crew_await_gate(1, 1);
    pthread_t waiter;
    REQUIRE_EQ(pthread_create(&waiter, NULL, (void *(*)(void *))(void (*)(void))crew_wait, queued), 0);
    while (!td_drain_has_waiter())
        sched_yield();
    CHECK_OK(td_task_cancel(queued, false));
    pthread_join(waiter, NULL);
    td_task_unref(queued);
    crew_open_gate(1);
    CHECK_EQ(crew_value(gate), 1);
    crew_close(&crew);
}

/* The worker that the task woke is stopped, so that it can't take it. */
TD_TEST(a_closed_pool_whose_last_task_is_cancelled_ends_though_nobody_waits)
{
    struct crew crew;
    int pidfd;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    CHECK_EQ(crew_value(crew_submit(&crew, &(struct op){.code = OP_ADD, .id = 1, .a = 1})), 1);
    const pid_t worker = (pid_t)td_atomic_load_relaxed(&crew_board->pids[1]);
    REQUIRE_OK(td_pidfd_open(worker, &pidfd));
    REQUIRE_EQ(kill(worker, SIGSTOP), 0);
    while (!crew_is_in_state((uint32_t)worker, 'T'))
        sched_yield();
    td_task *task = crew_submit(&crew, &(struct op){.code = OP_ADD, .id = 2});
    CHECK_OK(td_pool_close(crew.pool, 0));
    while ((td_atomic_load_seq(&td_drain_bell()->bell->listen) & TD_LISTEN_EVENT) == 0)
        sched_yield(); /* until the native thread has seen to it, and waits for the task */
    CHECK_OK(td_task_cancel(task, false));
    CHECK_EQ(td_task_state(task), TD_TASK_CANCELLED);
    td_task_unref(task);
    REQUIRE_EQ(kill(worker, SIGCONT), 0);
    CHECK_OK(td_pidfd_wait_until(pidfd, td_deadline_after(CREW_PATIENCE_NS)));
    close(pidfd);
    crew_close(&crew);
}

CREW_TEST_MAIN
