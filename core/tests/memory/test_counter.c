/* tests/memory/test_counter.c: numbers that processes add to. */
#include "tests/memory/peers.h"

static td_hold *made(int64_t value)
{
    td_hold *counter = NULL;
    REQUIRE_OK(td_counter_new(value, &counter));
    return counter;
}

static void gone(td_hold *counter)
{
    td_hold_unref(counter);
    CHECK_EQ(live_blocks(), 0u);
    td_heap_trim();
}

TD_TEST(a_counter_adds_and_is_set)
{
    td_hold *counter = made(-7);
    int64_t value = 0;
    CHECK_OK(td_counter_get(counter, &value));
    CHECK_EQ(value, -7);
    CHECK_OK(td_counter_add(counter, 10, &value));
    CHECK_EQ(value, 3);
    CHECK_OK(td_counter_add(counter, -5, &value));
    CHECK_EQ(value, -2);
    CHECK_OK(td_counter_set(counter, 100));
    CHECK_OK(td_counter_get(counter, &value));
    CHECK_EQ(value, 100);
    gone(counter);
}

TD_TEST(a_counter_wraps_around)
{
    td_hold *counter = made(INT64_MAX);
    int64_t value = 0;
    CHECK_OK(td_counter_add(counter, 1, &value));
    CHECK_EQ(value, INT64_MIN);
    CHECK_OK(td_counter_add(counter, -1, &value));
    CHECK_EQ(value, INT64_MAX);
    gone(counter);
}

TD_TEST(another_block_is_no_counter)
{
    td_hold *flag = NULL;
    int64_t value = 5;
    REQUIRE_OK(td_flag_new(&flag));
    CHECK_STATUS(td_counter_add(flag, 1, &value), TD_EPROTO);
    CHECK_STATUS(td_counter_get(flag, &value), TD_EPROTO);
    CHECK_STATUS(td_counter_set(flag, 1), TD_EPROTO);
    CHECK_EQ(value, 5);
    gone(flag);
}

static int add_ones(td_hold *counter, struct board *board, uint32_t number)
{
    int64_t value = 0, before = INT64_MIN;
    (void)board;
    (void)number;
    for (uint64_t i = 0; i < test_rounds(20000); i++) {
        if (td_counter_add(counter, 1, &value) != TD_OK || value <= before)
            return 1;
        before = value;
    }
    return 0;
}

TD_TEST(nothing_that_processes_add_is_lost)
{
    td_hold *counter = made(0);
    pid_t pids[PEERS];
    int64_t value = 0;
    for (uint32_t i = 0; i < PEERS; i++)
        pids[i] = peer(add_ones, counter, NULL, i);
    for (uint32_t i = 0; i < PEERS; i++)
        CHECK_EQ(test_wait_child(pids[i]), 0);
    CHECK_OK(td_counter_get(counter, &value));
    CHECK_EQ((uint64_t)value, PEERS * test_rounds(20000));
    gone(counter);
}

TD_TEST_MAIN
