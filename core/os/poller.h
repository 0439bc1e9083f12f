/* os/poller.h: wait for many descriptors at once (epoll), each with a tag of the caller's. */
#ifndef TD_OS_POLLER_H
#define TD_OS_POLLER_H

#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/status.h"

#define TD_POLL_IN 1u
#define TD_POLL_OUT 2u
#define TD_POLL_HUP 4u /* the other side is gone; always watched for */

typedef struct td_poll_event {
    uint64_t tag;
    uint32_t ready; /* TD_POLL_* */
} td_poll_event;

/* Close-on-exec. The poller is one descriptor; close(2) frees it. */
td_status td_poller_new(int *poller);

/* Watches `fd`, level-triggered, for `wanted`; or changes what a watched one is wanted for. */
td_status td_poller_add(int poller, int fd, uint32_t wanted, uint64_t tag);
td_status td_poller_change(int poller, int fd, uint32_t wanted, uint64_t tag);

/* Before closing `fd`: a copy in another process would keep it in the set. */
td_status td_poller_remove(int poller, int fd);

/* Up to `capacity` events; TD_OK with *count >= 1, TD_ETIMEDOUT, TD_EINTR. */
td_status td_poller_wait_until(int poller, td_poll_event *events, size_t capacity, size_t *count,
                               int64_t deadline_ns);

#endif
