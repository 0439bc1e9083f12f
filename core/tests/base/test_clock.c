/* tests/base/test_clock.c: the clock and deadlines. Nothing here depends on how fast the machine is. */
#include "base/clock.h"

#include "tests/harness.h"

TD_TEST(clock_never_goes_back)
{
    int64_t last = td_now_ns();
    for (int i = 0; i < 1000; i++) {
        int64_t now = td_now_ns();
        CHECK_LE(last, now);
        last = now;
    }
}

TD_TEST(deadlines_saturate)
{
    CHECK_EQ(td_deadline_after(TD_FOREVER), TD_FOREVER);
    CHECK_EQ(td_deadline_after(TD_FOREVER - 1), TD_FOREVER);
    CHECK_EQ(td_deadline_left(TD_FOREVER), TD_FOREVER);
    CHECK_EQ(td_deadline_left_ms(TD_FOREVER), -1);
    CHECK_EQ(td_deadline_left_ms(TD_FOREVER - 1), INT32_MAX);
}

TD_TEST(a_deadline_after_any_time_saturates)
{
    CHECK_EQ(td_deadline_from(5, 7), 12);
    CHECK_EQ(td_deadline_from(1, TD_FOREVER - 1), TD_FOREVER);
    CHECK_EQ(td_deadline_from(2, TD_FOREVER - 1), TD_FOREVER);
    CHECK_EQ(td_deadline_from(INT64_MAX, INT64_MAX), TD_FOREVER);
    CHECK_EQ(td_deadline_from(INT64_MIN, INT64_MAX), -1);
}

TD_TEST(past_deadlines_have_nothing_left)
{
    CHECK_EQ(td_deadline_after(-1), 0);
    CHECK_EQ(td_deadline_left(0), 0);
    CHECK_EQ(td_deadline_left(INT64_MIN), 0);
    CHECK_EQ(td_deadline_left(td_now_ns()), 0);
    CHECK_EQ(td_deadline_left_ms(0), 0);
}

TD_TEST(deadline_lies_between_the_readings_around_it)
{
    int64_t before = td_now_ns(), deadline = td_deadline_after(TD_NS_PER_S), after = td_now_ns();
    CHECK_LE(before + TD_NS_PER_S, deadline);
    CHECK_LE(deadline, after + TD_NS_PER_S);
    CHECK_LE(td_deadline_left(deadline), TD_NS_PER_S);
}

TD_TEST(milliseconds_are_rounded_up)
{
    int64_t hour = 3600 * TD_NS_PER_S, now = td_now_ns();
    int ms = td_deadline_left_ms(now + hour + 1);
    int64_t later = td_now_ns();
    CHECK_LE((int64_t)ms * TD_NS_PER_MS, hour + TD_NS_PER_MS);
    CHECK_LE(hour + 1 - (later - now), (int64_t)ms * TD_NS_PER_MS);
}

TD_TEST_MAIN
