/* tests/pool/test_death.c: workers that die in each state, and zygotes. */
#include <linux/sched.h>
#include <pthread.h>
#include <sys/syscall.h>

#include "os/pidfd.h"
#include "tests/pool/crew.h"

static struct td_pool_stats stats_of(const struct crew *crew)
{
    struct td_pool_stats stats;
    td_pool_get_stats(crew->pool, &stats);
    return stats;
}

/* Of the only worker, once it has been born. */
static int32_t worker_pid(const struct crew *crew)
{
    struct td_worker_info info = {0};
    while (td_pool_get_workers(crew->pool, &info, 1) == 0 || info.pid == 0)
        sched_yield();
    return info.pid;
}

static struct td_death death_of(td_task *task)
{
    struct td_death death = {0};
    CHECK_EQ(crew_wait(task), TD_TASK_DIED);
    CHECK_OK(td_task_death(task, &death));
    return death;
}

TD_TEST(a_death_fails_only_the_task_that_ran_and_says_how)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    td_task *good = crew_submit(&crew, &(struct op){.code = OP_ADD, .a = 1});
    td_task *killed = crew_submit(&crew, &(struct op){.code = OP_RAISE, .a = SIGKILL});
    td_task *between = crew_submit(&crew, &(struct op){.code = OP_ADD, .a = 2});
    td_task *exited = crew_submit(&crew, &(struct op){.code = OP_EXIT, .a = 7});
    td_task *after = crew_submit(&crew, &(struct op){.code = OP_ADD, .a = 3});
    struct td_death death = death_of(killed);
    CHECK_EQ(death.signal, SIGKILL);
    CHECK(death.pid > 0);
    CHECK_EQ(death.deaths, 1u);
    CHECK_EQ(death.quarantined, 0u);
    death = death_of(exited);
    CHECK_EQ(death.signal, 0);
    CHECK_EQ(death.exit_code, 7);
    CHECK_STR(td_task_death_stack(exited), "");
    CHECK_EQ(crew_value(good), 1);
    CHECK_EQ(crew_value(between), 2);
    CHECK_EQ(crew_value(after), 3);
    CHECK_EQ(stats_of(&crew).died, 2u);
    CHECK_EQ(stats_of(&crew).restarts, 2u);
    td_task_unref(killed);
    td_task_unref(exited);
    crew_close(&crew);
}

TD_TEST(deaths_are_kept_with_what_ran_and_what_became_of_it)
{
    struct td_death_record records[TD_DEATHS_KEPT];
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    CHECK_EQ(td_pool_get_deaths(crew.pool, records, TD_DEATHS_KEPT), 0u);
    const struct op op = {.code = OP_EXIT, .a = 7};
    struct td_call call = crew_call(&crew, &op);
    call.retries = 1;
    call.tag = 42;
    call.name = "a name that is longer than the forty-eight bytes kept of it";
    td_task *task;
    REQUIRE_OK(td_pool_submit(crew.pool, &call, &task));
    CHECK_EQ(death_of(task).deaths, 2u);
    REQUIRE(td_pool_get_deaths(crew.pool, records, TD_DEATHS_KEPT) == 2u);
    for (uint32_t i = 0; i < 2; i++) {
        CHECK_EQ(records[i].number, i + 1);
        CHECK(records[i].pid > 0);
        CHECK_EQ(records[i].exit_code, 7);
        CHECK(records[i].lost);
        CHECK_EQ(records[i].attempt, i + 1);
        CHECK_EQ(records[i].tag, 42u);
        CHECK_STR(records[i].name, "a name that is longer than the forty-eight byte");
    }
    CHECK_EQ(records[0].fate, (uint32_t)TD_TASK_QUEUED);
    CHECK_EQ(records[1].fate, (uint32_t)TD_TASK_DIED);
    CHECK_LE(records[0].position + 1, records[1].position);
    CHECK_EQ(td_pool_get_deaths(crew.pool, records, 1), 1u);
    CHECK_EQ(records[0].number, 2u);
    td_task_unref(task);
    crew_close(&crew);
}

