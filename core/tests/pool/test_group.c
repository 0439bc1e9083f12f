/* tests/pool/test_group.c: queues of completed tasks: groups, and those that somebody observes. */
#include <poll.h>
#include <pthread.h>

#include "tests/pool/crew.h"

#define PATIENCE_MS ((int)(CREW_PATIENCE_NS / TD_NS_PER_MS))

static int64_t soon(void)
{
    return td_deadline_after(CREW_PATIENCE_NS);
}

TD_TEST(a_group_gives_its_tasks_in_the_order_of_their_completion)
{
    struct crew crew;
    td_group *group;
    td_task *tasks[3], *task;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 3});
    REQUIRE_OK(td_group_new(&group));
    CHECK_STATUS(td_group_pop_until(group, TD_FOREVER, &task), TD_EINVAL);
    for (uint64_t i = 0; i < 3; i++) {
        tasks[i] = crew_submit(&crew, &(struct op){.code = OP_GATE, .a = i});
        CHECK_OK(td_group_add(group, tasks[i]));
        CHECK_STATUS(td_group_add(group, tasks[i]), TD_EINVAL);
    }
    CHECK_STATUS(td_group_pop_until(group, td_deadline_after(TD_NS_PER_MS), &task), TD_ETIMEDOUT);
    for (uint32_t i = 3; i-- > 0;) {
        crew_open_gate(i);
        REQUIRE_OK(td_group_pop_until(group, soon(), &task));
        CHECK(task == tasks[i]);
        td_task_unref(task);
        CHECK_EQ(crew_value(tasks[i]), i);
    }
    CHECK_STATUS(td_group_pop_until(group, TD_FOREVER, &task), TD_EINVAL);
    td_group_free(group);
    crew_close(&crew);
}

TD_TEST(final_tasks_are_queued_at_once_and_may_change_groups)
{
    struct crew crew;
    td_group *groups[2];
    td_task *popped;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    td_task *task = crew_submit(&crew, &(struct op){.code = OP_ADD});
    crew_wait(task);
    for (uint32_t i = 0; i < 2; i++) {
        REQUIRE_OK(td_group_new(&groups[i]));
        CHECK_OK(td_group_add(groups[i], task));
        REQUIRE_OK(td_group_pop_until(groups[i], 0, &popped));
        CHECK(popped == task);
        td_task_unref(popped);
        td_group_free(groups[i]);
    }
    td_task_unref(task);
    crew_close(&crew);
}

TD_TEST(a_group_may_be_freed_with_tasks_in_it)
{
    struct crew crew;
    td_group *group;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    REQUIRE_OK(td_group_new(&group));
    td_task *done = crew_submit(&crew, &(struct op){.code = OP_ADD});
    CHECK_OK(td_group_add(group, done));
    crew_wait(done);
    td_task *gate = crew_submit(&crew, &(struct op){.code = OP_GATE, .a = 1});
    CHECK_OK(td_group_add(group, gate));
    td_task_unref(done);
    td_group_free(group);
    crew_open_gate(1);
    CHECK_EQ(crew_value(gate), 1);
    crew_close(&crew);
}

struct popper {
    td_group *group;
    td_atomic_u64 *sum;
    pthread_t thread;
};

static void *pop_all(void *context)
{
    struct popper *popper = context;
    for (;;) {
        td_task *task;
        const td_status status = td_group_pop_until(popper->group, soon(), &task);
        if (status == TD_EINVAL)
            return NULL;
        if (status == TD_EAGAIN) /* another thread was faster */
            continue;
        CHECK_OK(status);
        if (status != TD_OK)
            return NULL;
        td_atomic_fetch_add_relaxed(popper->sum, crew_value(task));
    }
}

