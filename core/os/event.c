/* os/event.c: eventfd and timerfd.
 * Invariants  a bell rung at least once since the last drain is readable, however many rang it.
 * Ordering    the kernel orders write(2) before the read(2) that sees it; memory is ordered by the words that the bell
 *             is rung for (ring/), not by the bell.
 * Crash       a bell stays rung when its ringer dies: at worst one look for nothing.
 * Tests       tests/os/test_event.c */
#include "os/event.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

td_status td_event_new(int *fd)
{
    int made = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (made < 0)
        return td_status_from_errno(errno);
    *fd = made;
    return TD_OK;
}

td_status td_event_ring(int fd)
{
    const uint64_t one = 1;
    while (write(fd, &one, sizeof one) < 0) {
        if (errno == EAGAIN) /* full: it is readable */
            return TD_OK;
        if (errno != EINTR)
            return td_status_from_errno(errno);
    }
    return TD_OK;
}

td_status td_event_drain(int fd, uint64_t *rings)
{
    uint64_t count;
    while (read(fd, &count, sizeof count) < 0) {
        if (errno == EAGAIN) {
            *rings = 0;
            return TD_OK;
        }
        if (errno != EINTR)
            return td_status_from_errno(errno);
    }
    *rings = count;
    return TD_OK;
}

td_status td_timer_new(int *fd)
{
    int made = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (made < 0)
        return td_status_from_errno(errno);
    *fd = made;
    return TD_OK;
}

td_status td_timer_set(int fd, int64_t deadline_ns)
{
    struct itimerspec at = {0}; /* all zero disarms */
    if (deadline_ns != TD_FOREVER) {
        int64_t deadline = deadline_ns > 1 ? deadline_ns : 1;
        at.it_value.tv_sec = (time_t)(deadline / TD_NS_PER_S);
        at.it_value.tv_nsec = (long)(deadline % TD_NS_PER_S);
    }
    if (timerfd_settime(fd, TFD_TIMER_ABSTIME, &at, NULL) < 0)
        return td_status_from_errno(errno);
    return TD_OK;
}