TD_TEST(of_many_deaths_the_latest_are_kept)
{
    struct td_death_record records[TD_DEATHS_KEPT];
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 2, .max_barren_deaths = 1000});
    for (uint32_t i = 0; i < TD_DEATHS_KEPT + 10; i++) {
        td_task *task = crew_submit(&crew, &(struct op){.code = OP_RAISE, .a = SIGKILL});
        CHECK_EQ(death_of(task).signal, SIGKILL);
        td_task_unref(task);
    }
    REQUIRE(td_pool_get_deaths(crew.pool, records, TD_DEATHS_KEPT) == TD_DEATHS_KEPT);
    for (uint32_t i = 0; i < TD_DEATHS_KEPT; i++)
        CHECK_EQ(records[i].number, 11 + i);
    crew_close(&crew);
}

TD_TEST(the_last_stack_of_a_dead_worker_is_kept)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    td_task *task = crew_submit(&crew, &(struct op){.code = OP_STACK});
    const struct td_death death = death_of(task);
    CHECK_EQ(death.signal, SIGSEGV);
    CHECK_STR(td_task_death_stack(task), "in line 7");
    td_task_unref(task);
    crew_close(&crew);
}

TD_TEST(an_idle_worker_that_is_killed_costs_no_task)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    for (uint64_t i = 0; i < 5; i++) {
        CHECK_EQ(crew_value(crew_submit(&crew, &(struct op){.code = OP_ADD, .a = i})), i);
        const int32_t pid = worker_pid(&crew);
        CHECK_EQ(kill(pid, SIGKILL), 0);
        td_task *next = crew_submit(&crew, &(struct op){.code = OP_ADD, .a = i, .b = 1});
        /* It may have claimed the task before the signal came. */
        if (crew_wait(next) == TD_TASK_RESULT)
            CHECK_EQ(crew_value(next), i + 1);
        else
            td_task_unref(next);
        while (worker_pid(&crew) == pid)
            sched_yield();
    }
    crew_close(&crew);
}

/* Waits for its end without the engine, so that the caller takes no part in waiting and draining. */
static void watch_it_die(const td_task *task)
{
    while (td_task_state(task) != TD_TASK_DIED)
        sched_yield();
}

static void *open_gate_after_the_death(void *rogue)
{
    watch_it_die(rogue);
    crew_open_gate(1);
    return NULL;
}

TD_TEST(a_worker_that_dies_about_to_wake_a_waiter_leaves_it_awake_for_others)
{
    struct crew crew;
    pthread_t thread;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 2});
    td_task *task = crew_submit(&crew, &(struct op){.code = OP_DEAF, .a = 1});
    crew_await_gate(1, 1);
    td_task *rogue = crew_submit(&crew, &(struct op){.code = OP_ROGUE, .a = ROGUE_RING});
    REQUIRE_EQ(pthread_create(&thread, NULL, open_gate_after_the_death, rogue), 0);
    CHECK_OK(td_task_wait_until(task, TD_FOREVER)); /* a look at the deadline would find it, too */
    pthread_join(thread, NULL);
    td_task_unref(task);
    td_task_unref(rogue);
    crew_close(&crew);
}

TD_TEST(a_worker_that_dies_about_to_wake_another_leaves_nobody_asleep)
{
    struct crew crew;
    td_task *tasks[2];
    crew_open(&crew, &(struct td_pool_config){.max_workers = 2});
    for (uint32_t round = 1; round <= 2; round++) {
        for (uint32_t i = 0; i < 2; i++) /* one each: both are there, and both answer */
            tasks[i] = crew_submit(&crew, &(struct op){.code = OP_DEAF, .a = round});
        crew_await_gate(round, 2);
        crew_open_gate(round);
        for (uint32_t i = 0; i < 2; i++) {
            crew_wait(tasks[i]);
            td_task_unref(tasks[i]);
        }
        if (round == 1) {
            td_task *rogue = crew_submit(&crew, &(struct op){.code = OP_ROGUE, .a = ROGUE_WAKE});
            CHECK_EQ(death_of(rogue).signal, SIGKILL);
            td_task_unref(rogue);
        }
    }
    crew_close(&crew);
}

