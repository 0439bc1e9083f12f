/* os/poller.c: epoll, level-triggered.
 * Invariants  a descriptor is removed before it is closed: epoll watches the open file, not the number, and a copy in
 *             another process would keep it in the set.
 * Tests       tests/os/test_poller.c */
#include "os/poller.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/atomic.h"

#define WAIT_EVENTS_MAX 64
#ifndef SYS_epoll_pwait2 /* headers older than the kernel */
#define SYS_epoll_pwait2 441
#endif

td_status td_poller_new(int *poller)
{
    int made = epoll_create1(EPOLL_CLOEXEC);
    if (made < 0)
        return td_status_from_errno(errno);
    *poller = made;
    return TD_OK;
}

static td_status control(int poller, int operation, int fd, uint32_t wanted, uint64_t tag)
{
    struct epoll_event event = {.data.u64 = tag};
    if (wanted & TD_POLL_IN)
        event.events |= EPOLLIN;
    if (wanted & TD_POLL_OUT)
        event.events |= EPOLLOUT;
    if (epoll_ctl(poller, operation, fd, &event) < 0)
        return td_status_from_errno(errno);
    return TD_OK;
}

td_status td_poller_add(int poller, int fd, uint32_t wanted, uint64_t tag)
{
    return control(poller, EPOLL_CTL_ADD, fd, wanted, tag);
}

td_status td_poller_change(int poller, int fd, uint32_t wanted, uint64_t tag)
{
    return control(poller, EPOLL_CTL_MOD, fd, wanted, tag);
}

td_status td_poller_remove(int poller, int fd)
{
    return control(poller, EPOLL_CTL_DEL, fd, 0, 0);
}

static uint32_t ready_of(uint32_t events)
{
    uint32_t ready = 0;
    if (events & EPOLLIN)
        ready |= TD_POLL_IN;
    if (events & EPOLLOUT)
        ready |= TD_POLL_OUT;
    if (events & (EPOLLHUP | EPOLLERR))
        ready |= TD_POLL_HUP;
    return ready;
}

/* To the nanosecond where the kernel can (5.11), else to the millisecond, rounded up. */
static int wait_events(int poller, struct epoll_event *found, int room, int64_t deadline_ns)
{
    static td_atomic_u32 refused; /* by an older kernel, an emulator or a seccomp filter */
    if (td_atomic_load_relaxed(&refused) == 0) {
        const int64_t left = td_deadline_left(deadline_ns);
        const struct timespec timeout = {.tv_sec = (time_t)(left / TD_NS_PER_S),
                                         .tv_nsec = (long)(left % TD_NS_PER_S)};
        const long ready =
            syscall(SYS_epoll_pwait2, poller, found, room, left == TD_FOREVER ? NULL : &timeout, NULL, 0);
        if (ready >= 0 || (errno != ENOSYS && errno != EPERM))
            return (int)ready;
        td_atomic_store_relaxed(&refused, 1);
    }
    return epoll_wait(poller, found, room, td_deadline_left_ms(deadline_ns));
}

td_status td_poller_wait_until(int poller, td_poll_event *events, size_t capacity, size_t *count,
                               int64_t deadline_ns)
{
    struct epoll_event found[WAIT_EVENTS_MAX];
    int room = capacity < WAIT_EVENTS_MAX ? (int)capacity : WAIT_EVENTS_MAX;
    for (;;) {
        int ready = wait_events(poller, found, room, deadline_ns);
        if (ready < 0)
            return td_status_from_errno(errno);
        if (ready > 0) {
            for (int i = 0; i < ready; i++)
                events[i] = (td_poll_event){.tag = found[i].data.u64, .ready = ready_of(found[i].events)};
            *count = (size_t)ready;
            return TD_OK;
        }
        if (td_deadline_left(deadline_ns) == 0)
            return TD_ETIMEDOUT;
    }
}
