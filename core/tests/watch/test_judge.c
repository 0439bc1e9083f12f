/* tests/watch/test_judge.c: what a look makes of a beat, at times that the test chooses. */
#include "watch/judge.h"

#include "tests/harness.h"

#define T INT64_C(1000)

static enum td_verdict at(struct td_judge *judge, uint64_t turn, int64_t now_ns, int64_t *next_ns)
{
    *next_ns = -1;
    const enum td_verdict verdict = td_judge_look(judge, turn, now_ns, next_ns);
    CHECK(*next_ns >= 0);
    return verdict;
}

TD_TEST(a_loop_that_waits_is_never_stuck_and_need_not_be_looked_at_for_long)
{
    struct td_judge judge = {.threshold_ns = T};
    int64_t next;
    for (int64_t look = 1; look < TD_JUDGE_PATIENCE; look++) {
        CHECK_EQ(at(&judge, 0, look * 1000 * T, &next), TD_JUDGE_QUIET);
        CHECK_EQ(next, look * 1000 * T + T / 2);
    }
    CHECK_EQ(at(&judge, 0, 9000 * T, &next), TD_JUDGE_QUIET);
    CHECK_EQ(next, TD_FOREVER);
    CHECK_EQ(at(&judge, 10000, 10000, &next), TD_JUDGE_BEGUN);
    CHECK_EQ(next, 10000 + T / 2);
}

TD_TEST(a_turn_is_stuck_when_it_has_lasted_for_the_threshold_and_not_before)
{
    struct td_judge judge = {.threshold_ns = T};
    int64_t next;
    CHECK_EQ(at(&judge, 5000, 5100, &next), TD_JUDGE_BEGUN);
    CHECK_EQ(next, 5100 + T / 2);
    CHECK_EQ(at(&judge, 5000, 5600, &next), TD_JUDGE_QUIET);
    CHECK_EQ(next, 5000 + T);
    CHECK_EQ(at(&judge, 5000, 5999, &next), TD_JUDGE_QUIET);
    CHECK_EQ(next, 5000 + T);
    CHECK_EQ(at(&judge, 5000, 6000, &next), TD_JUDGE_STUCK);
    CHECK_EQ(judge.stuck, 5000u);
}

TD_TEST(turns_that_follow_each_other_are_not_one)
{
    struct td_judge judge = {.threshold_ns = T};
    int64_t next;
    for (uint64_t turn = 1; turn < 100 * T; turn += T - 1) {
        CHECK_EQ(at(&judge, turn, (int64_t)turn + T / 2, &next), TD_JUDGE_BEGUN);
        CHECK_EQ(next, (int64_t)turn + T);
    }
}

TD_TEST(who_looks_late_finds_a_stuck_turn_at_the_second_look_which_is_due_at_once)
{
    struct td_judge judge = {.threshold_ns = T};
    int64_t next;
    CHECK_EQ(at(&judge, 5000, 90000, &next), TD_JUDGE_BEGUN);
    CHECK_LE(next, 90000);
    CHECK_EQ(at(&judge, 5000, 90000, &next), TD_JUDGE_STUCK);
}

TD_TEST(a_stuck_turn_is_told_of_at_doubling_intervals_and_once_when_it_is_over)
{
    struct td_judge judge = {.threshold_ns = T};
    int64_t next, now = 2000, interval = T / 4;
    CHECK_EQ(at(&judge, 1000, 1000, &next), TD_JUDGE_BEGUN);
    CHECK_EQ(at(&judge, 1000, now, &next), TD_JUDGE_STUCK);
    for (int round = 0; round < 40; round++) {
        CHECK_EQ(next, now + interval);
        int64_t soon;
        CHECK_EQ(at(&judge, 1000, next - 1, &soon), TD_JUDGE_QUIET);
        CHECK_EQ(soon, next);
        now = next;
        CHECK_EQ(at(&judge, 1000, now, &next), TD_JUDGE_STILL);
        interval = 2 * interval < TD_JUDGE_LONGEST_NS ? 2 * interval : TD_JUDGE_LONGEST_NS;
    }
    CHECK_EQ(at(&judge, 0, now, &next), TD_JUDGE_OVER);
    CHECK_EQ(next, now);
    CHECK_EQ(at(&judge, 0, now, &next), TD_JUDGE_QUIET);
}

TD_TEST(another_turn_right_after_a_stuck_one_is_seen_as_such)
{
    struct td_judge judge = {.threshold_ns = T};
    int64_t next;
    CHECK_EQ(at(&judge, 1000, 1000, &next), TD_JUDGE_BEGUN);
    CHECK_EQ(at(&judge, 1000, 2000, &next), TD_JUDGE_STUCK);
    CHECK_EQ(at(&judge, 2500, 2600, &next), TD_JUDGE_OVER);
    CHECK_EQ(at(&judge, 2500, 2600, &next), TD_JUDGE_BEGUN);
    CHECK_EQ(at(&judge, 2500, 3500, &next), TD_JUDGE_STUCK);
}

TD_TEST_MAIN