TD_TEST(a_task_runs_again_as_often_as_it_may)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 2});
    const struct op op = {.code = OP_ATTEMPT, .a = 3};
    struct td_call call = crew_call(&crew, &op);
    td_task *task;
    call.retries = 3;
    REQUIRE_OK(td_pool_submit(crew.pool, &call, &task));
    struct td_timing timing;
    CHECK_EQ(crew_wait(task), TD_TASK_RESULT);
    td_task_timing(task, &timing);
    CHECK_EQ(timing.attempts, 4u);
    CHECK_EQ(crew_value(task), 3);
    CHECK_EQ(stats_of(&crew).retried, 3u);
    call.retries = 2;
    REQUIRE_OK(td_pool_submit(crew.pool, &call, &task));
    const struct td_death death = death_of(task);
    CHECK_EQ(death.deaths, 3u);
    CHECK_EQ(death.quarantined, 1u);
    td_task_unref(task);
    crew_close(&crew);
}

enum { BEHIND = 20 };

/* Submits a task that dies in its first `deaths` attempts, and BEHIND others after it, all before the first of them
 * runs; how many of the others began before its last attempt did. */
static uint32_t count_before_last_attempt(const struct crew *crew, uint64_t deaths)
{
    td_task *gate = crew_submit(crew, &(struct op){.code = OP_GATE});
    const struct op op = {.code = OP_ATTEMPT, .a = deaths};
    struct td_call call = crew_call(crew, &op);
    call.retries = (uint32_t)deaths;
    td_task *task, *others[BEHIND];
    struct td_timing timing, other;
    REQUIRE_OK(td_pool_submit(crew->pool, &call, &task));
    for (uint32_t i = 0; i < BEHIND; i++)
        others[i] = crew_submit(crew, &(struct op){.code = OP_ADD});
    crew_open_gate(0);
    crew_wait(gate);
    td_task_unref(gate);
    CHECK_EQ(crew_wait(task), TD_TASK_RESULT);
    td_task_timing(task, &timing);
    CHECK_EQ(timing.attempts, deaths + 1);
    uint32_t before = 0;
    for (uint32_t i = 0; i < BEHIND; i++) {
        CHECK_EQ(crew_wait(others[i]), TD_TASK_RESULT);
        td_task_timing(others[i], &other);
        before += other.started_ns < timing.started_ns;
        td_task_unref(others[i]);
    }
    td_task_unref(task);
    return before;
}

TD_TEST(what_runs_again_does_not_wait_behind_what_was_submitted_later)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    CHECK_EQ(count_before_last_attempt(&crew, 1), 0u);
    crew_close(&crew);
}

TD_TEST(what_a_fresh_worker_does_not_get_over_goes_to_the_end_of_the_line)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    CHECK_EQ(count_before_last_attempt(&crew, 2), (uint32_t)BEHIND);
    crew_close(&crew);
}

TD_TEST(workers_leave_after_their_most_tasks_and_others_come)
{
    struct crew crew;
    crew_open(&crew,
              &(struct td_pool_config){.max_workers = 1, .max_tasks_per_worker = 3, .break_on_death = 1});
    for (uint32_t i = 1; i <= 30; i++)
        CHECK_EQ(crew_value(crew_submit(&crew, &(struct op){.code = OP_ADD, .id = i, .a = i})), i);
    for (uint32_t i = 4; i <= 30; i += 3) {
        CHECK_NE(td_atomic_load_relaxed(&crew_board->pids[i]),
                 td_atomic_load_relaxed(&crew_board->pids[i - 1]));
        CHECK_EQ(td_atomic_load_relaxed(&crew_board->pids[i]),
                 td_atomic_load_relaxed(&crew_board->pids[i + 2]));
    }
    CHECK_EQ(stats_of(&crew).restarts, 0u);
    CHECK_EQ(stats_of(&crew).workers_started, 10u);
    crew_close(&crew);
}