TD_TEST(several_threads_empty_one_group)
{
    setenv("TREADLE_SLOTS", "64", 1);
    struct crew crew;
    td_group *group;
    struct popper poppers[3];
    td_atomic_u64 sum;
    const uint64_t count = test_rounds(5000);
    td_atomic_init(&sum, 0);
    crew_open(&crew, &(struct td_pool_config){.max_workers = 2});
    REQUIRE_OK(td_group_new(&group));
    for (uint64_t i = 0; i < count; i++) {
        td_task *task = crew_submit(&crew, &(struct op){.code = OP_ADD, .a = i});
        CHECK_OK(td_group_add(group, task));
        td_task_unref(task);
    }
    for (uint32_t i = 0; i < 3; i++) {
        poppers[i] = (struct popper){.group = group, .sum = &sum};
        REQUIRE_EQ(pthread_create(&poppers[i].thread, NULL, pop_all, &poppers[i]), 0);
    }
    for (uint32_t i = 0; i < 3; i++)
        pthread_join(poppers[i].thread, NULL);
    CHECK_EQ(td_atomic_load_relaxed(&sum), count * (count - 1) / 2);
    td_group_free(group);
    crew_close(&crew);
}

/* ---- Groups of event loops ---- */

/* An event loop: a group, and the descriptor that it polls. */
struct loop {
    td_group *group;
    int fd;
};

static void loop_init(struct loop *loop)
{
    REQUIRE_OK(td_group_new(&loop->group));
    REQUIRE_OK(td_group_open_event(loop->group, &loop->fd));
}

/* False: not within that time. */
static bool loop_is_rung(const struct loop *loop, int timeout_ms)
{
    struct pollfd watched = {.fd = loop->fd, .events = POLLIN};
    return poll(&watched, 1, timeout_ms) > 0;
}

/* What is there; arms for the rest, as a loop does. */
static uint64_t loop_take(struct loop *loop, uint64_t *sum)
{
    uint64_t taken = 0;
    td_task *task;
    td_group_disarm(loop->group);
    for (; td_group_pop_until(loop->group, 0, &task) == TD_OK; taken++)
        *sum += crew_value(task);
    if (td_group_count(loop->group) > 0)
        td_group_arm(loop->group);
    return taken;
}

TD_TEST(a_loop_is_rung_for_what_ends_while_it_is_armed_and_for_what_had_ended)
{
    struct crew crew;
    struct loop loops[2]; /* the first has the bell's descriptor, the other one of its own */
    uint64_t sum = 0;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    for (uint64_t i = 0; i < 2; i++)
        loop_init(&loops[i]);
    CHECK(loops[0].fd != loops[1].fd);
    for (uint64_t i = 0; i < 2; i++) {
        td_task *task = crew_submit(&crew, &(struct op){.code = OP_GATE, .a = i});
        CHECK_OK(td_group_add_as(loops[i].group, task, 40 + i));
        td_task_unref(task);
        td_group_arm(loops[i].group);
        CHECK(!loop_is_rung(&loops[i], 0));
        crew_open_gate((uint32_t)i);
        CHECK(loop_is_rung(&loops[i], PATIENCE_MS));
        td_group_disarm(loops[i].group);
        CHECK(!loop_is_rung(&loops[i], 0));
        td_group_arm(loops[i].group); /* again: it has not been taken */
        CHECK(loop_is_rung(&loops[i], 0));
        REQUIRE_OK(td_group_pop_until(loops[i].group, 0, &task));
        CHECK_EQ(td_task_group_tag(task), 40 + i);
        sum += crew_value(task);
    }
    CHECK_EQ(sum, 1);
    for (uint64_t i = 0; i < 2; i++)
        td_group_free(loops[i].group);
    loop_init(&loops[0]); /* the bell's descriptor is free again, and quiet */
    CHECK(!loop_is_rung(&loops[0], 0));
    td_group_free(loops[0].group);
    crew_close(&crew);
}

TD_TEST(a_task_that_was_removed_rings_for_nobody)
{
    struct crew crew;
    struct loop loop;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    loop_init(&loop);
    td_task *gate = crew_submit(&crew, &(struct op){.code = OP_GATE, .a = 1});
    CHECK_OK(td_group_add(loop.group, gate));
    td_group_arm(loop.group);
    CHECK_OK(td_group_remove(loop.group, gate));
    CHECK_STATUS(td_group_remove(loop.group, gate), TD_EINVAL);
    CHECK_EQ(td_group_count(loop.group), 0);
    crew_open_gate(1);
    CHECK_EQ(crew_value(gate), 1);
    td_task *done = crew_submit(&crew, &(struct op){.code = OP_ADD, .a = 2});
    CHECK_OK(td_group_add(loop.group, done));
    crew_wait(done);
    CHECK_OK(td_group_remove(loop.group, done)); /* final, too */
    CHECK_EQ(crew_value(done), 2);
    td_group_free(loop.group);
    crew_close(&crew);
}

