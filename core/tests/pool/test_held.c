/* tests/pool/test_held.c: shared blocks that tasks name and workers keep. */
#include <sys/wait.h>

#include "memory/heap.h"
#include "tests/pool/crew.h"

struct named {
    struct op op;
    struct td_share share;
};

_Static_assert(sizeof(struct named) <= TD_INLINE_ARGS, "travels in the slot");

static uint64_t live_blocks(void)
{
    struct td_heap_info info;
    td_heap_get_info(&info);
    return info.blocks;
}

static td_task *submit_naming(const struct crew *crew, uint32_t code, uint64_t place, td_hold *hold)
{
    struct named named = {.op = {.code = code, .a = place}};
    td_hold_share(hold, &named.share);
    const struct td_call call = {
        .fn = crew->fn, .args = &named, .args_bytes = sizeof named, .holds = &hold, .hold_count = 1};
    td_task *task = NULL;
    REQUIRE_OK(td_pool_submit(crew->pool, &call, &task));
    return task;
}

static td_hold *numbered(uint64_t number)
{
    td_hold *hold = NULL;
    REQUIRE_OK(td_hold_new(10000, true, &hold));
    memcpy(td_hold_data(hold), &number, sizeof number);
    return hold;
}

static void close_all(struct crew *crew)
{
    crew_close(crew);
    CHECK_EQ(live_blocks(), 0u);
    td_heap_trim();
}

static void open_one(struct crew *crew)
{
    crew_open(crew, &(struct td_pool_config){.max_workers = 1});
}

static uint64_t run(const struct crew *crew, uint32_t code, uint64_t place)
{
    return crew_value(crew_submit(crew, &(struct op){.code = code, .a = place}));
}

TD_TEST(a_task_holds_what_its_arguments_name)
{
    struct crew crew;
    open_one(&crew);
    td_hold *hold = numbered(7);
    td_task *gate = crew_submit(&crew, &(struct op){.code = OP_GATE, .a = 1});
    crew_await_gate(1, 1);
    td_task *task = submit_naming(&crew, OP_SEE, 0, hold);
    td_hold_unref(hold);
    CHECK_EQ(live_blocks(), 1u);
    crew_open_gate(1);
    CHECK_EQ(crew_value(task), 7u);
    CHECK_EQ(live_blocks(), 0u);
    td_task_unref(gate);
    close_all(&crew);
}

TD_TEST(a_cancelled_task_lets_go)
{
    struct crew crew;
    open_one(&crew);
    td_hold *hold = numbered(7);
    td_task *gate = crew_submit(&crew, &(struct op){.code = OP_GATE, .a = 1});
    crew_await_gate(1, 1);
    td_task *task = submit_naming(&crew, OP_SEE, 0, hold);
    td_hold_unref(hold);
    CHECK_OK(td_task_cancel(task, false));
    CHECK_EQ(live_blocks(), 0u);
    crew_open_gate(1);
    crew_wait(gate);
    td_task_unref(gate);
    td_task_unref(task);
    close_all(&crew);
}

TD_TEST(a_worker_that_keeps_a_block_keeps_it_for_all_until_it_lets_go)
{
    struct crew crew;
    open_one(&crew);
    for (uint64_t place = 0; place < CREW_KEPT; place++) {
        td_hold *hold = numbered(100 + place);
        CHECK_EQ(crew_value(submit_naming(&crew, OP_KEEP, place, hold)), 100 + place);
        td_hold_unref(hold);
        CHECK_EQ(live_blocks(), 1 + place);
    }
    CHECK_EQ(run(&crew, OP_ADD, 3), 3u); /* says nothing new */
    CHECK_EQ(live_blocks(), CREW_KEPT);
    for (uint64_t place = 0; place < CREW_KEPT; place++) {
        CHECK_EQ(run(&crew, OP_LET_GO, place), 100 + place);
        CHECK_EQ(live_blocks(), CREW_KEPT - 1 - place);
    }
    close_all(&crew);
}

TD_TEST(a_dead_worker_holds_nothing)
{
    struct crew crew;
    open_one(&crew);
    td_hold *hold = numbered(7);
    CHECK_EQ(crew_value(submit_naming(&crew, OP_KEEP, 0, hold)), 7u);
    td_hold_unref(hold);
    td_task *last = crew_submit(&crew, &(struct op){.code = OP_EXIT, .a = 3});
    CHECK_EQ(crew_wait(last), TD_TASK_DIED);
    CHECK_EQ(live_blocks(), 0u);
    td_task_unref(last);
    close_all(&crew);
}

TD_TEST(what_a_dying_worker_was_given_is_held_for_the_next)
{
    struct crew crew;
    open_one(&crew);
    td_hold *hold = numbered(7);
    struct named named = {.op = {.code = OP_ATTEMPT, .a = 2}};
    td_hold_share(hold, &named.share);
    const struct td_call call = {.fn = crew.fn,
                                 .args = &named,
                                 .args_bytes = sizeof named,
                                 .retries = 3,
                                 .holds = &hold,
                                 .hold_count = 1};
    td_task *task = NULL;
    REQUIRE_OK(td_pool_submit(crew.pool, &call, &task));
    td_hold_unref(hold);
    CHECK_EQ(crew_value(task), 2u);
    CHECK_EQ(live_blocks(), 0u);
    close_all(&crew);
}

TD_TEST(a_closed_pool_holds_nothing)
{
    struct crew crew;
    open_one(&crew);
    td_hold *hold = numbered(7);
    CHECK_EQ(crew_value(submit_naming(&crew, OP_KEEP, 0, hold)), 7u);
    td_hold_unref(hold);
    CHECK_EQ(live_blocks(), 1u);
    close_all(&crew);
}

TD_TEST(a_broken_pool_holds_what_its_workers_may_still_see_until_they_are_gone)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    td_hold *hold = numbered(7);
    td_task *task = submit_naming(&crew, OP_SEE_AT_GATE, 1, hold);
    td_hold_unref(hold);
    crew_await_gate(1, 1);
    td_pool_break(crew.pool, "the test says so");
    CHECK_EQ(crew_wait(task), TD_TASK_BROKEN);
    td_task_unref(task);
    CHECK_OK(td_pool_join_until(crew.pool, td_deadline_after(CREW_PATIENCE_NS)));
    td_pool_unref(crew.pool);
    crew_settle(&crew);
    CHECK_EQ(live_blocks(), 0u);
    td_heap_trim();
}

TD_TEST(a_function_holds_what_its_bytes_name_while_it_is_known)
{
    struct crew crew;
    uint32_t fn = 0, again = 0;
    open_one(&crew);
    td_hold *hold = numbered(7);
    REQUIRE_OK(td_pool_intern_holding(crew.pool, "sees", 4, &hold, 1, &fn));
    REQUIRE_OK(td_pool_intern_holding(crew.pool, "sees", 4, &hold, 1, &again));
    CHECK_EQ(fn, again);
    td_hold_unref(hold);
    td_pool_release_fn(crew.pool, fn);
    CHECK_EQ(live_blocks(), 1u);
    td_pool_release_fn(crew.pool, again);
    CHECK_EQ(live_blocks(), 0u);
    close_all(&crew);
}

CREW_TEST_MAIN