TD_TEST(a_worker_that_leaves_by_itself_is_no_crash)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1, .break_on_death = 1});
    for (uint32_t i = 0; i < 15; i++)
        td_task_unref(crew_submit(&crew, &(struct op){.code = OP_LEAVE}));
    CHECK_EQ(crew_value(crew_submit(&crew, &(struct op){.code = OP_ADD, .a = 5})), 5);
    CHECK_EQ(stats_of(&crew).restarts, 0u);
    crew_close(&crew);
}

TD_TEST(a_death_breaks_the_pool_that_asked_for_it)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1, .break_on_death = 1});
    td_task *task = crew_submit(&crew, &(struct op){.code = OP_EXIT, .a = 3});
    td_task *queued = crew_submit(&crew, &(struct op){.code = OP_ADD});
    CHECK_EQ(crew_wait(task), TD_TASK_DIED);
    CHECK_EQ(crew_wait(queued), TD_TASK_BROKEN);
    CHECK_CONTAINS(td_pool_broken_reason(crew.pool), "exited with code 3");
    td_task *refused = NULL;
    const struct td_call call = crew_call(&crew, &(struct op){.code = OP_ADD});
    CHECK_STATUS(td_pool_submit(crew.pool, &call, &refused), TD_EBROKEN);
    td_task_unref(task);
    td_task_unref(queued);
    crew_close(&crew);
}

TD_TEST(ten_workers_in_a_row_that_finish_nothing_break_the_pool)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 2});
    CHECK_OK(td_pool_set_context(crew.pool, "die", 4));
    td_task *task = crew_submit(&crew, &(struct op){.code = OP_ADD});
    CHECK_EQ(crew_wait(task), TD_TASK_BROKEN);
    CHECK_CONTAINS(td_pool_broken_reason(crew.pool), "10 workers in a row");
    CHECK_CONTAINS(td_pool_broken_reason(crew.pool), "code 7");
    td_task_unref(task);
    crew_close(&crew);
}

TD_TEST(ten_deaths_with_work_done_between_do_not)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1, .max_barren_deaths = 3});
    for (uint64_t i = 0; i < 12; i++) {
        CHECK_EQ(crew_value(crew_submit(&crew, &(struct op){.code = OP_ADD, .a = i})), i);
        td_task *task = crew_submit(&crew, &(struct op){.code = OP_EXIT, .a = 3});
        CHECK_EQ(crew_wait(task), TD_TASK_DIED);
        td_task_unref(task);
    }
    CHECK_STR(td_pool_broken_reason(crew.pool), "");
    crew_close(&crew);
}

TD_TEST(a_closed_pool_does_not_replace_dying_workers_for_ever)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    CHECK_OK(td_pool_set_context(crew.pool, "die", 4));
    td_task *task = crew_submit(&crew, &(struct op){.code = OP_ADD});
    CHECK_OK(td_pool_close(crew.pool, 0));
    CHECK_EQ(crew_wait(task), TD_TASK_BROKEN);
    td_task_unref(task);
    crew_close(&crew);
}

TD_TEST(a_worker_that_cannot_start_says_why)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 2});
    CHECK_OK(td_pool_set_context(crew.pool, "fail", 5));
    td_task *task = crew_submit(&crew, &(struct op){.code = OP_ADD});
    CHECK_EQ(crew_wait(task), TD_TASK_BROKEN);
    CHECK_STR(td_pool_broken_reason(crew.pool), "the initializer said no");
    td_task_unref(task);
    crew_close(&crew);
}

