/* base/clock.c: the monotonic clock and saturating deadlines.
 * clock_gettime can't fail for CLOCK_MONOTONIC with a valid pointer, so no call here has a status.
 * Tests  tests/base/test_clock.c */
#include "base/clock.h"

#include <limits.h>
#include <time.h>

int64_t td_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * TD_NS_PER_S + now.tv_nsec;
}

int64_t td_deadline_after(int64_t timeout_ns)
{
    return timeout_ns < 0 ? 0 : td_deadline_from(td_now_ns(), timeout_ns);
}

int64_t td_deadline_from(int64_t start_ns, int64_t timeout_ns)
{
    return start_ns > TD_FOREVER - timeout_ns ? TD_FOREVER : start_ns + timeout_ns;
}

int64_t td_deadline_left(int64_t deadline_ns)
{
    if (deadline_ns == TD_FOREVER)
        return TD_FOREVER;
    int64_t now = td_now_ns();
    return deadline_ns > now ? deadline_ns - now : 0;
}

int td_deadline_left_ms(int64_t deadline_ns)
{
    int64_t left = td_deadline_left(deadline_ns);
    if (left == TD_FOREVER)
        return -1;
    int64_t ms = left / TD_NS_PER_MS + (left % TD_NS_PER_MS != 0);
    return ms > INT_MAX ? INT_MAX : (int)ms;
}
