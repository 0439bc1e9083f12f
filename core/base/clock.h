/* base/clock.h: the monotonic clock and deadlines.
 *
 * A deadline is an absolute time of CLOCK_MONOTONIC in nanoseconds. TD_FOREVER never passes; a deadline of 0 has
 * always passed, so a `_until(0)` call tries once and does not wait. */
#ifndef TD_BASE_CLOCK_H
#define TD_BASE_CLOCK_H

#include <stdint.h>

#include "treadle.h" /* TD_FOREVER */

#define TD_NS_PER_US INT64_C(1000)
#define TD_NS_PER_MS INT64_C(1000000)
#define TD_NS_PER_S INT64_C(1000000000)

/* Now, in nanoseconds since an arbitrary start; the same clock in every process of the machine. */
int64_t td_now_ns(void);

/* The deadline `timeout_ns` from now. Saturates: TD_FOREVER, or a sum beyond it, is TD_FOREVER. A negative
 * timeout gives a deadline that has passed. */
int64_t td_deadline_after(int64_t timeout_ns);

/* The deadline `timeout_ns`, which is not negative, after the time `start_ns`. Saturates likewise. */
int64_t td_deadline_from(int64_t start_ns, int64_t timeout_ns);

/* Nanoseconds left: 0 when passed, TD_FOREVER for TD_FOREVER. */
int64_t td_deadline_left(int64_t deadline_ns);

/* The same in milliseconds for poll(2) and epoll_wait(2): rounded up, so that a wait never ends early; -1 for
 * TD_FOREVER. */
int td_deadline_left_ms(int64_t deadline_ns);

#endif