TD_TEST(a_zygote_that_cannot_start_says_why)
{
    for (int start = TD_START_SHARED; start <= TD_START_SINGLE; start += TD_START_SINGLE) {
        struct crew crew;
        crew_open(&crew, &(struct td_pool_config){.max_workers = 2, .start = (enum td_start)start});
        crew_launch_as(&crew, "--fails");
        td_task *task = crew_submit(&crew, &(struct op){.code = OP_ADD});
        CHECK_EQ(crew_wait(task), TD_TASK_BROKEN);
        CHECK_STR(td_pool_broken_reason(crew.pool), "a preload raised");
        td_task_unref(task);
        crew_close(&crew);
    }
}

TD_TEST(a_zygote_that_keeps_dying_breaks_the_pool)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 2});
    crew_launch_as(&crew, "--nothing");
    td_task *task = crew_submit(&crew, &(struct op){.code = OP_ADD});
    CHECK_EQ(crew_wait(task), TD_TASK_BROKEN);
    CHECK_CONTAINS(td_pool_broken_reason(crew.pool), "three times");
    td_task_unref(task);
    crew_close(&crew);
}

TD_TEST(a_program_that_does_not_exist_breaks_the_pool_with_the_reason)
{
    if (crew_emulator() != NULL)
        SKIP("an emulated posix_spawn can't tell that the program could not be run");
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 2});
    const char *const argv[] = {"/no/such/program", NULL};
    CHECK_OK(td_pool_set_launch(crew.pool, argv, NULL));
    td_task *task = crew_submit(&crew, &(struct op){.code = OP_ADD});
    CHECK_EQ(crew_wait(task), TD_TASK_BROKEN);
    CHECK_CONTAINS(td_pool_broken_reason(crew.pool), "No such file");
    td_task_unref(task);
    crew_close(&crew);
}

/* ---- Zygotes ---- */

TD_TEST(workers_outlive_their_zygote_and_another_is_started_on_need)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    td_task *gate = crew_submit(&crew, &(struct op){.code = OP_GATE, .a = 1});
    crew_await_gate(1, 1);
    const int32_t worker = worker_pid(&crew), zygote = stats_of(&crew).zygote_pid;
    CHECK(zygote > 0);
    CHECK_EQ(kill(zygote, SIGKILL), 0);
    while (stats_of(&crew).zygote_pid != 0)
        sched_yield();
    crew_open_gate(1);
    CHECK_EQ(crew_value(gate), 1);
    CHECK_EQ(crew_value(crew_submit(&crew, &(struct op){.code = OP_ADD, .a = 2})), 2);
    CHECK_EQ(worker_pid(&crew), worker);
    CHECK_EQ(stats_of(&crew).zygote_starts, 1u);
    td_task *task = crew_submit(&crew, &(struct op){.code = OP_EXIT, .a = 3});
    const struct td_death death = death_of(task); /* an orphan's: nobody learns the exit code */
    CHECK_EQ(death.signal, 0);
    CHECK_EQ(death.exit_code, -1);
    CHECK_EQ(death.pid, worker);
    td_task_unref(task);
    CHECK_EQ(crew_value(crew_submit(&crew, &(struct op){.code = OP_ADD, .a = 3})), 3);
    CHECK_EQ(stats_of(&crew).zygote_starts, 2u);
    crew_close(&crew);
    while (waitpid(-1, NULL, WNOHANG) > 0) /* the orphan was ours to reap: we are its subreaper */
        continue;
}

