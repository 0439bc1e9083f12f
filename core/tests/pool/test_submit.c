/* tests/pool/test_submit.c */
#include "tests/pool/crew.h"

TD_TEST(a_task_comes_back)
{
    struct crew crew;
    crew_open(&crew, &(struct td_pool_config){.max_workers = 2});
    td_task *task = crew_submit(&crew, &(struct op){.code = OP_ADD, .a = 1, .b = 2});
    CHECK_EQ(crew_value(task), 3);
    crew_close(&crew);
}

CREW_TEST_MAIN
