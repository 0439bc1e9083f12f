/* os/event.h: descriptors that other loops can wait for: a bell (eventfd) and an alarm at a deadline (timerfd). */
#ifndef TD_OS_EVENT_H
#define TD_OS_EVENT_H

#include <stdint.h>

#include "base/clock.h"
#include "base/status.h"

/* A bell: readable from the first ring until drained. Close-on-exec, non-blocking; works between processes. */
td_status td_event_new(int *fd);

/* Rings. Async-signal-safe. A full counter counts as rung. */
td_status td_event_ring(int fd);

/* Takes all rings since the last drain; 0 when there were none. */
td_status td_event_drain(int fd, uint64_t *rings);

/* An alarm: readable once the deadline set last has passed. Close-on-exec, non-blocking. */
td_status td_timer_new(int *fd);

/* Sets the deadline in place of the one before; TD_FOREVER disarms. Drops an expiry not yet seen. */
td_status td_timer_set(int fd, int64_t deadline_ns);

#endif