TD_TEST(orphans_leave_when_the_pool_closes)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 2});
    td_task *tasks[2];
    for (uint32_t i = 0; i < 2; i++)
        tasks[i] = crew_submit(&crew, &(struct op){.code = OP_GATE, .a = 1});
    crew_await_gate(1, 2);
    kill(stats_of(&crew).zygote_pid, SIGKILL);
    while (stats_of(&crew).zygote_pid != 0)
        sched_yield();
    CHECK_OK(td_pool_close(crew.pool, 0));
    crew_open_gate(1);
    CHECK_EQ(crew_value(tasks[0]) + crew_value(tasks[1]), 2u);
    crew_close(&crew);
    while (waitpid(-1, NULL, WNOHANG) > 0)
        continue;
}

TD_TEST(a_zygote_killed_at_any_moment_loses_no_task)
{
    uint64_t random = test_seed;
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 4, .max_tasks_per_worker = 5});
    for (uint64_t round = 0; round < test_rounds(20); round++) {
        td_task *tasks[40];
        for (uint32_t i = 0; i < 40; i++)
            tasks[i] = crew_submit(&crew, &(struct op){.code = OP_ADD, .a = i});
        for (uint64_t turns = test_random_below(&random, 2000); turns > 0; turns--)
            sched_yield();
        const int32_t zygote = stats_of(&crew).zygote_pid;
        if (zygote > 0)
            kill(zygote, SIGKILL);
        for (uint32_t i = 0; i < 40; i++)
            CHECK_EQ(crew_value(tasks[i]), i);
    }
    CHECK_STR(td_pool_broken_reason(crew.pool), "");
    crew_close(&crew);
    while (waitpid(-1, NULL, 0) > 0)
        continue;
}

TD_TEST(an_adopted_zygote_is_not_replaced)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1, .start = TD_START_ADOPTED});
    CHECK_EQ(crew_value(crew_submit(&crew, &(struct op){.code = OP_ADD, .a = 1})), 1);
    td_task *gate = crew_submit(&crew, &(struct op){.code = OP_GATE, .a = 1});
    crew_await_gate(1, 1);
    kill(stats_of(&crew).zygote_pid, SIGKILL);
    CHECK_EQ(crew_wait(gate), TD_TASK_BROKEN);
    CHECK_CONTAINS(td_pool_broken_reason(crew.pool), "forked from this one");
    td_task_unref(gate);
    crew_close(&crew);
    while (waitpid(-1, NULL, 0) > 0)
        continue;
}

TD_TEST(the_worker_forked_by_the_caller_is_a_worker_like_any_other)
{
    struct crew crew;
    const pid_t own = crew_open_own(&crew, 1);
    CHECK_EQ(crew_value(crew_submit(&crew, &(struct op){.code = OP_ADD, .id = 1, .a = 1})), 1);
    CHECK_EQ(td_atomic_load_seq(&crew_board->pids[1]), (uint32_t)own);
    td_task *task = crew_submit(&crew, &(struct op){.code = OP_EXIT, .a = 3});
    CHECK_EQ(death_of(task).exit_code, 3);
    td_task_unref(task);
    CHECK_EQ(crew_value(crew_submit(&crew, &(struct op){.code = OP_ADD, .a = 2})), 2); /* the zygote's */
    crew_close(&crew);
}

TD_TEST(the_worker_forked_by_the_caller_ends_with_a_pool_that_never_started)
{
    struct crew crew;
    crew_make_board(&crew);
    REQUIRE_OK(td_pool_new(&(struct td_pool_config){.max_workers = 2, .start = TD_START_ADOPTED}, &crew.pool));
    const pid_t own = crew_fork_worker(&crew);
    CHECK_EQ(td_pool_adopt_worker(crew.pool, own, -1), TD_EINVAL); /* there is one */
    td_pool_unref(crew.pool);
    CHECK_EQ(waitpid(own, NULL, 0), -1); /* it was reaped */
    crew_settle(&crew);
}

