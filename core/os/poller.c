/* os/poller.c: epoll, level-triggered.
 * Invariants  a descriptor is removed before it is closed: epoll watches the open file, not the number, and a copy in
 *             another process would keep it in the set.
 * Tests       tests/os/test_poller.c */
#include "os/poller.h"

#include <errno.h>
#include <sys/epoll.h>

#define WAIT_EVENTS_MAX 64

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

td_status td_poller_wait_until(int poller, td_poll_event *events, size_t capacity, size_t *count,
                               int64_t deadline_ns)
{
    struct epoll_event found[WAIT_EVENTS_MAX];
    int room = capacity < WAIT_EVENTS_MAX ? (int)capacity : WAIT_EVENTS_MAX;
    for (;;) {
        int ready = epoll_wait(poller, found, room, td_deadline_left_ms(deadline_ns));
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
