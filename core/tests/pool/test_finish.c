/* tests/pool/test_finish.c: what workers write is checked: a damaged word costs a task and its worker, nothing else. */
#include "tests/pool/crew.h"

static struct td_pool_stats stats_of(const struct crew *crew)
{
    struct td_pool_stats stats;
    td_pool_get_stats(crew->pool, &stats);
    return stats;
}

TD_TEST(a_result_that_cannot_be_costs_its_task_and_its_worker)
{
    for (uint64_t way = ROGUE_REF; way <= ROGUE_LENGTH; way++) {
        struct crew crew;
        crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
        td_task *task = crew_submit(&crew, &(struct op){.code = OP_ROGUE, .a = way});
        struct td_view view;
        CHECK_EQ(crew_wait(task), TD_TASK_BROKEN);
        CHECK_STATUS(td_task_result(task, &view), TD_EINVAL);
        CHECK_CONTAINS(td_pool_broken_reason(crew.pool), "failed its checks");
        td_task_unref(task);
        CHECK_EQ(crew_value(crew_submit(&crew, &(struct op){.code = OP_ADD, .a = 4})), 4);
        crew_close(&crew);
    }
}

TD_TEST(a_count_of_completions_that_cannot_be_costs_the_worker)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    td_task *task = crew_submit(&crew, &(struct op){.code = OP_ROGUE, .a = ROGUE_COUNT});
    CHECK_EQ(crew_wait(task), TD_TASK_DIED);
    td_task_unref(task);
    CHECK_EQ(crew_value(crew_submit(&crew, &(struct op){.code = OP_ADD, .a = 4})), 4);
    crew_close(&crew);
}

TD_TEST(completions_of_what_was_never_claimed_finish_nothing)
{
    enum { COUNT = 50 };
    struct crew crew;
    td_task *tasks[COUNT];
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    td_task *gate = crew_submit(&crew, &(struct op){.code = OP_GATE, .a = 1});
    td_task *rogue = crew_submit(&crew, &(struct op){.code = OP_ROGUE, .a = ROGUE_ENTRY});
    for (uint32_t i = 0; i < COUNT; i++)
        tasks[i] = crew_submit(&crew, &(struct op){.code = OP_ADD, .id = 1 + i, .a = i});
    crew_open_gate(1);
    CHECK_EQ(crew_value(gate), 1);
    CHECK_EQ(crew_wait(rogue), TD_TASK_DIED);
    td_task_unref(rogue);
    for (uint32_t i = 0; i < COUNT; i++) {
        CHECK_EQ(crew_value(tasks[i]), i);
        CHECK_EQ(td_atomic_load_relaxed(&crew_board->runs[1 + i]), 0x10001u);
    }
    crew_close(&crew);
}

TD_TEST(a_task_that_a_worker_hoarded_runs_elsewhere)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 1});
    td_task *gate = crew_submit(&crew, &(struct op){.code = OP_GATE, .a = 1});
    td_task *rogue = crew_submit(&crew, &(struct op){.code = OP_ROGUE, .a = ROGUE_HOARD});
    td_task *hoarded = crew_submit(&crew, &(struct op){.code = OP_ADD, .a = 5});
    crew_open_gate(1);
    CHECK_EQ(crew_value(gate), 1);
    CHECK_EQ(crew_wait(rogue) | crew_wait(hoarded), TD_TASK_DIED | TD_TASK_RESULT);
    CHECK_EQ(stats_of(&crew).died, 1u);
    td_task_unref(rogue);
    td_task_unref(hoarded);
    crew_close(&crew);
}

CREW_TEST_MAIN