/* A child with this pid, if we may choose pids. */
static pid_t fork_with_pid(pid_t pid)
{
    struct clone_args order = {.exit_signal = SIGCHLD, .set_tid = (uint64_t)(uintptr_t)&pid, .set_tid_size = 1};
    const long made = syscall(SYS_clone3, &order, sizeof order);
    if (made == 0)
        for (;;)
            pause();
    return (pid_t)made;
}

TD_TEST(a_pid_that_somebody_else_has_by_now_is_left_alone)
{
    struct crew crew;
    const char *const argv[] = {"sleep", "1000", NULL}; /* a zygote that never gets to be one */
    crew_make_board(&crew);
    REQUIRE_OK(td_pool_new(&(struct td_pool_config){.max_workers = 1, .argv = argv}, &crew.pool));
    const pid_t zygote = stats_of(&crew).zygote_pid;
    kill(zygote, SIGKILL);
    CHECK_EQ(test_wait_child(zygote), -SIGKILL); /* a program that reaps whatever ends */
    const pid_t stranger = fork_with_pid(zygote);
    if (stranger < 0)
        SKIP("pids can't be chosen: %s", strerror(errno));
    int pidfd = -1;
    if (td_pidfd_open(stranger, &pidfd) == TD_ENOSYS)
        SKIP("pidfds are refused");
    close(pidfd);
    td_pool_unref(crew.pool);
    CHECK_EQ(waitpid(stranger, NULL, WNOHANG), 0);
    kill(stranger, SIGKILL);
    test_wait_child(stranger);
    crew_settle(&crew);
}

TD_TEST(without_pidfds_deaths_are_found_all_the_same)
{
    setenv("TREADLE_NO_PIDFD", "1", 1);
    for (int start = TD_START_SHARED; start <= TD_START_SINGLE; start++) {
        struct crew crew;
        crew_open(&crew, &(struct td_pool_config){.max_workers = 1, .start = (enum td_start)start});
        CHECK_EQ(crew_value(crew_submit(&crew, &(struct op){.code = OP_ADD, .a = 1})), 1);
        td_task *task = crew_submit(&crew, &(struct op){.code = OP_RAISE, .a = SIGKILL});
        CHECK_EQ(death_of(task).signal, SIGKILL);
        td_task_unref(task);
        task = crew_submit(&crew, &(struct op){.code = OP_EXIT, .a = 3});
        CHECK_EQ(death_of(task).exit_code, 3);
        td_task_unref(task);
        CHECK_EQ(crew_value(crew_submit(&crew, &(struct op){.code = OP_ADD, .a = 2})), 2);
        if (start == TD_START_SHARED) {
            kill(stats_of(&crew).zygote_pid, SIGKILL);
            while (stats_of(&crew).zygote_pid != 0)
                sched_yield();
            task = crew_submit(&crew, &(struct op){.code = OP_RAISE, .a = SIGKILL});
            CHECK_EQ(death_of(task).signal, 0);
            td_task_unref(task);
            CHECK_EQ(crew_value(crew_submit(&crew, &(struct op){.code = OP_ADD, .a = 3})), 3);
        }
        crew_close(&crew);
        while (waitpid(-1, NULL, WNOHANG) > 0)
            continue;
    }
}

TD_TEST(without_pidfds_a_worker_that_closes_its_lifeline_is_ended)
{
    setenv("TREADLE_NO_PIDFD", "1", 1);
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1, .start = TD_START_SINGLE});
    td_task *task = crew_submit(&crew, &(struct op){.code = OP_ROGUE, .a = ROGUE_CLOSE});
    CHECK_EQ(death_of(task).signal, SIGKILL);
    td_task_unref(task);
    CHECK_EQ(crew_value(crew_submit(&crew, &(struct op){.code = OP_ADD, .a = 1})), 1);
    crew_close(&crew);
}

/* ---- A model: random kills ---- */