struct looper {
    struct crew *crew;
    uint64_t count, sum;
    pthread_t thread;
};

/* A few tasks at a time, sleeping in its poll for each lot. */
static void *run_loop(void *context)
{
    struct looper *looper = context;
    struct loop loop;
    loop_init(&loop);
    for (uint64_t sent = 0, taken = 0; taken < looper->count;) {
        for (uint64_t lot = sent % 3 + 1; lot > 0 && sent < looper->count; lot--, sent++) {
            td_task *task = crew_submit(looper->crew, &(struct op){.code = OP_ADD, .a = sent});
            CHECK_OK(td_group_add(loop.group, task));
            td_task_unref(task);
        }
        td_group_arm(loop.group);
        if (!loop_is_rung(&loop, PATIENCE_MS)) {
            CHECK_EQ(taken, looper->count);
            break;
        }
        taken += loop_take(&loop, &looper->sum);
    }
    td_group_free(loop.group);
    return NULL;
}

TD_TEST(loops_that_sleep_hear_of_all_their_tasks)
{
    struct crew crew;
    struct looper loopers[3];
    const uint64_t count = test_rounds(2000);
    crew_open(&crew, &(struct td_pool_config){.max_workers = 2});
    for (uint32_t i = 0; i < 3; i++) {
        loopers[i] = (struct looper){.crew = &crew, .count = count};
        REQUIRE_EQ(pthread_create(&loopers[i].thread, NULL, run_loop, &loopers[i]), 0);
    }
    for (uint32_t i = 0; i < 3; i++) {
        pthread_join(loopers[i].thread, NULL);
        CHECK_EQ(loopers[i].sum, count * (count - 1) / 2);
    }
    crew_close(&crew);
}

/* ---- Observers ---- */

struct observer {
    uint64_t seen, sum;
    pthread_t thread;
};

static void *observe(void *context)
{
    struct observer *observer = context;
    for (;;) {
        td_task *task;
        const td_status status = td_observed_pop_until(TD_FOREVER, &task);
        if (status == TD_ECLOSED)
            return NULL;
        CHECK_OK(status);
        observer->seen++;
        observer->sum += crew_value(task);
    }
}

TD_TEST(observed_tasks_reach_the_observer_though_nobody_else_waits)
{
    struct crew crew;
    struct observer observer = {0};
    const uint64_t count = test_rounds(5000);
    crew_open(&crew, &(struct td_pool_config){.max_workers = 2});
    REQUIRE_EQ(pthread_create(&observer.thread, NULL, observe, &observer), 0);
    for (uint64_t i = 0; i < count; i++) {
        const struct op op = {.code = OP_ADD, .a = i};
        struct td_call call = crew_call(&crew, &op);
        td_task *task;
        call.flags = i % 2 == 0 ? TD_CALL_OBSERVED : 0;
        REQUIRE_OK(td_pool_submit(crew.pool, &call, &task));
        if (i % 2 != 0 && td_task_observe(task) != TD_OK) /* it has ended already: nobody will be told */
            CHECK_EQ(crew_value(task), i);
        else
            td_task_unref(task);
    }
    CHECK_OK(td_pool_idle_until(crew.pool, soon()));
    td_observed_close();
    pthread_join(observer.thread, NULL);
    CHECK_LE(count / 2, observer.seen);
    td_task *task;
    CHECK_STATUS(td_observed_pop_until(TD_FOREVER, &task), TD_ECLOSED);
    td_observed_open();
    CHECK_STATUS(td_observed_pop_until(td_deadline_after(TD_NS_PER_MS), &task), TD_ETIMEDOUT);
    crew_close(&crew);
}

TD_TEST(observing_a_final_task_says_so)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    td_task *task = crew_submit(&crew, &(struct op){.code = OP_ADD});
    crew_wait(task);
    CHECK_STATUS(td_task_observe(task), TD_EINVAL);
    td_task_unref(task);
    crew_close(&crew);
}

CREW_TEST_MAIN