/* Kills a worker by chance: 1, and whom; or 0. */
static uint32_t kill_any(const struct crew *crew, uint64_t *random, int32_t *pid)
{
    struct td_worker_info info[8];
    const uint32_t workers = td_pool_get_workers(crew->pool, info, 8);
    if (workers == 0)
        return 0;
    *pid = info[test_random_below(random, workers)].pid;
    return *pid > 0 && kill(*pid, SIGKILL) == 0;
}

/* The last task that this process began, 0 for none. */
static uint32_t last_of(int32_t pid, uint32_t count)
{
    for (uint32_t i = count; i > 0; i--)
        if (td_atomic_load_relaxed(&crew_board->pids[i]) == (uint32_t)pid)
            return i;
    return 0;
}

TD_TEST(what_dies_under_random_kills_is_exactly_what_ran_on_the_killed)
{
    setenv("TREADLE_SLOTS", "256", 1);
    const uint32_t count = (uint32_t)test_rounds(10000);
    uint64_t random = test_seed;
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 3, .max_barren_deaths = 1000});
    td_task **tasks = calloc(count + 1, sizeof *tasks);
    int32_t *killed = calloc(count, sizeof *killed);
    uint32_t kills = 0, died = 0;
    REQUIRE(tasks != NULL && killed != NULL);
    for (uint32_t i = 1; i <= count; i++)
        tasks[i] = crew_submit(&crew, &(struct op){.code = OP_SPIN, .id = i, .a = 20000});
    for (uint32_t i = 1; i <= count; i++) {
        crew_wait(tasks[i]);
        if (test_random_below(&random, 100) == 0)
            kills += kill_any(&crew, &random, &killed[kills]);
    }
    for (uint32_t i = 1; i <= count; i++) {
        const enum td_task_state state = crew_wait(tasks[i]);
        const uint32_t runs = td_atomic_load_relaxed(&crew_board->runs[i]);
        if (state == TD_TASK_RESULT) {
            CHECK_EQ(runs, 0x10001u); /* once, to its end */
            continue;
        }
        died++;
        bool known = false;
        const struct td_death death = death_of(tasks[i]);
        CHECK_LE(runs & 0xffff, 1u);
        CHECK_EQ(death.signal, SIGKILL);
        for (uint32_t k = 0; k < kills && !known; k++)
            known = killed[k] == death.pid;
        CHECK(known);
        if (runs != 0) /* it may have died between the claim and the first word of it */
            CHECK_EQ(last_of(death.pid, count), i);
    }
    CHECK_LE(died, kills);
    CHECK_EQ(stats_of(&crew).died, died);
    CHECK_EQ(stats_of(&crew).succeeded, count - died);
    for (uint32_t i = 1; i <= count; i++)
        td_task_unref(tasks[i]);
    free(tasks);
    free(killed);
    crew_close(&crew);
}

TD_TEST(with_enough_retries_random_kills_lose_nothing)
{
    const uint32_t count = (uint32_t)test_rounds(3000);
    uint64_t random = test_seed + 1;
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 3, .max_barren_deaths = 1000});
    td_task **tasks = calloc(count, sizeof *tasks);
    REQUIRE(tasks != NULL);
    for (uint32_t i = 0; i < count; i++) {
        const struct op op = {.code = OP_SPIN, .id = 1 + i, .a = 20000};
        struct td_call call = crew_call(&crew, &op);
        call.retries = 1000;
        REQUIRE_OK(td_pool_submit(crew.pool, &call, &tasks[i]));
    }
    for (uint32_t i = 0; i < count; i++) {
        int32_t pid;
        CHECK_EQ(crew_wait(tasks[i]), TD_TASK_RESULT);
        const uint32_t runs = td_atomic_load_relaxed(&crew_board->runs[1 + i]);
        CHECK_LE(0x10000u, runs);
        if (test_random_below(&random, 30) == 0)
            kill_any(&crew, &random, &pid);
        td_task_unref(tasks[i]);
    }
    free(tasks);
    crew_close(&crew);
}

CREW_TEST_MAIN
